import dataclasses
import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from synthetic_records import simulate

from bob_jax.errors import BobError
from bob_jax.results import plot
from bob_jax.results.boards import boards
from bob_jax.results.record import Selection

NAMES = [f"backbone_number_{i}_with_a_long_name" for i in range(9)]


@pytest.fixture(scope="module")
def records():
    return [
        simulate(name, dataset=dataset, accuracy=0.95 - 0.01 * i)[0]
        for dataset in ("digits", "pets", "cars")
        for i, name in enumerate(NAMES[: 9 if dataset == "digits" else 3])
    ]


@pytest.fixture(scope="module")
def found(records):
    return boards(records, lambda _: None)


def words_of(path):
    tree = ElementTree.parse(path)
    return ["".join(element.itertext()).strip() for element in tree.iter("{http://www.w3.org/2000/svg}text")]


def border(path):
    """The outermost pixels of a picture, which text that is cut off would touch."""
    pixels = np.asarray(Image.open(path).convert("L"))
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def test_scores_show_every_backbone_with_its_interval(tmp_path, found):
    png, svg = plot.scores(found, tmp_path / "deep" / "scores")
    words = words_of(svg)
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["scores.png", "scores.svg"]
    for board in found:
        assert board.title in words
        for row in board.rows:
            assert row.backbone in words
            assert f"{100 * row.value:.1f}  [{100 * row.low:.1f}, {100 * row.high:.1f}]" in words
    assert (border(png) == 255).all()


def test_the_best_is_on_top_and_ties_are_shaded(found):
    axes = Figure().add_subplot()
    board = found[1]
    plot._draw_board(axes, board)
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.backbone for row in board.rows]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert len(axes.patches) == sum(row.tied for row in board.rows) > 1
    for i, row in enumerate(board.rows):
        line, dot = axes.lines[2 * i : 2 * i + 2]
        np.testing.assert_allclose(line.get_xdata(), [100 * row.low, 100 * row.high])
        np.testing.assert_allclose(dot.get_xdata(), [100 * row.value])


def test_a_loss_says_that_lower_is_better():
    axes = Figure().add_subplot()
    plot._draw_board(axes, boards([simulate("a", metric="nll")[0]], lambda _: None)[0])
    assert axes.get_xlabel() == "nll, lower is better"


def test_curves_show_what_was_searched(tmp_path, found, records):
    png, svg = plot.curves(found, records, tmp_path / "curves")
    words = words_of(svg)
    assert words.count("k") == 3
    assert "chosen" in words
    assert "others" in words  # nine backbones, six colours
    assert {"1", "3", "5", "10", "20"} <= set(words)
    assert (border(png) == 255).all()


def test_a_curve_is_the_grid_and_the_ring_what_was_chosen(found, records):
    axes = Figure().add_subplot()
    plot._draw_curves(axes, found[1], [records[0]], {records[0].cell.backbone: "red"})
    curve, ring = axes.lines
    selection = records[0].selection
    np.testing.assert_allclose(curve.get_xdata(), [1, 3, 5, 10, 20])
    np.testing.assert_allclose(curve.get_ydata(), [100 * point["validation"] for point in selection.grid])
    assert ring.get_xdata()[0] == selection.grid[selection.chosen]["k"]
    assert axes.get_xscale() == "log"


def searching(grid, **hyperparameters):
    done = simulate("a", hyperparameters=hyperparameters)[0]
    return dataclasses.replace(done, selection=Selection("validation", "accuracy", tuple(grid), 0))


def test_several_hyperparameters_show_the_one_with_most_values():
    done = searching(
        [
            {"rate": rate, "decay": decay, "epoch": 7 * rate, "validation": rate + decay if rate < 3 else None}
            for rate in (1.0, 2.0, 3.0)
            for decay in (0.1, 0.2)
        ],
        rates=[1.0, 2.0, 3.0],
        decays=[0.1, 0.2],
    )
    assert plot.searched_key(done) == "rate"
    assert plot._envelope(done, "rate", higher=True) == {1.0: 1.2, 2.0: 2.2}  # the diverged 3.0 is left out
    assert plot._envelope(done, "rate", higher=False) == {1.0: 1.1, 2.0: 2.1}


def test_what_was_not_searched_has_no_curve(tmp_path):
    single = searching([{"k": 5, "converged": True, "iterations": 3, "validation": 0.5}])
    unselected = dataclasses.replace(single, selection=None)
    for done in (single, unselected):
        assert plot.searched_key(done) is None
        assert plot.curves(boards([done], lambda _: None), [done], tmp_path / "none") == []
    assert list(tmp_path.iterdir()) == []


def test_equal_records_make_equal_files(tmp_path, found):
    first, second = plot.scores(found, tmp_path / "a"), plot.scores(found, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_plotting_leaves_the_callers_style_alone(tmp_path, found):
    before = dict(mpl.rcParams)
    plot.scores(found[:1], tmp_path / "a")
    assert dict(mpl.rcParams) == before


def test_a_place_that_cannot_be_written(tmp_path, found):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BobError, match=re.escape(f"cannot write {tmp_path / 'file' / 'x.png'}")):
        plot.scores(found[:1], tmp_path / "file" / "x")
