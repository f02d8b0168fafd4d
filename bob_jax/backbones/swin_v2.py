"""Swin Transformer V2 (Liu et al. 2022, arXiv 2111.09883), as timm's `SwinTransformerV2`.

Attribute names follow timm's state dict, except for the two layers of the position bias: `cpb_mlp.fc1`, `cpb_mlp.fc2`.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones import parameters
from bob_jax.backbones.base import Backbone, Features, patch_grid
from bob_jax.backbones.layers import LayerNorm, Linear, Mlp, compute_dtype, drop_path, drop_path_ramp
from bob_jax.backbones.vit import PatchEmbed
from bob_jax.backbones.windows import to_map, to_windows
from bob_jax.errors import BobError

PATCH_SIZE = 4
EPSILON = 1e-5  # of every layer norm
POSITION_HIDDEN = 512  # width of the hidden layer of the position bias
MAX_LOGIT_SCALE = math.log(100.0)
ACROSS_THE_EDGE = -100.0  # on logits of two tokens that only the cyclic shift has brought together


class NormedPatchEmbed(PatchEmbed):
    """Patch embedding with a layer norm behind it: [B, H, W, 3] to [B, H/4, W/4, C]."""

    def __init__(self, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(PATCH_SIZE, width, bias=True, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(width, epsilon=EPSILON, dtype=dtype)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Normalised patch embeddings."""
        return self.norm(super().__call__(images))


class PatchMerging(nnx.Module):
    """Joins 2x2 neighbours and halves their channels, then normalises: [B, H, W, C] to [B, H/2, W/2, 2C].

    Swin V1 normalises the 4C joined channels before the reduction; V2 the 2C behind it. Odd sides get a row of zeros.
    """

    def __init__(self, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.reduction = Linear(4 * width, 2 * width, bias=False, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(2 * width, epsilon=EPSILON, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The four neighbours stand in the order (row, column) = (0, 0), (1, 0), (0, 1), (1, 1)."""
        batch, height, width, channels = x.shape
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        x = x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, channels)
        x = x.transpose(0, 1, 3, 4, 2, 5)
        return self.norm(self.reduction(x.reshape(*x.shape[:3], 4 * channels)))


class PositionBias(nnx.Module):
    """Continuous position bias: a small perceptron from the distance of two tokens to a bias per head.

    Because it is a function of the distance and no table, the window may change after pretraining. It is computed in
    float32 in every call: its input follows from static shapes, its cost is that of (2w - 1)² tokens.
    """

    def __init__(self, num_heads: int, *, rngs: nnx.Rngs):
        self.fc1 = Linear(2, POSITION_HIDDEN, dtype=jnp.float32, rngs=rngs)
        self.fc2 = Linear(POSITION_HIDDEN, num_heads, bias=False, dtype=jnp.float32, rngs=rngs)

    def __call__(self, window: int, pretrained_window: int) -> jax.Array:
        """Biases [heads, N, N] in (0, 16) of the N = window² tokens of a window, row by row."""
        hidden = jax.nn.relu(self.fc1(jnp.asarray(log_distances(window, pretrained_window))))
        by_distance = 16 * jax.nn.sigmoid(self.fc2(hidden))
        # Entry of token a seen from token b: its distance in rows and columns, each counted from 1 - window.
        rows, columns = np.divmod(np.arange(window**2), window)
        place = jnp.asarray(rows * (2 * window - 1) + columns)
        entry = place[:, None] - place[None, :] + 2 * window * (window - 1)
        return jnp.take(by_distance.T, entry, axis=1)


def log_distances(window: int, pretrained_window: int) -> np.ndarray:
    """All distances inside a window on a logarithmic scale, [(2 * window - 1)², 2] float32: rows, then columns.

    The distance d becomes sign(x) * log2(1 + |x|) / log2(8) of x = 8 * d / (pretrained_window - 1) (section 3.3 of the
    paper and its code); 0 for `pretrained_window` says that the weights were trained with this very window.
    """
    steps = np.arange(1 - window, window)
    x = 8 * steps / max((pretrained_window or window) - 1, 1)  # a window of 1 has no distance but 0
    x = np.sign(x) * np.log2(1 + np.abs(x)) / math.log2(8)
    return np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


class WindowAttention(nnx.Module):
    """Scaled cosine attention inside windows, with a learned temperature per head: [B, M, N, C] to [B, M, N, C].

    Queries and values have a bias, keys have none. timm keeps the logarithm of the temperature as [heads, 1, 1], we as
    [heads]: like a bias or a norm it takes no weight decay.
    """

    def __init__(
        self, width: int, num_heads: int, window: int, pretrained_window: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.logit_scale = nnx.Param(jnp.full(num_heads, math.log(10.0)))
        self.cpb_mlp = PositionBias(num_heads, rngs=rngs)
        self.qkv = Linear(width, 3 * width, bias=False, dtype=dtype, rngs=rngs)
        self.q_bias = nnx.Param(jnp.zeros(width))
        self.v_bias = nnx.Param(jnp.zeros(width))
        self.proj = Linear(width, width, dtype=dtype, rngs=rngs)
        self.window, self.pretrained_window = window, pretrained_window
        self.num_heads = num_heads
        self.dtype = dtype

    def __call__(self, x: jax.Array, regions: jax.Array | None) -> jax.Array:
        """Attends the N tokens of each of M windows to each other.

        Args:
            x: [B, M, N, C].
            regions: [M, N] int, the region of the image that a token comes from where windows are shifted; tokens of
                different regions are kept apart. None where they are not shifted.
        """
        qkv_bias = jnp.concatenate([self.q_bias[...], jnp.zeros_like(self.q_bias[...]), self.v_bias[...]])
        qkv = self.qkv(x) + qkv_bias.astype(self.dtype).reshape(1, 1, 1, -1)
        qkv = qkv.reshape(*x.shape[:3], 3, self.num_heads, -1)
        scale = jnp.exp(jnp.minimum(self.logit_scale[...], MAX_LOGIT_SCALE)).reshape(1, 1, 1, -1, 1)
        query = (unit(qkv[..., 0, :, :]) * scale).astype(self.dtype)
        key = unit(qkv[..., 1, :, :]).astype(self.dtype)
        logits = jnp.einsum("bmqhd,bmkhd->bmhqk", query, key, preferred_element_type=jnp.float32)
        logits += self.cpb_mlp(self.window, self.pretrained_window)[None, None]
        if regions is not None:
            apart = regions[:, :, None] != regions[:, None, :]
            logits += jnp.where(apart, ACROSS_THE_EDGE, 0.0)[None, :, None]
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        out = jnp.einsum("bmhqk,bmkhd->bmqhd", weights, qkv[..., 2, :, :])
        return self.proj(out.reshape(x.shape))


def unit(x: jax.Array) -> jax.Array:
    """Vectors over their length, or over 1e-12 where they are shorter (PyTorch's `normalize`), in float32.

    Keys of padding are zeros. The bound stands under the root, because there the gradient at 0 is finite.
    """
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


class PostNorm(LayerNorm):
    """The layer norm behind a residual branch. Scale and bias start at 0, so that each block starts as the identity."""

    def __init__(self, features: int, *, dtype: DTypeLike):
        super().__init__(features, epsilon=EPSILON, dtype=dtype)
        self.scale = nnx.Param(jnp.zeros(features))


class Block(nnx.Module):
    """Post-norm transformer block: attention in windows, then a perceptron. [B, H, W, C] to [B, H, W, C].

    With `shift` the windows lie so many rows and columns further down and right, on an image that is closed to a torus.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        window: int,
        shift: int,
        pretrained_window: int,
        *,
        drop_path: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.attn = WindowAttention(width, num_heads, window, pretrained_window, dtype=dtype, rngs=rngs)
        self.norm1 = PostNorm(width, dtype=dtype)
        self.mlp = Mlp(width, 4 * width, "gelu", dtype=dtype, rngs=rngs)
        self.norm2 = PostNorm(width, dtype=dtype)
        self.window, self.shift = window, shift
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """Runs both branches; drop path draws once for each."""
        x = x + drop_path(self.norm1(self._attend(x)), self.drop_path, rngs)
        return x + drop_path(self.norm2(self.mlp(x)), self.drop_path, rngs)

    def _attend(self, x: jax.Array) -> jax.Array:
        """Attention of the whole map, padded with zeros to whole windows: padding is attended to, as in timm."""
        _, height, width, _ = x.shape
        x = jnp.roll(x, (-self.shift, -self.shift), axis=(1, 2))
        rows, columns = (side + -side % self.window for side in (height, width))
        regions = shifted_regions(rows, columns, self.window, self.shift) if self.shift else None
        x = to_map(self.attn(to_windows(x, self.window), regions), height, width)
        return jnp.roll(x, (self.shift, self.shift), axis=(1, 2))


def shifted_regions(height: int, width: int, window: int, shift: int) -> jax.Array:
    """Which of nine regions each token of a shifted map is from, [M, window²].

    The last windows hold rows (and columns) from both ends of the image: what lies `shift` from the end was at the
    beginning before.
    """
    rows, columns = (
        (np.arange(side) >= side - window).astype(np.int32) + (np.arange(side) >= side - shift)
        for side in (height, width)
    )
    regions = jnp.asarray(3 * rows[:, None] + columns[None, :])
    return to_windows(regions[None, :, :, None], window)[0, :, :, 0]


class Stage(nnx.Module):
    """Blocks at one resolution, every second one shifted, behind a patch merging (none in the first stage)."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        window: int,
        shift: int,
        pretrained_window: int,
        *,
        merge: bool,
        drop_paths: Sequence[float],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.downsample = PatchMerging(width // 2, dtype=dtype, rngs=rngs) if merge else None
        self.blocks = nnx.List(
            Block(
                width,
                num_heads,
                window,
                shift if index % 2 else 0,
                pretrained_window,
                drop_path=rate,
                dtype=dtype,
                rngs=rngs,
            )
            for index, rate in enumerate(drop_paths)
        )

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, C] to [B, H/2, W/2, 2C], or of the same shape in the first stage."""
        if self.downsample is not None:
            x = self.downsample(x)
        for block in self.blocks:
            x = block(x, rngs=rngs)
        return x


class SwinV2(Backbone):
    """Swin Transformer V2 with four feature maps of strides 4, 8, 16 and 32.

    The maps are the outputs of the stages as they are; `pooled` is the mean over the last one after `norm`.

    A stage's window is `window`, or its whole map at `input_size` where that is smaller; where the map is not larger
    than the window there is no shift. Windows are fixed with the module, as the function that was trained depends on
    them. Input of any other size works whose sides are divisible by 4: maps are padded with zeros to whole windows,
    and odd ones before merging, as in timm's models with `strict_img_size=False`; sides of the maps are rounded up.

    Layers for learning-rate decay: the patch embedding is 0, then every block is one, in order; a patch merging belongs
    to the block behind it, the last norm to the last block.

    Args:
        width: channels of the first stage; doubled by each further one.
        depths: blocks of each of the four stages.
        num_heads: attention heads of each stage.
        window: side of a window in tokens.
        pretrained_windows: for each stage the window that the position bias was trained with, where another was
            pretrained before; 0 where it is the same.
        input_size: side of the square input that the windows are for.
        drop_path: stochastic depth rate of the last block; one linear ramp from 0 over all blocks.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights.

    Raises:
        BobError: arguments that contradict each other, or an input whose sides are not divisible by 4.
    """

    strides = (4, 8, 16, 32)
    side_multiple = PATCH_SIZE

    def __init__(
        self,
        *,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 8,
        pretrained_windows: Sequence[int] = (0, 0, 0, 0),
        input_size: int = 256,
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.widths = tuple(width * 2**stage for stage in range(4))
        self.feature_dim = self.widths[-1]
        self.depths = tuple(depths)
        self.num_layers = sum(depths) + 1
        self.input_size = input_size
        self.dtype = dtype = compute_dtype(dtype)
        self._check_arguments(num_heads, pretrained_windows)

        self.patch_embed = NormedPatchEmbed(width, dtype=dtype, rngs=rngs)
        rates = drop_path_ramp(drop_path, sum(depths))
        self.layers: nnx.List[Stage] = nnx.List()
        for stage, depth in enumerate(depths):
            first = sum(depths[:stage])
            side = -(-input_size // self.strides[stage])
            self.layers.append(
                Stage(
                    self.widths[stage],
                    num_heads[stage],
                    min(window, side),
                    window // 2 if side > window else 0,
                    pretrained_windows[stage],
                    merge=stage > 0,
                    drop_paths=rates[first : first + depth],
                    dtype=dtype,
                    rngs=rngs,
                )
            )
        self.norm = LayerNorm(self.feature_dim, epsilon=EPSILON, dtype=dtype)

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of [B, H, W, 3] images; `pooled` is [B, D] float32, the maps are in `dtype`."""
        patch_grid(images, PATCH_SIZE, self)
        x = self.patch_embed(images)
        maps = []
        for stage in self.layers:
            x = stage(x, rngs=rngs)
            maps.append(x)
        return Features(jnp.mean(self.norm(x), axis=(1, 2), dtype=jnp.float32), tuple(maps))

    def layer_of(self, path: str) -> int:
        """The layer of a parameter for learning-rate decay; see the class."""
        parameters.variable(self, path)
        part, *rest = path.split(".")
        if part == "layers":
            before, block = sum(self.depths[: int(rest[0])]), int(rest[2]) if rest[1] == "blocks" else 0
            return before + block + 1
        return self.num_layers - 1 if part == "norm" else 0

    def _check_arguments(self, num_heads: Sequence[int], pretrained_windows: Sequence[int]) -> None:
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise BobError(f"SwinV2: depths {self.depths} must be four positive numbers of blocks")
        for name, values in (("num_heads", num_heads), ("pretrained_windows", pretrained_windows)):
            if len(values) != 4:
                raise BobError(f"SwinV2: {name} {tuple(values)} must be four numbers, one for each stage")
        if self.input_size % PATCH_SIZE:
            raise BobError(f"SwinV2: input_size {self.input_size} is not divisible by the patch size {PATCH_SIZE}")
        for width, heads in zip(self.widths, num_heads, strict=True):
            if width % heads:
                raise BobError(f"SwinV2: width {width} of a stage is not divisible by its {heads} heads")
