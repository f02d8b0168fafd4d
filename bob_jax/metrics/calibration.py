"""Calibration: whether a classifier is right as often as it says.

The expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599) sorts test images into bins by
confidence and averages |accuracy - confidence| of the bins, weighted by their images. Bins of equal width are the
habit; bins of equal mass leave no bin nearly empty (Nixon et al. 2019, arXiv 1904.01685). Both have a positive bias
that grows with bins per image, so compare them at equal numbers of images only. Under `_scaled` stand the same scores
after temperature scaling. With arrays [N, K] (conditions of the same images) a score is the mean over the conditions.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from bob_jax.metrics.base import Metric, mean

BINS = 15
Bins = Callable[[np.ndarray], np.ndarray]  # confidence [N] -> number of the bin [N]
COLDEST, HOTTEST = 1e-2, 1e2  # a perfectly separated validation split has no best temperature: it ends at the coldest


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T > 0 whose softmax(logits / T) has the least negative log-likelihood (Guo et al., section 4.2).

    The likelihood is convex in 1 / T, so there is one minimum; it is looked for between 0.01 and 100.

    Args:
        logits: [N, C] float, finite but for -inf, which rules a class out.
        labels: [N] int.
    """
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    own = shifted[np.arange(len(labels)), labels]
    seen = np.isfinite(own)  # a label that was ruled out has infinite loss at every temperature
    if not seen.any():
        return 1.0
    shifted, own = shifted[seen], own[seen]
    finite = np.where(np.isfinite(shifted), shifted, 0.0)

    def slope(inverse: float) -> float:
        """Of the loss by 1 / T; it never falls."""
        return float(np.mean((softmax(inverse * shifted, axis=1) * finite).sum(axis=1) - own))

    if slope(1 / COLDEST) <= 0:
        return COLDEST
    if slope(1 / HOTTEST) >= 0:
        return HOTTEST
    return float(1 / brentq(slope, 1 / HOTTEST, 1 / COLDEST, xtol=1e-12, rtol=1e-12))


def equal_width(weights: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Calibration error over 15 bins (b/15, (b+1)/15] of confidence.

    Args:
        weights: [R, N].
        confidence: [N] or [N, K], in [0, 1].
        correct: the same shape, bool.

    Returns:
        [R].
    """
    return _over_conditions(
        weights, confidence, correct, lambda column: np.clip(np.ceil(column * BINS).astype(int) - 1, 0, BINS - 1)
    )


def equal_mass(weights: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """The same over 15 bins with equal numbers of the test images; draws keep the bins of the test set itself.

    Images of equal confidence share the bin of the first of them, so that the order of the test set does not matter.
    """

    def bins(column: np.ndarray) -> np.ndarray:
        last = -(-np.arange(1, BINS) * len(column) // BINS) - 1  # the largest of each bin but the top one, by rank
        return np.searchsorted(np.partition(column, last)[last], column)

    return _over_conditions(weights, confidence, correct, bins)


def _over_conditions(
    weights: np.ndarray, confidence: np.ndarray, correct: np.ndarray, bins: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    columns = (array.reshape(len(array), -1).T for array in (confidence, correct))
    errors = [_error(weights, c - r, bins(c)) for c, r in zip(*columns, strict=True)]
    return np.mean(errors, axis=0)


def _error(weights: np.ndarray, excess: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Sum over bins of |weighted sum of confidence - correctness|, by the weight of all: weights [R, N] -> [R]."""
    by_bin = np.zeros((len(excess), BINS))
    by_bin[np.arange(len(excess)), bins] = excess
    return np.abs(weights @ by_bin).sum(axis=1) / weights.sum(axis=1)


METRICS: dict[str, Metric] = {
    "ece": Metric(("confidence", "correct"), equal_width, higher_is_better=False),
    "ece_equal_mass": Metric(("confidence", "correct"), equal_mass, higher_is_better=False),
    "ece_scaled": Metric(("confidence_scaled", "correct"), equal_width, higher_is_better=False),
    "ece_equal_mass_scaled": Metric(("confidence_scaled", "correct"), equal_mass, higher_is_better=False),
    "nll_scaled": Metric(("nll_scaled",), mean, higher_is_better=False),
    "brier_scaled": Metric(("brier_scaled",), mean, higher_is_better=False),
}
