"""Boards as tables: for the terminal, as CSV and as JSON."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bob_jax.results.boards import Board, Row
from bob_jax.results.record import Cost, Failure
from bob_jax.results.schema import plain

CSV_COLUMNS = (
    *("dataset", "protocol", "question", "metric"),
    *("rank", "tied", "evidence", "backbone", "parameters_millions"),
    *("value", "low", "high", "n", "seeds", "spread"),
    *("clean", "gap", "gap_low", "gap_high"),
    *(field.name for field in dataclasses.fields(Cost)),
    "cells",
)


def tables(boards: Sequence[Board]) -> Group:
    """The boards for `rich.print`, one table each, the tied with the best in bold."""
    parts: list[Table | Text] = [_table(board) for board in boards]
    marks = {_rank(row, board)[0] for board in boards for row in board.rows}
    if "=" in marks:
        parts.append(
            Text("= tied with the best: the 95 % interval of the difference on the same test images includes 0")
        )
    if "~" in marks:
        parts.append(
            Text("~ perhaps tied: the two intervals overlap; the same test images are not there to compare on")
        )
    return Group(*parts)


def _table(board: Board) -> Table:
    several_seeds = any(row.seeds > 1 for row in board.rows)
    table = Table(title=Text(board.title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("backbone", no_wrap=True)
    table.add_column("params", justify="right")
    table.add_column(board.metric + (" %" if board.percent else ""), justify="right")
    table.add_column(f"{board.level:.0%} interval".replace("%", " %"), justify="right", no_wrap=True)
    shifted = any(row.gap for row in board.rows)
    for name in ("clean", "lost by the shift") if shifted else ():
        table.add_column(name + (" %" if board.percent else ""), justify="right")
    table.add_column("images", justify="right")
    if several_seeds:
        table.add_column("seeds (std)", justify="right", no_wrap=True)
    table.add_column("wall", justify="right", no_wrap=True)
    table.add_column("images/s", justify="right")
    table.add_column("GFLOPs", justify="right")
    show = score_format(board)
    for row in board.rows:
        seeds = [f"{row.seeds}" + (f" ({show(row.spread)})" if row.spread is not None else "")] * several_seeds
        table.add_row(
            _rank(row, board),
            row.backbone,
            _or_dash(row.parameters, lambda millions: f"{millions:.3g} M"),
            show(row.value),
            f"[{show(row.low)}, {show(row.high)}]",
            *([_or_dash(row.clean, show), "-" if row.gap is None else show(row.gap[0])] if shifted else []),
            f"{row.n}",
            *seeds,
            _or_dash(row.cost.wall_seconds, duration),
            _or_dash(row.cost.images_per_second, lambda rate: f"{rate:,.0f}"),
            _or_dash(row.cost.flops_per_image, lambda flops: f"{flops / 1e9:.4g}"),
            style="bold" if row.tied else "",
        )
    return table


def _rank(row: Row, board: Board) -> str:
    alone = sum(other.tied for other in board.rows) == 1
    mark = "" if not row.tied or alone else "=" if row.evidence == "paired" else "~"
    return f"{mark}{row.rank}"


def score_format(board: Board) -> Callable[[float], str]:
    """How the board's scores are written: in percent where they are shares, with the digits their intervals allow."""
    scale, digits = score_digits(board)
    return lambda value: f"{value * scale:.{digits}f}"


def score_digits(board: Board) -> tuple[int, int]:
    """What the board's scores are multiplied by when they are written, and the digits behind the point."""
    scale = 100 if board.percent else 1
    widths = [(row.high - row.low) * scale for row in board.rows if row.high > row.low]
    narrowest = min(widths, default=scale)
    return scale, (1 if narrowest >= 1 else 2) if board.percent else 3


def duration(seconds: float) -> str:
    """A time a person can read: "8.1 s", "12:05" (minutes), "3:10:00" (hours)."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _or_dash(value: float | None, show: Callable[[float], str]) -> str:
    return "-" if value is None else show(value)


def to_csv(boards: Sequence[Board]) -> str:
    """One line per backbone and board, under `CSV_COLUMNS`; scores as in the records, nothing rounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for board in boards:
        for row in board.rows:
            question = (board.dataset, board.protocol, board.title, board.metric)
            place = (row.rank, row.tied, row.evidence, row.backbone, row.parameters)
            score = (row.value, row.low, row.high, row.n, row.seeds, row.spread)
            shift = (row.clean, *(row.gap or (None, None, None)))
            writer.writerow((*question, *place, *score, *shift, *dataclasses.astuple(row.cost), " ".join(row.cells)))
    return text.getvalue()


def to_json(boards: Sequence[Board], failures: Sequence[Failure]) -> str:
    """Everything on the boards, and the cells that failed with their errors."""
    failed = [{"cell": failure.cell, "error": failure.error} for failure in failures]
    return json.dumps(plain({"boards": boards, "failed": failed}, ""), indent=2, ensure_ascii=False) + "\n"
