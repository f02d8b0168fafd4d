import dataclasses

import numpy as np
import pytest
from synthetic_records import simulate

from bob_jax.metrics import bootstrap
from bob_jax.metrics.classification import METRICS
from bob_jax.results.boards import boards
from bob_jax.results.record import Cost


def board_of(*made, **kept):
    """The one board of these records; `kept` replaces outputs by cell id."""
    outputs = {done.cell.id: out for done, out in made} | kept
    (found,) = boards([done for done, _ in made], outputs.get)
    return found


def with_scores(done, **scores):
    metrics = {name: dataclasses.replace(done.metrics[name], **change) for name, change in scores.items()}
    return dataclasses.replace(done, metrics={**done.metrics, **metrics})


def test_best_first_with_everything_from_the_records():
    best, other = simulate("best", accuracy=0.95, parameters=5.5), simulate("other", accuracy=0.7, parameters=None)
    found = board_of(other, best)
    assert (found.title, found.metric, found.level, found.percent) == ("digits · knn", "accuracy", 0.95, True)
    first, second = found.rows
    score = best[0].metrics["accuracy"]
    assert (first.backbone, first.rank, first.tied, first.evidence) == ("best", 1, True, "paired")
    assert (first.value, first.low, first.high, first.n) == (score.value, score.low, score.high, 360)
    assert (first.seeds, first.spread, first.parameters, first.cells) == (1, None, 5.5, (best[0].cell.id,))
    assert first.cost == best[0].cost
    assert (second.backbone, second.rank, second.tied, second.parameters) == ("other", 2, False, None)


def test_a_tie_is_a_paired_difference_that_includes_zero():
    made = [simulate(f"b{i}", accuracy=accuracy, n=600) for i, accuracy in enumerate((0.8, 0.795, 0.75, 0.7, 0.6))]
    found = board_of(*made)
    outputs = {done.cell.backbone: out for done, out in made}
    for row in found.rows:
        difference = bootstrap.paired(METRICS["accuracy"], outputs[row.backbone], outputs[found.rows[0].backbone])
        assert row.tied == (difference.low <= 0 <= difference.high)
        assert row.rank == 1 or not row.tied
    assert [row.tied for row in found.rows] == [True, True, False, False, False]
    assert [row.rank for row in found.rows] == [1, 1, 3, 4, 5]


def test_pairing_tells_apart_what_overlap_cannot():
    made = [simulate("a", accuracy=0.8, n=2000), simulate("b", accuracy=0.78, n=2000)]
    paired = board_of(*made)
    overlap = board_of(*made, **{made[1][0].cell.id: None})
    assert [(row.tied, row.evidence) for row in paired.rows] == [(True, "paired"), (False, "paired")]
    assert [(row.tied, row.evidence) for row in overlap.rows] == [(True, "paired"), (True, "overlap")]


def test_without_the_best_ones_examples_all_are_judged_by_overlap():
    made = [simulate("a", accuracy=0.8, n=2000), simulate("b", accuracy=0.79, n=2000), simulate("c", accuracy=0.5)]
    made[2] = simulate("c", accuracy=0.5, n=2000)
    found = board_of(*made, **{made[0][0].cell.id: None})
    assert [(row.tied, row.evidence) for row in found.rows] == [
        (True, "overlap"),
        (True, "overlap"),
        (False, "overlap"),
    ]


def test_other_test_examples_cannot_be_paired():
    first, (done, outputs) = simulate("a", accuracy=0.9), simulate("b", accuracy=0.85)
    one_skipped = {name: values[1:] for name, values in outputs.items()}
    found = board_of(first, (done, outputs), **{done.cell.id: one_skipped})
    assert {row.backbone: row.evidence for row in found.rows} == {"a": "paired", "b": "overlap"}


def test_the_order_of_examples_does_not_matter():
    first, (done, outputs) = simulate("a", accuracy=0.8, n=2000), simulate("b", accuracy=0.78, n=2000)
    order = np.random.default_rng(0).permutation(2000)
    shuffled = board_of(first, (done, outputs), **{done.cell.id: {k: v[order] for k, v in outputs.items()}})
    assert shuffled == board_of(first, (done, outputs))


def test_a_metric_nobody_knows_is_judged_by_overlap():
    made = []
    for name in "ab":
        done, outputs = simulate(name)
        metrics = {**done.metrics, "beauty": done.metrics["accuracy"]}
        made.append((dataclasses.replace(done, metrics=metrics, main_metric="beauty"), outputs))
    assert {row.evidence for row in board_of(*made).rows} == {"overlap"}


def test_lower_is_better():
    made = [simulate("good", accuracy=0.95, metric="nll"), simulate("bad", accuracy=0.6, metric="nll")]
    paired = board_of(*made)
    overlap = board_of(*made, **{done.cell.id: None for done, _ in made})
    for found in (paired, overlap):
        assert not found.percent
        assert [(row.backbone, row.tied) for row in found.rows] == [("good", True), ("bad", False)]


def test_seeds_are_one_row():
    made = [simulate("a", seed=seed, accuracy=0.9) for seed in range(3)] + [simulate("b", accuracy=0.5)]
    made[1] = (dataclasses.replace(made[1][0], cost=Cost(wall_seconds=67.5)), made[1][1])
    row = board_of(*made).rows[0]
    values = [done.metrics["accuracy"].value for done, _ in made[:3]]
    assert (row.seeds, row.cells) == (3, tuple(done.cell.id for done, _ in made[:3]))
    assert row.value == pytest.approx(np.mean(values))
    assert row.spread == pytest.approx(np.std(values, ddof=1))
    assert row.low == pytest.approx(np.mean([done.metrics["accuracy"].low for done, _ in made[:3]]))
    assert row.cost.wall_seconds == pytest.approx((37.5 + 67.5 + 37.5) / 3)
    assert row.cost.images_per_second == 1234.5  # of those that measured it


def test_draws_of_the_training_images_are_seeds_of_one_question():
    made = []
    for seed in range(2):
        done, outputs = simulate("a", seed=seed, accuracy=0.9)
        train = dataclasses.replace(done.dataset.splits["train"], fingerprint=f"draw {seed}")
        data = dataclasses.replace(done.dataset, draw=seed, splits=done.dataset.splits | {"train": train})
        made.append((dataclasses.replace(done, dataset=data), outputs))
    (row,) = board_of(*made).rows
    assert row.seeds == 2 and row.spread > 0
    fixed = [(dataclasses.replace(done, dataset=dataclasses.replace(done.dataset, draw=None)), o) for done, o in made]
    assert len(boards([done for done, _ in fixed], lambda _: None)) == 2  # other training images: another question


def test_a_shift_shows_what_it_costs():
    done, outputs = simulate("a", accuracy=0.6)
    clean = dataclasses.replace(done.metrics["accuracy"], value=0.9)
    gap = dataclasses.replace(clean, value=0.3, low=0.25, high=0.35)
    more = done.metrics | {"clean_accuracy": clean, "gap_accuracy": gap}
    (row,) = board_of((dataclasses.replace(done, metrics=more), outputs)).rows
    assert row.clean == 0.9 and row.gap == (0.3, 0.25, 0.35)
    (plain,) = board_of((done, outputs)).rows
    assert plain.clean is None and plain.gap is None


def test_ties_between_means_over_seeds():
    """Two seeds against one, by hand from the same draws."""
    made = [simulate("a", seed=0, accuracy=0.8), simulate("a", seed=1, accuracy=0.8), simulate("b", accuracy=0.77)]
    (one, two, other) = (out["correct"].astype(float) for _, out in made)
    draws = np.random.default_rng(0).integers(0, 360, (bootstrap.RESAMPLES, 360))
    low, high = np.quantile((other - (one + two) / 2)[draws].mean(axis=1), [0.025, 0.975])
    assert board_of(*made).rows[1].tied == (low <= 0 <= high)


def test_of_equal_backbone_and_seed_the_newest_counts():
    old, new = simulate("a", accuracy=0.9), simulate("a", accuracy=0.6, created="2026-11-24T12:00:00+00:00")
    renamed = dataclasses.replace(new[0], cell=dataclasses.replace(new[0].cell, id="other-weights"))
    (row,) = board_of((renamed, new[1]), old).rows
    assert (row.cells, row.seeds) == (("other-weights",), 1)


def test_different_questions_have_different_boards():
    made = [
        simulate("a", hyperparameters={"temperature": 0.07}),
        simulate("a", hyperparameters={"temperature": 0.1}),
        simulate("a", protocol="linear_probe"),
        simulate("a", dataset="pets"),
    ]
    found = boards([done for done, _ in made], lambda _: None)
    assert [board.title for board in found] == [
        "digits · knn, temperature 0.07",
        "digits · knn, temperature 0.1",
        "digits · linear_probe",
        "pets · knn",
    ]


def test_other_data_under_the_same_name_is_another_question():
    few, many = simulate("a", n=100), simulate("a", n=360)
    splits = many[0].dataset.splits
    other = {**splits, "train": dataclasses.replace(splits["train"], fingerprint="changed")}
    changed = dataclasses.replace(many[0], dataset=dataclasses.replace(many[0].dataset, splits=other))
    titles = [board.title for board in boards([few[0], many[0]], lambda _: None)]
    assert titles == ["digits · knn, test images 100", "digits · knn, test images 360"]
    titles = [board.title for board in boards([changed, many[0]], lambda _: None)]
    assert len(set(titles)) == 2
    assert all(title.startswith("digits · knn, train data ") for title in titles)


def test_a_whole_number_is_the_same_hyper_parameter_with_and_without_a_point():
    """`--config.protocols.knn.temperature=1` and `=1.0` ask the same: one board, not two of the same title."""
    made = [
        simulate(name, hyperparameters={"temperature": one, "sizes": [224, two]})
        for name, one, two in (("a", 1, 256), ("b", 1.0, 256.0))
    ]
    assert [row.backbone for row in board_of(*made).rows] in (["a", "b"], ["b", "a"])
