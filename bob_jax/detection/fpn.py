"""Necks: what turns a backbone's feature maps into one pyramid of equal widths, strides 4 to 64.

Hierarchical backbones get a feature pyramid network (Lin et al. 2017, arXiv 1612.03144), plain ones, which have maps of
one stride only, ViTDet's simple feature pyramid (Li et al. 2022, arXiv 2203.16527). Both end in the same levels, so
that anchors, heads and RoIAlign are the same for every backbone. The last level, 64, only proposes: RoIAlign reads the
others (`ROI_LEVELS`).
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.base import Backbone
from bob_jax.backbones.layers import LayerNorm, compute_dtype
from bob_jax.detection.convolutions import ConvNorm, Deconvolution, convolution
from bob_jax.errors import BobError

STRIDES = (4, 8, 16, 32, 64)
ROI_LEVELS = 4  # levels of `STRIDES` that RoIAlign reads
WIDTH = 256


class FPN(nnx.Module):
    """Feature pyramid network: 1x1 laterals, nearest-neighbour top-down sums, 3x3 outputs.

    Levels coarser than the backbone's last are every second cell of the level before. Maps finer than stride 4 or
    coarser than 64 are not read. Attribute names follow torchvision's `FeaturePyramidNetwork`.

    Args:
        strides: of the backbone's maps, finest first; within 4 to 64 each must be twice the one before.
        widths: channels of the backbone's maps.
        width: channels of every level.
        norm: behind every convolution, see `convolutions.ConvNorm`. The published detectors of mmdetection and
            torchvision have none.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights.

    Attributes (static):
        strides: of the levels.
        width: channels of every level.

    Raises:
        BobError: strides that do not double.
    """

    def __init__(
        self,
        strides: Sequence[int],
        widths: Sequence[int],
        *,
        width: int = WIDTH,
        norm: str = "group",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.read = tuple(i for i, stride in enumerate(strides) if STRIDES[0] <= stride <= STRIDES[-1])
        found = [strides[i] for i in self.read]
        if not found or any(after != 2 * before for before, after in itertools.pairwise(found)):
            raise BobError(
                f"FPN: feature maps of strides {tuple(strides)}: from {STRIDES[0]} to {STRIDES[-1]} each must be twice "
                "the one before"
            )
        self.pools = max(0, round(math.log2(STRIDES[-1] / found[-1])))
        self.strides = (*found, *(found[-1] * 2 ** (i + 1) for i in range(self.pools)))
        self.width = width
        dtype = compute_dtype(dtype)
        self.inner_blocks = nnx.List(ConvNorm(widths[i], width, 1, norm, dtype=dtype, rngs=rngs) for i in self.read)
        self.layer_blocks = nnx.List(ConvNorm(width, width, 3, norm, dtype=dtype, rngs=rngs) for _ in self.read)

    def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """The backbone's maps [B, H/s, W/s, C] to levels [B, H/s, W/s, width], finest first."""
        laterals = [block(maps[i]) for block, i in zip(self.inner_blocks, self.read, strict=True)]
        for finer in reversed(range(len(laterals) - 1)):
            above = resize_nearest(laterals[finer + 1], (laterals[finer].shape[1], laterals[finer].shape[2]))
            laterals[finer] = laterals[finer] + above
        levels = [block(x) for block, x in zip(self.layer_blocks, laterals, strict=True)]
        for _ in range(self.pools):
            levels.append(levels[-1][:, ::2, ::2])
        return tuple(levels)


class SimplePyramid(nnx.Module):
    """ViTDet's simple feature pyramid: every level is made of the last map of a plain backbone.

    Finer levels by transposed 2x2 convolutions, each to half the channels, with layer norm and GELU between them;
    coarser ones by 2x2 max pooling, a side rounded up. Then 1x1 and 3x3 convolutions with layer norms, and a last level
    of every second cell. The levels' strides are a patch times powers of two, those nearest to 4, 8, 16, 32 and 64:
    patch 14 gives 3.5 to 56.

    Args:
        patch_size: stride of the map.
        in_features: its channels, divisible by 4 (by 8 for a patch of 32).
        width: channels of every level.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights.

    Attributes (static):
        strides: of the levels.
        width: channels of every level.

    Raises:
        BobError: channels that cannot be halved often enough.
    """

    def __init__(
        self,
        patch_size: int,
        in_features: int,
        *,
        width: int = WIDTH,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        finest = round(math.log2(patch_size / STRIDES[0]))
        self.doublings = tuple(finest - level for level in range(ROI_LEVELS))
        if in_features % 2 ** max(finest, 0):
            raise BobError(f"simple pyramid: {in_features} channels cannot be halved {finest} times for a stride of 4")
        strides = [patch_size / 2**doublings for doublings in (*self.doublings, self.doublings[-1] - 1)]
        self.strides = tuple(int(stride) if stride.is_integer() else stride for stride in strides)
        self.width = width
        self.stages = nnx.List(
            _SimpleLevel(in_features, width, max(doublings, 0), compute_dtype(dtype), rngs)
            for doublings in self.doublings
        )

    def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """The backbone's maps, the last of them [B, H/p, W/p, C], to levels [B, H/s, W/s, width], finest first."""
        levels = []
        for stage, doublings in zip(self.stages, self.doublings, strict=True):
            x = maps[-1]
            for _ in range(-doublings):
                x = nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
            levels.append(stage(x))
        return (*levels, levels[-1][:, ::2, ::2])


def neck(
    backbone: Backbone, *, width: int = WIDTH, norm: str = "group", dtype: DTypeLike | None = None, rngs: nnx.Rngs
) -> FPN | SimplePyramid:
    """The neck that reads this backbone: the simple pyramid where all maps have one stride, else an FPN with this norm.

    Raises:
        BobError: the backbone has no maps, or of strides that no neck reads.
    """
    if not backbone.strides:
        raise BobError(f"{type(backbone).__name__} gives no feature maps: it cannot be used for detection")
    if len(set(backbone.strides)) == 1:
        return SimplePyramid(backbone.strides[-1], backbone.widths[-1], width=width, dtype=dtype, rngs=rngs)
    return FPN(backbone.strides, backbone.widths, width=width, norm=norm, dtype=dtype, rngs=rngs)


def resize_nearest(x: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """PyTorch's `interpolate(mode="nearest")`: cell i of n reads cell floor(i * m / n) of m. [B, m, m', C]."""
    for axis, (new, old) in enumerate(zip(shape, x.shape[1:3], strict=True), start=1):
        if new == 2 * old:
            x = jnp.repeat(x, 2, axis=axis)
        elif new != old:
            x = jnp.take(x, np.arange(new) * old // new, axis=axis)
    return x


class _SimpleLevel(nnx.Module):
    """One level of the simple pyramid: `doublings` times finer, then to `width` channels."""

    def __init__(self, features: int, width: int, doublings: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.ups = nnx.List(
            Deconvolution(features >> i, features >> (i + 1), dtype=dtype, rngs=rngs) for i in range(doublings)
        )
        self.up_norms = nnx.List(
            LayerNorm(features >> (i + 1), epsilon=1e-6, dtype=dtype) for i in range(doublings - 1)
        )
        self.conv1 = convolution(features >> doublings, width, 1, bias=False, dtype=dtype, rngs=rngs)
        self.norm1 = LayerNorm(width, epsilon=1e-6, dtype=dtype)
        self.conv2 = convolution(width, width, 3, bias=False, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, epsilon=1e-6, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, up in enumerate(self.ups):
            x = up(x)
            if i < len(self.up_norms):
                x = jax.nn.gelu(self.up_norms[i](x), approximate=False)
        return self.norm2(self.conv2(self.norm1(self.conv1(x))))
