import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import balanced_accuracy_score

from bob_jax.metrics import bootstrap
from bob_jax.metrics.classification import METRICS

ACCURACY, PER_CLASS = METRICS["accuracy"], METRICS["mean_per_class_accuracy"]


def simulate(rng, n=200, classes=4, accuracy=(0.95, 0.8, 0.7, 0.5), share=(0.1, 0.2, 0.3, 0.4)):
    label = rng.choice(classes, n, p=share)
    return {"label": label, "correct": rng.random(n) < np.take(accuracy, label)}


def scipy_interval(statistic, n, resamples, seed=0):
    """scipy's percentile bootstrap over row numbers; from the same seed it draws the same rows."""
    return scipy.stats.bootstrap(
        (np.arange(n),),
        statistic,
        n_resamples=resamples,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(seed),
    ).confidence_interval


def test_accuracy_interval_equals_scipy():
    outputs = simulate(np.random.default_rng(0))
    found = bootstrap.intervals({"accuracy": ACCURACY}, outputs, seed=3)["accuracy"]
    expected = scipy_interval(lambda rows: outputs["correct"][rows].mean(), 200, bootstrap.RESAMPLES, seed=3)
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-12)
    assert found.value == outputs["correct"].mean()
    assert found.n == 200
    assert found.low < found.value < found.high


def test_mean_per_class_interval_equals_scipy():
    outputs = simulate(np.random.default_rng(1), n=120)
    outputs["prediction"] = np.where(outputs["correct"], outputs["label"], (outputs["label"] + 1) % 4)
    found = bootstrap.intervals({"score": PER_CLASS}, outputs, resamples=150)["score"]

    def statistic(rows):
        return balanced_accuracy_score(outputs["label"][rows], outputs["prediction"][rows])

    with warnings.catch_warnings():  # a class that was not drawn may still be predicted: scikit-learn says so
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true", UserWarning)
        expected = scipy_interval(statistic, 120, 150)
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-12)


def test_paired_interval_equals_scipy():
    rng = np.random.default_rng(2)
    first, second = simulate(rng), simulate(rng)
    found = bootstrap.paired(ACCURACY, first, second)
    difference = first["correct"].astype(float) - second["correct"]
    expected = scipy_interval(lambda rows: difference[rows].mean(), 200, bootstrap.RESAMPLES)
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-12)
    assert found.value == pytest.approx(difference.mean())


def test_all_metrics_share_the_draws():
    """Alone or beside others, a metric has the same interval."""
    outputs = simulate(np.random.default_rng(3))
    both = bootstrap.intervals({"a": ACCURACY, "b": PER_CLASS}, outputs)
    assert both["a"] == bootstrap.intervals({"a": ACCURACY}, outputs)["a"]
    assert both["b"] == bootstrap.intervals({"b": PER_CLASS}, outputs)["b"]


def test_the_seed_decides_and_blocks_do_not(monkeypatch):
    outputs = simulate(np.random.default_rng(4))
    found = bootstrap.intervals({"a": ACCURACY, "b": PER_CLASS}, outputs, seed=5)
    assert bootstrap.intervals({"a": ACCURACY, "b": PER_CLASS}, outputs, seed=6) != found
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * 200)
    assert bootstrap.intervals({"a": ACCURACY, "b": PER_CLASS}, outputs, seed=5) == found


def covered(estimate, truth):
    return estimate.low <= truth <= estimate.high


def test_coverage():
    """95 % intervals hold the truth in about 95 % of 400 simulated test sets (two standard errors: 2.2 %)."""
    rng = np.random.default_rng(5)
    hits = {"a": 0, "b": 0, "paired": 0}
    for _ in range(400):
        first = simulate(rng)
        # The second backbone fails on more images, and on those where the first does: 80 % of the first's successes.
        second = {"label": first["label"], "correct": first["correct"] & (rng.random(200) < 0.8)}
        found = bootstrap.intervals({"a": ACCURACY, "b": PER_CLASS}, first, resamples=400)
        hits["a"] += covered(found["a"], 0.095 + 0.16 + 0.21 + 0.2)
        hits["b"] += covered(found["b"], (0.95 + 0.8 + 0.7 + 0.5) / 4)
        hits["paired"] += covered(bootstrap.paired(ACCURACY, first, second, resamples=400), 0.2 * 0.665)
    for name, count in hits.items():
        assert 0.925 <= count / 400 <= 0.975, name


def test_pairing_removes_what_backbones_share():
    rng = np.random.default_rng(6)
    hard = rng.random(1000)
    first, second = ({"correct": hard + 0.05 * rng.random(1000) < limit} for limit in (0.80, 0.78))
    paired = bootstrap.paired(ACCURACY, first, second)
    alone = [bootstrap.intervals({"a": ACCURACY}, outputs)["a"] for outputs in (first, second)]
    assert paired.low > 0  # told apart
    assert alone[1].high > alone[0].low  # which the two intervals do not show
    assert paired.high - paired.low < 0.5 * (alone[0].high - alone[0].low)


def test_equal_backbones_do_not_differ():
    outputs = simulate(np.random.default_rng(7))
    assert bootstrap.paired(PER_CLASS, outputs, outputs) == bootstrap.Estimate(0, 0, 0, 200)


def test_perfect_score_has_no_width():
    assert bootstrap.intervals({"a": ACCURACY}, {"correct": np.ones(5, bool)})["a"] == bootstrap.Estimate(1, 1, 1, 5)


def test_memory_does_not_grow_with_resamples():
    outputs = {"correct": np.arange(20_000) % 3 > 0, "label": np.arange(20_000) % 100}
    peaks = []
    for resamples in (2 * bootstrap.BLOCK // 20_000, 6 * bootstrap.BLOCK // 20_000):
        tracemalloc.start()
        bootstrap.intervals({"a": ACCURACY, "b": PER_CLASS}, outputs, resamples=resamples)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.01 * peaks[0]
    assert peaks[1] < 6 * 8 * bootstrap.BLOCK


def test_what_cannot_be_drawn_or_paired():
    with pytest.raises(ValueError, match="no examples"):
        bootstrap.intervals({"a": ACCURACY}, {"correct": np.zeros(0, bool)})
    with pytest.raises(ValueError, match="3 and 2 examples"):
        bootstrap.paired(ACCURACY, {"correct": np.ones(3)}, {"correct": np.ones(2)})
