import dataclasses

import numpy as np
import pytest
from synthetic_records import simulate

from bob_jax.errors import BobError
from bob_jax.grid import PROTOCOLS
from bob_jax.results.boards import boards
from bob_jax.results.ranking import settings
from bob_jax.results.ranking.settings import Setting, Settings, from_boards, task_of, without_holes


def table(values, tasks=None):
    """A table of these [B, S] values; backbones a, b, ...; settings s0, s1, ..."""
    values = np.array(values, dtype=np.float64)
    b, s = values.shape
    tasks = tasks or ["knn"] * s
    return Settings(
        tuple("abcdefghij"[:b]),
        tuple(Setting(f"s{i}", task, f"s{i}", task, "accuracy", True, f"i{i}") for i, task in enumerate(tasks)),
        values,
        tuple(tuple(() if np.isnan(v) else (f"{r}{c}",) for c, v in enumerate(row)) for r, row in enumerate(values)),
    )


N = np.nan


def test_every_protocol_has_a_task():
    assert {task_of(name) for name in PROTOCOLS} == {
        *("classification", "out of distribution", "retrieval", "adversarial", "detection"),
    }
    assert task_of("ood_linear_probe") == "out of distribution"
    assert task_of("linear_probe") == "classification"
    assert task_of("knnx") == "knnx"
    assert task_of("segmentation") == "segmentation"


def test_from_boards_keeps_values_cells_seeds_and_holes():
    made = [
        simulate("x", dataset="digits"),
        simulate("x", dataset="digits", seed=1),
        simulate("y", dataset="digits"),
        simulate("x", dataset="pets", metric="nll"),
        simulate("x", dataset="digits", protocol="linear_probe"),
    ]
    records = [done for done, _ in made]
    found = from_boards(boards(records, lambda _: None), records)
    assert found.backbones == ("x", "y")
    assert [one.title for one in found.settings] == ["digits · knn", "digits · linear_probe", "pets · knn"]
    assert found.tasks == ("classification",) * 3
    assert found.higher_is_better.tolist() == [True, True, False]
    assert found.settings[0].images == found.settings[1].images != found.settings[2].images
    assert set(found.cells[0][0]) == {records[0].cell.id, records[1].cell.id}
    assert found.cells[1] == ((records[2].cell.id,), (), ())
    mean = np.mean([record.metrics["accuracy"].value for record in records[:2]])
    assert found.values[0, 0] == pytest.approx(mean)
    assert np.isnan(found.values[1, 1:]).all()


def test_low_data_draws_share_their_test_images():
    done, _ = simulate("x")
    few = dataclasses.replace(
        done,
        cell=dataclasses.replace(done.cell, id="few", dataset="digits@5shot"),
        dataset=dataclasses.replace(
            done.dataset,
            name="digits@5shot",
            draw=0,
            splits=done.dataset.splits | {"train": dataclasses.replace(done.dataset.splits["train"], fingerprint="f")},
        ),
    )
    found = from_boards(boards([done, few], lambda _: None), [done, few])
    assert found.settings[0].title != found.settings[1].title
    assert found.settings[0].images == found.settings[1].images


def test_a_full_table_stays_whole_whatever_the_rule():
    full = table([[1, 2], [3, 4]])
    for rule in ("block", "settings", "backbones", "available"):
        kept, left_out = without_holes(full, rule)
        assert (kept.backbones, kept.settings, left_out) == (full.backbones, full.settings, {})


HOLES = [[1, 2, 3], [4, 5, 6], [7, N, 9], [N, 1, N]]


@pytest.mark.parametrize(
    ("rule", "backbones", "titles", "left_out"),
    [
        # d lacks two of three, then c one of three against s1's one of three: of equals the setting goes
        ("block", "abc", ["s0", "s2"], {"d": "2 of 3 settings missing", "s1": "1 of 3 backbones missing"}),
        ("backbones", "ab", ["s0", "s1", "s2"], {"c": "1 of 3 settings missing", "d": "2 of 3 settings missing"}),
        ("available", "abcd", ["s0", "s1", "s2"], {}),
    ],
)
def test_what_each_rule_leaves_out(rule, backbones, titles, left_out):
    kept, why = without_holes(table(HOLES), rule)
    assert ("".join(kept.backbones), [one.title for one in kept.settings], why) == (backbones, titles, left_out)
    assert [[bool(ids) for ids in row] for row in kept.cells] == np.isfinite(kept.values).tolist()


def test_settings_that_all_have():
    kept, why = without_holes(table([[1, 2], [3, 4], [5, N]]), "settings")
    assert (kept.backbones, [one.title for one in kept.settings]) == (("a", "b", "c"), ["s0"])
    assert why == {"s1": "1 of 3 backbones missing"}


def test_a_newcomer_costs_the_others_nothing():
    values = [[1, 2, 3, 4], [2, 3, 4, 5], [5, N, N, N]]
    kept, why = without_holes(table(values))
    assert (kept.backbones, len(kept.settings), why) == (("a", "b"), 4, {"c": "3 of 4 settings missing"})
    begun = [[1, 2, N], [2, 3, N], [5, 2, 1], [5, 3, 2]]
    kept, why = without_holes(table(begun))
    assert (len(kept.backbones), len(kept.settings), why) == (4, 2, {"s2": "2 of 4 backbones missing"})


def test_a_setting_of_one_backbone_is_left_out():
    kept, why = without_holes(table([[1, N], [2, 3]]), "backbones")
    assert (kept.backbones, [one.title for one in kept.settings]) == (("a", "b"), ["s0"])
    assert why == {"s1": "1 backbone: nobody to compare with"}


def test_available_leaves_out_who_has_nothing_in_common():
    kept, _ = without_holes(table([[1, N], [2, N], [N, 3]]), "available")
    assert kept.backbones == ("a", "b")


@pytest.mark.parametrize("values", [[[1, 2]], [[1, N], [N, 2]], np.empty((0, 0))])
@pytest.mark.parametrize("rule", ["block", "settings", "backbones", "available"])
def test_nothing_to_rank_is_one_line(values, rule):
    with pytest.raises(
        BobError, match=r"^nothing to rank: \d backbones? and \d settings? have no two backbones"
    ) as error:
        without_holes(table(values), rule)
    assert "\n" not in str(error.value)


def test_the_rule_does_not_depend_on_the_order_of_rows():
    kept, why = without_holes(table(HOLES))
    original = table(HOLES)
    for order in ([3, 1, 0, 2], [2, 3, 1, 0]):
        again, reasons = without_holes(original.only(order, [2, 0, 1]))
        assert set(again.backbones) == set(kept.backbones)
        assert {one.title for one in again.settings} == {one.title for one in kept.settings}
        assert reasons == why


def test_an_unknown_rule_is_named():
    with pytest.raises(BobError, match=r"^unknown rule for missing cells 'blocks': did you mean block or backbones\?$"):
        without_holes(table([[1], [2]]), "blocks")


def test_columns_by_task():
    parts = settings.per_task(np.arange(8.0).reshape(2, 4), ("a", "b", "a", "c"))
    assert {name: part.tolist() for name, part in parts.items()} == {
        "a": [[0, 2], [4, 6]],
        "b": [[1], [5]],
        "c": [[3], [7]],
    }
