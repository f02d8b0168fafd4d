"""SSCD (Pizzi et al. 2022, arXiv 2202.10261), the descriptor for copy detection: a ResNet with a head of its own."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bob_jax.backbones.base import Features
from bob_jax.backbones.layers import Linear
from bob_jax.backbones.resnet import ResNet

POWER = 3.0  # of the generalised mean
EPSILON = 1e-6  # smallest value that the generalised mean sees
SMALLEST_NORM = 1e-12  # PyTorch's guard against dividing by zero


def generalised_mean(x: jax.Array, power: float = POWER) -> jax.Array:
    """GeM pooling (Radenović et al. 2018, arXiv 1711.02512) over the positions of [B, H, W, C]: [B, C] float32."""
    x = jnp.maximum(x.astype(jnp.float32), EPSILON)
    return jnp.mean(x**power, axis=(1, 2)) ** (1 / power)


class SSCD(ResNet):
    """A ResNet whose descriptor is pooled by a generalised mean, projected, and of length 1.

    Args:
        descriptor_dim: width of the descriptor: 512, or 1024 for the large model.
        rngs: for the initial weights.
        arguments: those of `ResNet`.
    """

    def __init__(self, *, descriptor_dim: int = 512, rngs: nnx.Rngs, **arguments: Any):
        super().__init__(rngs=rngs, **arguments)
        init = nnx.initializers.xavier_uniform()
        self.fc = Linear(self.widths[-1], descriptor_dim, kernel_init=init, dtype=self.dtype, rngs=rngs)
        self.feature_dim = descriptor_dim

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of [B, H, W, 3] images; `pooled` is [B, D] float32 of length 1."""
        maps = super().__call__(images, rngs=rngs).maps
        descriptor = self.fc(generalised_mean(maps[-1])).astype(jnp.float32)
        length = jnp.sqrt(jnp.sum(jnp.square(descriptor), axis=-1, keepdims=True))
        return Features(descriptor / jnp.maximum(length, SMALLEST_NORM), maps)

    def layer_of(self, path: str) -> int:
        """The layer of a parameter for learning-rate decay; the head belongs to the last block."""
        return self.num_layers - 1 if path in ("fc.kernel", "fc.bias") else super().layer_of(path)
