"""Two backbones on the same test images: is the difference more than chance, and corrected for how many are compared?

The hypothesis: on every image the two could have been exchanged. Where the score is a share of images that are right
(accuracy), this is McNemar's test, exact: only images that one has right and the other has not say anything, and under
the hypothesis each of them is a fair coin. For every other score the two are exchanged at random on each image many
times, and the score computed anew (Fisher's randomisation test), whatever the score is made of. Average precision of
detections is not made anew: of its bootstrap draws, kept beside the records and on the same images for both, p is the
smallest level at which the interval of the difference leaves out 0 (Efron & Tibshirani 1993, section 15.4).

Tests of many pairs need a correction. Holm's keeps the chance of any false difference at the level; Benjamini and
Hochberg's keeps the share of false ones among those found, and finds more.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from scipy import special

from bob_jax.errors import BobError, unknown_name
from bob_jax.metrics import bootstrap
from bob_jax.metrics.base import Metric
from bob_jax.metrics.catalog import METRICS
from bob_jax.results.boards import drawn_score

Correction = Literal["holm", "benjamini_hochberg"]
Test = Literal["McNemar", "exchange", "bootstrap"]

EXCHANGES = 10_000
BLOCK = 1 << 22  # weights in memory at a time: 64 MiB
ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One pair.

    Attributes:
        difference: of the scores, first minus second, on the images of both.
        low, high: its 95 % interval, not corrected for the number of comparisons.
        p: two-sided.
        p_corrected: the level at which the pair would just be told apart, all comparisons considered.
        n: images with an id in both outputs.
        test: which of them.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    n: int
    test: Test


def compare(
    metric: str,
    outputs: Mapping[str, Mapping[str, np.ndarray]],
    *,
    against: str | None = None,
    correction: Correction = "holm",
    exchanges: int = EXCHANGES,
    seed: int = 0,
) -> list[Comparison]:
    """Tests pairs of backbones.

    Args:
        metric: name of the score.
        outputs: of each backbone, per-image arrays by name, "id" among them: what `Store.per_example` gives for a cell.
        against: compare this one with each other one; without it all pairs are compared.
        correction: for the number of comparisons.
        exchanges: random exchanges; p is at least 1 / (exchanges + 1).
        seed: of the exchanges and of the intervals' draws.

    Returns:
        One a pair, in the order of `outputs`, `against` first.

    Raises:
        BobError: a metric that is not made of per-image outputs, an unknown name, fewer than two backbones, or two
            without an image in common.
    """
    if metric not in METRICS and any(drawn_score(one, metric) is None for one in outputs.values()):
        raise unknown_name("metric of single images", metric, METRICS)
    if against is not None and against not in outputs:
        raise unknown_name("backbone", against, outputs)
    if len(outputs) < 2:
        raise BobError(f"{len(outputs)} backbone with per-image outputs: a comparison takes two")
    pairs = (
        list(combinations(outputs, 2))
        if against is None
        else [(against, other) for other in outputs if other != against]
    )
    found = [_compare(metric, pair, outputs, exchanges, seed) for pair in pairs]
    corrected = correct([one.p for one in found], correction)
    return [dataclasses.replace(one, p_corrected=float(p)) for one, p in zip(found, corrected, strict=True)]


def _compare(
    name: str, pair: tuple[str, str], outputs: Mapping[str, Mapping[str, np.ndarray]], exchanges: int, seed: int
) -> Comparison:
    if name not in METRICS:
        return _compare_drawn(f"{bootstrap.DRAWN}{name}", pair, outputs)
    metric = METRICS[name]
    first, second = _shared(metric, pair, outputs)
    n = len(first["id"])
    estimate = bootstrap.paired(metric, first, second, seed=seed)
    test: Test = "McNemar" if _share_of_images(metric, first, second) else "exchange"
    p = (
        mcnemar(first[metric.inputs[0]], second[metric.inputs[0]])
        if test == "McNemar"
        else exchange(metric, first, second, exchanges, seed)
    )
    return Comparison(*pair, estimate.value, estimate.low, estimate.high, p, p, n, test)


def _compare_drawn(drawn: str, pair: tuple[str, str], outputs: Mapping[str, Mapping[str, np.ndarray]]) -> Comparison:
    first, second = (outputs[one] for one in pair)
    if not np.array_equal(first["id"], second["id"]):
        raise BobError(f"{pair[0]} and {pair[1]} were not drawn on the same test images: they cannot be compared")
    value, *others = (first[drawn] - second[drawn]).tolist()
    known = np.array(others)[np.isfinite(others)]
    low, high = bootstrap.percentiles(known)
    beyond = min(int((known <= 0).sum()), int((known >= 0).sum()))
    p = min(1.0, 2 * (1 + beyond) / (1 + len(known)))
    return Comparison(*pair, value, float(low), float(high), p, p, len(first["id"]), "bootstrap")


def _shared(
    metric: Metric, pair: tuple[str, str], outputs: Mapping[str, Mapping[str, np.ndarray]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the metric reads of the images that both have, in one order."""
    for name in pair:
        if lacking := [key for key in ("id", *metric.inputs) if key not in outputs[name]]:
            raise BobError(f"the per-image outputs of {name} lack {', '.join(lacking)}: run its cell again")
    ids = [outputs[name]["id"] for name in pair]
    _, *places = np.intersect1d(ids[0], ids[1], assume_unique=True, return_indices=True)
    if not len(places[0]):
        raise BobError(f"{pair[0]} and {pair[1]} have no test image in common: they cannot be compared")
    first, second = (
        {key: outputs[name][key][place] for key in ("id", *metric.inputs)}
        for name, place in zip(pair, places, strict=True)
    )
    return first, second


def _share_of_images(metric: Metric, *outputs: Mapping[str, np.ndarray]) -> bool:
    """Whether the score is a share of images, each right or wrong once."""
    values = [one[metric.inputs[0]] for one in outputs]
    is_mean = all(metric.per_example(one) is not None for one in outputs)
    return is_mean and all(value.dtype == bool and value.ndim == 1 for value in values)


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p of McNemar's test (McNemar 1947; exact as in Fagerland et al. 2013, section 2).

    Args:
        first: [N] bool, right or wrong.
        second: [N] bool, of the other on the same images.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    smaller, both = min(only_first, only_second), only_first + only_second
    return min(1.0, 2 * float(special.bdtr(smaller, both, 0.5)))


def exchange(
    metric: Metric,
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    exchanges: int = EXCHANGES,
    seed: int = 0,
) -> float:
    """Two-sided p of the randomisation test: how often exchanged backbones differ at least as much.

    Args:
        metric: of both.
        first: per-image arrays [N, ...] by name.
        second: of the other, images in the same order.
        exchanges: R; the table as it is counts as one more, so that p is at least 1 / (R + 1).
        seed: of the exchanges.
    """
    # All 2 N answers as one set: a weight of 1 on either of an image's two answers says whose it is.
    together = {name: np.concatenate([first[name], second[name]]) for name in metric.inputs}
    n = len(first[metric.inputs[0]])
    generator = np.random.default_rng(seed)
    observed = abs(metric(first) - metric(second))
    larger, rows = 0, max(1, BLOCK // n)
    for start in range(0, exchanges, rows):
        kept = generator.random((min(rows, exchanges - start), n)) < 0.5
        weights = np.concatenate([kept, ~kept], axis=1).astype(np.float64)
        difference = metric.weighted(together, weights) - metric.weighted(together, 1 - weights)
        larger += int((np.abs(difference) >= observed - ROUNDING).sum())
    return (larger + 1) / (exchanges + 1)


def correct(p: Sequence[float], correction: Correction) -> np.ndarray:
    """The p of m tests, corrected for their number.

    Args:
        p: [m] in [0, 1].
        correction: "holm" (Holm 1979) or "benjamini_hochberg" (1995).

    Returns:
        [m], each at least its p.

    Raises:
        BobError: an unknown correction.
    """
    if correction not in get_args(Correction):
        raise unknown_name("correction", correction, get_args(Correction))
    values = np.asarray(p, dtype=np.float64)
    m, order = len(values), np.argsort(values, kind="stable")
    place = np.arange(1, m + 1)
    corrected = np.empty(m)
    if correction == "holm":
        corrected[order] = np.maximum.accumulate(values[order] * (m + 1 - place))
    else:
        corrected[order] = np.minimum.accumulate((values[order] * m / place)[::-1])[::-1]
    return np.minimum(corrected, 1.0)
