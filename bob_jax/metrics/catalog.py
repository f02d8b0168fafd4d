"""All scores by name. A record has those whose per-example arrays its protocol wrote down."""

from bob_jax.metrics import calibration, classification, retrieval, shift
from bob_jax.metrics.base import Metric

METRICS: dict[str, Metric] = classification.METRICS | calibration.METRICS | shift.METRICS | retrieval.METRICS
