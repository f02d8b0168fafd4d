"""ResNet (He et al. 2016, arXiv 1512.03385) and ResNeXt (Xie et al. 2017, 1611.05431), as torchvision and timm build
them: the stride stands on the 3x3.

Attribute names follow torchvision's, except for the projection of the shortcut: `downsample.conv`, `downsample.bn`.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones import parameters
from bob_jax.backbones.base import Backbone, Features
from bob_jax.backbones.layers import BatchNorm, Convolution, compute_dtype, drop_path, drop_path_ramp
from bob_jax.errors import BobError, unknown_name


def average_pool(x: jax.Array, window: int) -> jax.Array:
    """Mean over windows of [B, H, W, C] that do not overlap; a rest at the border is left out."""
    return x if window == 1 else nnx.avg_pool(x, (window, window), strides=(window, window))


class Downsample(nnx.Module):
    """The shortcut where a block changes the shape: a strided 1x1 convolution, or average pool before a plain one."""

    def __init__(
        self, in_features: int, features: int, stride: int, *, antialias: bool, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.pool = stride if antialias else 1
        self.conv = Convolution(in_features, features, 1, stride // self.pool, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(features, dtype=dtype)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, H, W, in] to [B, H/stride, W/stride, features]."""
        return self.bn(self.conv(average_pool(x, self.pool)), train=train)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions around a shortcut (ResNet-18 and 34)."""

    expansion = 1

    def __init__(
        self, in_features: int, width: int, stride: int, *, drop_path: float, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.conv1 = Convolution(in_features, width, 3, stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, dtype=dtype)
        self.conv2 = Convolution(width, width, 3, 1, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width, zero_scale=True, dtype=dtype)
        self.downsample = (
            Downsample(in_features, width, stride, antialias=False, dtype=dtype, rngs=rngs)
            if stride != 1 or in_features != width
            else None
        )
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, in] to [B, H/stride, W/stride, width]."""
        train = rngs is not None
        branch = jax.nn.relu(self.bn1(self.conv1(x), train=train))
        branch = self.bn2(self.conv2(branch), train=train)
        shortcut = x if self.downsample is None else self.downsample(x, train=train)
        return jax.nn.relu(shortcut + drop_path(branch, self.drop_path, rngs))


class Bottleneck(nnx.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut (ResNet-50 and deeper).

    With `antialias`, as in CLIP, the 3x3 has no stride; an average pool behind it has, and another in the shortcut.
    `hidden` is the width of the 3x3 where it is not `width`, and `groups` the parts it is cut into (ResNeXt).
    """

    expansion = 4

    def __init__(
        self,
        in_features: int,
        width: int,
        stride: int,
        *,
        antialias: bool = False,
        hidden: int | None = None,
        groups: int = 1,
        drop_path: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        features, hidden = width * self.expansion, hidden or width
        self.pool = stride if antialias else 1
        self.conv1 = Convolution(in_features, hidden, 1, 1, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(hidden, dtype=dtype)
        self.conv2 = Convolution(hidden, hidden, 3, stride // self.pool, groups=groups, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(hidden, dtype=dtype)
        self.conv3 = Convolution(hidden, features, 1, 1, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(features, zero_scale=True, dtype=dtype)
        self.downsample = (
            Downsample(in_features, features, stride, antialias=antialias, dtype=dtype, rngs=rngs)
            if stride != 1 or in_features != features
            else None
        )
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, in] to [B, H/stride, W/stride, 4 * width]."""
        train = rngs is not None
        branch = jax.nn.relu(self.bn1(self.conv1(x), train=train))
        branch = jax.nn.relu(self.bn2(self.conv2(branch), train=train))
        branch = self.bn3(self.conv3(average_pool(branch, self.pool)), train=train)
        shortcut = x if self.downsample is None else self.downsample(x, train=train)
        return jax.nn.relu(shortcut + drop_path(branch, self.drop_path, rngs))


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(Backbone):
    """ResNet with four feature maps of strides 4, 8, 16 and 32; `pooled` is the mean over the last.

    Input of any size works. Layers for learning-rate decay: the stem is 0, then every block is one, in order.

    Args:
        stages: blocks of each of the four stages, e.g. (3, 4, 6, 3) for ResNet-50.
        block: "basic" (ResNet-18, 34) or "bottleneck" (50, 101, 152).
        width: channels of the stem; the stages have 1, 2, 4 and 8 times as many, bottlenecks four times that at their
            end.
        groups: parts that the 3x3 of a bottleneck is cut into (ResNeXt's cardinality).
        group_width: channels of each part in the first stage, doubled from stage to stage: 4 in ResNeXt-101 32x4d.
        input_size: side of the square input that the weights were trained for.
        drop_path: stochastic depth rate of the last block; one linear ramp from 0 over all blocks.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights (He normal, fan-out; the last norm of each branch starts at 0).

    Raises:
        BobError: an unknown block, or other than four stages.
    """

    strides = (4, 8, 16, 32)
    side_multiple = 1

    def __init__(
        self,
        *,
        stages: Sequence[int] = (3, 4, 6, 3),
        block: Literal["basic", "bottleneck"] = "bottleneck",
        width: int = 64,
        groups: int = 1,
        group_width: int = 64,
        input_size: int = 224,
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if block not in BLOCKS:
            raise unknown_name("block", block, BLOCKS)
        if block == "basic" and groups != 1:
            raise BobError("ResNet: groups are a bottleneck's: block='basic' has none")
        make = BLOCKS[block]
        self.stages = check_stages(stages)
        self.input_size = input_size
        self.widths = tuple(width * 2**i * make.expansion for i in range(4))
        self.feature_dim = self.widths[-1]
        self.num_layers = sum(stages) + 1
        self.dtype = dtype = compute_dtype(dtype)

        self.conv1 = Convolution(3, width, 7, 2, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, dtype=dtype)
        rates = iter(drop_path_ramp(drop_path, sum(stages)))
        features = width
        for stage, blocks in enumerate(stages):
            layer: nnx.List = nnx.List()
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                # A plain ResNet is one group as wide as the stage.
                cut = {"hidden": groups * group_width * 2**stage, "groups": groups} if groups > 1 else {}
                layer.append(
                    make(features, width * 2**stage, stride, drop_path=next(rates), dtype=dtype, rngs=rngs, **cut)
                )
                features = self.widths[stage]
            setattr(self, f"layer{stage + 1}", layer)

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of [B, H, W, 3] images; `pooled` is [B, D] float32."""
        x = jax.nn.relu(self.bn1(self.conv1(images), train=rngs is not None))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        maps = run_stages(self, x, rngs)
        return Features(jnp.mean(maps[-1], axis=(1, 2), dtype=jnp.float32), maps)

    def layer_of(self, path: str) -> int:
        """The layer of a parameter for learning-rate decay; see the class."""
        parameters.variable(self, path)
        return block_layer(path, self.stages)


def check_stages(stages: Sequence[int]) -> tuple[int, ...]:
    """Four positive block counts, as a tuple; anything else is a BobError."""
    if len(stages) != 4 or min(stages) < 1:
        raise BobError(f"ResNet: stages {tuple(stages)} must be four positive numbers of blocks")
    return tuple(stages)


def run_stages(module: nnx.Module, x: jax.Array, rngs: nnx.Rngs | None) -> tuple[jax.Array, ...]:
    """The outputs of `module.layer1` to `layer4`, one after the other."""
    maps = []
    for stage in range(4):
        for block in getattr(module, f"layer{stage + 1}"):
            x = block(x, rngs=rngs)
        maps.append(x)
    return tuple(maps)


def block_layer(path: str, stages: Sequence[int]) -> int:
    """The number, counted from 1, of the block `layerN.M` that a dotted path lies in; 0 for a path outside of them."""
    if not path.startswith("layer"):
        return 0
    stage, block = path.removeprefix("layer").split(".")[:2]
    return sum(stages[: int(stage) - 1]) + int(block) + 1
