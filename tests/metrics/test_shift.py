"""What a shift costs, against scipy, scikit-learn and hand values; coverage of the intervals by simulation."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import balanced_accuracy_score

from bob_jax.errors import BobError
from bob_jax.metrics import bootstrap, shift
from bob_jax.metrics.catalog import METRICS
from bob_jax.metrics.classification import per_example

ACCURACY, PER_CLASS, NLL = METRICS["accuracy"], METRICS["mean_per_class_accuracy"], METRICS["nll"]
LINE = [(0.6, 0.3), (0.7, 0.42), (0.8, 0.5), (0.85, 0.66)]


def outputs(rng, accuracy, n=200, start=0, conditions=0):
    shape = (n, conditions) if conditions else n
    ids = np.array([f"image_{row:04d}" for row in range(start, start + n)])
    return {"id": ids, "correct": rng.random(shape) < accuracy, "label": rng.integers(0, 4, n)}


# ---- arrays with one column per condition


def test_columns_are_averaged():
    rng = np.random.default_rng(0)
    found = outputs(rng, 0.7, conditions=3)
    weights = rng.multinomial(200, np.full(200, 1 / 200), size=5).astype(float)
    for metric in (ACCURACY, PER_CLASS):
        columns = [metric.weighted({**found, "correct": found["correct"][:, k]}, weights) for k in range(3)]
        np.testing.assert_allclose(metric.weighted(found, weights), np.mean(columns, axis=0), rtol=1e-12)
    prediction = np.where(found["correct"], found["label"][:, None], (found["label"][:, None] + 1) % 4)
    expected = np.mean([balanced_accuracy_score(found["label"], prediction[:, k]) for k in range(3)])
    assert PER_CLASS(found) == pytest.approx(expected, rel=1e-12)


def test_an_image_is_drawn_with_all_its_conditions():
    """Columns that are equal tell no more than one of them: the interval is that of one column."""
    one = outputs(np.random.default_rng(1), 0.7)
    three = {**one, "correct": np.repeat(one["correct"][:, None], 3, axis=1)}
    alone, together = (bootstrap.intervals({"a": ACCURACY}, found)["a"] for found in (one, three))
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high), rel=1e-12)


def test_scores_by_condition_equal_those_of_a_column():
    found = outputs(np.random.default_rng(2), 0.7, conditions=2)
    scores = shift.by_condition("accuracy", ACCURACY, found, ["fog_1", "fog_2"])
    assert list(scores) == ["accuracy_fog_1", "accuracy_fog_2"]
    second = bootstrap.intervals({"a": ACCURACY}, {"correct": found["correct"][:, 1]})["a"]
    assert scores["accuracy_fog_2"] == second


# ---- gaps


def test_a_paired_gap_equals_scipys_bootstrap_of_the_difference():
    rng = np.random.default_rng(3)
    clean, shifted = outputs(rng, 0.9), outputs(rng, 0.6)
    order = rng.permutation(200)
    shuffled = {name: array[order] for name, array in shifted.items()}  # ids decide, not positions
    scores, higher = shift.compare({"accuracy": ACCURACY}, clean, shuffled, paired=True, seed=7)
    difference = clean["correct"].astype(float) - shifted["correct"]
    expected = scipy.stats.bootstrap(
        (difference,), np.mean, n_resamples=1000, method="percentile", rng=np.random.default_rng(7)
    ).confidence_interval
    gap = scores["gap_accuracy"]
    assert (gap.low, gap.high) == pytest.approx(tuple(expected), rel=1e-12)
    assert (gap.value, gap.n) == (pytest.approx(difference.mean(), rel=1e-12), 200)
    assert higher == {"clean_accuracy": True, "gap_accuracy": False}
    alone = bootstrap.intervals({"a": ACCURACY}, clean, seed=7)["a"]
    assert scores["clean_accuracy"] == alone


def test_conditions_are_averaged_before_the_gap():
    rng = np.random.default_rng(4)
    clean, shifted = outputs(rng, 0.9), outputs(rng, 0.6, conditions=5)
    scores, _ = shift.compare({"accuracy": ACCURACY}, clean, shifted, paired=True)
    assert scores["gap_accuracy"].value == pytest.approx(clean["correct"].mean() - shifted["correct"].mean(), rel=1e-12)


def test_what_only_some_images_have_is_paired_with_those():
    """ReaL labels leave images out: the clean score is of all, the shifted one of those that have labels."""
    rng = np.random.default_rng(5)
    clean = outputs(rng, 0.8)
    some = {name: array[20:160] for name, array in clean.items()}
    scores, _ = shift.compare({"accuracy": ACCURACY}, clean, some, paired=True)
    gap = scores["gap_accuracy"]
    assert gap.value == pytest.approx(clean["correct"].mean() - some["correct"].mean(), rel=1e-12)
    apart, _ = shift.compare({"accuracy": ACCURACY}, clean, some, paired=False)
    assert gap.high - gap.low < 0.7 * (apart["gap_accuracy"].high - apart["gap_accuracy"].low)


def test_a_draw_without_any_shifted_image_is_left_out():
    """Two of 200 images were shifted: one draw in seven holds neither."""
    clean = outputs(np.random.default_rng(9), 0.8)
    few = {name: array[:2] for name, array in clean.items()} | {"correct": np.array([True, False])}
    gap = shift.compare({"accuracy": ACCURACY}, clean, few, paired=True)[0]["gap_accuracy"]
    # Most draws hold one of the two or equally many of both: all right, all wrong, and what is between.
    assert gap.low == pytest.approx(clean["correct"].mean() - 1, abs=0.08)
    assert gap.high == pytest.approx(clean["correct"].mean(), abs=0.08)


def test_independent_sets_have_the_width_of_normal_theory():
    rng = np.random.default_rng(6)
    clean, shifted = outputs(rng, 0.8, n=900), outputs(rng, 0.5, n=400, start=5000)
    gap = shift.compare({"a": ACCURACY}, clean, shifted, paired=False, resamples=4000)[0]["gap_a"]
    variance = sum(found["correct"].var() / len(found["correct"]) for found in (clean, shifted))
    assert gap.high - gap.low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.05)
    assert gap.n == 400


def test_a_score_that_falls_when_better_has_a_gap_that_rises_with_the_damage():
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 4, 300)
    sharp = rng.normal(size=(300, 4)) + 3 * np.eye(4)[labels]
    ids = {"id": np.arange(300).astype(str)}
    clean, shifted = (ids | per_example(logits, labels) for logits in (sharp, sharp + rng.normal(size=(300, 4))))
    scores, higher = shift.compare({"accuracy": ACCURACY, "nll": NLL}, clean, shifted, paired=True)
    assert scores["gap_nll"].value == pytest.approx(shifted["nll"].mean() - clean["nll"].mean(), rel=1e-12)
    assert scores["gap_nll"].low > 0 < scores["gap_accuracy"].low
    assert (higher["clean_nll"], higher["gap_nll"]) == (False, False)


def test_no_image_in_common_is_one_line():
    rng = np.random.default_rng(8)
    with pytest.raises(
        BobError, match=r"none of the 20 shifted images \(first: image_0500\) is a test image"
    ) as caught:
        shift.compare({"a": ACCURACY}, outputs(rng, 0.5, 10), outputs(rng, 0.5, 20, 500), paired=True)
    assert "\n" not in str(caught.value)


# ---- effective robustness


def test_expected_accuracy_is_scipys_regression_on_logits():
    clean, shifted = np.array(LINE).T
    line = scipy.stats.linregress(np.log(clean / (1 - clean)), np.log(shifted / (1 - shifted)))
    at = np.array([0.55, 0.75, 0.9])
    expected = 1 / (1 + np.exp(-(line.slope * np.log(at / (1 - at)) + line.intercept)))
    np.testing.assert_allclose(shift.expected_accuracy(at, LINE), expected, rtol=1e-10)


def test_models_on_the_line_have_no_effective_robustness():
    points = [(clean, float(shift.expected_accuracy(np.array(clean), LINE))) for clean in (0.5, 0.7, 0.9)]
    np.testing.assert_allclose(
        shift.expected_accuracy(np.array([0.5, 0.8]), points[:2]),
        shift.expected_accuracy(np.array([0.5, 0.8]), points[1:]),
        rtol=1e-9,
    )
    found = {"id": np.arange(10).astype(str), "correct": np.arange(10) < 7}
    half = {"id": np.arange(10).astype(str), "correct": np.arange(10) < 5}
    scores, higher = shift.compare({"accuracy": ACCURACY}, found, half, paired=True, baseline=LINE)
    expected = 0.5 - shift.expected_accuracy(np.array(0.7), LINE)
    assert scores["effective_robustness"].value == pytest.approx(float(expected), rel=1e-12)
    assert higher["effective_robustness"] is True


def test_perfect_and_hopeless_clean_scores_have_an_expectation():
    np.testing.assert_array_equal(shift.expected_accuracy(np.array([0.0, 1.0]), LINE), [0.0, 1.0])


@pytest.mark.parametrize("baseline", [[(0.7, 0.5)], [(0.7, 0.5), (0.7, 0.6)], [(0.7, 0.5), (1.0, 0.6)]])
def test_no_line_through_such_points(baseline):
    with pytest.raises(ValueError, match="no line through"):
        shift.expected_accuracy(np.array([0.5]), baseline)


def test_coverage():
    """95 % intervals hold the truth in about 95 % of 1000 simulated pairs of test sets (three standard errors: 2 %)."""
    rng = np.random.default_rng(9)
    truth = 0.6 - float(shift.expected_accuracy(np.array(0.8), LINE))
    hits = dict.fromkeys(("paired", "apart", "robust", "robust apart"), 0)
    for _ in range(1000):
        clean = outputs(rng, 0.8, n=150)
        shifted = {**clean, "correct": clean["correct"] & (rng.random(150) < 0.75)}
        other = outputs(rng, 0.6, n=100, start=1000)
        arguments = {"baseline": LINE, "resamples": 400}
        pairs, _ = shift.compare({"accuracy": ACCURACY}, clean, shifted, paired=True, **arguments)
        apart, _ = shift.compare({"accuracy": ACCURACY}, clean, other, paired=False, **arguments)
        for name, estimate, value in (
            ("paired", pairs["gap_accuracy"], 0.2),
            ("apart", apart["gap_accuracy"], 0.2),
            ("robust", pairs["effective_robustness"], truth),
            ("robust apart", apart["effective_robustness"], truth),
        ):
            hits[name] += estimate.low <= value <= estimate.high
    for name, count in hits.items():
        assert 0.93 <= count / 1000 <= 0.97, (name, count)


# ---- corruptions


def test_mean_corruption_error_by_hand():
    """As the paper writes it: sums over severities, divided by AlexNet's, averaged over corruptions."""
    rng = np.random.default_rng(10)
    conditions = [f"{name}_{severity}" for name in ("glass_blur", "fog", "extra") for severity in (1, 2)]
    correct = rng.random((50, 6)) < 0.6
    alexnet = {"glass_blur": (0.5, 0.7), "fog": (0.2, 0.6)}
    error = 1 - correct.mean(axis=0)
    expected = np.mean([(error[0] + error[1]) / (0.5 + 0.7), (error[2] + error[3]) / (0.2 + 0.6)])
    reference = {name: float(np.mean(errors)) for name, errors in alexnet.items()}
    each = shift.corruption_error(correct, conditions, reference)
    assert METRICS["mean_corruption_error"]({"corruption_error": each}) == pytest.approx(expected, rel=1e-12)
    assert METRICS["mean_corruption_error"].higher_is_better is False


def test_a_corruption_without_a_condition_is_an_error():
    with pytest.raises(ValueError, match="no condition of snow"):
        shift.corruption_error(np.ones((3, 1)), ["fog_1"], {"fog": 0.5, "snow": 0.5})
