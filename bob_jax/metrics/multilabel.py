"""Several yes-or-no labels per image: the area under the ROC curve of each label, and their mean.

The area is the probability that an image with the label has a larger score than one without, half of it for equal
scores (Hanley and McNeil 1982). A label that all images of a test set or draw have, or none, has no area: it is left
out of the mean, and never counts as 0.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from bob_jax.errors import BobError
from bob_jax.metrics import bootstrap
from bob_jax.metrics.base import Metric, mean
from bob_jax.metrics.bootstrap import Estimate


def per_example(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that the metrics need to know of each example.

    Args:
        logits: [N, L] float, of the probability that an image has each label.
        labels: [N, L] of 0 and 1.

    Returns:
        logits [N, L] float32, labels [N, L] bool, and binary_nll [N] float64: -log p of what is so, in nats, mean over
        the labels.

    Raises:
        BobError: a logit that is not finite, or no label that some images have and some have not.
        ValueError: shapes that do not fit, or N is 0.
    """
    if logits.shape != labels.shape or logits.ndim != 2 or not len(labels):
        raise ValueError(f"logits {logits.shape} and labels {labels.shape}: they must be [N, L] both, N > 0")
    if not np.isfinite(logits).all():
        raise BobError("scores are NaN or infinite: the head diverged, lower the learning rate or regularise more")
    has = labels > 0.5
    if not (has.any(axis=0) & ~has.all(axis=0)).any():
        raise BobError("every label is either on all images or on none: no ranking of images can be right or wrong")
    exact = logits.astype(np.float64)
    loss = np.logaddexp(0, np.where(has, -exact, exact))
    return {"logits": logits.astype(np.float32), "labels": has, "binary_nll": loss.mean(axis=1)}


def areas(weights: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Area of each label: weights [R, N], logits [N, L], labels [N, L] bool -> [R, L]; NaN where it has none."""
    return np.stack([_area(weights, logits[:, i], labels[:, i]) for i in range(logits.shape[1])], axis=1)


def mean_area(weights: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean over the labels that have an area: -> [R]; 0.5, pure chance, in a draw where none has."""
    found = areas(weights, logits, labels)
    defined = np.isfinite(found)
    count = defined.sum(axis=1)
    total = np.where(defined, found, 0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(found), 0.5), where=count > 0)


def each_area(outputs: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Estimate]:
    """The area of each label with its 95 % interval, under `auc_NAME`; labels without an area are left out.

    Args:
        outputs: of `per_example`.
        names: [L], of the labels.
    """
    arrays = outputs["logits"], outputs["labels"]
    n = len(arrays[0])
    values = areas(np.ones((1, n)), *arrays)[0]
    drawn = bootstrap.replicates(lambda weights: areas(weights, *arrays), n)
    found = {}
    for i, name in enumerate(names):
        if np.isfinite(values[i]):
            low, high = bootstrap.percentiles(drawn[np.isfinite(drawn[:, i]), i])
            found[f"auc_{name}"] = Estimate(float(values[i]), float(low), float(high), n)
    return found


def _area(weights: np.ndarray, score: np.ndarray, has: np.ndarray) -> np.ndarray:
    """[R]: pairs in the right order, by all pairs; of one label, score [N] and has [N] bool."""
    with_label, without = (np.flatnonzero(rows)[np.argsort(score[rows], kind="stable")] for rows in (has, ~has))
    # Below each image with the label are the images without it up to `first`; up to `last` they are equal to it.
    first, last = (np.searchsorted(score[without], score[with_label], side) for side in ("left", "right"))
    below = np.zeros((len(weights), len(without) + 1))
    np.cumsum(weights[:, without], axis=1, out=below[:, 1:])
    own = weights[:, with_label]
    pairs = (own * (below[:, first] + below[:, last])).sum(axis=1) / 2
    all_pairs = own.sum(axis=1) * below[:, -1]
    return np.divide(pairs, all_pairs, out=np.full(len(weights), np.nan), where=all_pairs > 0)


METRICS: dict[str, Metric] = {
    "mean_auc": Metric(("logits", "labels"), mean_area),
    "binary_nll": Metric(("binary_nll",), mean, higher_is_better=False),
}
