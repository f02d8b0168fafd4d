"""Paired tests against scipy's, and the corrections by hand and against scipy's."""

import itertools

import numpy as np
import pytest
from scipy import stats
from synthetic_records import simulate

from bob_jax.errors import BobError
from bob_jax.metrics import bootstrap
from bob_jax.metrics.catalog import METRICS
from bob_jax.results.ranking import pairwise
from bob_jax.results.ranking.pairwise import compare


@pytest.fixture(scope="module")
def outputs():
    return {name: simulate(name, accuracy=accuracy)[1] for name, accuracy in (("a", 0.9), ("b", 0.88), ("c", 0.6))}


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 0), (1, 9), (10, 10), (3, 30), (700, 650)])
def test_mcnemar_is_a_fair_coin(only_first, only_second):
    first = np.array([True] * only_first + [False] * only_second + [True, False])
    second = np.array([False] * only_first + [True] * only_second + [True, False])
    coins = only_first + only_second
    expected = stats.binomtest(only_first, coins, 0.5).pvalue if coins else 1.0
    assert pairwise.mcnemar(first, second) == pytest.approx(expected)
    assert pairwise.mcnemar(second, first) == pytest.approx(expected)


def test_exchange_is_the_permutation_test_of_scipy():
    generator = np.random.default_rng(0)
    first, second = ({"nll": generator.gamma(2, size=9) + shift} for shift in (0.0, 0.8))
    exact = stats.permutation_test(
        (first["nll"], second["nll"]),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    ).pvalue
    found = pairwise.exchange(METRICS["nll"], first, second, exchanges=20_000)
    assert 0.01 < exact < 0.6
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


def test_exchange_of_a_metric_that_is_no_mean():
    """All exchanges of six images, one by one, of the mean over classes."""
    generator = np.random.default_rng(1)
    label = np.array([0, 0, 0, 0, 1, 1])
    first, second = ({"correct": generator.random(6) < p, "label": label} for p in (0.9, 0.2))
    metric = METRICS["mean_per_class_accuracy"]
    observed = abs(metric(first) - metric(second))
    larger = 0
    for kept in itertools.product([True, False], repeat=6):
        one = {"correct": np.where(kept, first["correct"], second["correct"]), "label": label}
        two = {"correct": np.where(kept, second["correct"], first["correct"]), "label": label}
        larger += abs(metric(one) - metric(two)) >= observed - 1e-12
    exact = larger / 2**6
    found = pairwise.exchange(metric, first, second, exchanges=20_000)
    assert 0 < exact < 1
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


def test_p_of_equals_is_uniform():
    """Under the hypothesis p lies below 0.05 in 5 % of worlds."""
    found = []
    for world in range(300):
        first, second = ({"nll": values} for values in np.random.default_rng(world).gamma(2, size=(2, 40)))
        found.append(pairwise.exchange(METRICS["nll"], first, second, exchanges=200, seed=world))
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_all_pairs_with_the_test_that_fits_the_metric(outputs):
    found = compare("accuracy", outputs)
    assert [(one.first, one.second) for one in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert {one.test for one in found} == {"McNemar"}
    for one in found:
        difference = bootstrap.paired(METRICS["accuracy"], outputs[one.first], outputs[one.second])
        assert (one.difference, one.low, one.high, one.n) == (difference.value, difference.low, difference.high, 360)
        expected = pairwise.mcnemar(outputs[one.first]["correct"], outputs[one.second]["correct"])
        assert one.p == expected <= one.p_corrected
    assert found[1].p_corrected < 1e-6
    assert found[0].p_corrected > 0.05
    (nll,) = compare("nll", {name: outputs[name] for name in "ac"}, exchanges=500)
    assert (nll.test, nll.p) == ("exchange", 1 / 501)
    assert nll.difference < 0


def test_against_one(outputs):
    found = compare("accuracy", outputs, against="c", correction="benjamini_hochberg")
    assert [(one.first, one.second) for one in found] == [("c", "a"), ("c", "b")]
    assert all(one.difference < 0 for one in found)


def test_only_shared_images_count_in_any_order(outputs):
    order = np.random.default_rng(0).permutation(360)[:300]
    part = {name: values[order] for name, values in outputs["b"].items()}
    (found,) = compare("accuracy", {"a": outputs["a"], "b": part})
    kept = np.sort(order)
    expected = pairwise.mcnemar(outputs["a"]["correct"][kept], outputs["b"]["correct"][kept])
    assert (found.n, found.p) == (300, expected)


def test_a_backbone_against_itself(outputs):
    for metric in ("accuracy", "nll"):
        (found,) = compare(metric, {"a": outputs["a"], "twin": outputs["a"]}, exchanges=50)
        assert (found.difference, found.p, found.p_corrected) == (0.0, 1.0, 1.0)


def test_what_cannot_be_compared_is_one_line(outputs):
    elsewhere = outputs["b"] | {"id": np.char.add("other/", outputs["b"]["id"])}
    without = {name: values for name, values in outputs["b"].items() if name != "correct"}
    for metric, given, words in (
        ("accuracies", outputs, "unknown metric of single images 'accuracies': did you mean accuracy"),
        ("accuracy", {"a": outputs["a"]}, "1 backbone with per-image outputs: a comparison takes two"),
        ("accuracy", {"a": outputs["a"], "b": elsewhere}, "a and b have no test image in common: they cannot be"),
        ("accuracy", {"a": outputs["a"], "b": without}, "the per-image outputs of b lack correct: run its cell again"),
    ):
        with pytest.raises(BobError) as error:
            compare(metric, given)
        assert str(error.value).startswith(words)
        assert "\n" not in str(error.value)
    with pytest.raises(BobError, match=r"^unknown backbone 'd': known: a, b, c$"):
        compare("accuracy", outputs, against="d")
    with pytest.raises(BobError, match=r"^unknown correction 'bonferroni'"):
        compare("accuracy", outputs, correction="bonferroni")


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3 = 0.06, 0.03 x 2 = 0.06, 0.04 x 1 but not below the one before."""
    np.testing.assert_allclose(pairwise.correct([0.04, 0.01, 0.03, 0.02], "holm"), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(pairwise.correct([0.5, 0.9], "holm"), [1.0, 1.0])


def test_holm_rejects_what_its_steps_reject():
    for seed in range(20):
        p = np.random.default_rng(seed).random(12) ** 3
        rejected = set()
        for step, i in enumerate(np.argsort(p)):
            if p[i] > 0.05 / (12 - step):
                break
            rejected.add(int(i))
        assert set(np.flatnonzero(pairwise.correct(p, "holm") <= 0.05)) == rejected


def test_benjamini_hochberg_is_scipys():
    for seed in range(20):
        p = np.random.default_rng(seed).random(12) ** 3
        expected = stats.false_discovery_control(p, method="bh")
        np.testing.assert_allclose(pairwise.correct(p, "benjamini_hochberg"), expected, rtol=1e-12)


@pytest.mark.parametrize("correction", ["holm", "benjamini_hochberg"])
def test_corrections_keep_order_and_never_help(correction):
    p = np.random.default_rng(1).random(9)
    found = pairwise.correct(p, correction)
    order = np.random.default_rng(2).permutation(9)
    np.testing.assert_allclose(pairwise.correct(p[order], correction), found[order])
    assert (found >= p).all()
    assert (np.diff(found[np.argsort(p)]) >= 0).all()
    assert pairwise.correct([], correction).shape == (0,)
    assert pairwise.correct([0.3], correction).tolist() == [0.3]
