"""Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) and its descendants, as timm's `VisionTransformer`.

One class for AugReg, DeiT, DeiT III, DINO, DINOv2, MAE, MoCo v3, CLIP and SigLIP: they differ in a few switches.
Attribute names follow timm's state dict, so that a converter's table is short.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.base import BlockedBackbone, Features, patch_grid
from bob_jax.backbones.layers import (
    Fixed,
    GatedMlp,
    LayerNorm,
    LayerScale,
    Linear,
    Mlp,
    attention,
    compute_dtype,
    drop_path,
    drop_path_ramp,
    resample_positions,
    torch_default_init,
)
from bob_jax.backbones.windows import attend, of_blocks
from bob_jax.errors import BobError, unknown_name

POOLINGS = ("cls", "mean", "map")
POSITIONS = ("learned", "learned_patches", "sincos")
RESAMPLINGS = ("antialiased", "dinov2")


class PatchEmbed(nnx.Module):
    """Cuts images into patches and projects each one: [B, H, W, 3] to [B, H/p, W/p, C]."""

    def __init__(self, patch_size: int, width: int, *, bias: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        init = torch_default_init(fan_in=3 * patch_size**2)
        self.proj = nnx.Conv(
            3,
            width,
            (patch_size, patch_size),
            strides=patch_size,
            padding="VALID",
            use_bias=bias,
            kernel_init=init,
            bias_init=init,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Patch embeddings, row by row."""
        return self.proj(images)


class Attention(nnx.Module):
    """Multi-head self-attention with one matrix for query, key and value, in this order: [B, N, C] to [B, N, C]."""

    def __init__(
        self, width: int, num_heads: int, *, qkv_bias: bool, causal: bool = False, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.qkv = Linear(width, 3 * width, bias=qkv_bias, dtype=dtype, rngs=rngs)
        self.proj = Linear(width, width, dtype=dtype, rngs=rngs)
        self.num_heads, self.causal = num_heads, causal

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attends every token to every other, or, where it is causal, to those before it."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        return self.proj(attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], causal=self.causal))


class AttentionPoolLatent(nnx.Module):
    """Attention pooling with a learned query, then a residual perceptron (SigLIP's MAP head): [B, N, C] to [B, C]."""

    def __init__(
        self, width: int, num_heads: int, hidden: int, activation: str, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        init = nnx.initializers.truncated_normal(width**-0.5)
        self.latent = nnx.Param(init(rngs.params(), (1, 1, width), jnp.float32))
        self.q = Linear(width, width, dtype=dtype, rngs=rngs)
        self.kv = Linear(width, 2 * width, dtype=dtype, rngs=rngs)
        self.proj = Linear(width, width, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.mlp = Mlp(width, hidden, activation, dtype=dtype, rngs=rngs)
        self.num_heads = num_heads

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools all tokens into one."""
        batch, tokens, width = x.shape
        head_dim = width // self.num_heads
        query = jnp.broadcast_to(self.q(self.latent[...]), (batch, 1, width)).reshape(batch, 1, -1, head_dim)
        kv = self.kv(x).reshape(batch, tokens, 2, self.num_heads, head_dim)
        pooled = self.proj(attention(query, kv[:, :, 0], kv[:, :, 1]))
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


class Block(nnx.Module):
    """Pre-norm transformer block: attention and perceptron, each a residual branch. [B, N, C] to [B, N, C]."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden: int,
        *,
        activation: str,
        qkv_bias: bool,
        layer_scale: float | None,
        epsilon: float,
        drop_path: float,
        causal: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.attn = Attention(width, num_heads, qkv_bias=qkv_bias, causal=causal, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.mlp = (
            GatedMlp(width, hidden, dtype=dtype, rngs=rngs)
            if activation == "swiglu"
            else Mlp(width, hidden, activation, dtype=dtype, rngs=rngs)
        )
        self.ls1 = None if layer_scale is None else LayerScale(width, layer_scale)
        self.ls2 = None if layer_scale is None else LayerScale(width, layer_scale)
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, *, window: int = 0, rngs: nnx.Rngs | None) -> jax.Array:
        """Runs both branches; drop path draws once for each. With `window` the tokens are a map [B, h, w, C]."""
        branch = attend(self.attn, self.norm1(x), window)
        x = x + drop_path(branch if self.ls1 is None else self.ls1(branch), self.drop_path, rngs)
        branch = self.mlp(self.norm2(x))
        return x + drop_path(branch if self.ls2 is None else self.ls2(branch), self.drop_path, rngs)


class ViT(BlockedBackbone):
    """Vision Transformer.

    Any input works whose sides are divisible by the patch size: the position table is resampled inside the call.
    The one feature map holds the patch tokens after `norm`; a model with `fc_norm` has no norm before its pooling, and
    its map is the output of the last block.

    Layers for learning-rate decay: patch embedding, tokens, positions and `norm_pre` are 0, block i is i + 1, and what
    follows the blocks belongs to the last one. timm puts `fc_norm` and the attention pool one step higher, with the
    classifier.

    Args:
        patch_size: side of a patch in pixels; the stride of the feature map.
        width: C, channels of a token.
        depth: number of blocks.
        num_heads: attention heads of each block.
        mlp_ratio: hidden width of the perceptron over `width`, the product rounded down. With "swiglu" it counts
            gate and value together.
        input_size: side of the square input that it is made for.
        table_size: side of the square input that the position table is for, where that is another one (DINOv2: 518).
        pooling: "cls", "mean" (of patch tokens) or "map" (attention pool with a learned query, SigLIP).
        fc_norm: the final norm stands behind the pooling and not before it (timm's default for mean pooling).
        class_token: whether there is one.
        registers: number of register tokens (arXiv 2309.16588), behind the class token.
        pre_norm: layer norm before the blocks, and a patch embedding without bias (CLIP).
        activation: "gelu" (exact), "gelu_tanh", "quick_gelu" (OpenAI) or "swiglu" (packed, DINOv2 giant).
        layer_scale: initial value of a learned factor per channel on each branch, or None.
        position: "learned" has entries also for class token and registers, "learned_patches" for patches only
            (DeiT III, DINOv2 with registers). "sincos" (MoCo v3) starts as the fixed two-dimensional table and is
            `layers.Fixed`: loaded and stored like a parameter, never trained.
        resample: how the table becomes one for another grid, see `layers.resample_positions`.
        qkv_bias: biases on query, key and value.
        epsilon: of every layer norm.
        window: side in tokens of the windows that all but four blocks attend in, for detection in large images (ViTDet,
            see `windows.of_blocks`). Class token and registers are left out then, and the mean of the patch tokens
            takes the place of the class token as descriptor. 0: global attention, as published.
        drop_path: stochastic depth rate of the last block; a linear ramp from 0 over the blocks.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights.

    Raises:
        BobError: arguments that contradict each other, or an input whose sides the patch size does not divide.
    """

    def __init__(
        self,
        *,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        input_size: int = 224,
        table_size: int | None = None,
        pooling: Literal["cls", "mean", "map"] = "cls",
        fc_norm: bool = False,
        class_token: bool = True,
        registers: int = 0,
        pre_norm: bool = False,
        activation: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"] = "gelu",
        layer_scale: float | None = None,
        position: Literal["learned", "learned_patches", "sincos"] = "learned",
        resample: Literal["antialiased", "dinov2"] = "antialiased",
        qkv_bias: bool = True,
        epsilon: float = 1e-6,
        window: int = 0,
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.patch_size, self.width, self.input_size = patch_size, width, input_size
        self.pooling, self.position, self.resample = pooling, position, resample
        self.feature_dim, self.strides, self.widths = width, (patch_size,), (width,)
        self.num_layers = depth + 1
        self.side_multiple, self.window = patch_size, window
        self.num_prefix_tokens = class_token + registers
        self.dtype = compute_dtype(dtype)
        table_size = table_size or input_size
        self._check_arguments(num_heads, class_token, table_size)
        self.grid = (table_size // patch_size,) * 2

        self.patch_embed = PatchEmbed(patch_size, width, bias=not pre_norm, dtype=self.dtype, rngs=rngs)
        self.cls_token = nnx.Param(1e-6 * jax.random.normal(rngs.params(), (1, 1, width))) if class_token else None
        self.reg_token = (
            nnx.Param(1e-6 * jax.random.normal(rngs.params(), (1, registers, width))) if registers else None
        )
        self.pos_embed = self._position_table(rngs)

        hidden = int(width * mlp_ratio)
        self.norm_pre = LayerNorm(width, epsilon=epsilon, dtype=self.dtype) if pre_norm else None
        self.blocks = nnx.List(
            Block(
                width,
                num_heads,
                hidden,
                activation=activation,
                qkv_bias=qkv_bias,
                layer_scale=layer_scale,
                epsilon=epsilon,
                drop_path=rate,
                dtype=self.dtype,
                rngs=rngs,
            )
            for rate in drop_path_ramp(drop_path, depth)
        )
        norm = LayerNorm(width, epsilon=epsilon, dtype=self.dtype)
        self.norm = None if fc_norm else norm
        self.fc_norm = norm if fc_norm else None
        self.attn_pool = (
            AttentionPoolLatent(width, num_heads, hidden, activation, epsilon, self.dtype, rngs)
            if pooling == "map"
            else None
        )

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of [B, H, W, 3] images; `pooled` is [B, C] float32, the map [B, H/p, W/p, C] in `dtype`."""
        grid = patch_grid(images, self.patch_size, self)
        x = self._embed(self.patch_embed(images))
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        for block, window in zip(self.blocks, of_blocks(len(self.blocks), self.window, grid), strict=True):
            x = block(x, window=window, rngs=rngs)
        if self.norm is not None:
            x = self.norm(x)
        patches = x.reshape(-1, grid[0] * grid[1], self.width) if self.window else x[:, self.num_prefix_tokens :]
        pooled = self._pool(x, patches)
        return Features(pooled.astype(jnp.float32), (patches.reshape(-1, *grid, self.width),))

    def _embed(self, patches: jax.Array) -> jax.Array:
        """[B, h, w, C] patch embeddings with positions: [B, N, C] class token, registers, patches; in windows a map."""
        batch, grid = patches.shape[0], (patches.shape[1], patches.shape[2])
        x = patches.reshape(batch, -1, self.width)
        prefix = [
            jnp.broadcast_to(token[...].astype(x.dtype), (batch, *token.shape[1:]))
            for token in (self.cls_token, self.reg_token)
            if token is not None
        ]
        in_table = 0 if self.position == "learned_patches" else self.num_prefix_tokens
        positions = resample_positions(self.pos_embed[...], self.grid, grid, in_table, self.resample)
        positions = positions.astype(x.dtype)
        if self.window:
            return patches + positions[:, in_table:].reshape(1, *grid, self.width)
        if self.position == "learned_patches":
            return jnp.concatenate([*prefix, x + positions], axis=1)
        return jnp.concatenate([*prefix, x], axis=1) + positions

    def _pool(self, x: jax.Array, patches: jax.Array) -> jax.Array:
        if self.attn_pool is not None:
            pooled = self.attn_pool(patches)
        elif self.pooling == "mean" or self.window:
            pooled = jnp.mean(patches, axis=1, dtype=jnp.float32)
        else:
            pooled = x[:, 0]
        return pooled if self.fc_norm is None else self.fc_norm(pooled)

    def _position_table(self, rngs: nnx.Rngs) -> nnx.Variable:
        prefix = 0 if self.position == "learned_patches" else self.num_prefix_tokens
        if self.position == "sincos":
            table = sincos_positions(self.grid, self.width)
            return Fixed(jnp.pad(table, ((0, 0), (prefix, 0), (0, 0))))
        shape = (1, prefix + self.grid[0] * self.grid[1], self.width)
        return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

    def _check_arguments(self, num_heads: int, class_token: bool, table_size: int) -> None:
        if self.pooling not in POOLINGS:
            raise unknown_name("pooling", self.pooling, POOLINGS)
        if self.position not in POSITIONS:
            raise unknown_name("position", self.position, POSITIONS)
        if self.resample not in RESAMPLINGS:
            raise unknown_name("resample", self.resample, RESAMPLINGS)
        for name, size in (("input_size", self.input_size), ("table_size", table_size)):
            if size % self.patch_size:
                raise BobError(f"ViT: {name} {size} is not divisible by patch_size {self.patch_size}")
        if self.width % num_heads:
            raise BobError(f"ViT: width {self.width} is not divisible by num_heads {num_heads}")
        if self.position == "sincos" and self.width % 4:
            raise BobError(f"ViT: width {self.width} is not divisible by 4, as position='sincos' needs it")
        if self.pooling == "cls" and not class_token:
            raise BobError("ViT: pooling='cls' needs class_token=True")


def sincos_positions(grid: tuple[int, int], width: int) -> np.ndarray:
    """MoCo v3's fixed table (arXiv 2104.02057), [1, h * w, width] float32, without an entry for the class token.

    Channels are sin row, cos row, sin column, cos column of position / 10000^(i / (width / 4)).
    """
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (rows, columns)]
    table = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1)
    return table[None].astype(np.float32)
