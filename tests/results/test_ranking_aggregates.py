"""Aggregates against scipy, loops written from the definitions, and the one published table of the study of 2023."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from bob_jax.errors import BobError
from bob_jax.results.ranking import aggregates

PUBLISHED = Path(__file__).with_name("retrieval_mrr_2023.csv")
MEANS = (0.6689, 0.2114, 0.3182, 0.8582, 0.4171, 0.7384, 0.9671, 0.8893)
STDS = (0.2048, 0.1268, 0.1469, 0.1283, 0.1081, 0.1256, 0.0319, 0.0586)


def published():
    """Names, [33, 8] MRR, [33] mean z-score."""
    lines = [line for line in PUBLISHED.read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.reader(lines))[1:]
    numbers = np.array([[float(value) for value in row[1:]] for row in rows])
    return [row[0] for row in rows], numbers[:, :-1], numbers[:, -1]


def table(seed=0, backbones=7, settings=5, holes=0.0):
    generator = np.random.default_rng(seed)
    values = np.round(generator.normal(size=(backbones, settings)), 1)  # with ties
    higher = np.arange(settings) % 3 != 1
    return np.where(generator.random(values.shape) < holes, np.nan, values), higher


def test_the_published_table_has_its_mean_z():
    names, mrr, expected = published()
    assert mrr.shape == (33, 8)
    np.testing.assert_allclose(mrr.mean(axis=0), MEANS, atol=5.1e-5)  # printed with four digits
    np.testing.assert_allclose(mrr.std(axis=0), STDS, atol=5.1e-5)
    higher = np.ones(8, dtype=bool)
    mean_z = aggregates.over_settings(aggregates.z_scores(mrr, higher), ("retrieval",) * 8)
    np.testing.assert_allclose(mean_z, expected, atol=1e-3)
    best = [names[i] for i in np.argsort(-mean_z)[:3]]
    assert best == [
        "swinv2_base_window12to24_192to384_22kft1k",
        "convnext_xlarge_in22ft1k",
        "convnext_base_in22ft1k",
    ]


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_z_scores_are_scipys(ddof, holes):
    values, higher = table(1, holes=holes)
    expected = stats.zscore(values, axis=0, ddof=ddof, nan_policy="omit")
    expected = np.asarray(expected) * np.where(higher, 1, -1)
    np.testing.assert_allclose(aggregates.z_scores(values, higher, ddof), expected, rtol=1e-12, atol=1e-12)


def test_equal_backbones_and_a_single_one_have_z_of_zero():
    values = np.array([[0.1 + 0.2, 0.5, np.nan], [0.3, np.nan, np.nan], [0.3, np.nan, 1.0]])
    z = aggregates.z_scores(values, np.ones(3, dtype=bool))
    np.testing.assert_array_equal(z, [[0, 0, np.nan], [0, np.nan, np.nan], [0, np.nan, 0]])
    np.testing.assert_array_equal(aggregates.z_scores(values, np.ones(3, dtype=bool), ddof=1), z)


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_ranks_wins_and_firsts_by_their_definitions(holes):
    values, higher = table(2, holes=holes)
    signed = np.where(higher, values, -values)
    ranks, shares = aggregates.ranks(values, higher), aggregates.win_shares(values, higher)
    first = aggregates.first_shares(values, higher)
    for b, s in itertools.product(*map(range, values.shape)):
        others = [o for o in range(len(values)) if o != b and np.isfinite(values[o, s])]
        if np.isnan(values[b, s]):
            assert np.isnan([ranks[b, s], shares[b, s], first[b, s]]).all()
            continue
        beaten = sum(float(signed[b, s] > signed[o, s]) + 0.5 * (signed[b, s] == signed[o, s]) for o in others)
        equal = sum(signed[b, s] == signed[o, s] for o in others)
        assert ranks[b, s] == len(others) - beaten + 1
        assert shares[b, s] == pytest.approx(beaten / len(others))
        is_best = all(signed[b, s] >= signed[o, s] for o in others)
        assert first[b, s] == (1 / (equal + 1) if is_best else 0)


@pytest.mark.parametrize("shape", [(1,), (2,), (9,), (4, 9), (2, 3, 30)])
def test_places_are_scipys(shape):
    values = np.random.default_rng(0).integers(0, 6, shape).astype(float)
    values[values == 5] = np.inf
    np.testing.assert_array_equal(aggregates.average_ranks(values), stats.rankdata(values, axis=-1))


def test_one_backbone_wins_against_nobody():
    values = np.array([[0.5], [np.nan]])
    assert np.isnan(aggregates.win_shares(values, np.array([True]))).all()
    np.testing.assert_array_equal(aggregates.first_shares(values, np.array([True])), [[1], [np.nan]])


def test_without_holes_win_rate_is_mean_rank_turned_round():
    values, higher = table(3)
    tasks = ("a", "a", "b", "b", "b")
    rank = aggregates.over_settings(aggregates.ranks(values, higher), tasks)
    share = aggregates.over_settings(aggregates.win_shares(values, higher), tasks)
    np.testing.assert_allclose(share, (len(values) - rank) / (len(values) - 1), rtol=1e-12)


def test_tasks_weigh_alike_however_many_settings_they_have():
    values = np.array([[1.0, 1.0, 1.0, 4.0], [2.0, 3.0, np.nan, np.nan]])
    tasks = ("a", "a", "a", "b")
    np.testing.assert_allclose(aggregates.over_settings(values, tasks), [2.5, 2.5])
    np.testing.assert_allclose(aggregates.over_settings(values, tasks, "setting"), [1.75, 2.5])
    counts = np.array([0.0, 1.0, 2.0, 5.0])
    np.testing.assert_allclose(aggregates.over_settings(values, tasks, "task", counts), [2.5, 3.0])
    np.testing.assert_allclose(aggregates.over_settings(values, tasks, "setting", counts), [23 / 8, 3.0])
    with pytest.raises(BobError, match=r"^unknown weighting 'tasks': did you mean task\?$"):
        aggregates.over_settings(values, tasks, "tasks")


def test_a_backbone_without_any_cell_has_no_mean():
    assert np.isnan(aggregates.over_settings(np.array([[np.nan, np.nan]]), ("a", "b"))).all()


def test_weights_of_settings_sum_to_their_number():
    tasks = ("a", "a", "b")
    np.testing.assert_allclose(aggregates.setting_weights(tasks, "task"), [0.75, 0.75, 1.5])
    np.testing.assert_allclose(aggregates.setting_weights(tasks, "setting"), [1, 1, 1])
    np.testing.assert_allclose(
        aggregates.setting_weights(tasks, "task", np.array([[2.0, 0.0, 1.0], [1.0, 1.0, 1.0]])),
        [[1.5, 0, 1.5], [0.75, 0.75, 1.5]],
    )


def test_wins_are_counted_in_a_loop():
    values, higher = table(4, holes=0.2)
    weights = np.array([1.0, 2.0, 0.5, 0.0, 1.0])
    won = aggregates.wins(values, higher, weights)
    signed = np.where(higher, values, -values)
    for i, j in itertools.product(range(len(values)), repeat=2):
        expected = 0.0
        for s, weight in enumerate(weights):
            if i != j and np.isfinite(signed[[i, j], s]).all():
                expected += weight * (
                    1.0 if signed[i, s] > signed[j, s] else 0.5 if signed[i, s] == signed[j, s] else 0
                )
        assert won[i, j] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_bradley_terry_is_the_maximum_that_a_general_optimiser_finds(seed):
    won = aggregates.wins(*table(seed, backbones=6, settings=9, holes=0.2))

    def negative_log_posterior(strength):
        difference = strength[:, None] - strength[None, :]
        ghost = aggregates.GHOST * (np.logaddexp(0, strength) + np.logaddexp(0, -strength)).sum()
        return (won * np.logaddexp(0, -difference)).sum() + ghost

    found = optimize.minimize(negative_log_posterior, np.zeros(6), method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(aggregates.bradley_terry(won), found - found.mean(), atol=1e-6)


def test_bradley_terry_by_hand():
    """Two backbones, no ghost felt: odds are wins to losses. One that always wins stays finite, unmet ones are even."""
    many = 1e6
    strength = aggregates.bradley_terry(np.array([[0, 3 * many], [many, 0]]))
    assert strength[0] - strength[1] == pytest.approx(np.log(3), abs=1e-5)  # the ghost's share of a million games
    always = aggregates.bradley_terry(np.array([[0.0, 1000.0, 1000.0], [0.0, 0.0, 1000.0], [0.0, 0.0, 0.0]]))
    assert np.isfinite(always).all()
    assert always[0] > always[1] > always[2]
    np.testing.assert_array_equal(aggregates.bradley_terry(np.zeros((3, 3))), np.zeros(3))


FIGURES = (
    aggregates.z_scores,
    lambda values, higher: -aggregates.ranks(values, higher),
    aggregates.win_shares,
    aggregates.first_shares,
)


@pytest.mark.parametrize("figure", FIGURES)
def test_the_order_of_backbones_and_settings_does_not_matter(figure):
    values, higher = table(5, holes=0.2)
    rows, columns = np.random.default_rng(0).permutation(7), np.random.default_rng(1).permutation(5)
    permuted = figure(values[np.ix_(rows, columns)], higher[columns])
    np.testing.assert_allclose(permuted, figure(values, higher)[np.ix_(rows, columns)], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_better_score_never_hurts(figure):
    values, higher = table(6)
    before = figure(values, higher)
    for b, s in itertools.product(*map(range, values.shape)):
        better = values.copy()
        better[b, s] += 0.7 if higher[s] else -0.7
        assert figure(better, higher)[b, s] >= before[b, s] - 1e-12


def test_bradley_terry_does_not_mind_the_order_and_likes_a_win():
    won = aggregates.wins(*table(7))
    order = np.random.default_rng(0).permutation(7)
    np.testing.assert_allclose(
        aggregates.bradley_terry(won[np.ix_(order, order)]), aggregates.bradley_terry(won)[order], atol=1e-9
    )
    more = won.copy()
    more[2, 4] += 1
    assert aggregates.bradley_terry(more)[2] > aggregates.bradley_terry(won)[2]


def test_ranks_see_no_monotone_change_and_z_no_linear_one():
    values, higher = table(8)
    np.testing.assert_array_equal(aggregates.ranks(np.exp(values), higher), aggregates.ranks(values, higher))
    np.testing.assert_allclose(
        aggregates.z_scores(3 * values - 2, higher), aggregates.z_scores(values, higher), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(aggregates.z_scores(-values, ~higher), aggregates.z_scores(values, higher), atol=1e-12)


def test_draws_are_tables_of_their_own():
    first, higher = table(9)
    second, _ = table(10)
    counts = np.array([[1.0, 1, 2, 0, 1], [0, 2, 1, 1, 1]])
    tasks = ("a", "a", "b", "b", "b")
    both = np.stack([first, second])
    for figure in FIGURES:
        together = aggregates.over_settings(figure(both, higher), tasks, "task", counts)
        alone = [aggregates.over_settings(figure(one, higher), tasks, "task", counts[i]) for i, one in enumerate(both)]
        np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-12)
    weights = aggregates.setting_weights(tasks, "task", counts)
    together = aggregates.bradley_terry(aggregates.wins(both, higher, weights))
    alone = [aggregates.bradley_terry(aggregates.wins(one, higher, weights[i])) for i, one in enumerate(both)]
    np.testing.assert_allclose(together, alone, atol=1e-9)
