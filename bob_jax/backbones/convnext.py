"""ConvNeXt (Liu et al. 2022, arXiv 2201.03545) and ConvNeXt V2 (Woo et al. 2023, 2301.00808), as timm's `ConvNeXt`.

One class for the supervised, FCMAE, CLIP, VICRegL, DINOv3 and EUPE weights: they differ in three switches.
Attribute names follow timm's state dict, except for the final norm: see `ConvNeXt`.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones import parameters
from bob_jax.backbones.base import Backbone, Features
from bob_jax.backbones.depthwise import depthwise_convolution
from bob_jax.backbones.layers import (
    ACTIVATIONS,
    LayerNorm,
    Linear,
    compute_dtype,
    drop_path,
    drop_path_ramp,
    linear_init,
)
from bob_jax.errors import BobError, unknown_name

EPSILON = 1e-6  # of every norm
KERNEL = 7  # side of the depthwise convolutions
FINAL_NORMS = ("after_pool", "before_pool", "plain")


class PatchConvolution(nnx.Module):
    """Convolution whose patches do not overlap, [B, H, W, in] to [B, H // p, W // p, out]; a rest is left out.

    Not `nnx.Conv`, nor in the class below, for the reason that `layers.Linear` gives.
    """

    def __init__(self, in_features: int, features: int, patch_size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        shape = (patch_size, patch_size, in_features, features)
        self.kernel = nnx.Param(linear_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the convolution in the compute dtype."""
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            window_strides=self.kernel.shape[:2],
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + _per_channel(self.bias).astype(self.dtype)


class DepthwiseConvolution(nnx.Module):
    """A 7x7 kernel for each channel, [B, H, W, C] to [B, H, W, C]."""

    def __init__(self, features: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.kernel = nnx.Param(linear_init(rngs.params(), (KERNEL, KERNEL, 1, features), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the convolution in the compute dtype."""
        y = depthwise_convolution(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        return y + _per_channel(self.bias).astype(self.dtype)


class GlobalResponseNorm(nnx.Module):
    """Global response normalisation (arXiv 2301.00808, section 3.3), [B, H, W, C], in float32; starts as the identity.

    Each channel is scaled by its norm over all positions, relative to the mean of these norms over the channels.
    """

    def __init__(self, features: int, *, dtype: DTypeLike):
        self.scale = nnx.Param(jnp.zeros(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns x + scale * x * relative norm + bias."""
        x = x.astype(jnp.float32)
        squares = jnp.sum(jnp.square(x), axis=(1, 2), keepdims=True)
        # The root has no gradient at 0, and behind a GELU a channel may well be 0 everywhere: PyTorch says 0 there.
        alive = squares > 0
        norm = jnp.where(alive, jnp.sqrt(jnp.where(alive, squares, 1.0)), 0.0)
        relative = norm / (jnp.mean(norm, axis=-1, keepdims=True) + EPSILON)
        y = x + _per_channel(self.scale) * (x * relative) + _per_channel(self.bias)
        return y.astype(self.dtype)


class Mlp(nnx.Module):
    """The perceptron of a block, [B, H, W, C] to [B, H, W, C], four times as wide inside; V2 normalises in there."""

    def __init__(self, features: int, *, grn: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        self.fc1 = Linear(features, 4 * features, dtype=dtype, rngs=rngs)
        self.grn = GlobalResponseNorm(4 * features, dtype=dtype) if grn else None
        self.fc2 = Linear(4 * features, features, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies both layers with exact GELU between them."""
        x = ACTIVATIONS["gelu"](self.fc1(x))
        return self.fc2(x if self.grn is None else self.grn(x))


class Block(nnx.Module):
    """Depthwise 7x7 convolution, norm and perceptron, as one residual branch: [B, H, W, C] to [B, H, W, C]."""

    def __init__(
        self,
        features: int,
        *,
        grn: bool,
        layer_scale: float | None,
        drop_path: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv_dw = DepthwiseConvolution(features, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(features, epsilon=EPSILON, dtype=dtype)
        self.mlp = Mlp(features, grn=grn, dtype=dtype, rngs=rngs)
        self.gamma = None if layer_scale is None else nnx.Param(jnp.full(features, layer_scale, jnp.float32))
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """Adds the branch."""
        branch = self.mlp(self.norm(self.conv_dw(x)))
        if self.gamma is not None:
            branch = branch * _per_channel(self.gamma).astype(branch.dtype)
        return x + drop_path(branch, self.drop_path, rngs)


class Stage(nnx.Module):
    """Blocks of one width, behind a norm and a strided convolution where the resolution changes."""

    def __init__(
        self,
        in_features: int,
        features: int,
        stride: int,
        *,
        grn: bool,
        layer_scale: float | None,
        drop_paths: Sequence[float],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.downsample = (
            nnx.List(
                [
                    LayerNorm(in_features, epsilon=EPSILON, dtype=dtype),
                    PatchConvolution(in_features, features, stride, dtype=dtype, rngs=rngs),
                ]
            )
            if stride > 1
            else None
        )
        self.blocks = nnx.List(
            Block(features, grn=grn, layer_scale=layer_scale, drop_path=rate, dtype=dtype, rngs=rngs)
            for rate in drop_paths
        )

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, in] to [B, H // stride, W // stride, features]."""
        for layer in self.downsample or ():
            x = layer(x)
        for block in self.blocks:
            x = block(x, rngs=rngs)
        return x


class ConvNeXt(Backbone):
    """ConvNeXt with four feature maps, the outputs of its stages; `pooled` is the mean over the last, normalised.

    Input of any size from the last stride on works; a rest at the right and lower border that a stride leaves is
    dropped, as in PyTorch. Layers for learning-rate decay: the stem is 0, then every block is one, in order; the
    downsampling of a stage belongs to its first block, the final norm to the last.

    The final norm is called `fc_norm` where it stands behind the pooling and `norm` where it stands before it, as in
    `ViT`, so that weights for one order do not load into the other (timm: `head.norm` and `norm_pre`).

    Args:
        depths: blocks of each of the four stages, e.g. (3, 3, 9, 3) for ConvNeXt-T.
        widths: channels of each stage, e.g. (96, 192, 384, 768).
        patch_size: side of the stem's patches in pixels. Strides are 4, 8, 16, 32 with 4, and 1, 2, 4, 8 with 1,
            for small images.
        input_size: side of the square input that the weights were trained for.
        grn: global response normalisation in the perceptrons (V2).
        layer_scale: initial value of a learned factor per channel on each branch, or None (V2, VICRegL).
        final_norm: "after_pool"; "before_pool", at each position (VICRegL); or "plain", after the pool and with
            nothing learned: the encoders of FCMAE are published without their final norm.
        drop_path: stochastic depth rate of the last block; one linear ramp from 0 over all blocks.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights.

    Raises:
        BobError: arguments that do not make a network, or an input smaller than the last stride.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 3, 9, 3),
        widths: Sequence[int] = (96, 192, 384, 768),
        patch_size: Literal[1, 4] = 4,
        input_size: int = 224,
        grn: bool = False,
        layer_scale: float | None = 1e-6,
        final_norm: Literal["after_pool", "before_pool", "plain"] = "after_pool",
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if len(depths) != 4 or len(widths) != 4 or min(*depths, *widths) < 1:
            raise BobError(
                f"ConvNeXt: depths {tuple(depths)} and widths {tuple(widths)} must be four positive numbers each"
            )
        if patch_size not in (1, 4):
            raise BobError(f"ConvNeXt: patch_size {patch_size} must be 4, or 1 for small images")
        if final_norm not in FINAL_NORMS:
            raise unknown_name("final_norm", final_norm, FINAL_NORMS)
        self.depths, self.widths = tuple(depths), tuple(widths)
        self.side_multiple = 1
        self.strides = tuple(patch_size * 2**stage for stage in range(4))
        self.feature_dim, self.input_size = self.widths[-1], input_size
        self.num_layers = sum(depths) + 1
        self.dtype = dtype = compute_dtype(dtype)

        stem = PatchConvolution(3, self.widths[0], patch_size, dtype=dtype, rngs=rngs)
        self.stem = nnx.List([stem, LayerNorm(self.widths[0], epsilon=EPSILON, dtype=dtype)])
        rates = iter(drop_path_ramp(drop_path, sum(depths)))
        self.stages = nnx.List(
            Stage(
                self.widths[max(stage - 1, 0)],
                self.widths[stage],
                2 if stage > 0 else 1,
                grn=grn,
                layer_scale=layer_scale,
                drop_paths=[next(rates) for _ in range(depth)],
                dtype=dtype,
                rngs=rngs,
            )
            for stage, depth in enumerate(self.depths)
        )
        before, after = final_norm == "before_pool", final_norm == "after_pool"
        self.norm = LayerNorm(self.feature_dim, epsilon=EPSILON, dtype=dtype) if before else None
        self.fc_norm = LayerNorm(self.feature_dim, epsilon=EPSILON, dtype=jnp.float32) if after else None

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of [B, H, W, 3] images; `pooled` is [B, D] float32."""
        height, width = images.shape[1:3]
        if min(height, width) < self.strides[-1]:
            raise BobError(
                f"ConvNeXt: input of {height}x{width} pixels is smaller than the last stride {self.strides[-1]}: "
                f"resize the images, e.g. to {self.input_size}"
            )
        x = images
        for layer in self.stem:
            x = layer(x)
        maps = []
        for stage in self.stages:
            x = stage(x, rngs=rngs)
            maps.append(x)
        return Features(self._pool(x), tuple(maps))

    def layer_of(self, path: str) -> int:
        """The layer of a parameter for learning-rate decay; see the class."""
        parameters.variable(self, path)
        part, *rest = path.split(".")
        if part == "stages":
            stage, kind, index = int(rest[0]), rest[1], int(rest[2])
            return sum(self.depths[:stage]) + (index if kind == "blocks" else 0) + 1
        return 0 if part == "stem" else self.num_layers - 1

    def _pool(self, x: jax.Array) -> jax.Array:
        """[B, h, w, D] to [B, D] float32."""
        pooled = jnp.mean(x if self.norm is None else self.norm(x), axis=(1, 2), dtype=jnp.float32)
        if self.norm is not None:
            return pooled
        if self.fc_norm is not None:
            return self.fc_norm(pooled)
        return jax.nn.standardize(pooled, axis=-1, variance=jnp.var(pooled, axis=-1, keepdims=True), epsilon=EPSILON)


def _per_channel(vector: nnx.Param) -> jax.Array:
    """[C] as [1, 1, 1, C]."""
    return vector[...].reshape(1, 1, 1, -1)
