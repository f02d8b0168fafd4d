"""The image encoder of Segment Anything (Kirillov et al. 2023, arXiv 2304.02643), as timm's `VisionTransformerSAM`.

A ViT for large images (ViTDet, arXiv 2203.16527): most blocks attend inside windows, a few over the whole map, all with
relative positions; no class token. Attribute names follow timm's state dict.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.base import BlockedBackbone, Features, patch_grid
from bob_jax.backbones.layers import (
    LayerNorm,
    Linear,
    Mlp,
    compute_dtype,
    drop_path,
    drop_path_ramp,
    resample_positions,
    torch_default_init,
)
from bob_jax.backbones.vit import PatchEmbed
from bob_jax.backbones.windows import in_windows
from bob_jax.errors import BobError

PATCH_SIZE = 16
NECK_WIDTH = 256
EPSILON = 1e-6  # the authors'; timm's blocks have 1e-5


def dense(in_features: int, out_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Linear:
    """A fully connected layer that starts as PyTorch's default: the authors initialise nothing themselves."""
    init = torch_default_init(in_features)
    layer = Linear(in_features, out_features, kernel_init=init, dtype=dtype, rngs=rngs)
    layer.bias = nnx.Param(init(rngs.params(), (out_features,), jnp.float32))
    return layer


class RelativeAttention(nnx.Module):
    """Self-attention whose logits also depend on the distance in rows and in columns: [B, h, w, C] to [B, h, w, C].

    To a logit of query and key come the products of the (unscaled) query with one vector for their distance in rows and
    one for that in columns (MViTv2, arXiv 2112.01526). The tables start at 0.
    """

    def __init__(self, width: int, num_heads: int, side: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.qkv = dense(width, 3 * width, dtype=dtype, rngs=rngs)
        self.proj = dense(width, width, dtype=dtype, rngs=rngs)
        self.rel_pos_h = nnx.Param(jnp.zeros((2 * side - 1, width // num_heads)))
        self.rel_pos_w = nnx.Param(jnp.zeros((2 * side - 1, width // num_heads)))
        self.num_heads = num_heads
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attends every token to every other of its map."""
        _, height, width, _ = x.shape
        qkv = self.qkv(x).reshape(*x.shape[:3], 3, self.num_heads, -1)
        query, key, value = (qkv[..., part, :, :] for part in range(3))
        rows = by_distance(self.rel_pos_h[...], height).astype(self.dtype)
        columns = by_distance(self.rel_pos_w[...], width).astype(self.dtype)
        # h, w are the query's row and column; i, j the key's; n counts heads.
        scaled = query * query.shape[-1] ** -0.5
        logits = jnp.einsum("bhwnd,bijnd->bnhwij", scaled, key, preferred_element_type=jnp.float32)
        logits += jnp.einsum("bhwnd,hid->bnhwi", query, rows, preferred_element_type=jnp.float32)[..., None]
        logits += jnp.einsum("bhwnd,wjd->bnhwj", query, columns, preferred_element_type=jnp.float32)[..., None, :]
        weights = jax.nn.softmax(logits, axis=(-2, -1)).astype(self.dtype)
        return self.proj(jnp.einsum("bnhwij,bijnd->bhwnd", weights, value).reshape(x.shape))


def by_distance(table: jax.Array, side: int) -> jax.Array:
    """The entry for each pair of positions on one axis, [side, side, D], query first.

    Args:
        table: [2 * S - 1, D] for the distances query - key from 1 - S to S - 1; resampled linearly if S is not `side`.
        side: number of positions.
    """
    if table.shape[0] != 2 * side - 1:
        table = jax.image.resize(table, (2 * side - 1, table.shape[1]), "linear", antialias=False)
    place = np.arange(side)
    return jnp.take(table, place[:, None] - place[None, :] + side - 1, axis=0)


class Block(nnx.Module):
    """Pre-norm transformer block with attention inside windows, or over the whole map where `window` is 0.

    [B, h, w, C] to [B, h, w, C]. Maps are padded to whole windows with zeros, which are attended to as well.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        window: int,
        side: int,
        *,
        drop_path: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(width, epsilon=EPSILON, dtype=dtype)
        self.attn = RelativeAttention(width, num_heads, window or side, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, epsilon=EPSILON, dtype=dtype)
        self.mlp = Mlp(width, 4 * width, "gelu", dtype=dtype, rngs=rngs)
        self.mlp.fc1 = dense(width, 4 * width, dtype=dtype, rngs=rngs)
        self.mlp.fc2 = dense(4 * width, width, dtype=dtype, rngs=rngs)
        self.window = window
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """Runs both branches; drop path draws once for each."""
        branch = self.norm1(x)
        branch = in_windows(self.attn, branch, self.window) if self.window else self.attn(branch)
        x = x + drop_path(branch, self.drop_path, rngs)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path, rngs)


class SamViT(BlockedBackbone):
    """Image encoder of Segment Anything: one feature map of stride 16, the output of the neck, 256 channels wide.

    `pooled` is the mean over that map. Input of any size works whose sides are divisible by 16: absolute positions are
    resampled (antialiased bicubic), and linearly the relative ones of blocks that see the whole map.

    Layers for learning-rate decay: patch embedding and positions are 0, block i is i + 1, the neck belongs to the last
    block.

    Args:
        width: channels of a token.
        depth: number of blocks.
        num_heads: attention heads of each block.
        window: side of a window in tokens.
        global_blocks: indices of the blocks that attend over the whole map.
        input_size: side of the square input that the position tables are for.
        drop_path: stochastic depth rate of the last block; one linear ramp from 0 over all blocks.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights.

    Raises:
        BobError: arguments that contradict each other, or an input whose sides are not divisible by 16.
    """

    strides = (PATCH_SIZE,)
    widths = (NECK_WIDTH,)
    side_multiple = PATCH_SIZE
    feature_dim = NECK_WIDTH

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        window: int = 14,
        global_blocks: Sequence[int] = (2, 5, 8, 11),
        input_size: int = 1024,
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if input_size % PATCH_SIZE:
            raise BobError(f"SamViT: input_size {input_size} is not divisible by the patch size {PATCH_SIZE}")
        if width % num_heads:
            raise BobError(f"SamViT: width {width} is not divisible by num_heads {num_heads}")
        if not set(global_blocks) <= set(range(depth)):
            raise BobError(f"SamViT: global_blocks {tuple(global_blocks)} must lie between 0 and {depth - 1}")
        self.num_layers = depth + 1
        self.input_size = input_size
        self.dtype = dtype = compute_dtype(dtype)
        side = input_size // PATCH_SIZE

        self.patch_embed = PatchEmbed(PATCH_SIZE, width, bias=True, dtype=dtype, rngs=rngs)
        self.pos_embed = nnx.Param(jnp.zeros((1, side, side, width)))
        self.blocks = nnx.List(
            Block(
                width,
                num_heads,
                0 if index in global_blocks else window,
                side,
                drop_path=rate,
                dtype=dtype,
                rngs=rngs,
            )
            for index, rate in enumerate(drop_path_ramp(drop_path, depth))
        )
        self.neck = nnx.List(
            [
                self._convolution(width, 1, rngs),
                LayerNorm(NECK_WIDTH, epsilon=EPSILON, dtype=dtype),
                self._convolution(NECK_WIDTH, 3, rngs),
                LayerNorm(NECK_WIDTH, epsilon=EPSILON, dtype=dtype),
            ]
        )

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of [B, H, W, 3] images; `pooled` is [B, 256] float32, the map [B, H/16, W/16, 256] in `dtype`."""
        grid = patch_grid(images, PATCH_SIZE, self)
        x = self.patch_embed(images)
        x = x + self._positions(grid).astype(x.dtype)
        for block in self.blocks:
            x = block(x, rngs=rngs)
        for layer in self.neck:
            x = layer(x)
        return Features(jnp.mean(x, axis=(1, 2), dtype=jnp.float32), (x,))

    def _positions(self, grid: tuple[int, int]) -> jax.Array:
        """[1, h, w, C] for another grid."""
        _, rows, columns, width = self.pos_embed.shape
        table = self.pos_embed[...].reshape(1, rows * columns, width)
        return resample_positions(table, (rows, columns), grid, 0).reshape(1, *grid, width)

    def _convolution(self, in_features: int, kernel: int, rngs: nnx.Rngs) -> nnx.Conv:
        return nnx.Conv(
            in_features,
            NECK_WIDTH,
            (kernel, kernel),
            padding=((kernel // 2, kernel // 2),) * 2,
            use_bias=False,
            kernel_init=torch_default_init(fan_in=in_features * kernel**2),
            dtype=self.dtype,
            rngs=rngs,
        )
