"""The mask head (He et al. 2017, arXiv 1703.06870): which points of a box belong to its object."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.layers import compute_dtype
from bob_jax.detection.convolutions import ConvNorm, Deconvolution, head_init

SIZE = 14  # bins of RoIAlign along a side; masks are twice as fine


class MaskHead(nnx.Module):
    """3x3 convolutions, a transposed one, and a score per point and class, of which only the box's class is computed.

    Args:
        width: channels of the RoI features.
        classes: C.
        convs: 3x3 convolutions, each with a ReLU.
        norm: of these, see `convolutions.ConvNorm`.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights.
    """

    def __init__(
        self, width: int, classes: int, *, convs: int, norm: str, dtype: DTypeLike | None = None, rngs: nnx.Rngs
    ):
        self.dtype = compute_dtype(dtype)
        self.convs = nnx.List(
            ConvNorm(width, width, 3, norm, init=head_init, dtype=self.dtype, rngs=rngs) for _ in range(convs)
        )
        self.deconv = Deconvolution(width, width, init=head_init, dtype=self.dtype, rngs=rngs)
        self.kernel = nnx.Param(nnx.initializers.normal(0.001)(rngs.params(), (classes, width), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(classes))

    def __call__(self, features: jax.Array, classes: jax.Array) -> jax.Array:
        """Mask scores of each box's own class.

        Folding the class into the last layer gives what all classes and a choice would, for a C-th of the work.

        Args:
            features: [..., 14, 14, width] of RoIAlign.
            classes: [...] int; those out of range take the nearest.

        Returns:
            [..., 28, 28] float32, before the sigmoid.
        """
        leading = features.shape[:-3]
        x = features.reshape(math.prod(leading), *features.shape[-3:])
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        x = jax.nn.relu(self.deconv(x))
        chosen = jnp.clip(classes.reshape(-1), 0, len(self.bias[...]) - 1)
        kernel, bias = self.kernel[...][chosen], self.bias[...][chosen]
        logits = jnp.einsum("nyxc,nc->nyx", x, kernel.astype(self.dtype), preferred_element_type=jnp.float32)
        return (logits + bias[:, None, None]).reshape(*leading, 2 * SIZE, 2 * SIZE)
