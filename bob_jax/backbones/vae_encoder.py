"""The encoder of Stable Diffusion's autoencoder: images to latents at an eighth of the resolution.

Attribute names follow diffusers' `AutoencoderKL`, without its levels `encoder.` and `downsamplers.0.conv`.
"""

from collections.abc import Iterator, Sequence

import jax
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.diffusion_blocks import Convolution, ResBlock, linear
from bob_jax.backbones.layers import GroupNorm, attention, drop_path

LATENT_CHANNELS = 4
SCALING_FACTOR = 0.18215  # brings the latents to unit variance; the U-Net was trained on scaled ones
LEVELS = 4


class PositionAttention(nnx.Module):
    """Residual attention of every position to every other, with a single head: [B, H, W, C] to [B, H, W, C]."""

    def __init__(self, features: int, *, drop_path: float, dtype: DTypeLike, rngs: nnx.Rngs):
        self.group_norm = GroupNorm(features, epsilon=1e-6, dtype=dtype)
        self.to_q = linear(features, features, dtype=dtype, rngs=rngs)
        self.to_k = linear(features, features, dtype=dtype, rngs=rngs)
        self.to_v = linear(features, features, dtype=dtype, rngs=rngs)
        self.to_out = linear(features, features, dtype=dtype, rngs=rngs)
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """Attends."""
        batch, _, _, features = x.shape
        tokens = self.group_norm(x).reshape(batch, -1, 1, features)
        branch = self.to_out(attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)))
        return x + drop_path(branch.reshape(x.shape), self.drop_path, rngs)


class EncoderLevel(nnx.Module):
    """Residual blocks at one resolution, then, but for the last level, half of it."""

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        drop_paths: Sequence[float],
        downsample: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.resnets = nnx.List(
            ResBlock(features if index else in_features, features, drop_path=rate, dtype=dtype, rngs=rngs)
            for index, rate in enumerate(drop_paths)
        )
        # The released weights expect zeros at the bottom and at the right only; the U-Net's, on all sides.
        self.downsample = (
            Convolution(features, features, 3, stride=2, padding=(0, 1), dtype=dtype, rngs=rngs) if downsample else None
        )

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, in] to [B, H/2, W/2, features], or [B, H, W, features] in the last level."""
        for block in self.resnets:
            x = block(x, rngs=rngs)
        return x if self.downsample is None else self.downsample(x)


class EncoderMiddle(nnx.Module):
    """Residual block, attention, residual block: [B, H, W, C] to [B, H, W, C]."""

    def __init__(self, features: int, *, drop_paths: tuple[float, float], dtype: DTypeLike, rngs: nnx.Rngs):
        self.resnets = nnx.List(
            ResBlock(features, features, drop_path=rate, dtype=dtype, rngs=rngs) for rate in drop_paths
        )
        self.attention = PositionAttention(features, drop_path=drop_paths[0], dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """Applies the three."""
        x = self.attention(self.resnets[0](x, rngs=rngs), rngs=rngs)
        return self.resnets[1](x, rngs=rngs)


class VAEEncoder(nnx.Module):
    """Images [B, H, W, 3] in [-1, 1], sides divisible by 8, to scaled latents.

    The posterior's mean stands for the posterior: a frozen feature extractor must not draw random numbers. Its
    log-variance is computed by the last two layers and left out.

    Args:
        widths: channels of the four levels.
        blocks: residual blocks in each level.
        drop_paths: rates of all residual blocks in order, those of the middle included; as many as are taken.
    """

    def __init__(
        self, widths: Sequence[int], blocks: int, drop_paths: Iterator[float], *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.conv_in = Convolution(3, widths[0], 3, dtype=dtype, rngs=rngs)
        self.down_blocks = nnx.List(
            EncoderLevel(
                widths[max(level - 1, 0)],
                features,
                drop_paths=[next(drop_paths) for _ in range(blocks)],
                downsample=level < LEVELS - 1,
                dtype=dtype,
                rngs=rngs,
            )
            for level, features in enumerate(widths)
        )
        rates = (next(drop_paths), next(drop_paths))
        self.mid_block = EncoderMiddle(widths[-1], drop_paths=rates, dtype=dtype, rngs=rngs)
        self.conv_norm_out = GroupNorm(widths[-1], epsilon=1e-6, dtype=dtype)
        self.conv_out = Convolution(widths[-1], 2 * LATENT_CHANNELS, 3, dtype=dtype, rngs=rngs)
        self.quant_conv = Convolution(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None) -> tuple[jax.Array, jax.Array]:
        """The latents [B, H/8, W/8, 4], and the map [B, H/4, W/4, widths[1]] behind the second level."""
        x = self.conv_in(images)
        outputs = [x := level(x, rngs=rngs) for level in self.down_blocks]
        x = jax.nn.silu(self.conv_norm_out(self.mid_block(x, rngs=rngs)))
        moments = self.quant_conv(self.conv_out(x))
        return moments[..., :LATENT_CHANNELS] * SCALING_FACTOR, outputs[1]
