import dataclasses

import numpy as np
import pytest
from synthetic_records import simulate

from bob_jax.errors import BobError
from bob_jax.metrics import bootstrap
from bob_jax.results.boards import boards
from bob_jax.results.ranking import aggregates, standings
from bob_jax.results.ranking.settings import TASKS


def rank(made, **options):
    records = [done for done, _ in made]
    outputs = {done.cell.id: out for done, out in made}
    return standings.rank(boards(records, outputs.get), records, outputs.get, **options)


def grid(accuracies, datasets=("digits", "pets", "cars"), n=360):
    """A record of each backbone on each data set."""
    return [
        simulate(name, dataset=dataset, accuracy=accuracy, n=n, parameters=None if name == "a" else 5.0)
        for name, accuracy in accuracies.items()
        for dataset in datasets
    ]


def by_name(ranking):
    return {one.backbone: one for one in ranking.standings}


def test_clear_leaders_have_a_rank_and_equals_a_range():
    ranking = rank(grid({"a": 0.95, "b": 0.8, "c": 0.8, "d": 0.5}, n=1000))
    found = by_name(ranking)
    assert ranking.standings[0].backbone == "a"
    assert {name: one.range for name, one in found.items()} == {"a": "1", "b": "2-3", "c": "2-3", "d": "4"}
    assert {name: one.parameters for name, one in found.items()} == {"a": None, "b": 5.0, "c": 5.0, "d": 5.0}
    assert (ranking.by, ranking.level, ranking.missing, ranking.left_out) == ("mean_z", 0.95, "block", {})
    assert ranking.tasks == ("classification",)
    assert ranking.data_sets == {"classification": 3}


def test_figures_are_the_aggregates_of_the_table_with_intervals_around_them():
    ranking = rank(grid({"a": 0.9, "b": 0.8, "c": 0.6}))
    table = ranking.table
    z = aggregates.over_settings(aggregates.z_scores(table.values, table.higher_is_better), table.tasks)
    assert [by_name(ranking)[name].figures["mean_z"].value for name in "abc"] == pytest.approx(z.tolist())
    np.testing.assert_allclose(ranking.value, z)
    for one in ranking.standings:
        assert set(one.figures) == {"mean_z", "mean_rank", "win_rate", "first_share", "bradley_terry"}
        for estimate in (*one.figures.values(), *one.tasks.values()):
            assert estimate.low <= estimate.value <= estimate.high
            assert estimate.n == 3
    low, high = bootstrap.percentiles(ranking.drawn[:, 0])
    assert (by_name(ranking)["a"].figures["mean_z"].low, by_name(ranking)["a"].figures["mean_z"].high) == (low, high)


@pytest.mark.parametrize("by", ["mean_z", "mean_rank", "win_rate", "bradley_terry", "first_share"])
def test_every_figure_puts_the_best_first(by):
    ranking = rank(grid({"a": 0.95, "b": 0.8, "c": 0.4}, n=1000), by=by)
    assert ranking.standings[0].backbone == "a"
    assert ranking.standings[0].range == "1"
    positions = [one.position for one in ranking.standings]
    # of first places b and c have none each: they are equal
    assert positions == ([1, 2, 2] if by == "first_share" else [1, 2, 3])


def test_losses_count_the_other_way():
    made = [simulate(name, accuracy=accuracy, metric="nll") for name, accuracy in (("a", 0.95), ("b", 0.5))]
    assert [one.backbone for one in rank(made).standings] == ["a", "b"]


def test_two_backbones_and_one_setting():
    made = [simulate("a", accuracy=0.9), simulate("b", accuracy=0.5)]
    ranking = rank(made)
    first, second = ranking.standings
    assert (first.figures["mean_z"].value, second.figures["mean_z"].value) == (1.0, -1.0)
    assert (first.range, second.range) == ("1", "2")
    assert ranking.data_sets == {"classification": 1}


def test_backbones_with_equal_outputs_are_equal():
    done, out = simulate("a")
    twins = [(dataclasses.replace(done, cell=dataclasses.replace(done.cell, id=n, backbone=n)), out) for n in "abc"]
    ranking = rank(twins)
    assert [one.backbone for one in ranking.standings] == ["a", "b", "c"]
    for one in ranking.standings:
        assert (one.position, one.range) == (1, "1-3")
        assert one.figures["mean_z"] == bootstrap.Estimate(0.0, 0.0, 0.0, 1)
        assert one.figures["mean_rank"].value == 2.0
        assert one.figures["bradley_terry"].value == pytest.approx(0.0, abs=1e-12)
        assert one.figures["first_share"].value == pytest.approx(1 / 3)


def test_a_single_backbone_cannot_be_ranked():
    with pytest.raises(BobError, match=r"^nothing to rank: 1 backbone and 2 settings"):
        rank(grid({"a": 0.9}, datasets=("digits", "pets")))


def test_a_setting_with_a_missing_backbone_is_left_out_and_said_so():
    made = grid({"a": 0.9, "b": 0.8, "c": 0.6})
    made = [(done, out) for done, out in made if (done.cell.backbone, done.cell.dataset) != ("a", "cars")]
    ranking = rank(made)
    assert ranking.left_out == {"cars · knn": "1 of 3 backbones missing"}
    assert len(ranking.table.settings) == 2
    ranking = rank(made, missing="backbones")
    assert ranking.left_out == {"a": "1 of 3 settings missing"}
    assert [one.backbone for one in ranking.standings] == ["b", "c"]
    ranking = rank(made, missing="available")
    assert ranking.left_out == {}
    assert {one.backbone: one.figures["mean_z"].n for one in ranking.standings} == {"a": 2, "b": 3, "c": 3}


def test_tasks_have_their_own_z_and_weigh_alike():
    made = grid({"a": 0.9, "b": 0.8, "c": 0.6}, datasets=("digits", "pets"))
    made += [
        (dataclasses.replace(done, protocol=dataclasses.replace(done.protocol, name="retrieval")), out)
        for done, out in grid({"a": 0.5, "b": 0.6, "c": 0.9}, datasets=("oxford",))
    ]
    assert TASKS["retrieval"] == "retrieval"
    ranking = rank(made)
    assert ranking.tasks == ("classification", "retrieval")
    assert ranking.data_sets == {"classification": 2, "retrieval": 1}
    for b, name in enumerate(ranking.table.backbones):
        one = by_name(ranking)[name]
        means = [one.tasks[task].value for task in ranking.tasks]
        assert [one.tasks[task].n for task in ranking.tasks] == [2, 1]
        assert one.figures["mean_z"].value == pytest.approx(np.mean(means))
        np.testing.assert_allclose(ranking.task_z[b], means)
    by_setting = by_name(rank(made, weighting="setting"))["a"]
    first = by_name(ranking)["a"]
    expected = (2 * first.tasks["classification"].value + first.tasks["retrieval"].value) / 3
    assert by_setting.figures["mean_z"].value == pytest.approx(expected)


def test_a_backbone_without_a_task_has_no_z_there():
    made = grid({"a": 0.9, "b": 0.8, "c": 0.6}, datasets=("digits",))
    made += [
        (dataclasses.replace(done, protocol=dataclasses.replace(done.protocol, name="retrieval")), out)
        for done, out in grid({"a": 0.5, "b": 0.6}, datasets=("oxford",))
    ]
    ranking = rank(made, missing="available")
    assert set(by_name(ranking)["c"].tasks) == {"classification"}
    assert np.isnan(ranking.task_z[2, 1])


def test_the_order_of_records_does_not_matter_and_draws_repeat():
    made = grid({"a": 0.9, "b": 0.8, "c": 0.6})
    assert rank(made[::-1]).standings == rank(made).standings
    other = rank(made, seed=1)
    assert other.standings[0].figures["mean_z"].value == rank(made).standings[0].figures["mean_z"].value
    assert other.standings[0].figures["mean_z"] != rank(made).standings[0].figures["mean_z"]


def test_names_do_not_matter():
    """The same outputs under other names give the same ranks and intervals."""

    def renamed(record, name):
        return dataclasses.replace(
            record, cell=dataclasses.replace(record.cell, backbone=name, id=record.cell.id + name)
        )

    made = grid({"a": 0.9, "b": 0.8, "c": 0.6})
    names = {"a": "z", "b": "b", "c": "a"}
    again = rank([(renamed(done, names[done.cell.backbone]), out) for done, out in made])
    for one in rank(made).standings:
        other = by_name(again)[names[one.backbone]]
        assert (other.range, other.position) == (one.range, one.position)
        for figure, estimate in one.figures.items():
            assert dataclasses.astuple(other.figures[figure]) == pytest.approx(dataclasses.astuple(estimate))


def test_cells_without_images_are_named():
    made = grid({"a": 0.9, "b": 0.5}, datasets=("digits",))
    ranking = rank([made[0], (made[1][0], None)])
    assert ranking.without_images == (made[1][0].cell.id,)


def test_an_unknown_figure_is_named():
    with pytest.raises(BobError, match=r"^unknown figure to rank by 'mean': did you mean mean_z or mean_rank\?$"):
        rank(grid({"a": 0.9, "b": 0.5}), by="mean")
