"""The down path and the middle of Stable Diffusion's U-Net, with cross-attention to a text.

Attribute names follow diffusers' `UNet2DConditionModel`, without its levels `downsamplers.0.conv`,
`transformer_blocks.0`, `to_out.0`, and with `ff.fc1` and `ff.fc2` for its `ff.net.0.proj` and `ff.net.2`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.diffusion_blocks import Convolution, ResBlock, linear
from bob_jax.backbones.layers import ACTIVATIONS, GroupNorm, LayerNorm, attention, drop_path
from bob_jax.backbones.vae_encoder import LATENT_CHANNELS
from bob_jax.errors import BobError


class Attention(nnx.Module):
    """Multi-head attention of tokens [B, N, C] to those of another sequence [1 or B, M, source_features]."""

    def __init__(self, features: int, source_features: int, num_heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.to_q = linear(features, features, bias=False, dtype=dtype, rngs=rngs)
        self.to_k = linear(source_features, features, bias=False, dtype=dtype, rngs=rngs)
        self.to_v = linear(source_features, features, bias=False, dtype=dtype, rngs=rngs)
        self.to_out = linear(features, features, dtype=dtype, rngs=rngs)
        self.num_heads = num_heads

    def __call__(self, x: jax.Array, source: jax.Array) -> jax.Array:
        """Attends; a source with a single entry, the same for all images, is projected once."""
        batch, _, features = x.shape
        query, key, value = (
            tokens.reshape(*tokens.shape[:2], self.num_heads, features // self.num_heads)
            for tokens in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        key, value = (jnp.broadcast_to(tokens, (batch, *tokens.shape[1:])) for tokens in (key, value))
        return self.to_out(attention(query, key, value))


class FeedForward(nnx.Module):
    """GEGLU perceptron (Shazeer 2020, arXiv 2002.05202), [B, N, C] to [B, N, C]: value first, then its gate."""

    def __init__(self, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.fc1 = linear(features, 8 * features, dtype=dtype, rngs=rngs)
        self.fc2 = linear(4 * features, features, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies value * gelu(gate) between the layers."""
        value, gate = jnp.split(self.fc1(x), 2, axis=-1)
        return self.fc2(value * ACTIVATIONS["gelu"](gate))


class TransformerBlock(nnx.Module):
    """Self-attention, cross-attention and perceptron, each a pre-norm residual branch: [B, N, C] to [B, N, C]."""

    def __init__(self, features: int, context_features: int, num_heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(features, epsilon=1e-5, dtype=dtype)
        self.attn1 = Attention(features, features, num_heads, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(features, epsilon=1e-5, dtype=dtype)
        self.attn2 = Attention(features, context_features, num_heads, dtype=dtype, rngs=rngs)
        self.norm3 = LayerNorm(features, epsilon=1e-5, dtype=dtype)
        self.ff = FeedForward(features, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Applies the three branches; context [1, M, context_features]."""
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer(nnx.Module):
    """One transformer block over the positions of a map, a residual branch as a whole: [B, H, W, C] to [B, H, W, C].

    The projections around it are 1x1 convolutions in v1 and fully connected in v2: the same function of the same
    numbers.
    """

    def __init__(
        self,
        features: int,
        context_features: int,
        num_heads: int,
        *,
        drop_path: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if features % num_heads:
            raise BobError(f"Stable Diffusion: width {features} is not divisible by num_heads {num_heads}")
        self.norm = GroupNorm(features, epsilon=1e-6, dtype=dtype)
        self.proj_in = linear(features, features, dtype=dtype, rngs=rngs)
        self.block = TransformerBlock(features, context_features, num_heads, dtype=dtype, rngs=rngs)
        self.proj_out = linear(features, features, zero=True, dtype=dtype, rngs=rngs)
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, context: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """Applies the branch; context [1, M, context_features]."""
        batch, _, _, features = x.shape
        tokens = self.proj_in(self.norm(x).reshape(batch, -1, features))
        branch = self.proj_out(self.block(tokens, context)).reshape(x.shape)
        return x + drop_path(branch, self.drop_path, rngs)


class TimeEmbedding(nnx.Module):
    """The embedding of timestep 0: [1, features].

    Timestep t enters as cos(t f) and sin(t f) of rising wavelengths, cosines first: ones, then zeros, when t is 0.
    Only the parameters decide what becomes of them, so nothing is folded and the checkpoint can be given back.
    """

    def __init__(self, width: int, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.linear_1 = linear(width, features, dtype=dtype, rngs=rngs)
        self.linear_2 = linear(features, features, dtype=dtype, rngs=rngs)

    def __call__(self) -> jax.Array:
        """The embedding."""
        width = self.linear_1.kernel.shape[0]
        waves = np.repeat(np.array([1, 0], np.float32), width // 2)[None]
        return self.linear_2(jax.nn.silu(self.linear_1(jnp.asarray(waves))))


class DownLevel(nnx.Module):
    """Residual blocks at one resolution, each with a transformer behind it if `num_heads` is given, then half of it."""

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        time_features: int,
        context_features: int,
        num_heads: int | None,
        drop_paths: Sequence[float],
        downsample: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.resnets = nnx.List(
            ResBlock(
                features if index else in_features,
                features,
                time_features=time_features,
                drop_path=rate,
                dtype=dtype,
                rngs=rngs,
            )
            for index, rate in enumerate(drop_paths)
        )
        self.attentions = nnx.List(
            Transformer(features, context_features, num_heads, drop_path=rate, dtype=dtype, rngs=rngs)
            for rate in drop_paths
            if num_heads is not None
        )
        self.downsample = Convolution(features, features, 3, stride=2, dtype=dtype, rngs=rngs) if downsample else None

    def __call__(
        self, x: jax.Array, time: jax.Array, context: jax.Array, *, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        """[B, H, W, in] to the output [B, H/2, W/2, features] and the map [B, H, W, features] before it is halved."""
        for index, block in enumerate(self.resnets):
            x = block(x, time, rngs=rngs)
            if self.attentions:
                x = self.attentions[index](x, context, rngs=rngs)
        return (x if self.downsample is None else self.downsample(x)), x


class Middle(nnx.Module):
    """Residual block, transformer, residual block: [B, H, W, C] to [B, H, W, C]."""

    def __init__(
        self,
        features: int,
        *,
        time_features: int,
        context_features: int,
        num_heads: int,
        drop_paths: tuple[float, float],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.resnets = nnx.List(
            ResBlock(features, features, time_features=time_features, drop_path=rate, dtype=dtype, rngs=rngs)
            for rate in drop_paths
        )
        self.attention = Transformer(
            features, context_features, num_heads, drop_path=drop_paths[0], dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array, time: jax.Array, context: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """Applies the three."""
        x = self.attention(self.resnets[0](x, time, rngs=rngs), context, rngs=rngs)
        return self.resnets[1](x, time, rngs=rngs)


class UNetEncoder(nnx.Module):
    """Latents [B, h, w, 4] to one map per level; every level but the last has transformers and halves the resolution.

    Args:
        widths: channels of the levels.
        num_heads: attention heads of the levels; the last ones are those of the middle.
        blocks: residual blocks in each level.
        context_features: width of the text's embedding.
        drop_paths: rates of all residual blocks in order, those of the middle included; as many as are taken.
    """

    def __init__(
        self,
        widths: Sequence[int],
        num_heads: Sequence[int],
        blocks: int,
        context_features: int,
        drop_paths: Iterator[float],
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        last = len(widths) - 1
        time_features = 4 * widths[0]
        common: dict[str, Any] = {
            "time_features": time_features,
            "context_features": context_features,
            "dtype": dtype,
            "rngs": rngs,
        }
        self.conv_in = Convolution(LATENT_CHANNELS, widths[0], 3, dtype=dtype, rngs=rngs)
        self.time_embedding = TimeEmbedding(widths[0], time_features, dtype=dtype, rngs=rngs)
        self.down_blocks = nnx.List(
            DownLevel(
                widths[max(level - 1, 0)],
                features,
                num_heads=num_heads[level] if level < last else None,
                drop_paths=[next(drop_paths) for _ in range(blocks)],
                downsample=level < last,
                **common,
            )
            for level, features in enumerate(widths)
        )
        rates = (next(drop_paths), next(drop_paths))
        self.mid_block = Middle(widths[-1], num_heads=num_heads[-1], drop_paths=rates, **common)

    def __call__(self, latents: jax.Array, context: jax.Array, *, rngs: nnx.Rngs | None) -> tuple[jax.Array, ...]:
        """The maps before each halving, finest first, and last the middle's; context [1, M, context_features]."""
        time = jax.nn.silu(self.time_embedding())
        x = self.conv_in(latents)
        maps = []
        for level in self.down_blocks:
            x, before = level(x, time, context, rngs=rngs)
            maps.append(before)
        return (*maps[:-1], self.mid_block(x, time, context, rngs=rngs))
