"""AIMv2's image encoder (Fini et al. 2024, arXiv 2411.14402): a Vision Transformer in the manner of language models.

RMS norms, gated perceptrons, no biases behind the patch embedding and no class token. Attribute names follow timm's
state dict; gate and value, two matrices there, are one here.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.base import BlockedBackbone, Features, patch_grid
from bob_jax.backbones.layers import (
    Linear,
    attention,
    compute_dtype,
    drop_path,
    drop_path_ramp,
    linear_init,
    resample_positions,
)
from bob_jax.backbones.vit import PatchEmbed
from bob_jax.backbones.windows import attend, of_blocks
from bob_jax.errors import BobError


class RMSNorm(nnx.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019, arXiv 1910.07467) over the last axis, in float32."""

    def __init__(self, features: int, *, epsilon: float, dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones(features))
        self.epsilon, self.dtype = epsilon, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., C]."""
        x = x.astype(jnp.float32)
        factor = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * factor * self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))).astype(self.dtype)


class NormedPatchEmbed(PatchEmbed):
    """Patch embeddings, each one normed: [B, H, W, 3] to [B, H/p, W/p, C]."""

    def __init__(self, patch_size: int, width: int, *, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(patch_size, width, bias=True, dtype=dtype, rngs=rngs)
        self.norm = RMSNorm(width, epsilon=epsilon, dtype=dtype)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Patch embeddings, row by row."""
        return self.norm(self.proj(images))


class Attention(nnx.Module):
    """Multi-head self-attention without biases: [B, N, C] to [B, N, C]."""

    def __init__(self, width: int, num_heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.qkv = Linear(width, 3 * width, bias=False, dtype=dtype, rngs=rngs)
        self.proj = Linear(width, width, bias=False, dtype=dtype, rngs=rngs)
        self.num_heads = num_heads

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attends every token to every other."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        return self.proj(attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]))


class SwiGLU(nnx.Module):
    """Gated perceptron silu(gate) * value without biases, gate first in one matrix: [..., C] to [..., C].

    The gate starts near 0, as timm initialises it: a fresh block is its attention alone.
    """

    def __init__(self, features: int, hidden: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
            return linear_init(key, shape, dtype).at[:, :hidden].multiply(1e-6 / 0.02)

        self.fc1 = Linear(features, 2 * hidden, bias=False, kernel_init=init, dtype=dtype, rngs=rngs)
        self.fc2 = Linear(hidden, features, bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies both layers."""
        gate, value = jnp.split(self.fc1(x), 2, axis=-1)
        return self.fc2(jax.nn.silu(gate) * value)


class Block(nnx.Module):
    """Pre-norm transformer block: attention and perceptron, each a residual branch. [B, h, w, C] to the same."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden: int,
        *,
        epsilon: float,
        drop_path: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = RMSNorm(width, epsilon=epsilon, dtype=dtype)
        self.attn = Attention(width, num_heads, dtype=dtype, rngs=rngs)
        self.norm2 = RMSNorm(width, epsilon=epsilon, dtype=dtype)
        self.mlp = SwiGLU(width, hidden, dtype=dtype, rngs=rngs)
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, *, window: int, rngs: nnx.Rngs | None) -> jax.Array:
        """Runs both branches on a map [B, h, w, C]; drop path draws once for each."""
        x = x + drop_path(attend(self.attn, self.norm1(x), window), self.drop_path, rngs)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path, rngs)


class AIMv2(BlockedBackbone):
    """AIMv2's image encoder.

    Any input works whose sides are divisible by the patch size: the position table is resampled inside the call
    (antialiased bicubic, as timm). The one feature map holds the patch tokens after `norm`, the descriptor is their
    mean.

    Layers for learning-rate decay: patch embedding and positions are 0, block i is i + 1, `norm` belongs to the last
    one.

    Args:
        patch_size: side of a patch in pixels; the stride of the feature map.
        width: C, channels of a token.
        depth: number of blocks.
        num_heads: attention heads of each block.
        mlp_ratio: hidden width of the perceptron, of gate and value each, over `width`; rounded down.
        input_size: side of the square input that the position table is for.
        epsilon: of every RMS norm.
        window: side in tokens of the windows that all but four blocks attend in, for detection in large images (ViTDet,
            see `windows.of_blocks`). 0: global attention, as published.
        drop_path: stochastic depth rate of the last block; a linear ramp from 0 over the blocks.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights.

    Raises:
        BobError: arguments that contradict each other, or an input whose sides the patch size does not divide.
    """

    def __init__(
        self,
        *,
        patch_size: int = 14,
        width: int = 1024,
        depth: int = 24,
        num_heads: int = 8,
        mlp_ratio: float = 2.75,
        input_size: int = 224,
        epsilon: float = 1e-5,
        window: int = 0,
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.patch_size, self.width, self.input_size = patch_size, width, input_size
        self.feature_dim, self.strides, self.widths = width, (patch_size,), (width,)
        self.side_multiple, self.window = patch_size, window
        self.num_layers = depth + 1
        self.dtype = compute_dtype(dtype)
        if input_size % patch_size:
            raise BobError(f"AIMv2: input_size {input_size} is not divisible by patch_size {patch_size}")
        if width % num_heads:
            raise BobError(f"AIMv2: width {width} is not divisible by num_heads {num_heads}")
        self.grid = (input_size // patch_size,) * 2
        self.patch_embed = NormedPatchEmbed(patch_size, width, epsilon=epsilon, dtype=self.dtype, rngs=rngs)
        shape = (1, self.grid[0] * self.grid[1], width)
        self.pos_embed = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        hidden = int(width * mlp_ratio)
        self.blocks = nnx.List(
            Block(width, num_heads, hidden, epsilon=epsilon, drop_path=rate, dtype=self.dtype, rngs=rngs)
            for rate in drop_path_ramp(drop_path, depth)
        )
        self.norm = RMSNorm(width, epsilon=epsilon, dtype=self.dtype)

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of [B, H, W, 3] images; `pooled` is [B, C] float32, the map [B, H/p, W/p, C] in `dtype`."""
        grid = patch_grid(images, self.patch_size, self)
        positions = resample_positions(self.pos_embed[...], self.grid, grid, num_prefix_tokens=0)
        x = self.patch_embed(images)
        x = x + positions.reshape(1, *grid, self.width).astype(x.dtype)
        for block, window in zip(self.blocks, of_blocks(len(self.blocks), self.window, grid), strict=True):
            x = block(x, window=window, rngs=rngs)
        x = self.norm(x)
        return Features(jnp.mean(x, axis=(1, 2), dtype=jnp.float32), (x,))
