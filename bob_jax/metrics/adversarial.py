"""Accuracy under attack: an image counts where it is classified right and no attack within the budget changes that."""

from bob_jax.metrics.base import Metric, mean

METRICS: dict[str, Metric] = {"robust_accuracy": Metric(("robust",), mean)}
