"""The linear classifier on top of a backbone, whoever made it: a probe, fine-tuning, a text tower, the publisher.

z = (x - mean) / scale            where the features were standardised
z = (projection' z + offset) / |projection' z + offset|   where classes are directions (vision and language)
logits = kernel' z + bias
"""

import dataclasses
from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

PREFIX = "head."  # of its arrays among the weights that a cell leaves behind


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """From pooled features to class scores; a pytree of float32 arrays.

    Attributes:
        kernel: [E, C].
        bias: [C].
        mean: [D], subtracted from the features.
        scale: [D], which they are then divided by.
        projection: [D, E]; its result has unit length. Without it E is D.
        offset: [E], added to what is projected.
    """

    kernel: jax.Array | np.ndarray
    bias: jax.Array | np.ndarray
    mean: jax.Array | np.ndarray | None = None
    scale: jax.Array | np.ndarray | None = None
    projection: jax.Array | np.ndarray | None = None
    offset: jax.Array | np.ndarray | None = None

    def logits(self, features: jax.Array) -> jax.Array:
        """[N, D] float32 -> [N, C] float32; differentiable, and exact in float32 on every device."""
        if self.mean is not None:
            features = features - jnp.asarray(self.mean)[None]
        if self.scale is not None:
            features = features / jnp.asarray(self.scale)[None]
        if self.projection is not None:
            features = jnp.matmul(features, jnp.asarray(self.projection), precision="float32")
            if self.offset is not None:
                features = features + jnp.asarray(self.offset)[None]
            features = features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
        return jnp.matmul(features, jnp.asarray(self.kernel), precision="float32") + jnp.asarray(self.bias)[None]

    def named(self) -> dict[str, np.ndarray]:
        """Its arrays by dotted path, as a cell keeps them."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {PREFIX + name: np.asarray(array) for name, array in arrays.items() if array is not None}

    @classmethod
    def from_named(cls, weights: Mapping[str, np.ndarray]) -> Self:
        """The head among the weights of a cell."""
        return cls(**{name.removeprefix(PREFIX): array for name, array in weights.items() if name.startswith(PREFIX)})


def predict(head: Head, features: np.ndarray) -> np.ndarray:
    """Class scores of features that lie on the host: [N, D] -> [N, C] float32."""
    return np.asarray(_logits(head, features))


_logits = jax.jit(Head.logits)
