"""What a shift costs: the score on the source's own test images against that on the shifted ones.

Where the shifted images are the source's test images, changed or labelled anew, an image and its changed self are drawn
together, and what is hard about it cancels in the gap. Otherwise the two test sets are drawn independently.

*Effective robustness* (Taori et al. 2020, arXiv 2007.00644, section 2.1) is what a shifted accuracy has beyond what
models trained on the source alone let expect at this clean accuracy: rho = shifted - beta(clean), where beta is the
straight line through such models when both axes are logits.

The *mean corruption error* (Hendrycks and Dietterich 2019, arXiv 1903.12261, section 4.1) divides the error under each
corruption, summed over severities, by AlexNet's, and averages over corruptions: 1 is AlexNet, less is better. It is
linear in what each image contributes, so it is written down per image and is a mean like the others.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import expit, logit

from bob_jax.errors import BobError
from bob_jax.metrics.base import Metric, mean
from bob_jax.metrics.bootstrap import RESAMPLES, Estimate, percentiles, replicates

METRICS: dict[str, Metric] = {"mean_corruption_error": Metric(("corruption_error",), mean, higher_is_better=False)}


def compare(
    metrics: Mapping[str, Metric],
    clean: Mapping[str, np.ndarray],
    shifted: Mapping[str, np.ndarray],
    *,
    paired: bool,
    baseline: Sequence[tuple[float, float]] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[dict[str, Estimate], dict[str, bool]]:
    """Clean scores, gaps and effective robustness, with 95 % intervals over test images.

    Args:
        metrics: by name, "accuracy" among them where there is a baseline.
        clean: per-example arrays [N] of the source's test images, over the target's classes, with their "id".
        shifted: per-example arrays [M] or [M, K] of the shifted images, with their "id".
        paired: an id names the same image in both; shifted images that `clean` lacks are left out.
        baseline: (clean, shifted) accuracies of models trained on the source alone; no effective robustness without.
        resamples: draws.
        seed: of the draws.

    Returns:
        Estimates by name, and whether a higher value is better:
        `clean_NAME`: the score on the clean images.
        `gap_NAME`: how much worse the score is on the shifted ones.
        `effective_robustness`: shifted accuracy beyond what the baseline lets expect.

    Raises:
        BobError: paired, but no image is in both.
        ValueError: a baseline that no line can be drawn through.
    """
    weight_of = None
    if paired:
        weight_of, kept = _common(clean["id"], shifted["id"])
        shifted = {name: array[kept] for name, array in shifted.items()}
    drawn_clean, drawn_shifted = _draw(metrics, clean, shifted, weight_of, resamples, seed)
    better = {name: metric.higher_is_better for name, metric in metrics.items()}
    # The last row is the test sets themselves, so that value and draws go through the same formulas.
    at_clean = {name: np.append(drawn_clean[:, i], metric(clean)) for i, (name, metric) in enumerate(metrics.items())}
    at_shift = {
        name: np.append(drawn_shifted[:, i], metric(shifted)) for i, (name, metric) in enumerate(metrics.items())
    }
    n = min(len(clean["id"]), len(shifted["id"]))
    scores, higher = {}, {}
    for name in metrics:
        scores[f"clean_{name}"] = _estimate(at_clean[name], len(clean["id"]))
        higher[f"clean_{name}"] = better[name]
        lost = at_clean[name] - at_shift[name]
        scores[f"gap_{name}"] = _estimate(lost if better[name] else -lost, n)
        higher[f"gap_{name}"] = False
    if baseline:
        beyond = at_shift["accuracy"] - expected_accuracy(at_clean["accuracy"], baseline)
        scores["effective_robustness"] = _estimate(beyond, n)
        higher["effective_robustness"] = True
    return scores, higher


def expected_accuracy(clean: np.ndarray, baseline: Sequence[tuple[float, float]]) -> np.ndarray:
    """Shifted accuracy that the baseline's line gives at clean accuracies [...], in [0, 1].

    Args:
        clean: accuracies in [0, 1].
        baseline: (clean, shifted) accuracies in (0, 1) of other models; least squares on the logits of both.

    Raises:
        ValueError: fewer than two different clean accuracies, or one of 0 or 1.
    """
    points = logit(np.array(baseline, np.float64).reshape(-1, 2))
    if not np.isfinite(points).all() or len(np.unique(points[:, 0])) < 2:
        raise ValueError(f"no line through the logits of {baseline}: give two models or more, scores within (0, 1)")
    slope, intercept = np.polyfit(points[:, 0], points[:, 1], 1)
    return expit(slope * logit(clean) + intercept)


def corruption_error(correct: np.ndarray, conditions: Sequence[str], reference: Mapping[str, float]) -> np.ndarray:
    """What each image adds to the mean corruption error, which is the mean of these.

    Args:
        correct: [N, K] bool, one column per condition.
        conditions: [K] names, corruption and severity: "fog_3".
        reference: error of AlexNet under each corruption, the mean over severities, in (0, 1]. Other corruptions do
            not count.

    Returns:
        [N] float64.

    Raises:
        ValueError: a corruption of the reference is under no condition.
    """
    corruption = np.array([condition.rpartition("_")[0] for condition in conditions])
    total = np.zeros(len(correct))
    for name, error in reference.items():
        columns = np.flatnonzero(corruption == name)
        if not len(columns):
            raise ValueError(f"no condition of {name} among {', '.join(conditions)}")
        total += (1 - correct[:, columns].mean(axis=1)) / error
    return total / len(reference)


def by_condition(
    name: str,
    metric: Metric,
    shifted: Mapping[str, np.ndarray],
    conditions: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The score under each condition by itself, with its 95 % interval, all on the same draws.

    Args:
        name: of the metric; the result's names are `NAME_CONDITION`.
        metric: the score.
        shifted: per-example arrays [N, K], one column per condition, or [N] where all conditions share it.
        conditions: [K] names.
        resamples: draws.
        seed: of the draws.
    """
    columns = [
        {key: shifted[key] if shifted[key].ndim == 1 else shifted[key][:, k] for key in metric.inputs}
        for k in range(len(conditions))
    ]
    n = len(shifted[metric.inputs[0]])
    drawn = replicates(
        lambda weights: np.stack([metric.weighted(column, weights) for column in columns], axis=1), n, resamples, seed
    )
    return {
        f"{name}_{condition}": _estimate(np.append(drawn[:, k], metric(columns[k])), n)
        for k, condition in enumerate(conditions)
    }


def _draw(
    metrics: Mapping[str, Metric],
    clean: Mapping[str, np.ndarray],
    shifted: Mapping[str, np.ndarray],
    weight_of: np.ndarray | None,
    resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap scores of the clean and of the shifted images, [R, metrics] each.

    Where a handful of many clean images was shifted, some draws hold none of them and have no score: they are left out.

    Args:
        weight_of: [M], the clean image whose weight each shifted image has; None draws the two sets independently.
    """

    def scores(outputs: Mapping[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
        return np.stack([metric.weighted(outputs, weights) for metric in metrics.values()], axis=1)

    n, m = len(clean["id"]), len(shifted["id"])
    if weight_of is None:
        shifted_scores = replicates(lambda weights: scores(shifted, weights), m, resamples, seed)
        return replicates(lambda weights: scores(clean, weights), n, resamples, seed + 1), shifted_scores

    def pair(weights: np.ndarray) -> np.ndarray:
        own = weights[:, weight_of]
        some = own.any(axis=1)
        return np.stack([scores(clean, weights[some]), scores(shifted, own[some])], axis=1)

    both = replicates(pair, n, resamples, seed)
    return both[:, 0], both[:, 1]


def _common(clean: np.ndarray, shifted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `clean` [M'], and in `shifted` [M'], of the images that are in both, in the order of `shifted`."""
    position = {name: row for row, name in enumerate(clean.tolist())}
    kept = [row for row, name in enumerate(shifted.tolist()) if name in position]
    if not kept:
        raise BobError(
            f"none of the {len(shifted)} shifted images (first: {shifted[0]}) is a test image of the source "
            f"(first: {clean[0]}): prepare both from the same official files"
        )
    return np.array([position[name] for name in shifted[kept].tolist()]), np.array(kept)


def _estimate(scores: np.ndarray, n: int) -> Estimate:
    """From the scores of the draws and, last, of the test set itself."""
    low, high = percentiles(scores[:-1])
    return Estimate(float(scores[-1]), float(low), float(high), n)
