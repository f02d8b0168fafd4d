"""The box head of a stage of the cascade: what is in a box, and how the box should be moved."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.layers import Linear, compute_dtype
from bob_jax.detection.convolutions import ConvNorm, head_init, neck_init

SIZE = 7  # bins of RoIAlign along a side


class BoxHead(nnx.Module):
    """Convolutions, fully connected layers, then class scores and box deltas.

    Args:
        width: channels of the RoI features.
        classes: C, without background.
        convs: 3x3 convolutions, each with a ReLU.
        fcs: fully connected layers, each with a ReLU.
        hidden: their width.
        norm: of the convolutions, see `convolutions.ConvNorm`.
        class_agnostic: one box for all classes, or one for each.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        convs: int,
        fcs: int,
        hidden: int,
        norm: str,
        class_agnostic: bool,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        dtype = compute_dtype(dtype)
        self.convs = nnx.List(
            ConvNorm(width, width, 3, norm, init=head_init, dtype=dtype, rngs=rngs) for _ in range(convs)
        )
        widths = [SIZE * SIZE * width] + [hidden] * fcs
        self.fcs = nnx.List(
            Linear(widths[i], hidden, kernel_init=neck_init, dtype=dtype, rngs=rngs) for i in range(fcs)
        )
        outputs = 4 if class_agnostic else 4 * classes
        # The starts of detectron2 and mmdetection.
        score_init, box_init = nnx.initializers.normal(0.01), nnx.initializers.normal(0.001)
        self.cls_score = Linear(widths[-1], classes + 1, kernel_init=score_init, dtype=dtype, rngs=rngs)
        self.bbox_pred = Linear(widths[-1], outputs, kernel_init=box_init, dtype=dtype, rngs=rngs)

    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What is in the boxes.

        Args:
            features: [..., 7, 7, width] of RoIAlign.

        Returns:
            Class scores before the softmax [..., C + 1], background last, and deltas [..., C, 4], or [..., 1, 4] if
            class-agnostic; both float32.
        """
        leading = features.shape[:-3]
        x = features.reshape(math.prod(leading), *features.shape[-3:])
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        x = x.reshape(len(x), -1)
        for layer in self.fcs:
            x = jax.nn.relu(layer(x))
        scores, deltas = (layer(x).astype(jnp.float32) for layer in (self.cls_score, self.bbox_pred))
        return scores.reshape(*leading, -1), deltas.reshape(*leading, -1, 4)
