"""Cells of detectors in boards, ranking, paired tests and report: average precision was drawn when it was judged."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from synthetic_records import simulate, simulate_detection

from bob_jax import cli
from bob_jax.errors import BobError
from bob_jax.metrics import bootstrap
from bob_jax.results.boards import boards
from bob_jax.results.ranking import pairwise, uncertainty
from bob_jax.results.ranking.settings import from_boards
from bob_jax.results.report import content
from bob_jax.results.store import Store

# A mean over 300 images with 0.03 of noise between two detectors: a difference of 0.0024 is one standard error.
QUALITY = {"first": 0.42, "twin": 0.419, "third": 0.40}


def made(**changes):
    return [simulate_detection(name, ap=ap, **changes) for name, ap in QUALITY.items()]


def board_of(cells, **kept):
    (found,) = boards([done for done, _ in cells], ({done.cell.id: out for done, out in cells} | kept).get)
    return found


def test_detectors_are_tied_by_the_interval_of_their_difference_on_the_same_draws():
    cells = made()
    found = board_of(cells)
    assert [row.evidence for row in found.rows] == ["paired"] * 3
    assert [row.tied for row in found.rows] == [True, True, False]
    without = board_of(cells, **{cells[2][0].cell.id: {"id": cells[2][1]["id"]}})
    assert [(row.tied, row.evidence) for row in without.rows][2] == (True, "overlap")  # unpaired tells less


def test_detectors_that_were_drawn_on_other_images_are_compared_by_overlap():
    cells = made()
    done, out = simulate_detection("third", ap=0.4, n=200)
    score = dataclasses.replace(done.metrics["mask_ap"], n=200)
    done = dataclasses.replace(cells[2][0], metrics=done.metrics | {"mask_ap": score})
    assert [row.evidence for row in board_of([*cells[:2], (done, out)]).rows] == ["paired", "paired", "overlap"]


def test_seeds_are_averaged_draw_by_draw():
    cells = [simulate_detection(name, ap=0.4, seed=seed) for name in ("a", "b") for seed in (0, 1, 2)]
    found = board_of(cells)
    drawn = {
        name: np.mean([out["drawn_mask_ap"][1:] for done, out in cells if done.cell.backbone == name], axis=0)
        for name in ("a", "b")
    }
    best, other = (row.backbone for row in found.rows)
    low, high = np.quantile(drawn[other] - drawn[best], [0.025, 0.975])
    assert found.rows[1].tied == (low <= 0 <= high)
    assert found.rows[1].seeds == 3


def test_the_ranking_takes_the_draws_that_all_detectors_share():
    cells = made()
    records = [done for done, _ in cells]
    outputs = {done.cell.id: out for done, out in cells}
    table = from_boards(boards(records, outputs.get), records)
    draws = uncertainty.draw(table, {done.cell.id: done for done in records}, outputs.get, resamples=2500)
    assert draws.without_images == ()
    for b, (done, _) in enumerate(sorted(cells, key=lambda one: one[0].cell.backbone)):
        kept = outputs[done.cell.id]["drawn_mask_ap"][1:]
        np.testing.assert_array_equal(draws.values[:, b, 0], np.concatenate([kept, kept, kept[:500]]))
    assert np.corrcoef(draws.values[:, :, 0].T)[0, 1] > 0.8  # hard images are hard for both


def test_a_draw_without_objects_counts_as_the_test_set_itself():
    cells = made()
    cells[0][1]["drawn_mask_ap"][3] = np.nan
    records = [done for done, _ in cells]
    outputs = {done.cell.id: out for done, out in cells}
    table = from_boards(boards(records, outputs.get), records)
    draws = uncertainty.draw(table, {done.cell.id: done for done in records}, outputs.get, resamples=10)
    assert draws.values[2, 0, 0] == records[0].metrics["mask_ap"].value
    assert board_of(cells).rows[1].evidence == "paired"
    assert 0 < pairwise.compare("mask_ap", {d.cell.backbone: o for d, o in cells})[0].p <= 1


def test_the_paired_test_is_the_interval_turned_round():
    outputs = {done.cell.backbone: out for done, out in made()}
    found = pairwise.compare("mask_ap", outputs, against="first")
    assert {one.test for one in found} == {"bootstrap"}
    for one in found:
        drawn = outputs[one.first]["drawn_mask_ap"] - outputs[one.second]["drawn_mask_ap"]
        assert one.difference == drawn[0]
        np.testing.assert_allclose((one.low, one.high), np.quantile(drawn[1:], [0.025, 0.975]))
        assert (one.p < 0.05) == (not one.low <= 0 <= one.high)
        tail = max(stats.norm.sf(abs(drawn[0]) / drawn[1:].std()), 1 / 1001)  # a thousand draws tell no smaller one
        assert one.p == pytest.approx(2 * tail, abs=8 * np.sqrt(tail * (1 - tail) / 1000))  # 4 standard errors
    assert pairwise.compare("mask_ap", {"a": outputs["first"], "same": outputs["first"]})[0].p == 1
    with pytest.raises(BobError, match=r"^unknown metric of single images 'box_ap50'"):
        pairwise.compare("box_ap50", outputs)
    other = outputs["twin"] | {"id": np.char.add("other/", outputs["twin"]["id"])}
    with pytest.raises(BobError, match=r"^a and b were not drawn on the same test images"):
        pairwise.compare("mask_ap", {"a": outputs["first"], "b": other})


def test_p_is_uniform_for_equal_detectors():
    """Of 400 worlds with two equals, 5 % fall below 0.05: fewer than 11 and more than 33 have a probability of 0.01."""
    small = []
    for world in range(400):
        images = np.random.default_rng(world).normal(size=(2, 200))
        outputs = {
            name: {
                "id": np.arange(200).astype(str),
                "drawn_mask_ap": np.append(
                    one.mean(), bootstrap.replicates(lambda weights, of=one: weights @ of / 200, 200, 400, seed=world)
                ),
            }
            for name, one in zip("ab", images, strict=True)
        }
        small.append(pairwise.compare("mask_ap", outputs)[0].p < 0.05)
    assert 10 <= sum(small) <= 33


def test_draws_lie_beside_a_record_and_only_they_may_have_another_length(tmp_path):
    done, out = simulate_detection("first")
    Store(tmp_path).write(done, out)
    np.testing.assert_array_equal(Store(tmp_path).per_example(done.cell.id)["drawn_mask_ap"], out["drawn_mask_ap"])
    with pytest.raises(ValueError, match="per-example 'mask_ap' is"):
        Store(tmp_path).write(done, {"id": out["id"], "mask_ap": out["drawn_mask_ap"]})


@pytest.fixture
def folder(tmp_path):
    """Detectors on COCO and under a shift, classifiers on digits."""
    for done, out in [*made(), *made(dataset="sim10k_to_cityscapes", shifted=True), *map(simulate, QUALITY)]:
        Store(tmp_path / "results").write(done, out)
    return tmp_path / "results"


def test_a_shifted_detector_shows_what_it_was_and_what_it_lost(folder, capsys):
    assert cli.main(["results", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "lost by the shift %" in shown
    assert cli.main(["rank", str(folder)]) == 0
    assert "detection" in capsys.readouterr().out
    place = Store(folder)
    (board,) = [one for one in boards(place.read_all(), place.per_example) if one.dataset.startswith("sim10k")]
    assert board.metric == "shifted_box_ap" and board.percent
    for row in board.rows:
        metrics = place.read(row.cells[0]).metrics
        assert (row.value, row.clean) == (metrics["shifted_box_ap"].value, metrics["box_ap"].value)
        assert row.gap[0] == metrics["gap_box_ap"].value


def test_a_record_that_ranks_by_its_clean_score_has_a_board_too():
    """As detectors were recorded before the shifted score ranked them."""
    cells = [
        (dataclasses.replace(done, main_metric="box_ap"), out) for done, out in made(dataset="streets", shifted=True)
    ]
    found = board_of(cells)
    assert [(row.clean, row.gap) for row in found.rows] == [(None, None)] * 3


def test_the_report_compares_detectors_as_it_compares_classifiers(folder):
    place = Store(folder)
    records = place.read_all()
    found = content.content(content.Evidence("x", records, [], place.per_example, place.picture, {}, lambda data: None))
    of = {board["title"]: board for board in found["boards"]}
    for title, metric in (("coco · detection", "mask_ap"), ("sim10k_to_cityscapes · detection", "shifted_box_ap")):
        board = of[title]
        assert (board["metric"], board["scale"]) == (metric, 100)
        assert [one["test"] for one in board["against_best"]] == ["bootstrap"] * 2
        assert {row["evidence"] for row in board["rows"]} == {"paired"}
    assert not any("without per-image" in note for one in found["rankings"] for note in one["notes"])
