"""What part of a table tells of its ranking: the formula against simulated tables, the model against hand values."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from bob_jax.results.ranking import information
from bob_jax.results.ranking.information import PRIOR, Agreement, Column
from bob_jax.results.ranking.settings import per_task

COLUMNS = (
    Column("classification", "knn", "digits", "knn digits", 0),
    Column("classification", "knn", "digits", "knn digits", 1),
    Column("classification", "knn", "digits", "knn digits@5shot", 0),
    Column("classification", "knn", "birds", "knn birds", 0),
    Column("classification", "finetune", "digits", "finetune digits", 0),
    Column("retrieval", "retrieval", "birds", "retrieval birds", 0),
    Column("retrieval", "retrieval", "digits", "retrieval digits", 0),
    Column("detection", "detection", "scenes", "detection scenes", 0),
)


def draw(rng, correlations, backbones):
    """[B, C] scores of backbones from the model."""
    return rng.multivariate_normal(np.zeros(len(correlations)), correlations, size=backbones)


def mean_over_tasks(values, columns):
    """The figure that ranks, by plain loops: seeds, then settings, then tasks; [B, C] -> [B]."""
    tasks = {}
    for setting in dict.fromkeys(column.setting for column in columns):
        where = [c for c, column in enumerate(columns) if column.setting == setting]
        tasks.setdefault(columns[where[0]].task, []).append(values[:, where].mean(axis=1))
    return np.mean([np.mean(settings, axis=0) for settings in tasks.values()], axis=0)


def test_columns_are_correlated_by_what_they_have_in_common():
    found = information.model(COLUMNS, PRIOR)
    np.testing.assert_array_equal(np.diag(found), 1.0)
    np.testing.assert_array_equal(found, found.T)
    quality, task, protocol, dataset, setting = PRIOR.values()
    assert found[0, 1] == pytest.approx(quality + task + protocol + dataset + setting)  # two seeds
    assert found[0, 2] == pytest.approx(quality + task + protocol + dataset)  # fewer shots
    assert found[0, 3] == pytest.approx(quality + task + protocol)
    assert found[0, 4] == pytest.approx(quality + task + dataset)
    assert found[3, 5] == pytest.approx(quality + dataset)
    assert found[0, 7] == pytest.approx(quality)
    assert np.linalg.eigvalsh(found).min() > 0 and sum(PRIOR.values()) < 1


def test_the_prior_agrees_with_what_it_is_taken_from():
    many = [Column("a", f"p{p}", f"d{d}", f"{p} {d}", 0) for p in range(4) for d in range(40)]
    many += [Column("b", f"q{p}", f"e{d}", f"b {p} {d}", 0) for p in range(4) for d in range(40)]
    found = information.model(many, PRIOR)
    assert found[0, 1] == pytest.approx(0.7)
    mean = np.kron(np.eye(2), np.full(160, 1 / 160))
    between = mean @ found @ mean.T
    assert between[0, 1] / between[0, 0] == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("kept", [[0], [0, 3, 5], [0, 1, 4, 7], [5, 6, 7], [0, 1, 2, 3, 4, 5, 7], list(range(8))])
def test_tau_is_what_simulated_rankings_have(kept):
    correlations = information.model(COLUMNS, PRIOR)
    mask = np.isin(np.arange(len(COLUMNS)), kept)
    promised = Agreement(COLUMNS, correlations, np.ones((10, 8), dtype=bool)).tau(mask)
    values = draw(np.random.default_rng(0), correlations, 4000)
    part = mean_over_tasks(values[:, mask], [COLUMNS[c] for c in kept])
    obtained = kendalltau(part, mean_over_tasks(values, COLUMNS)).statistic
    assert promised == pytest.approx(obtained, abs=0.02)  # the standard error of tau over 4,000 rows is below 0.01


def test_the_mean_is_that_of_the_ranking():
    once = [COLUMNS[c] for c in (0, 3, 4, 5, 6, 7)]
    values = np.random.default_rng(1).normal(size=(5, 6))
    tasks = per_task(values, [column.task for column in once])
    expected = np.mean([columns.mean(axis=-1) for columns in tasks.values()], axis=0)
    np.testing.assert_allclose(mean_over_tasks(values, once), expected, rtol=1e-12)
    weights = Agreement(once, np.eye(6), np.ones((2, 6), dtype=bool))._weights(np.ones(6, dtype=bool))
    np.testing.assert_allclose(values @ weights, expected, rtol=1e-12)


def test_all_is_one_and_nothing_is_zero():
    agreement = Agreement(COLUMNS, information.model(COLUMNS, PRIOR), np.ones((3, 8), dtype=bool))
    assert agreement.tau(np.zeros(8, dtype=bool)) == 0 and agreement.tau(np.ones(8, dtype=bool)) == 1
    both = agreement.tau(np.eye(8, dtype=bool))
    assert both.shape == (8,) and ((both > 0) & (both < 1)).all()
    single = Agreement(COLUMNS, information.model(COLUMNS, PRIOR), np.ones((1, 8), dtype=bool))
    assert single.tau(np.ones(8, dtype=bool)) == 0  # one backbone has no rank


def test_pairs_are_compared_by_what_both_can_be_judged_in():
    judged = np.ones((4, 8), dtype=bool)
    judged[3, :4] = False  # half of its settings are not for it
    kept = np.isin(np.arange(8), [0, 3])
    correlations = information.model(COLUMNS, PRIOR)
    whole = Agreement(COLUMNS, correlations, np.ones((3, 8), dtype=bool)).tau(kept)
    assert Agreement(COLUMNS, correlations, judged).tau(kept) == pytest.approx(whole * 3 / 6)  # nothing of 3 pairs
    assert Agreement(COLUMNS, correlations, judged).tau(judged[3]) < 1  # all that the fourth has, not all of the others


def test_correlations_over_the_backbones_in_common():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(12, 4)) + rng.normal(size=(12, 1)) + 1000.0
    values[:5, 1] = np.nan
    values[4:, 2] = np.nan  # too few
    values[:, 3] = 7.0  # tells nobody apart
    r, count = information.seen(values)
    rows = np.isfinite(values[:, 1])
    assert r[0, 1] == pytest.approx(np.corrcoef(values[rows, 0], values[rows, 1])[0, 1], rel=1e-6) and count[0, 1] == 7
    assert count[0, 2] == count[2, 2] == count[0, 3] == 0 and r[0, 2] == r[0, 3] == 0
    assert information.seen(np.zeros((0, 3)))[1].sum() == 0


def test_variances_are_the_prior_without_records_and_the_truth_with_many():
    nothing = np.zeros((8, 8))
    assert information.fit(COLUMNS, nothing, nothing) == pytest.approx(PRIOR)
    columns = [
        Column(task, f"{task} {p}", f"d{d}", f"{task} {p} {d}", seed)
        for task in "ab"
        for p in range(3)
        for d in range(3)
        for seed in range(2)
    ]
    truth = {"quality": 0.2, "task": 0.3, "protocol": 0.05, "dataset": 0.25, "setting": 0.1}
    values = draw(np.random.default_rng(3), information.model(columns, truth), 3000)
    found = information.fit(columns, *information.seen(values))
    assert found == pytest.approx(truth, abs=0.05)
    few = information.fit(columns, *information.seen(values[:10]))
    assert sum(few.values()) <= 1 and all(share >= 0 for share in few.values())


def test_what_was_seen_counts_by_its_backbones():
    modelled = information.model(COLUMNS, PRIOR)
    r, count = np.full((8, 8), 0.9), np.zeros((8, 8))
    np.testing.assert_allclose(information.blend(modelled, r, count), modelled, rtol=1e-10)
    count[0, 3] = count[3, 0] = 10.0  # as many as the prior counts for
    found = information.blend(modelled, r, count)
    assert found[0, 3] == pytest.approx((0.9 + modelled[0, 3]) / 2)
    contradiction = np.where(np.arange(8)[:, None] % 2 == np.arange(8) % 2, 1.0, -1.0)
    contradiction[0, 2] = contradiction[2, 0] = -1.0
    found = information.blend(modelled, contradiction, np.full((8, 8), 1e6))
    assert np.linalg.eigvalsh(found).min() > 0 and np.diag(found) == pytest.approx(np.ones(8))
