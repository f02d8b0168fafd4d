"""How sure are we: percentile bootstrap over test examples (Efron & Tibshirani 1993, chapters 13 and 16).

The test set is drawn anew, with replacement, a thousand times; the middle 95 % of the scores is the interval. A draw is
kept as the number of times each example came up, so that every metric and every backbone is scored on the same draws:
what backbones have in common (hard images) then cancels in their difference, and paired intervals are much narrower.

The interval covers the choice of test examples alone, not the training run (use several seeds for that). It has no
width when all examples are right, or all wrong: no resampling can show an error that the test set does not hold.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from bob_jax.metrics.base import Metric

LEVEL = 0.95
NORMAL = 1.959963984540054  # half of a normal distribution's middle 95 %, in standard deviations
RESAMPLES = 1000
DRAWN = "drawn_"  # before a score's name: [1 + R], its value, and that on each draw
METHOD = "percentile bootstrap over test examples"
BLOCK = 1 << 22  # weights in memory at a time: 32 MiB


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A score, the ends of its interval, and the number of examples behind it."""

    value: float
    low: float
    high: float
    n: int


def intervals(
    metrics: Mapping[str, Metric], outputs: Mapping[str, np.ndarray], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Each metric with its 95 % interval, all on the same draws.

    Args:
        metrics: by name.
        outputs: per-example arrays [N] by name.
        resamples: draws.
        seed: of the draws; equal seeds and N mean equal draws.

    Raises:
        ValueError: N is 0.
    """
    scores = list(metrics.values())
    n = len(outputs[scores[0].inputs[0]])
    drawn = replicates(
        lambda weights: np.stack([score.weighted(outputs, weights) for score in scores], axis=1), n, resamples, seed
    )
    ends = percentiles(drawn)
    return {
        name: Estimate(score(outputs), float(ends[0, i]), float(ends[1, i]), n)
        for i, (name, score) in enumerate(metrics.items())
    }


def paired(
    metric: Metric,
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The difference first - second of two backbones on the same examples, with its 95 % interval.

    Args:
        metric: of both.
        first: per-example arrays [N] by name.
        second: the same for the other backbone, examples in the same order.
        resamples: draws.
        seed: of the draws.

    Raises:
        ValueError: different numbers of examples, or none.
    """
    n, other = (len(outputs[metric.inputs[0]]) for outputs in (first, second))
    if n != other:
        raise ValueError(f"{n} and {other} examples: a paired difference needs the same ones")
    low, high = percentiles(
        replicates(
            lambda weights: metric.weighted(first, weights) - metric.weighted(second, weights), n, resamples, seed
        )
    )
    return Estimate(metric(first) - metric(second), float(low), float(high), n)


def replicates(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """The statistic on bootstrap draws, one after the other in blocks of bounded memory.

    Args:
        statistic: weights [R, N] -> [R] or [R, ...].
        n: N, examples.
        resamples: draws.
        seed: of the draws.

    Returns:
        [resamples] or [resamples, ...].

    Raises:
        ValueError: n is 0.
    """
    if n < 1:
        raise ValueError("no examples to draw from")
    return np.concatenate([statistic(weights) for weights in _draws(n, resamples, seed)])


def percentiles(drawn: np.ndarray) -> np.ndarray:
    """Ends of the 95 % interval: [R, ...] -> [2, ...]."""
    return np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def _draws(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks [R, n] float64 of how often each example was drawn; the draws do not depend on the block size."""
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // n)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        index = generator.integers(0, n, (count, n))
        index += np.arange(count)[:, None] * n
        yield np.bincount(index.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)
