"""From a table of scores to one figure a backbone: mean z-score, mean rank, win rate, Bradley-Terry, first places.

Tables are [..., B, S]: B backbones in S settings, NaN where a cell is missing, any number of leading axes (bootstrap
draws). In every result the direction of the metric is taken care of: a positive z, a rank near 1, a high win rate are
good, whatever the metric.

Which to trust: the z-score keeps how large a lead is, but one very poor backbone compresses everybody else's z (of the
retrieval table of 2023, MAE ViT-B has -3.3). Ranks and wins do not care, and do not see how large a lead is.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from bob_jax.errors import unknown_name
from bob_jax.results.ranking.settings import per_task

Weighting = Literal["task", "setting"]

GHOST = 0.5  # wins, and losses, of each backbone against an opponent of mean strength
NEWTON_STEPS = 100
TOLERANCE = 1e-10
EQUAL = 1e-12  # a spread this small, relative to the values, is rounding


def z_scores(values: np.ndarray, higher_is_better: np.ndarray, ddof: int = 0) -> np.ndarray:
    """How many standard deviations better than the mean backbone, in each setting.

    Args:
        values: [..., B, S].
        higher_is_better: [S] bool; where it is false the sign is turned.
        ddof: 0 divides the squares by the number of backbones (the population's standard deviation), 1 by one less.

    Returns:
        [..., B, S]; mean and deviation are those of the backbones that have the setting; NaN where the cell is missing,
        0 where all backbones are equal (a single one is its own mean).
    """
    present = np.isfinite(values)
    count = present.sum(axis=-2, keepdims=True)
    total = np.where(present, values, 0.0).sum(axis=-2, keepdims=True)
    centred = np.where(present, values, 0.0) - np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    squares = np.where(present, centred**2, 0.0).sum(axis=-2, keepdims=True)
    spread = np.sqrt(np.divide(squares, count - ddof, out=np.zeros_like(squares), where=count > ddof))
    largest = np.abs(np.where(present, values, 0.0)).max(axis=-2, keepdims=True)
    z = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > EQUAL * largest)
    return np.where(present, np.where(higher_is_better, z, -z), np.nan)


def ranks(values: np.ndarray, higher_is_better: np.ndarray) -> np.ndarray:
    """The place in each setting: 1 is best, equals share the mean of their places, NaN where the cell is missing."""
    signed = np.where(higher_is_better, -values, values)
    present = np.isfinite(signed)
    # Behind all others the missing ones do not move anybody's place.
    placed = average_ranks(np.moveaxis(np.where(present, signed, np.inf), -2, -1))
    return np.where(present, np.moveaxis(placed, -1, -2), np.nan)


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Places along the last axis, the smallest first, from 1; equals share the mean of theirs: [..., n] -> [..., n]."""
    order = np.argsort(values, axis=-1)
    ascending = np.take_along_axis(values, order, axis=-1)
    place = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    changes = ascending[..., 1:] != ascending[..., :-1]
    edge = np.ones((*values.shape[:-1], 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, changes], axis=-1), place, 0), axis=-1)
    ends = np.where(np.concatenate([changes, edge], axis=-1), place, values.shape[-1])
    last = np.minimum.accumulate(ends[..., ::-1], axis=-1)[..., ::-1]
    ranked = np.empty(values.shape)
    np.put_along_axis(ranked, order, (first + last) / 2 + 1, axis=-1)
    return ranked


def win_shares(values: np.ndarray, higher_is_better: np.ndarray) -> np.ndarray:
    """The share of the other backbones in a setting that are worse, equals count half: [..., B, S].

    Borda's count divided by its maximum, and what HELM calls win rate (Liang et al. 2022, arXiv 2211.09110).
    """
    place = ranks(values, higher_is_better)
    others = np.isfinite(place).sum(axis=-2, keepdims=True) - 1
    return np.divide(others + 1 - place, others, out=np.full_like(place, np.nan), where=others > 0)


def first_shares(values: np.ndarray, higher_is_better: np.ndarray) -> np.ndarray:
    """1 for the best in a setting, shared by equals, 0 for the others: [..., B, S]."""
    signed = np.where(higher_is_better, values, -values)
    present = np.isfinite(signed)
    best = np.where(present, signed, -np.inf).max(axis=-2, keepdims=True)
    first = present & (signed == best)
    count = np.maximum(first.sum(axis=-2, keepdims=True), 1)
    return np.where(present, first / count, np.nan)


def over_settings(
    per_setting: np.ndarray, tasks: Sequence[str], weighting: Weighting = "task", counts: np.ndarray | None = None
) -> np.ndarray:
    """The mean over settings.

    Args:
        per_setting: [..., B, S].
        tasks: [S].
        weighting: "task" averages over the settings of a task, then over tasks, as the study of 2023 is understood to
            do; "setting" counts every setting alike.
        counts: [..., S], how often each setting counts; once by default.

    Returns:
        [..., B]; a backbone's missing cells are left out of its own mean, NaN where it has none.
    """
    if weighting not in get_args(Weighting):
        raise unknown_name("weighting", weighting, get_args(Weighting))
    return over_tasks(task_means(per_setting, tasks if weighting == "task" else ("all",) * len(tasks), counts))


def task_means(per_setting: np.ndarray, tasks: Sequence[str], counts: np.ndarray | None = None) -> np.ndarray:
    """The mean over the settings of each task: [..., B, S] -> [..., B, T], tasks in the order of `per_task`."""
    counts = np.ones(per_setting.shape[-1]) if counts is None else counts
    parts, weights = per_task(per_setting, tasks), per_task(counts, tasks)
    return np.stack([_mean(parts[task], weights[task][..., None, :]) for task in parts], axis=-1)


def over_tasks(means: np.ndarray) -> np.ndarray:
    """The mean over the tasks that a backbone has: [..., B, T] -> [..., B]."""
    return _mean(means, np.ones(means.shape[-1]))


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    present = np.isfinite(values)
    weight = np.where(present, weights, 0.0)
    total, whole = (weight * np.where(present, values, 0.0)).sum(axis=-1), weight.sum(axis=-1)
    return np.divide(total, whole, out=np.full_like(total, np.nan), where=whole > 0)


def wins(values: np.ndarray, higher_is_better: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """How often each backbone beats each other one.

    Args:
        values: [..., B, S].
        higher_is_better: [S] bool.
        weights: [..., S] of the settings; 1 by default.

    Returns:
        [..., B, B]; entry (i, j) is the number of settings, by weight, in which i is better than j, equal ones half.
        Settings that either lacks do not count.
    """
    signed = np.where(higher_is_better, values, -values)
    weights = np.ones(values.shape[-1]) if weights is None else weights
    total = np.zeros((*values.shape[:-1], values.shape[-2]))
    for s in range(values.shape[-1]):
        mine, other = signed[..., :, None, s], signed[..., None, :, s]
        total += weights[..., s, None, None] * ((mine > other) + 0.5 * (mine == other))  # NaN is neither
    total[..., np.arange(total.shape[-1]), np.arange(total.shape[-1])] = 0.0
    return total


def setting_weights(tasks: Sequence[str], weighting: Weighting, counts: np.ndarray | None = None) -> np.ndarray:
    """[..., S] weights that give every task the same sum, or every setting the same weight; S in all."""
    counts = np.ones(len(tasks)) if counts is None else counts
    groups = tuple(tasks) if weighting == "task" else ("all",) * len(tasks)
    sums = {task: part.sum(axis=-1) for task, part in per_task(counts, groups).items()}
    whole = np.stack([sums[group] for group in groups], axis=-1)
    return counts / whole * (len(tasks) / len(sums))


def bradley_terry(won: np.ndarray) -> np.ndarray:
    """Strengths under which i beats j with probability 1 / (1 + exp(s_j - s_i)) (Bradley & Terry 1952).

    Every backbone also has half a win and half a loss against a ghost of strength 0. Without it one that always wins
    would be infinitely strong, and backbones that were never compared, directly or through others, could not be put on
    one scale.

    Args:
        won: [..., B, B] of `wins`.

    Returns:
        [..., B] strengths of mean 0; a difference of 1 is odds of e : 1. The maximum of the penalised likelihood, by
        Newton's method.
    """
    n = won.shape[-1]
    played = won + np.swapaxes(won, -1, -2)
    scored = won.sum(axis=-1) + GHOST
    strength = np.zeros(won.shape[:-1])
    for _ in range(NEWTON_STEPS):
        expected = _logistic(strength[..., :, None] - strength[..., None, :])
        against_ghost = _logistic(strength)
        gradient = scored - (played * expected).sum(axis=-1) - 2 * GHOST * against_ghost
        information = played * expected * (1 - expected)
        hessian = -information
        diagonal = information.sum(axis=-1) + 2 * GHOST * against_ghost * (1 - against_ghost)
        hessian[..., np.arange(n), np.arange(n)] += diagonal
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        largest = np.abs(step).max(axis=-1, keepdims=True, initial=0.0)
        strength = strength + step * np.minimum(1.0, 2.0 / np.maximum(largest, EQUAL))  # far away Newton overshoots
        if largest.max(initial=0.0) < TOLERANCE:
            break
    return strength - strength.mean(axis=-1, keepdims=True)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))  # does not overflow
