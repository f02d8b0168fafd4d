"""Vision Transformers with rotary positions, as timm's `Eva`: EVA-02, EVA-02-CLIP, DINOv3, EUPE, Perception Encoder.

EVA-02 (Fang et al. 2023, arXiv 2303.11331) put SwiGLU, rotary positions and norms inside of the branches into a BEiT;
DINOv3 (arXiv 2508.10104), EUPE (2603.22387) and the Perception Encoder (2504.13181) share the rotary positions.
Attribute names follow timm's state dict. Where timm has query, key and value, or gate and value, in separate matrices
(EVA-02 B and L, DINOv3 S+ and H+), here they are one, and the converter's table joins them.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.base import BlockedBackbone, Features, patch_grid
from bob_jax.backbones.beit import branch_init, split_heads
from bob_jax.backbones.layers import (
    LayerNorm,
    LayerScale,
    Linear,
    Mlp,
    attention,
    compute_dtype,
    drop_path,
    drop_path_ramp,
    resample_positions,
)
from bob_jax.backbones.rope import ROTARY, Rotary
from bob_jax.backbones.vit import AttentionPoolLatent, PatchEmbed
from bob_jax.backbones.windows import attend, of_blocks
from bob_jax.errors import BobError, unknown_name

POOLINGS = ("cls", "mean", "map")
FINAL_NORMS = ("norm", "fc_norm", "none")
BIASES = ("none", "qv", "qkv")
ACTIVATIONS = ("gelu", "swiglu")


class Attention(nnx.Module):
    """Multi-head self-attention with rotary positions and an optional norm of its output: [B, N, C] to [B, N, C].

    With `bias` "qv" only query and value have one, as in BEiT.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        bias: str,
        norm: bool,
        rotary: Rotary,
        epsilon: float,
        proj_init: nnx.Initializer,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.qkv = Linear(width, 3 * width, bias=bias == "qkv", dtype=dtype, rngs=rngs)
        self.q_bias = nnx.Param(jnp.zeros(width)) if bias == "qv" else None
        self.v_bias = nnx.Param(jnp.zeros(width)) if bias == "qv" else None
        self.norm = LayerNorm(width, epsilon=epsilon, dtype=dtype) if norm else None
        self.proj = Linear(width, width, kernel_init=proj_init, dtype=dtype, rngs=rngs)
        self.num_heads, self.rotary = num_heads, rotary

    def __call__(self, x: jax.Array, tables: tuple[np.ndarray, np.ndarray]) -> jax.Array:
        """Attends every token to every other; `tables` are those of `rotary` for the N tokens."""
        qkv = split_heads(self.qkv(x), self.q_bias, self.v_bias, self.num_heads)
        query_and_key = self.rotary.rotate(qkv[:, :, :2], tables)
        out = attention(query_and_key[:, :, 0], query_and_key[:, :, 1], qkv[:, :, 2])
        return self.proj(out if self.norm is None else self.norm(out))


class SwiGLU(nnx.Module):
    """Gated perceptron silu(gate) * value (Shazeer 2020, arXiv 2002.05202): [..., C] to [..., C].

    Gate and value are packed in one matrix, gate first. `layers.GatedMlp` starts from other weights and has no norm.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        *,
        norm: bool,
        epsilon: float,
        fc2_init: nnx.Initializer,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.fc1 = Linear(features, 2 * hidden, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(hidden, epsilon=epsilon, dtype=dtype) if norm else None
        self.fc2 = Linear(hidden, features, kernel_init=fc2_init, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies both layers."""
        gate, value = jnp.split(self.fc1(x), 2, axis=-1)
        hidden = jax.nn.silu(gate) * value
        return self.fc2(hidden if self.norm is None else self.norm(hidden))


class Block(nnx.Module):
    """Pre-norm transformer block: attention and perceptron, each a residual branch. [B, N, C] to [B, N, C]."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden: int,
        *,
        index: int,
        activation: str,
        inner_norms: tuple[bool, bool],
        bias: str,
        layer_scale: float | None,
        rotary: Rotary,
        epsilon: float,
        drop_path: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        attention_norm, mlp_norm = inner_norms
        init = branch_init(index)
        self.norm1 = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.attn = Attention(
            width,
            num_heads,
            bias=bias,
            norm=attention_norm,
            rotary=rotary,
            epsilon=epsilon,
            proj_init=init,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm2 = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.mlp: SwiGLU | Mlp
        if activation == "swiglu":
            self.mlp = SwiGLU(width, hidden, norm=mlp_norm, epsilon=epsilon, fc2_init=init, dtype=dtype, rngs=rngs)
        else:
            self.mlp = Mlp(width, hidden, activation, dtype=dtype, rngs=rngs)
            self.mlp.fc2 = Linear(hidden, width, kernel_init=init, dtype=dtype, rngs=rngs)
        self.ls1 = None if layer_scale is None else LayerScale(width, layer_scale)
        self.ls2 = None if layer_scale is None else LayerScale(width, layer_scale)
        self.drop_path = drop_path

    def __call__(
        self, x: jax.Array, tables: tuple[np.ndarray, np.ndarray], *, window: int, rngs: nnx.Rngs | None
    ) -> jax.Array:
        """Runs both branches; drop path draws once for each. With `window` the tokens are a map [B, h, w, C]."""
        branch = attend(lambda tokens: self.attn(tokens, tables), self.norm1(x), window)
        x = x + drop_path(branch if self.ls1 is None else self.ls1(branch), self.drop_path, rngs)
        branch = self.mlp(self.norm2(x))
        return x + drop_path(branch if self.ls2 is None else self.ls2(branch), self.drop_path, rngs)


class Eva(BlockedBackbone):
    """Vision Transformer with a class token and rotary positions.

    Any input works whose sides are divisible by the patch size: rotary positions are computed for its grid, a learned
    position table is resampled inside the call (antialiased bicubic, as timm with a dynamic image size).
    The one feature map holds the patch tokens after `norm`; without `norm` it is the output of the last block.

    Layers for learning-rate decay: patch embedding, tokens, positions and `norm_pre` are 0, block i is i + 1, and what
    follows the blocks belongs to the last one.

    Args:
        patch_size: side of a patch in pixels; the stride of the feature map.
        width: C, channels of a token.
        depth: number of blocks.
        num_heads: attention heads of each block; each has a width divisible by 4.
        mlp_ratio: hidden width of the perceptron over `width`, the product rounded down; "swiglu" has a gate and a
            value of this width each.
        input_size: side of the square input that the position table is for.
        pooling: "cls", "mean" (of patch tokens) or "map" (attention pool over all tokens with a learned query).
        pool_heads: attention heads of the "map" pool.
        final_norm: "norm" stands before the pooling, "fc_norm" behind it (EVA-02 after masked image modelling); "none"
            where the checkpoint has neither (Perception Encoder, spatial).
        registers: number of register tokens (arXiv 2309.16588), behind the class token.
        pre_norm: layer norm before the blocks, and a patch embedding without bias (Perception Encoder).
        activation: "gelu" (exact) or "swiglu".
        attention_norm: layer norm between attention and its output matrix (EVA-02-CLIP).
        mlp_norm: layer norm before the last matrix of a "swiglu" perceptron.
        layer_scale: initial value of a learned factor per channel on each branch, or None.
        rotary: the family that rotary positions are computed for: "eva02", "dinov3" or "pe"; see `rope.ROTARY`.
        position_table: a learned absolute position for each token, besides the rotary ones.
        qkv_bias: biases on query and value ("qv"), on the key too ("qkv"), or "none".
        epsilon: of every layer norm.
        window: side in tokens of the windows that all but four blocks attend in, for detection in large images (ViTDet,
            see `windows.of_blocks`). Class token and registers are left out then, and the mean of the patch tokens
            takes the place of the class token as descriptor. A window's rotary positions are those of an image of its
            size, as in EVA-02's own detector: tokens stand as far apart as in pretraining. 0: global attention, as
            published.
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
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        input_size: int = 224,
        pooling: Literal["cls", "mean", "map"] = "cls",
        pool_heads: int = 8,
        final_norm: Literal["norm", "fc_norm", "none"] = "norm",
        registers: int = 0,
        pre_norm: bool = False,
        activation: Literal["gelu", "swiglu"] = "gelu",
        attention_norm: bool = False,
        mlp_norm: bool = False,
        layer_scale: float | None = None,
        rotary: Literal["eva02", "dinov3", "pe"] = "eva02",
        position_table: bool = True,
        qkv_bias: Literal["none", "qv", "qkv"] = "qv",
        epsilon: float = 1e-6,
        window: int = 0,
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        _check(pooling=(pooling, POOLINGS), final_norm=(final_norm, FINAL_NORMS), rotary=(rotary, tuple(ROTARY)))
        _check(activation=(activation, ACTIVATIONS), qkv_bias=(qkv_bias, BIASES))
        self.patch_size, self.width, self.input_size, self.pooling = patch_size, width, input_size, pooling
        self.feature_dim, self.strides, self.widths = width, (patch_size,), (width,)
        self.num_layers = depth + 1
        self.side_multiple, self.window = patch_size, window
        self.num_prefix_tokens = 1 + registers
        self.head_dim, self.rotary = width // num_heads, ROTARY[rotary]
        self.dtype = compute_dtype(dtype)
        if input_size % patch_size:
            raise BobError(f"Eva: input_size {input_size} is not divisible by patch_size {patch_size}")
        if width % (4 * num_heads):
            raise BobError(
                f"Eva: width {width} is not divisible by 4 * num_heads = {4 * num_heads}, as rotary needs it"
            )
        if mlp_norm and activation != "swiglu":
            raise BobError("Eva: mlp_norm=True needs activation='swiglu'")
        self.grid = (input_size // patch_size,) * 2

        def token(count: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, count, width)))

        self.patch_embed = PatchEmbed(patch_size, width, bias=not pre_norm, dtype=self.dtype, rngs=rngs)
        self.cls_token = token(1)
        self.reg_token = token(registers) if registers else None
        self.pos_embed = token(self.num_prefix_tokens + self.grid[0] * self.grid[1]) if position_table else None
        self.norm_pre = LayerNorm(width, epsilon=epsilon, dtype=self.dtype) if pre_norm else None
        hidden = int(width * mlp_ratio)
        self.blocks = nnx.List(
            Block(
                width,
                num_heads,
                hidden,
                index=index,
                activation=activation,
                inner_norms=(attention_norm, mlp_norm),
                bias=qkv_bias,
                layer_scale=layer_scale,
                rotary=self.rotary,
                epsilon=epsilon,
                drop_path=rate,
                dtype=self.dtype,
                rngs=rngs,
            )
            for index, rate in enumerate(drop_path_ramp(drop_path, depth))
        )
        norm = LayerNorm(width, epsilon=epsilon, dtype=self.dtype)
        self.norm = norm if final_norm == "norm" else None
        self.fc_norm = norm if final_norm == "fc_norm" else None
        self.attn_pool = (
            AttentionPoolLatent(width, pool_heads, hidden, "gelu", epsilon, self.dtype, rngs)
            if pooling == "map"
            else None
        )

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of [B, H, W, 3] images; `pooled` is [B, C] float32, the map [B, H/p, W/p, C] in `dtype`."""
        batch = len(images)
        grid = patch_grid(images, self.patch_size, self)
        prefix = 0 if self.window else self.num_prefix_tokens
        windows = of_blocks(len(self.blocks), self.window, grid)
        tables = {
            window: self.rotary.tables((window, window) if window else grid, self.grid, self.head_dim, prefix)
            for window in set(windows)
        }
        x = self._embed(self.patch_embed(images))
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        for block, window in zip(self.blocks, windows, strict=True):
            x = block(x, tables[window], window=window, rngs=rngs)
        if self.norm is not None:
            x = self.norm(x)
        x = x.reshape(batch, -1, self.width)
        patches = x[:, prefix:]
        pooled = self._pool(x, patches)
        return Features(pooled.astype(jnp.float32), (patches.reshape(batch, *grid, self.width),))

    def _embed(self, patches: jax.Array) -> jax.Array:
        """[B, h, w, C] patch embeddings to [B, N, C] class token, registers and patches, or in windows to a map."""
        batch, height, width, channels = patches.shape
        positions = None
        if self.pos_embed is not None:
            table = resample_positions(self.pos_embed[...], self.grid, (height, width), self.num_prefix_tokens)
            positions = table.astype(patches.dtype)
        if self.window:
            x = patches
            positions = None if positions is None else positions[:, self.num_prefix_tokens :].reshape(1, *x.shape[1:])
        else:
            tokens = [self.cls_token] if self.reg_token is None else [self.cls_token, self.reg_token]
            prefix = [jnp.broadcast_to(one[...].astype(patches.dtype), (batch, *one.shape[1:])) for one in tokens]
            x = jnp.concatenate([*prefix, patches.reshape(batch, -1, channels)], axis=1)
        return x if positions is None else x + positions

    def _pool(self, x: jax.Array, patches: jax.Array) -> jax.Array:
        if self.attn_pool is not None:
            pooled = self.attn_pool(x)
        elif self.pooling == "mean" or self.window:
            pooled = jnp.mean(patches, axis=1, dtype=jnp.float32)
        else:
            pooled = x[:, 0]
        return pooled if self.fc_norm is None else self.fc_norm(pooled)


def _check(**choices: tuple[str, tuple[str, ...]]) -> None:
    for what, (name, known) in choices.items():
        if name not in known:
            raise unknown_name(what, name, known)
