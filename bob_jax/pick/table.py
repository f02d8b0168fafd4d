"""The answer as tables for the terminal."""

from collections.abc import Sequence
from typing import Any

from bob_jax.metrics.bootstrap import Estimate
from bob_jax.pick.answer import Labelled, Unlabelled
from bob_jax.pick.evidence import Share
from bob_jax.pick.labelled import Row
from bob_jax.pick.unlabelled import Row as SeenRow

COLUMNS = ("backbone", "verdict", "images", "probe % [95 %]", "behind the best", "knn % [95 %]")
COST_COLUMNS = (
    *("backbone", "images/s", "GFLOPs", "memory", "parameters", "licence"),
    *("logme", "h score", "gbc", "nleep"),
)
SEEN_COLUMNS = (
    *("backbone", "agreement", "shared neighbours", "effective rank", "of", "intrinsic dimension"),
    *("images/s", "GFLOPs", "parameters", "licence"),
)
SCORES = ("logme", "h_score", "gbc", "nleep")


Table = tuple[Sequence[str], list[Sequence[Any]]]


def tables(answer: Labelled | Unlabelled) -> list[Table]:
    """Columns and rows of each; columns that say nothing of anybody are left out."""
    if isinstance(answer, Labelled):
        rows, chosen = answer.choice.rows, answer.choice.chosen
        scores = [_scores(row, row.backbone == chosen) for row in rows]
        return [_used(COLUMNS, scores), _used(COST_COLUMNS, [_costs(row) for row in rows])]
    return [_used(SEEN_COLUMNS, [_seen(row) for row in answer.look.rows])]


def _scores(row: Row, chosen: bool) -> list[Any]:
    return [
        row.backbone,
        "take it" if chosen else row.verdict,
        row.images,
        _share(row.probe),
        row.behind and _share(row.behind),
        _share(row.knn),
    ]


def _share(share: Share | Estimate) -> str:
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def _costs(row: Row) -> list[Any]:
    return [
        row.backbone,
        *_cost(row),
        row.memory and f"{row.memory / 1e6:,.0f} MB",
        f"{row.parameters:g} M",
        _licence(row),
        *(f"{row.transferability[name].value:.3g}" if name in row.transferability else None for name in SCORES),
    ]


def _seen(row: SeenRow) -> list[Any]:
    shape = row.geometry
    return [
        row.backbone,
        None if row.agreement is None else f"{row.agreement:.2f}",
        None if row.shared is None else f"{100 * row.shared:.0f} %",
        f"{shape.effective_rank:.1f}",
        shape.dimensions,
        None if shape.intrinsic_dimension is None else f"{shape.intrinsic_dimension:.1f}",
        *_cost(row),
        f"{row.parameters:g} M",
        _licence(row),
    ]


def _licence(row: Row | SeenRow) -> str:
    return row.licence + ("" if row.commercial else " (not commercial)")


def _cost(row: Row | SeenRow) -> list[Any]:
    return [row.rate and f"{row.rate:,.0f}", row.gflops and f"{row.gflops:.3g}"]


def _used(columns: Sequence[str], rows: list[list[Any]]) -> Table:
    kept = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]
