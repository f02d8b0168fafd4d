"""Do two tasks rank backbones alike? Rank correlations with intervals, and always with the number of backbones.

Spearman's is Pearson's correlation of ranks (equals share the mean of theirs); Kendall's tau-b is the share of pairs in
the same order less that of pairs in opposite orders, corrected for ties. The intervals are over backbones: would others
say the same? They are Fisher's, with the variances of Bonett & Wright 2000 (Psychometrika 65) for Spearman's and
Fieller, Hartley & Pearson 1957 for Kendall's: a bootstrap over the handful of backbones that one usually has is far too
narrow, and makes ties of its own.
"""

import dataclasses
from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from scipy import special

from bob_jax.metrics import bootstrap
from bob_jax.results.ranking.aggregates import average_ranks

Kind = Literal["spearman", "kendall"]


@dataclasses.dataclass(frozen=True)
class Correlation:
    """A rank correlation of n backbones.

    Attributes:
        value: in [-1, 1]; None where there is none: fewer than two backbones, or all of them equal on one side.
        low, high: the 95 % interval; all of [-1, 1] where n says nothing (up to 3; Kendall's up to 4).
    """

    value: float | None
    low: float
    high: float
    n: int


def correlate(x: np.ndarray, y: np.ndarray, kind: Kind = "spearman") -> Correlation:
    """The rank correlation of two scores.

    Args:
        x: [B], NaN where missing; only backbones that have both count.
        y: [B].
        kind: whose coefficient.
    """
    both = np.isfinite(x) & np.isfinite(y)
    x, y, n = x[both], y[both], int(both.sum())
    if n < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(None, -1.0, 1.0, n)
    value = spearman(x, y) if kind == "spearman" else kendall(x, y)
    return Correlation(value, *_interval(value, n, kind), n)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho of [B] and [B], neither of them constant."""
    a, b = (average_ranks(values) - (len(values) + 1) / 2 for values in (x, y))
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def kendall(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b of [B] and [B], neither of them constant."""
    a, b = (np.sign(values[:, None] - values) for values in (x, y))
    return float(np.clip((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()), -1.0, 1.0))


def _interval(value: float, n: int, kind: Kind) -> tuple[float, float]:
    if n <= (3 if kind == "spearman" else 4):
        return -1.0, 1.0
    # Two equal orders are no proof of a perfect correlation: the lower end is that of orders one exchange apart.
    nearly = 1 - 12 / (n * (n**2 - 1)) if kind == "spearman" else 1 - 4 / (n * (n - 1))
    bounded = float(np.clip(value, -nearly, nearly))
    variance = (1 + bounded**2 / 2) / (n - 3) if kind == "spearman" else 0.437 / (n - 4)
    half = special.ndtri((1 + bootstrap.LEVEL) / 2) * np.sqrt(variance)
    low, high = np.tanh(np.arctanh(bounded) + np.array([-half, half]))
    return float(min(low, value)), float(max(high, value))


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How two columns of a table, tasks or settings, agree."""

    first: str
    second: str
    spearman: Correlation
    kendall: Correlation


def between(columns: Sequence[str], values: np.ndarray) -> list[Agreement]:
    """The correlations of each pair of columns.

    Args:
        columns: [T] names, of tasks or settings.
        values: [B, T] scores, larger is better in all of them (z-scores); NaN where missing.

    Returns:
        One a pair, in the order of the columns.
    """
    return [
        Agreement(
            columns[i],
            columns[j],
            correlate(values[:, i], values[:, j], "spearman"),
            correlate(values[:, i], values[:, j], "kendall"),
        )
        for i, j in combinations(range(len(columns)), 2)
    ]
