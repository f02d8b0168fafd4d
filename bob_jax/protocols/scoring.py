"""From class scores to what a record is made of: the score that selects, and what is written down per test image."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bob_jax.data.base import Dataset, MultilabelDataset
from bob_jax.metrics import classification, multilabel
from bob_jax.metrics.bootstrap import Estimate
from bob_jax.metrics.calibration import fit_temperature
from bob_jax.metrics.catalog import METRICS
from bob_jax.protocols.inference import Rows

TEMPERATURE = "temperature"  # among the notes of a record


class Judgement(NamedTuple):
    """The parts of a `Result` that follow from class scores; see there."""

    outputs: dict[str, np.ndarray]
    notes: dict[str, Any]
    scores: dict[str, Estimate]
    higher_is_better: dict[str, bool]


def validation_score(dataset: Dataset, logits: np.ndarray, labels: np.ndarray) -> float:
    """The data set's metric, by which hyper-parameters are chosen.

    Args:
        dataset: what is judged.
        logits: [N, C] float.
        labels: [N] int; [N, C] of 0 and 1 where an image has several.
    """
    several = isinstance(dataset, MultilabelDataset)
    return METRICS[dataset.metric]((multilabel if several else classification).per_example(logits, labels))


def judged(
    dataset: Dataset, test: Rows, logits: np.ndarray, validation: Rows, validation_logits: np.ndarray
) -> Judgement:
    """What a classifier says of the test images, as it is and calibrated, and the temperature that calibrates it.

    Args:
        dataset: what is judged.
        test: the test images.
        logits: [N, C] float, of theirs.
        validation: the validation images, which the temperature is fitted on.
        validation_logits: [M, C] float, of theirs.
    """
    ids = dataset.splits["test"].ids
    names = {"id": np.array([ids[i] for i in test.index])}
    if isinstance(dataset, MultilabelDataset):
        outputs = multilabel.per_example(logits, test.labels)
        scores = multilabel.each_area(outputs, dataset.classes)
        return Judgement(names | outputs, {}, scores, dict.fromkeys(scores, True))
    temperature = fit_temperature(validation_logits, validation.labels)
    raw, scaled = (classification.per_example(logits / by, test.labels) for by in (1.0, temperature))
    return Judgement(names | calibrated(raw, scaled), {TEMPERATURE: temperature}, {}, {})


def calibrated(raw: Mapping[str, np.ndarray], scaled: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Per-example arrays before and, under names that end in `_scaled`, after division by a temperature."""
    return {**raw, **{f"{name}_scaled": scaled[name] for name in ("confidence", "nll", "brier") if name in scaled}}


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of each image: softmax over classes [N] int, or the sum of the binary ones over labels [N, L].

    Args:
        logits: [N, C] float32.
        labels: what is right; the shape tells which.

    Returns:
        [N] float32, in nats.
    """
    if labels.ndim == 1:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, labels), axis=-1)
