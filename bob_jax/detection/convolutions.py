"""The convolutions that necks and heads are made of."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.layers import GroupNorm, LayerNorm, torch_default_init
from bob_jax.errors import unknown_name

NORMS = ("none", "group", "layer")

# He's uniform start with gain 1, as torchvision and detectron2 fill the convolutions of both necks.
neck_init = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")
# He's normal start, as detectron2 and torchvision fill the convolutions of box and mask heads.
head_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolution(
    in_features: int,
    features: int,
    kernel: int,
    *,
    bias: bool,
    init: nnx.Initializer = neck_init,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A square convolution of stride 1 that keeps the size of its map."""
    return nnx.Conv(
        in_features,
        features,
        (kernel, kernel),
        padding=((kernel // 2, kernel // 2),) * 2,
        use_bias=bias,
        kernel_init=init,
        dtype=dtype,
        rngs=rngs,
    )


class ConvNorm(nnx.Module):
    """A convolution with a norm in place of its bias, or with the bias. [B, H, W, in] to [B, H, W, features].

    Args:
        in_features: channels that come in.
        features: and go out.
        kernel: side of the convolution.
        norm: "group" (32 groups), "layer" (over the channels of each cell) or "none".
        init: of the kernel.
        dtype: of the computation.
        rngs: for the initial weights.

    Raises:
        BobError: an unknown norm, or a width that 32 groups do not divide.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel: int,
        norm: str,
        *,
        init: nnx.Initializer = neck_init,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if norm not in NORMS:
            raise unknown_name("norm of a detector's convolutions", norm, NORMS)
        bias = norm == "none"
        self.conv = convolution(in_features, features, kernel, bias=bias, init=init, dtype=dtype, rngs=rngs)
        self.norm = _norm(norm, features, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves and normalises."""
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)


def _norm(name: str, features: int, dtype: DTypeLike) -> GroupNorm | LayerNorm | None:
    if name == "group":
        return GroupNorm(features, epsilon=1e-5, dtype=dtype)
    return LayerNorm(features, epsilon=1e-6, dtype=dtype) if name == "layer" else None


class Deconvolution(nnx.Module):
    """Transposed 2x2 convolution of stride 2: every cell becomes four, none of them overlap.

    Args:
        in_features: channels that come in.
        features: and go out.
        init: of the kernel; PyTorch's default when None.
        dtype: of the computation.
        rngs: for the initial weights.
    """

    def __init__(
        self, in_features: int, features: int, *, init: nnx.Initializer | None = None, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        default = torch_default_init(fan_in=4 * features)  # PyTorch counts the outputs of a transposed convolution
        self.kernel = nnx.Param((init or default)(rngs.params(), (2, 2, in_features, features), jnp.float32))
        bias = jnp.zeros(features) if init else default(rngs.params(), (features,), jnp.float32)
        self.bias = nnx.Param(bias)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, in] to [B, 2H, 2W, features]."""
        batch, height, width, channels = x.shape
        kernel = self.kernel[...].astype(self.dtype).transpose(2, 0, 1, 3)  # one product, [in, 2 * 2 * features]
        y = x.astype(self.dtype).reshape(-1, channels) @ kernel.reshape(channels, -1)
        y = y.reshape(batch, height, width, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, 2 * height, 2 * width, -1)
        return y + self.bias[...].reshape(1, 1, 1, -1).astype(self.dtype)
