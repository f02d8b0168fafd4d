"""Hiera (Ryali et al. 2023, arXiv 2306.00989): a hierarchy of plain transformer blocks, as timm's `Hiera`.

The original keeps its tokens in an order in which windows are contiguous; here they stay rows and columns, which gives
the same function. Attribute names follow timm's state dict, except for the norm behind the pooling, there `head.norm`.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.base import BlockedBackbone, Features
from bob_jax.backbones.layers import (
    LayerNorm,
    Linear,
    Mlp,
    attention,
    compute_dtype,
    drop_path,
    drop_path_ramp,
    linear_init,
    resample_positions,
    torch_default_init,
)
from bob_jax.backbones.windows import to_map, to_windows
from bob_jax.errors import BobError

STRIDE = 4  # of the patch embedding
UNIT = 8  # side of a mask unit, the window of the first two stages, in tokens of the first stage
EPSILON = 1e-6  # of every layer norm
BIAS = 0.02  # start of every bias of a fully connected layer


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 2x2 tokens: [B, H, W, C] to [B, H/2, W/2, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


class PatchEmbed(nnx.Module):
    """Overlapping patches: a 7x7 convolution of stride 4, [B, H, W, 3] to [B, H/4, W/4, C]."""

    def __init__(self, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.proj = nnx.Conv(
            3,
            width,
            (7, 7),
            strides=STRIDE,
            padding=((3, 3), (3, 3)),
            kernel_init=linear_init,
            bias_init=torch_default_init(fan_in=3 * 7 * 7),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Patch embeddings, row by row."""
        return self.proj(images)


class MaskUnitAttention(nnx.Module):
    """Self-attention inside windows or over the whole map, where the queries may be pooled to half the resolution.

    [B, H, W, C] to [B, H, W, C'], or [B, H/2, W/2, C'] with `pool`. `window` counts the tokens before pooling; 0 is the
    whole map.
    """

    def __init__(
        self, in_width: int, width: int, num_heads: int, window: int, pool: bool, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.qkv = Linear(in_width, 3 * width, dtype=dtype, rngs=rngs)
        self.proj = Linear(width, width, dtype=dtype, rngs=rngs)
        self.num_heads, self.window, self.pool = num_heads, window, pool

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attends every query to the tokens of its window."""
        query, key, value = jnp.split(self.qkv(x), 3, axis=-1)
        query = max_pool(query) if self.pool else query
        out_shape = query.shape
        if self.window:
            query = to_windows(query, self.window // 2 if self.pool else self.window)
            key, value = to_windows(key, self.window), to_windows(value, self.window)
        heads = (self._heads(tokens) for tokens in (query, key, value))
        out = attention(*heads).reshape(query.shape)
        return self.proj(to_map(out, *out_shape[1:3]) if self.window else out.reshape(out_shape))

    def _heads(self, tokens: jax.Array) -> jax.Array:
        """[B, M, N, C] windows as [B * M, N, heads, D]; a whole map [B, H, W, C] as [B, H * W, heads, D]."""
        batch, outer, inner, width = tokens.shape
        shape = (batch * outer, inner) if self.window else (batch, outer * inner)
        return tokens.reshape(*shape, self.num_heads, width // self.num_heads)


class Block(nnx.Module):
    """Pre-norm transformer block that may double the width and halve the resolution of the map.

    Where it does, the shortcut is a projection of the normalised input, pooled like the queries.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        num_heads: int,
        window: int,
        pool: bool,
        *,
        depth: int,
        drop_path: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(in_width, epsilon=EPSILON, dtype=dtype)
        self.proj = Linear(in_width, width, dtype=dtype, rngs=rngs) if in_width != width else None
        self.attn = MaskUnitAttention(in_width, width, num_heads, window, pool, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, epsilon=EPSILON, dtype=dtype)
        self.mlp = Mlp(width, 4 * width, "gelu", dtype=dtype, rngs=rngs)
        self.pool = pool
        self.drop_path = drop_path
        self._rescale(depth)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, C] to [B, H, W, C'], or to half of each side; drop path draws once for each branch."""
        normed = self.norm1(x)
        if self.proj is not None:
            x = self.proj(normed)
            x = max_pool(x) if self.pool else x
        x = x + drop_path(self.attn(normed), self.drop_path, rngs)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path, rngs)

    def _rescale(self, depth: int) -> None:
        """Starts the last layer of both branches smaller the deeper the block (counted from 1) lies, as BEiT does."""
        for layer in (self.attn.proj, self.mlp.fc2):
            layer.kernel[...] = layer.kernel[...] / math.sqrt(2 * depth)
        for dense in (self.attn.qkv, self.attn.proj, self.mlp.fc1, self.mlp.fc2, self.proj):
            if dense is not None:
                dense.bias = nnx.Param(jnp.full(dense.kernel.shape[-1], BIAS))


class Hiera(BlockedBackbone):
    """Hiera with four feature maps of strides 4, 8, 16 and 32, the outputs of the stages as they are.

    `pooled` is the mean over the last map, then `norm`. Attention is inside windows of 8 x 8 and 4 x 4 tokens in the
    first two stages and over the whole map behind them; the first block of a stage still has the windows of the stage
    before, and pools.

    Input works whose sides are divisible by 32. Positions are resampled (antialiased bicubic) where it is not
    `input_size`; timm's model knows its own size alone. Windows make such a table periodic, and resampling blurs it
    (arXiv 2311.05613): expect less than from a plain ViT at another size.

    Layers for learning-rate decay: patch embedding and positions are 0, block i is i + 1, the norm behind the pooling
    belongs to the last block.

    Args:
        width: channels of the first stage; doubled by each further one, as are the heads.
        num_heads: attention heads of the first stage.
        stages: blocks of each of the four stages.
        input_size: side of the square input that the position table is for.
        drop_path: stochastic depth rate of the last block; one linear ramp from 0 over all blocks.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights.

    Raises:
        BobError: arguments that contradict each other, or an input whose sides are not divisible by 32.
    """

    strides = (4, 8, 16, 32)
    side_multiple = STRIDE * UNIT

    def __init__(
        self,
        *,
        width: int = 96,
        num_heads: int = 1,
        stages: Sequence[int] = (2, 3, 16, 3),
        input_size: int = 224,
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if len(stages) != 4 or min(stages) < 1:
            raise BobError(f"Hiera: stages {tuple(stages)} must be four positive numbers of blocks")
        if input_size % (STRIDE * UNIT):
            raise BobError(f"Hiera: input_size {input_size} is not divisible by {STRIDE * UNIT}")
        if width % num_heads:
            raise BobError(f"Hiera: width {width} is not divisible by num_heads {num_heads}")
        self.widths = tuple(width * 2**stage for stage in range(4))
        self.feature_dim = self.widths[-1]
        self.stage_ends = tuple(sum(stages[: stage + 1]) - 1 for stage in range(4))
        self.num_layers = sum(stages) + 1
        self.input_size = input_size
        self.grid = (input_size // STRIDE,) * 2
        self.dtype = dtype = compute_dtype(dtype)

        self.patch_embed = PatchEmbed(width, dtype=dtype, rngs=rngs)
        self.pos_embed = nnx.Param(linear_init(rngs.params(), (1, self.grid[0] * self.grid[1], width), jnp.float32))
        rates = iter(drop_path_ramp(drop_path, sum(stages)))
        self.blocks: nnx.List[Block] = nnx.List()
        for stage, blocks in enumerate(stages):
            for index in range(blocks):
                opens = stage > 0 and index == 0
                before = stage - 1 if opens else stage  # whose tokens the block reads
                self.blocks.append(
                    Block(
                        self.widths[before],
                        self.widths[stage],
                        num_heads * 2**stage,
                        UNIT // 2**before if before < 2 else 0,
                        opens,
                        depth=len(self.blocks) + 1,
                        drop_path=next(rates),
                        dtype=dtype,
                        rngs=rngs,
                    )
                )
        self.norm = LayerNorm(self.feature_dim, epsilon=EPSILON, dtype=dtype)

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of [B, H, W, 3] images; `pooled` is [B, D] float32, the maps are in `dtype`."""
        _, height, width, _ = images.shape
        if height % (STRIDE * UNIT) or width % (STRIDE * UNIT):
            raise BobError(
                f"Hiera: input of {height}x{width} pixels is not divisible by {STRIDE * UNIT}, the side of a mask "
                f"unit: resize the images to a multiple of it, e.g. {self.input_size}"
            )
        x = self.patch_embed(images)
        positions = resample_positions(self.pos_embed[...], self.grid, (x.shape[1], x.shape[2]), 0)
        x = x + positions.reshape(1, *x.shape[1:]).astype(x.dtype)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x, rngs=rngs)
            if index in self.stage_ends:
                maps.append(x)
        pooled = self.norm(jnp.mean(x, axis=(1, 2), dtype=jnp.float32))
        return Features(pooled.astype(jnp.float32), tuple(maps))
