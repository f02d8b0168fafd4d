"""From class scores to what a record is made of: the score that selects, and what is written down per test image."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bob_jax.data.base import Dataset
from bob_jax.metrics.calibration import fit_temperature
from bob_jax.metrics.catalog import METRICS
from bob_jax.metrics.classification import per_example
from bob_jax.protocols.inference import Rows

TEMPERATURE = "temperature"  # among the notes of a record


def validation_score(dataset: Dataset, logits: np.ndarray, labels: np.ndarray) -> float:
    """The data set's metric, by which hyper-parameters are chosen.

    Args:
        dataset: what is judged.
        logits: [N, C] float.
        labels: [N] int.
    """
    return METRICS[dataset.metric](per_example(logits, labels))


def judged(
    dataset: Dataset, test: Rows, logits: np.ndarray, validation: Rows, validation_logits: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What a classifier says of the test images, as it is and calibrated, and the temperature that calibrates it.

    Args:
        dataset: what is judged.
        test: the test images.
        logits: [N, C] float, of theirs.
        validation: the validation images, which the temperature is fitted on.
        validation_logits: [M, C] float, of theirs.

    Returns:
        The `outputs` and `notes` of a `Result`.
    """
    temperature = fit_temperature(validation_logits, validation.labels)
    ids = dataset.splits["test"].ids
    outputs = {
        "id": np.array([ids[i] for i in test.index]),
        **calibrated(per_example(logits, test.labels), per_example(logits / temperature, test.labels)),
    }
    return outputs, {TEMPERATURE: temperature}


def calibrated(raw: Mapping[str, np.ndarray], scaled: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Per-example arrays before and, under names that end in `_scaled`, after division by a temperature."""
    return {**raw, **{f"{name}_scaled": scaled[name] for name in ("confidence", "nll", "brier") if name in scaled}}
