"""Intervals, the test between two, the optimism of a choice, and the race: against formulas, libraries, simulation."""

import numpy as np
import pytest
from scipy import stats

from bob_jax.pick import evidence, race


@pytest.mark.parametrize(("right", "n"), [(0, 6), (6, 6), (29, 30), (450, 1000)])
def test_wilson_equals_scipy(right, n):
    ours = evidence.wilson(right / n, n)
    low, high = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-12)
    assert ours.low < ours.high


def test_wilson_covers():
    generator = np.random.default_rng(0)
    for truth in (0.5, 0.9, 0.98):
        drawn = generator.binomial(60, truth, 4000)
        ends = [evidence.wilson(right / 60, 60) for right in range(61)]
        covered = np.mean([ends[right].low <= truth <= ends[right].high for right in drawn])
        # Discrete: its coverage swings around 95 % (Brown, Cai & DasGupta 2001, figure 5), lowest near the ends.
        assert covered > 0.92


def test_at_least_as_good_is_a_one_sided_binomial_test():
    generator = np.random.default_rng(1)
    first, second = generator.random(80) < 0.8, generator.random(80) < 0.6
    lost, won = (first & ~second).sum(), (second & ~first).sum()
    expected = stats.binomtest(int(won), int(lost + won), alternative="less").pvalue
    assert evidence.at_least_as_good(first, second) == pytest.approx(expected, rel=1e-12)
    assert evidence.at_least_as_good(first, first) == 1.0


def test_optimism_is_what_choosing_the_best_adds():
    """Twenty candidates that are all right on 80 %: the best looks better, and the correction takes that off."""
    generator = np.random.default_rng(2)
    naive, mended = [], []
    for seed in range(60):
        correct = generator.random((150, 20)) < 0.8
        best = int(correct.mean(axis=0).argmax())
        naive.append(correct[:, best].mean())
        mended.append(evidence.corrected(correct, best, evidence.optimism(correct, seed)).value)
    assert np.mean(naive) > 0.84
    assert abs(np.mean(mended) - 0.8) < 0.012
    assert evidence.optimism(correct[:, :1]) == 0.0


def test_the_corrected_interval_covers_the_truth_of_the_chosen():
    generator = np.random.default_rng(3)
    truth = np.array([0.85, 0.84, 0.83, 0.8, 0.7, 0.6])
    covered = []
    for seed in range(200):
        hard = generator.random((120, 1)) < 0.5  # what all have in common
        correct = generator.random((120, 6)) < np.where(hard, 2 * truth - 1, 1.0)
        best = int(correct.mean(axis=0).argmax())
        share = evidence.corrected(correct, best, evidence.optimism(correct, seed))
        covered.append(share.low <= truth[best] <= share.high)
    assert np.mean(covered) > 0.93  # of 200 draws; 95 % or more


def run_race(correct, sizes, seconds=0.0, budget=1e9):
    """A race over a table [N, M] of what is right."""
    clock = [budget]

    def judge(name, size):
        clock[0] -= seconds
        return correct[:size, int(name)]

    runners = {str(i): race.Runner(str(i)) for i in range(correct.shape[1])}
    going = race.Race(runners, sizes, judge, lambda name, size: seconds, lambda: clock[0])
    going.run()
    return going


def test_halving_rules_out_the_best_no_more_often_than_it_says():
    """Close rivals, many looks: the best of eight is ruled out with a chance of at most 5 %."""
    generator = np.random.default_rng(4)
    truth = np.array([0.80, 0.80, 0.79, 0.79, 0.78, 0.76, 0.7, 0.6])
    lost = halved = 0
    for _ in range(400):
        correct = generator.random((1800, 8)) < truth
        going = run_race(correct, (200, 600, 1800))
        lost += going.runners["0"].verdict == "ruled out"
        assert going.runners["7"].verdict == "ruled out"
        halved += 0 not in np.argsort(-correct[:200].mean(axis=0))[:4]
    assert lost / 400 <= race.LEVEL < halved / 400  # plain halving does so far more often


def test_a_clear_winner_is_found_and_the_hopeless_cost_little():
    generator = np.random.default_rng(5)
    going = run_race(generator.random((1800, 3)) < np.array([0.5, 0.95, 0.9]), (200, 600, 1800))
    assert [runner.name for runner in going.standing()] == ["1"]
    assert going.runners["0"].size == 200 and going.runners["1"].size == 1800


def test_no_time_is_no_verdict():
    """Ten seconds a step and 72 in all: half of the time for the first rung, then as many of the best as can be."""
    generator = np.random.default_rng(6)
    going = run_race(generator.random((600, 5)) < 0.8, (200, 600), seconds=10.0, budget=72.0)
    verdicts = [runner.verdict for runner in going.runners.values()]
    assert verdicts.count("not tried") == 2  # 72 / 2 are three steps
    assert verdicts.count("standing") == 3 and going.size == 600
    stopped = run_race(generator.random((600, 3)) < 0.8, (200, 600), seconds=10.0, budget=62.0)
    assert [runner.verdict for runner in stopped.runners.values()].count("standing") == 3
    fewer = run_race(generator.random((600, 3)) < 0.8, (200, 600), seconds=10.0, budget=59.0)
    assert [runner.verdict for runner in fewer.runners.values()].count("not tried") == 1


def test_an_interrupted_race_keeps_what_it_knows():
    def judge(name, size):
        if name == "c":
            raise KeyboardInterrupt
        return np.ones(size, bool)

    runners = {name: race.Runner(name) for name in "abc"}
    going = race.Race(runners, (200,), judge, lambda name, size: 0.0, lambda: 100.0)
    with pytest.raises(KeyboardInterrupt):
        going.run()
    assert [runner.name for runner in going.standing()] == ["a", "b"]


@pytest.mark.parametrize(
    ("images", "classes", "sizes"),
    [(30, 10, (30,)), (200, 10, (200,)), (1797, 10, (200, 600, 1797)), (10_000, 500, (2500, 10_000))],
)
def test_rungs_grow_to_all_images(images, classes, sizes):
    assert race.rungs(images, classes) == sizes


def test_a_rung_that_was_interrupted_counts_for_nobody():
    def judge(name, size):
        if (name, size) == ("b", 600):
            raise KeyboardInterrupt
        return np.ones(size, bool)

    runners = {name: race.Runner(name) for name in "abc"}
    going = race.Race(runners, (200, 600), judge, lambda name, size: 10.0, lambda: 1000.0)
    with pytest.raises(KeyboardInterrupt):
        going.run()
    assert going.runners["a"].size == 600
    going.settle()
    assert [(runner.name, runner.size) for runner in going.standing()] == [("a", 200), ("b", 200), ("c", 200)]
