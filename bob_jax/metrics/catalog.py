"""All scores by name. A record has those whose per-example arrays its protocol wrote down."""

from bob_jax.metrics import adversarial, calibration, classification, multilabel, retrieval, shift
from bob_jax.metrics.base import Metric

FAMILIES = (classification, calibration, multilabel, shift, retrieval, adversarial)
METRICS: dict[str, Metric] = {name: metric for family in FAMILIES for name, metric in family.METRICS.items()}
