"""A grid of training runs: what each leaves, and which is chosen on validation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bob_jax.training.loop import Diverged
from bob_jax.training.state import TrainState

Weights = dict[str, Any]  # "params" and "stats" of what was trained


@dataclasses.dataclass(frozen=True)
class Point:
    """A grid point.

    Attributes:
        weights: its best by validation, on the host; None where it diverged.
        grid: its hyper-parameters and "validation", its score, as the record has them.
        device_seconds: that its training took.
        skipped: ids of training images that could not be decoded.
    """

    weights: Weights | None
    grid: dict[str, Any]
    device_seconds: float
    skipped: tuple[str, ...]


def best(points: Sequence[Point], protocol: str) -> int:
    """The point with the highest score on validation.

    Raises:
        Diverged: no point came to an end.
    """
    ended = [i for i, point in enumerate(points) if point.weights is not None]
    if not ended:
        raise Diverged(f"all {len(points)} points of protocols.{protocol} diverged: lower its learning_rates")
    return max(ended, key=lambda i: points[i].grid["validation"])


def weights_of(state: TrainState) -> Weights:
    """What of a training state is judged."""
    return state.averaged


def named(weights: Weights) -> dict[str, np.ndarray]:
    """Parameters and the backbone's statistics by dotted path: `backbone.blocks.0.attn.qkv.kernel`, `head.kernel`."""
    trees = (weights["params"], {"backbone": weights["stats"]})
    leaves = [pair for tree in trees for pair in jax.tree.leaves_with_path(tree)]
    return {".".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}
