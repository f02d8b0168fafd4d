"""How sure: intervals of a share, a test between two on the same images, and what choosing the best of many adds.

The winner of many looks better than it is, since its luck helped to choose it. The bootstrap bias correction
(Tsamardinos, Greasidou & Borboudakis 2018, Machine Learning 107, arXiv 1708.07180, "BBC-CV") takes that off without
putting images aside: from out-of-fold predictions of everything that was tried, the choice is made anew on draws of the
images and scored on those that were not drawn. The same paper drops hopeless candidates early, as `race` does.
"""

import dataclasses

import numpy as np
from scipy import special

from bob_jax.metrics import bootstrap


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of images, with its 95 % interval and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int


def wilson(value: float, n: int) -> Share:
    """A share with Wilson's interval (1927), which has a width even where all images are right.

    Args:
        value: in [0, 1]; also a mean of shares, whose spread is at most that of yes and no.
        n: images.

    Raises:
        ValueError: n is 0.
    """
    if n < 1:
        raise ValueError("no images")
    square = bootstrap.NORMAL**2 / n
    centre = (value + square / 2) / (1 + square)
    half = bootstrap.NORMAL / (1 + square) * np.sqrt(value * (1 - value) / n + square / (4 * n))
    return Share(value, max(0.0, float(centre - half)), min(1.0, float(centre + half)), n)


def optimism(correct: np.ndarray, seed: int = 0) -> float:
    """How much too good the best column looks because it was chosen on these very images, at least 0.

    Args:
        correct: [N, M] in [0, 1], what each of M candidates got right out of fold.
        seed: of the draws.
    """
    correct = np.asarray(correct, np.float64)
    if correct.shape[1] < 2 or len(correct) < 2:
        return 0.0

    def outside(weights: np.ndarray) -> np.ndarray:
        chosen = (weights @ correct).argmax(axis=1)
        left = (weights == 0).astype(np.float64)
        count = left.sum(axis=1)
        scores = (left @ correct)[np.arange(len(chosen)), chosen]
        return np.divide(scores, count, out=np.full(len(chosen), np.nan), where=count > 0)

    drawn = bootstrap.replicates(outside, len(correct), seed=seed)
    return max(0.0, float(correct.mean(axis=0).max() - np.nanmean(drawn)))


def corrected(correct: np.ndarray, column: int, penalty: float) -> Share:
    """The share that a column got right, without the optimism of having been chosen.

    The interval begins where that of the corrected share does and ends where that of the share as it was seen does: how
    much luck there was is not known either, and both together hold the truth in 95 % of all cases or more
    (`benchmarks/pick.py`).

    Args:
        correct: [N, M] in [0, 1].
        column: the one that was chosen.
        penalty: from `optimism`.
    """
    seen = float(correct[:, column].mean())
    without, with_luck = wilson(max(0.0, seen - penalty), len(correct)), wilson(seen, len(correct))
    return dataclasses.replace(without, high=with_luck.high)


def at_least_as_good(first: np.ndarray, second: np.ndarray) -> float:
    """One-sided p of the second being at least as good as the first: McNemar's test, exact.

    Only images that one has right and the other has not say anything; were the second as good, each of these would be a
    fair coin at worst.

    Args:
        first: [N] bool, right or wrong.
        second: [N] bool, of the other on the same images.
    """
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    return 1.0 if not lost + won else float(special.bdtr(won, lost + won, 0.5))


def standard_error(difference: np.ndarray) -> float:
    """Of a mean [N]; 0 for one image."""
    n = len(difference)
    return float(np.std(difference, ddof=1) / np.sqrt(n)) if n > 1 else 0.0
