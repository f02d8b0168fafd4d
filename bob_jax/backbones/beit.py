"""BEiT (Bao et al. 2022, arXiv 2106.08254) and BEiT v2 (Peng et al. 2022, arXiv 2208.06366), as timm's `Beit`.

A Vision Transformer whose only positions are biases of the attention, learned in each block for every distance between
two patches. Attribute names follow timm's state dict.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.base import BlockedBackbone, Features, patch_grid
from bob_jax.backbones.layers import (
    LayerNorm,
    LayerScale,
    Linear,
    Mlp,
    compute_dtype,
    drop_path,
    drop_path_ramp,
)
from bob_jax.backbones.vit import PatchEmbed
from bob_jax.backbones.windows import attend, of_blocks
from bob_jax.errors import BobError

Grid = tuple[int, int]
CLASS_TOKEN_ENTRIES = 3  # at the end of a bias table: class token to patch, patch to class token, class token to itself


def branch_init(index: int) -> nnx.Initializer:
    """Of the last matrix of both branches of block `index`, counted from 0: the deeper, the smaller."""
    return nnx.initializers.normal(0.02 / math.sqrt(2 * (index + 1)))


def split_heads(qkv: jax.Array, q_bias: nnx.Variable | None, v_bias: nnx.Variable | None, num_heads: int) -> jax.Array:
    """[B, N, 3 * C] queries, keys and values, with biases added where there are any, as [B, N, 3, heads, C / heads].

    The key has no bias of its own: one that all keys share adds the same to every logit of a query, which a softmax
    cannot see. (With rotary positions it could, but EVA-02 has kept BEiT's choice.)
    """
    batch, tokens, channels = qkv.shape
    if q_bias is not None and v_bias is not None:
        bias = jnp.concatenate([q_bias[...], jnp.zeros_like(q_bias[...]), v_bias[...]])
        qkv = qkv + bias.reshape(1, 1, -1).astype(qkv.dtype)
    return qkv.reshape(batch, tokens, 3, num_heads, channels // (3 * num_heads))


def relative_index(grid: Grid) -> np.ndarray:
    """Row of the bias table for each pair of tokens (query, key), [N, N] with N = 1 + h * w; the class token is first.

    The rows of a table stand for (row distance, column distance), both from -(n - 1) to n - 1, query minus key.
    """
    height, width = grid
    rows, columns = (axis.reshape(-1) for axis in np.indices(grid))
    row_distance = rows[:, None] - rows[None, :] + height - 1
    column_distance = columns[:, None] - columns[None, :] + width - 1
    index = np.pad(row_distance * (2 * width - 1) + column_distance, ((1, 0), (1, 0)))
    distances = (2 * height - 1) * (2 * width - 1)
    index[0, :], index[:, 0], index[0, 0] = distances, distances + 1, distances + 2
    return index


def resample_relative(table: jax.Array, old: Grid, new: Grid) -> jax.Array:
    """A bias table for another grid, as BEiT's fine-tuning code and timm's `resize_rel_pos_bias_table` make it.

    Both put the old distances at growing intervals, so that near ones stay what they are and far ones are stretched
    until the two extents meet, and read the new table off by linear interpolation. (BEiT itself interpolates with
    cubic splines.) A smaller grid takes the middle of the table. Both axes are resampled if one of them changes.

    Args:
        table: [(2h - 1) * (2w - 1) + 3, heads] float32.
        old: (h, w) of the table.
        new: (h', w') wanted.

    Returns:
        [(2h' - 1) * (2w' - 1) + 3, heads].
    """
    if old == new:
        return table
    distances, extra = table[:-CLASS_TOKEN_ENTRIES], table[-CLASS_TOKEN_ENTRIES:]
    distances = distances.reshape(2 * old[0] - 1, 2 * old[1] - 1, -1)
    along_rows, along_columns = (_stretched(a, b) for a, b in zip(old, new, strict=True))
    distances = jnp.einsum("ia,abh,jb->ijh", along_rows, distances, along_columns)
    return jnp.concatenate([distances.reshape(-1, table.shape[-1]), extra])


def _stretched(old: int, new: int) -> np.ndarray:
    """Interpolation matrix [2 * new - 1, 2 * old - 1] from old distances on one axis to new ones."""
    ratio = _growth(old - 1, new - 1)
    outward = np.cumsum(ratio ** np.arange(old - 1))
    positions = np.concatenate([-outward[::-1], [0.0], outward])
    wanted = np.arange(-(new - 1), new)
    return np.stack([np.interp(wanted, positions, one) for one in np.eye(2 * old - 1)], axis=1).astype(np.float32)


def _growth(steps: int, extent: int) -> float:
    """The ratio q in [1.01, 1.5] with 1 + q + ... + q^(steps - 1) = extent, or the nearer bound.

    By the reference's bisection with its tolerance, because the tolerance shows in the sixth digit of a position.
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        middle = (low + high) / 2
        if (1 - middle**steps) / (1 - middle) > extent:
            high = middle
        else:
            low = middle
    return middle


class Attention(nnx.Module):
    """Multi-head self-attention with a bias per head and relative position: [B, N, C] to [B, N, C]."""

    def __init__(
        self, width: int, num_heads: int, grid: Grid, *, proj_init: nnx.Initializer, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        distances = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        self.qkv = Linear(width, 3 * width, bias=False, dtype=dtype, rngs=rngs)
        self.q_bias = nnx.Param(jnp.zeros(width))
        self.v_bias = nnx.Param(jnp.zeros(width))
        self.relative_position_bias_table = nnx.Param(jnp.zeros((distances + CLASS_TOKEN_ENTRIES, num_heads)))
        self.proj = Linear(width, width, kernel_init=proj_init, dtype=dtype, rngs=rngs)
        self.num_heads, self.grid = num_heads, grid

    def __call__(self, x: jax.Array, grid: Grid) -> jax.Array:
        """Attends every token to every other; `grid` is that of the patches, a class token may stand before them."""
        tokens = x.shape[1]
        qkv = split_heads(self.qkv(x), self.q_bias, self.v_bias, self.num_heads)
        table = resample_relative(self.relative_position_bias_table[...], self.grid, grid)
        bias = table[relative_index(grid)[-tokens:, -tokens:]].transpose(2, 0, 1)[None]  # [1, heads, N, N]
        out = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], bias=bias)
        return self.proj(out.reshape(x.shape))


class Block(nnx.Module):
    """Pre-norm transformer block: attention and perceptron, each a scaled residual branch. [B, N, C] to [B, N, C]."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden: int,
        grid: Grid,
        *,
        index: int,
        layer_scale: float,
        epsilon: float,
        drop_path: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        init = branch_init(index)
        self.norm1 = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.attn = Attention(width, num_heads, grid, proj_init=init, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.mlp = Mlp(width, hidden, "gelu", dtype=dtype, rngs=rngs)
        self.mlp.fc2 = Linear(hidden, width, kernel_init=init, dtype=dtype, rngs=rngs)
        self.ls1, self.ls2 = LayerScale(width, layer_scale), LayerScale(width, layer_scale)
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, grid: Grid, *, window: int, rngs: nnx.Rngs | None) -> jax.Array:
        """Runs both branches; drop path draws once for each. With `window` the tokens are a map [B, h, w, C]."""
        attended = (window, window) if window else grid
        branch = attend(lambda tokens: self.attn(tokens, attended), self.norm1(x), window)
        x = x + drop_path(self.ls1(branch), self.drop_path, rngs)
        return x + drop_path(self.ls2(self.mlp(self.norm2(x))), self.drop_path, rngs)


class Beit(BlockedBackbone):
    """BEiT.

    Any input works whose sides are divisible by the patch size: each block's bias table is resampled inside the call,
    see `resample_relative`. The descriptor is `fc_norm` of the mean of the patch tokens; the one feature map is the
    output of the last block, for there is no norm before the pooling.

    Layers for learning-rate decay: patch embedding and class token are 0, block i is i + 1, `fc_norm` belongs to the
    last one.

    Args:
        patch_size: side of a patch in pixels; the stride of the feature map.
        width: C, channels of a token.
        depth: number of blocks.
        num_heads: attention heads of each block.
        input_size: side of the square input that the bias tables are for.
        layer_scale: initial value of the learned factor per channel on each branch; 0.1 for BEiT-B.
        epsilon: of every layer norm.
        window: side in tokens of the windows that all but four blocks attend in, for detection in large images (ViTDet,
            see `windows.of_blocks`); the class token is left out then. A window's biases are those of an image of its
            size: a distance in tokens means what it meant in pretraining. 0: global attention, as published.
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
        input_size: int = 224,
        layer_scale: float = 1e-5,
        epsilon: float = 1e-6,
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
            raise BobError(f"BEiT: input_size {input_size} is not divisible by patch_size {patch_size}")
        if width % num_heads:
            raise BobError(f"BEiT: width {width} is not divisible by num_heads {num_heads}")
        self.patch_embed = PatchEmbed(patch_size, width, bias=True, dtype=self.dtype, rngs=rngs)
        self.cls_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 1, width)))
        self.blocks = nnx.List(
            Block(
                width,
                num_heads,
                4 * width,
                (input_size // patch_size,) * 2,
                index=index,
                layer_scale=layer_scale,
                epsilon=epsilon,
                drop_path=rate,
                dtype=self.dtype,
                rngs=rngs,
            )
            for index, rate in enumerate(drop_path_ramp(drop_path, depth))
        )
        self.fc_norm = LayerNorm(width, epsilon=epsilon, dtype=self.dtype)

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of [B, H, W, 3] images; `pooled` is [B, C] float32, the map [B, H/p, W/p, C] in `dtype`."""
        batch = len(images)
        grid = patch_grid(images, self.patch_size, self)
        x = self.patch_embed(images)
        if not self.window:
            class_token = jnp.broadcast_to(self.cls_token[...].astype(x.dtype), (batch, 1, self.width))
            x = jnp.concatenate([class_token, x.reshape(batch, -1, self.width)], axis=1)
        for block, window in zip(self.blocks, of_blocks(len(self.blocks), self.window, grid), strict=True):
            x = block(x, grid, window=window, rngs=rngs)
        patches = x.reshape(batch, -1, self.width) if self.window else x[:, 1:]
        pooled = self.fc_norm(jnp.mean(patches, axis=1, dtype=jnp.float32))
        return Features(pooled.astype(jnp.float32), (patches.reshape(batch, *grid, self.width),))
