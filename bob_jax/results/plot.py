"""Boards and grids as pictures, PNG and SVG: who is best and how sure, and what the hyper-parameters did."""

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from bob_jax.results.boards import Board
from bob_jax.results.files import write_whole
from bob_jax.results.record import Record
from bob_jax.results.table import score_format

# Okabe & Ito 2008: told apart with any colour vision. Black and yellow are left out: text, and too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
INK, MUTED, SHADE, REST = "#222222", "#6b6b6b", "#e8f0f7", "#b5b5b5"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "bob_jax",  # equal pictures are equal files
}
COLUMNS = 2
ROW_INCHES = 0.24  # height of one backbone
MAX_TICKS = 8  # so many values of a hyper-parameter are written out on the axis
RING: Any = {"marker": "o", "markersize": 7.5, "markerfacecolor": "none", "markeredgewidth": 1.4}


def scores(boards: Sequence[Board], prefix: str | Path) -> list[Path]:
    """A dot with its interval per backbone, best on top, a panel per board, ties with the best shaded.

    Args:
        boards: at least one.
        prefix: path of the pictures without their endings.

    Returns:
        The files: `<prefix>.png` and `<prefix>.svg`.

    Raises:
        BobError: they cannot be written.
    """
    columns = min(COLUMNS, len(boards))
    lines = [boards[start : start + columns] for start in range(0, len(boards), columns)]
    heights = [max(len(board.rows) for board in line) * ROW_INCHES + 0.9 for line in lines]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.8 * columns, sum(heights) + 0.35), layout="constrained")
        grid = figure.add_gridspec(len(lines), columns, height_ratios=heights)
        for i, line in enumerate(lines):
            most = max(len(board.rows) for board in line)
            for j, board in enumerate(line):  # a shorter board leaves space below: rows are equally high everywhere
                shares = [count for count in (len(board.rows), most - len(board.rows)) if count]
                part = grid[i, j].subgridspec(len(shares), 1, height_ratios=shares, hspace=0)
                _draw_board(figure.add_subplot(part[0]), board)
        figure.supxlabel(
            "line: 95 % bootstrap interval over test images; shaded: tied with the best", fontsize=8, color=MUTED
        )
        return save(figure, prefix)


def _draw_board(axes: Axes, board: Board) -> None:
    show = score_format(board)
    scale = 100 if board.percent else 1
    for i, row in enumerate(board.rows):
        if row.tied:
            axes.axhspan(i - 0.5, i + 0.5, color=SHADE, linewidth=0, zorder=0)
        colour = COLOURS[0] if row.tied else MUTED
        axes.plot(
            [row.low * scale, row.high * scale],
            [i, i],
            color=colour,
            linewidth=1.6,
            solid_capstyle="butt",
            clip_on=False,
        )
        axes.plot(row.value * scale, i, "o", color=colour, markersize=4.5, clip_on=False)
        axes.annotate(
            f"{show(row.value)}  [{show(row.low)}, {show(row.high)}]",
            (1, i),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=8,
            color=INK if row.tied else MUTED,
        )
    axes.set_ylim(len(board.rows) - 0.5, -0.5)
    axes.set_yticks(range(len(board.rows)), [row.backbone for row in board.rows])
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.margins(x=0.06)
    if board.percent:
        axes.set_xlim(max(axes.get_xlim()[0], 0), min(axes.get_xlim()[1], 100))
    axes.grid(axis="x", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.set_title(board.title, wrap=True)
    direction = "" if board.higher_is_better else ", lower is better"
    axes.set_xlabel(board.metric.replace("_", " ") + (" (%)" if board.percent else "") + direction)


def curves(boards: Sequence[Board], records: Sequence[Record], prefix: str | Path) -> list[Path]:
    """Validation score over the hyper-parameter that was searched, a panel per board, a line per backbone.

    With several hyper-parameters each point is the best over the others. The backbones that are best over all boards
    have a colour, the same in every panel; the rest is grey. A ring is what was chosen. Of several seeds one is drawn.

    Args:
        boards: who is shown.
        records: those that the boards were made from.
        prefix: path of the pictures without their endings.

    Returns:
        The files: `<prefix>.png` and `<prefix>.svg`; none where nothing was searched.

    Raises:
        BobError: they cannot be written.
    """
    by_id = {record.cell.id: record for record in records}
    drawn = {board: [by_id[row.cells[0]] for row in board.rows] for board in boards}
    drawn = {board: [r for r in group if searched_key(r) is not None] for board, group in drawn.items()}
    panels = [board for board in boards if drawn[board]]
    if not panels:
        return []
    colours = _colours(panels)
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * columns + 1.6, 2.8 * lines), layout="constrained")
        for i, board in enumerate(panels):
            _draw_curves(figure.add_subplot(lines, columns, i + 1), board, drawn[board], colours)
        _draw_legend(figure, colours)
        return save(figure, prefix)


def _colours(boards: Sequence[Board]) -> dict[str, str]:
    """Backbone to colour, best mean position first; the many that are left are grey."""
    positions: dict[str, list[int]] = {}
    for board in boards:
        for i, row in enumerate(board.rows):
            positions.setdefault(row.backbone, []).append(i)
    order = sorted(positions, key=lambda backbone: statistics.fmean(positions[backbone]))
    return {backbone: COLOURS[i] if i < len(COLOURS) else REST for i, backbone in enumerate(order)}


def _draw_legend(figure: Figure, colours: Mapping[str, str]) -> None:
    lines = [Line2D([], [], color=c, marker="o", markersize=3, label=b) for b, c in colours.items() if c != REST]
    if REST in colours.values():
        lines.append(Line2D([], [], color=REST, marker="o", markersize=3, label="others"))
    lines.append(Line2D([], [], color=MUTED, linestyle="none", **RING, label="chosen"))
    figure.legend(handles=lines, loc="outside right upper", frameon=False, fontsize=8, handlelength=1.4)


def searched_key(record: Record) -> str | None:
    """The hyper-parameter for the x axis: of those the grid goes through, the one with most values; None without any.

    A key of the grid's points is one when all its values stand in a list among the protocol's hyper-parameters; the
    rest is what the protocol says of the outcome.
    """
    if record.selection is None:
        return None
    offered = [set(v) for v in record.protocol.hyperparameters.values() if isinstance(v, list | tuple) and _numbers(v)]
    tried = {key: [point.get(key) for point in record.selection.grid] for key in record.selection.grid[0]}
    counts = {
        key: len(set(values))
        for key, values in tried.items()
        if key != "validation" and _numbers(values) and any(set(values) <= values_offered for values_offered in offered)
    }
    return max(counts, key=lambda key: counts[key]) if counts and max(counts.values()) > 1 else None


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _draw_curves(axes: Axes, board: Board, records: Sequence[Record], colours: Mapping[str, str]) -> None:
    scale = 100 if board.percent else 1
    key = str(searched_key(records[0]))
    tried: set[float] = set()
    for record in reversed(records):  # the best last, on top
        assert record.selection is not None
        points = _envelope(record, key, board.higher_is_better)
        tried |= points.keys()
        colour = colours[record.cell.backbone]
        x = sorted(points)
        axes.plot(x, [points[value] * scale for value in x], color=colour, linewidth=1.4, marker="o", markersize=3)
        chosen = record.selection.grid[record.selection.chosen]
        axes.plot(chosen[key], chosen["validation"] * scale, color=colour, **RING)
    if min(tried) > 0 and max(tried) >= 10 * min(tried):
        axes.set_xscale("log")
    if len(tried) <= MAX_TICKS:
        axes.set_xticks(sorted(tried), [f"{value:g}" for value in sorted(tried)])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(board.title, wrap=True)
    axes.set_xlabel(key.replace("_", " "))
    axes.set_ylabel("validation " + board.metric.replace("_", " ") + (" (%)" if board.percent else ""))
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.margins(x=0.05, y=0.08)


def _envelope(record: Record, key: str, higher: bool) -> dict[float, float]:
    """For each value of the hyper-parameter, the best validation score over all others; diverged points left out."""
    assert record.selection is not None
    best: dict[float, float] = {}
    for point in record.selection.grid:
        if point["validation"] is not None:
            rivals = [point["validation"], best.get(point[key], point["validation"])]
            best[point[key]] = max(rivals) if higher else min(rivals)
    return best


def save(figure: Figure, prefix: str | Path) -> list[Path]:
    """Writes a picture as `<prefix>.png` and `<prefix>.svg`, equal pictures as equal files.

    Raises:
        BobError: they cannot be written.
    """
    files = [Path(f"{prefix}.{kind}") for kind in ("png", "svg")]
    for file in files:
        kind, content = file.suffix[1:], io.BytesIO()
        figure.savefig(content, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
        write_whole(file, content.getvalue())
    return files
