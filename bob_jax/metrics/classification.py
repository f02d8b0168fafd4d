"""One class per image: what is written down per test image, and the scores made of it."""

import numpy as np

from bob_jax.errors import BobError
from bob_jax.metrics.base import Metric, mean, mean_per_class

TOP = 5
BLOCK = 1 << 22  # logits in float64 at a time

METRICS: dict[str, Metric] = {
    "accuracy": Metric(("correct",), mean),
    "top5_accuracy": Metric(("correct_top5",), mean),
    "mean_per_class_accuracy": Metric(("correct", "label"), mean_per_class),
    "nll": Metric(("nll",), mean, higher_is_better=False),
    "brier": Metric(("brier",), mean, higher_is_better=False),
}


def per_example(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that the metrics need to know of each example.

    Args:
        logits: [N, C] float, log-probabilities up to a constant per row; -inf rules a class out.
        labels: [N] int, in [0, C).

    Returns:
        Arrays [N]:
        label, prediction: int32; of equal logits the lower class is predicted.
        confidence: float64, the predicted class's probability.
        correct: bool.
        correct_top5: bool, the label is among the 5 largest; only for C > 5, else it would always be true.
        nll: float64, -log p(label), in nats; infinite where the label was ruled out.
        brier: float64, sum over classes of (p - onehot)^2, in [0, 2] (Brier 1950).

    Raises:
        BobError: a row without any finite largest logit: the backbone or its head diverged.
        ValueError: shapes do not fit, N is 0, or a label is out of range.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits {logits.shape} and labels {labels.shape}: they must be [N, C] and [N] with N > 0")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, but logits of {logits.shape[1]} classes")
    bad = np.flatnonzero(~np.isfinite(logits.max(axis=1)))  # the maximum of a row with NaN is NaN
    if len(bad):
        raise BobError(
            f"scores of {len(bad)} of {len(labels)} examples are NaN or infinite (first: example {bad[0]}): "
            "the head diverged, lower the learning rate or raise the regularisation"
        )
    rows = max(1, BLOCK // logits.shape[1])
    blocks = [
        _block(logits[start : start + rows], labels[start : start + rows]) for start in range(0, len(labels), rows)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def per_example_any(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The same where several classes are right for an image, as in ReaL (Beyer et al. 2020, arXiv 2006.07159).

    Args:
        logits: [N, C] float.
        labels: [N, C] bool, at least one true in each row.

    Returns:
        Arrays [N]: prediction, confidence, correct (the prediction is one of the right classes) and nll
        (-log of the probability of all right classes together).

    Raises:
        BobError: as `per_example`.
        ValueError: shapes that do not fit, or an image without a right class.
    """
    if logits.shape != labels.shape or not len(labels) or not labels.any(axis=1).all():
        raise ValueError(f"logits {logits.shape} and labels {labels.shape}: each image needs one right class or more")
    # Of the right classes the best one stands for all; what is known of it but for its own probability is what counts.
    best = np.where(labels, logits, -np.inf).argmax(axis=1)
    outputs = per_example(logits, best.astype(np.int32))
    rows = max(1, BLOCK // logits.shape[1])
    nll = [
        _nll_any(logits[start : start + rows], labels[start : start + rows]) for start in range(0, len(labels), rows)
    ]
    return {name: outputs[name] for name in ("prediction", "confidence", "correct")} | {"nll": np.concatenate(nll)}


def _nll_any(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    with np.errstate(divide="ignore"):  # all right classes ruled out: infinite, as it should be
        return np.log(odds.sum(axis=1)) - np.log((odds * labels).sum(axis=1))


def _block(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    logits = logits.astype(np.float64)
    index = np.arange(len(labels))
    prediction = logits.argmax(axis=1)
    own = logits[index, labels]
    # Shifted by the largest logit the exponentials cannot overflow, and the largest is exactly 1.
    odds = np.exp(logits - logits[index, prediction][:, None])
    total = odds.sum(axis=1)
    probability = odds[index, labels] / total
    outputs = {
        "label": labels.astype(np.int32),
        "prediction": prediction.astype(np.int32),
        "confidence": 1.0 / total,
        "correct": prediction == labels,
        "nll": logits[index, prediction] - own + np.log(total),
        "brier": ((odds / total[:, None]) ** 2).sum(axis=1) - 2 * probability + 1,
    }
    if logits.shape[1] > TOP:
        # Ties count as the prediction counts them: the lower class comes first.
        before = np.arange(logits.shape[1])[None] < labels[:, None]
        ahead = (logits > own[:, None]) | ((logits == own[:, None]) & before)
        outputs["correct_top5"] = ahead.sum(axis=1) < TOP
    return outputs
