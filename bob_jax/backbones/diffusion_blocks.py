"""The layers that Stable Diffusion's autoencoder and U-Net share (Rombach et al. 2022, arXiv 2112.10752).

Attribute names follow diffusers' `ResnetBlock2D`, so that a converter's table is short.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.layers import GroupNorm, Linear, drop_path, torch_default_init


def linear(
    in_features: int, features: int, *, bias: bool = True, zero: bool = False, dtype: DTypeLike, rngs: nnx.Rngs
) -> Linear:
    """A fully connected layer with PyTorch's default start; with `zero`, one whose output is 0 until it is trained."""
    init = nnx.initializers.zeros if zero else torch_default_init(in_features)
    layer = Linear(in_features, features, bias=bias, kernel_init=init, dtype=dtype, rngs=rngs)
    if bias:
        layer.bias = nnx.Param(init(rngs.params(), (features,), jnp.float32))
    return layer


class Convolution(nnx.Module):
    """Square 2-D convolution with bias, [B, H, W, in] to [B, H/stride, W/stride, features], with PyTorch's start.

    Args:
        padding: rows (and columns) of zeros before and after; half the kernel on both sides by default.
        zero: start at 0, so that the output is 0 until it is trained.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        zero: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.zeros if zero else torch_default_init(fan_in=in_features * kernel**2)
        self.kernel = nnx.Param(init(rngs.params(), (kernel, kernel, in_features, features), jnp.float32))
        self.bias = nnx.Param(init(rngs.params(), (features,), jnp.float32))
        self.stride = stride
        self.padding = padding or (kernel // 2, kernel // 2)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves in the compute dtype."""
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=(self.padding, self.padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.bias[...].reshape(1, 1, 1, -1).astype(self.dtype)


class ResBlock(nnx.Module):
    """Two times norm, SiLU and 3x3 convolution around a shortcut: [B, H, W, in] to [B, H, W, features].

    The U-Net's blocks add a projection of the time embedding between the convolutions; their last convolution starts
    at 0, and the norms' epsilon is 1e-5. The autoencoder's have neither, and 1e-6.

    Args:
        time_features: width of the time embedding; None in the autoencoder.
        drop_path: rate at which training drops the branch.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        time_features: int | None = None,
        drop_path: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        in_unet = time_features is not None
        epsilon = 1e-5 if in_unet else 1e-6
        self.norm1 = GroupNorm(in_features, epsilon=epsilon, dtype=dtype)
        self.conv1 = Convolution(in_features, features, 3, dtype=dtype, rngs=rngs)
        self.time_emb_proj = None if time_features is None else linear(time_features, features, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(features, epsilon=epsilon, dtype=dtype)
        self.conv2 = Convolution(features, features, 3, zero=in_unet, dtype=dtype, rngs=rngs)
        self.conv_shortcut = (
            None if in_features == features else Convolution(in_features, features, 1, dtype=dtype, rngs=rngs)
        )
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, time: jax.Array | None = None, *, rngs: nnx.Rngs | None) -> jax.Array:
        """Applies the block; `time` [1, T] is the time embedding after its SiLU, where the block takes one."""
        branch = self.conv1(jax.nn.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            assert time is not None
            branch = branch + self.time_emb_proj(time)[:, None, None, :]
        branch = self.conv2(jax.nn.silu(self.norm2(branch)))
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return shortcut + drop_path(branch, self.drop_path, rngs)
