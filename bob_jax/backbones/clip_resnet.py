"""CLIP's ResNets (Radford et al. 2021, arXiv 2103.00020): RN50, RN101, RN50x4, RN50x16, RN50x64.

They differ from `resnet.ResNet` by a stem of three convolutions and an average pool, by average pools in place of
strides, and by an attention pool in place of the mean. Attribute names follow OpenAI's `visual` tower, with
`downsample.{conv,bn}` for its `downsample.{0,1}` and `attn_pool.{pos_embed,q,k,v,proj}` for its `attnpool`.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones import parameters
from bob_jax.backbones.base import Backbone, Features
from bob_jax.backbones.layers import (
    BatchNorm,
    Convolution,
    Linear,
    attention,
    compute_dtype,
    drop_path_ramp,
    resample_positions,
)
from bob_jax.backbones.resnet import Bottleneck, average_pool, block_layer, check_stages, run_stages
from bob_jax.errors import BobError, unknown_name

HEAD_DIM = 64
POOLINGS = ("attention", "mean")


class AttentionPool(nnx.Module):
    """Attention pooling whose query is the mean token: [B, h, w, C] to [B, C], or to [B, projection_dim].

    The position table [1 + grid², C] has an entry for the mean token first and is resampled for other grids as timm
    does it. Only the output at the mean token is computed; nobody reads the others.
    """

    def __init__(self, features: int, grid: int, projection_dim: int | None, *, dtype: DTypeLike, rngs: nnx.Rngs):
        init = nnx.initializers.normal(features**-0.5)
        self.pos_embed = nnx.Param(init(rngs.params(), (grid**2 + 1, features), jnp.float32))
        self.q = Linear(features, features, kernel_init=init, dtype=dtype, rngs=rngs)
        self.k = Linear(features, features, kernel_init=init, dtype=dtype, rngs=rngs)
        self.v = Linear(features, features, kernel_init=init, dtype=dtype, rngs=rngs)
        self.proj = (
            None
            if projection_dim is None
            else Linear(features, projection_dim, kernel_init=nnx.initializers.normal(0.01), dtype=dtype, rngs=rngs)
        )
        self.grid = (grid, grid)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools the positions of a feature map."""
        batch, height, width, features = x.shape
        tokens = x.reshape(batch, -1, features)
        mean = jnp.mean(tokens, axis=1, keepdims=True, dtype=jnp.float32).astype(x.dtype)
        positions = resample_positions(self.pos_embed[...][None], self.grid, (height, width), num_prefix_tokens=1)
        tokens = jnp.concatenate([mean, tokens], axis=1) + positions.astype(x.dtype)
        query, key, value = (
            projection(part).reshape(batch, -1, features // HEAD_DIM, HEAD_DIM)
            for projection, part in ((self.q, tokens[:, :1]), (self.k, tokens), (self.v, tokens))
        )
        pooled = attention(query, key, value)[:, 0]
        return pooled if self.proj is None else self.proj(pooled)


class CLIPResNet(Backbone):
    """CLIP's modified ResNet: four feature maps of strides 4, 8, 16 and 32; `pooled` is the attention pool's output, or
    the mean over the last map.

    Input of any size from 32 pixels works; a size that 32 does not divide loses the rest at the border, as in OpenAI's
    code. Layers for learning-rate decay: the stem is 0, then every block is one, in order; the attention pool belongs
    to the last block (timm puts it one step higher, with the classifier).

    Args:
        stages: blocks of each of the four stages: (3, 4, 6, 3) RN50, (3, 4, 23, 3) RN101, (4, 6, 10, 6) x4,
            (6, 8, 18, 8) x16, (3, 15, 36, 10) x64.
        width: channels of the stem's end: 64 for RN50 and RN101, 80 for x4, 96 for x16, 128 for x64; even.
        input_size: side of the square input that the position table is for: 224, 288 for x4, 384 for x16, 448 for x64.
        pooling: "attention", or "mean", which leaves the attention pool out and takes input of any size.
        projection_dim: width of the projection to the joint space of image and text, which gives the descriptor that
            OpenAI publishes: 1024 RN50, 512 RN101, 640 x4, 768 x16, 1024 x64; None stops before it. Without meaning
            for the mean.
        drop_path: stochastic depth rate of the last block; one linear ramp from 0 over all blocks.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights, distributed as timm's.

    Raises:
        BobError: other than four stages, an odd width, an `input_size` that 32 does not divide, or a smaller input.
    """

    strides = (4, 8, 16, 32)
    side_multiple = 1

    def __init__(
        self,
        *,
        stages: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        input_size: int = 224,
        pooling: Literal["attention", "mean"] = "attention",
        projection_dim: int | None = 1024,
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.stages = check_stages(stages)
        if width % 2 or input_size % 32:
            raise BobError(f"CLIPResNet: width {width} must be even and input_size {input_size} a multiple of 32")
        self.input_size = input_size
        self.widths = tuple(width * 2**i * Bottleneck.expansion for i in range(4))
        if pooling not in POOLINGS:
            raise unknown_name("pooling", pooling, POOLINGS)
        self.feature_dim = self.widths[-1]
        if pooling == "attention" and projection_dim is not None:
            self.feature_dim = projection_dim
        self.num_layers = sum(stages) + 1
        self.dtype = dtype = compute_dtype(dtype)

        self.conv1 = Convolution(3, width // 2, 3, 2, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width // 2, dtype=dtype)
        self.conv2 = Convolution(width // 2, width // 2, 3, 1, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width // 2, dtype=dtype)
        self.conv3 = Convolution(width // 2, width, 3, 1, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(width, dtype=dtype)
        rates = iter(drop_path_ramp(drop_path, sum(stages)))
        features = width
        for stage, blocks in enumerate(stages):
            layer: nnx.List = nnx.List()
            for index in range(blocks):
                layer.append(
                    Bottleneck(
                        features,
                        width * 2**stage,
                        stride=2 if stage > 0 and index == 0 else 1,
                        antialias=True,
                        drop_path=next(rates),
                        dtype=dtype,
                        rngs=rngs,
                    )
                )
                features = self.widths[stage]
            setattr(self, f"layer{stage + 1}", layer)
        self.attn_pool = (
            AttentionPool(features, input_size // 32, projection_dim, dtype=dtype, rngs=rngs)
            if pooling == "attention"
            else None
        )

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of [B, H, W, 3] images; `pooled` is [B, D] float32."""
        if min(images.shape[1:3]) < 32:
            raise BobError(f"CLIPResNet: input of {images.shape[1]}x{images.shape[2]} pixels is too small: 32 at least")
        train = rngs is not None
        x = jax.nn.relu(self.bn1(self.conv1(images), train=train))
        x = jax.nn.relu(self.bn2(self.conv2(x), train=train))
        x = average_pool(jax.nn.relu(self.bn3(self.conv3(x), train=train)), 2)
        maps = run_stages(self, x, rngs)
        if self.attn_pool is None:
            return Features(jnp.mean(maps[-1], axis=(1, 2), dtype=jnp.float32), maps)
        return Features(self.attn_pool(maps[-1]).astype(jnp.float32), maps)

    def layer_of(self, path: str) -> int:
        """The layer of a parameter for learning-rate decay; see the class."""
        parameters.variable(self, path)
        return self.num_layers - 1 if path.startswith("attn_pool.") else block_layer(path, self.stages)
