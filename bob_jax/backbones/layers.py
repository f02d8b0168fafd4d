"""The layers that the backbones share, each equal to its PyTorch counterpart to the last digits of float32.

Compute happens in the `dtype` a layer is given, parameters are always float32, and means, variances and softmax are
taken in float32 whatever the dtype.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.errors import BobError, unknown_name

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}

GROUPS = 32  # of every group norm

# timm calls this truncated normal, but it cuts at an absolute ±2, a hundred standard deviations away: plain normal.
linear_init = nnx.initializers.normal(0.02)
# He et al. 2015 (arXiv 1502.01852) for ReLU, as torchvision and timm do it for residual networks.
convolution_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def torch_default_init(fan_in: int) -> nnx.Initializer:
    """PyTorch's default for weights and biases of its layers: uniform in ±1/sqrt(fan_in)."""

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    return init


def compute_dtype(dtype: DTypeLike | None) -> DTypeLike:
    """`dtype`, or the default for None: bfloat16 on accelerators, float32 on CPU."""
    if dtype is not None:
        return dtype
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


class Fixed(nnx.BatchStat):
    """State that is stored with the weights and counts as a parameter, but is never trained (a fixed position table).

    A kind of `nnx.BatchStat`, so that what differentiates, decays or averages `nnx.Param` leaves it alone.
    """


class Linear(nnx.Module):
    """Fully connected layer, [..., in] to [..., out]; bias 0, kernel normal 0.02 (timm's transformers) unless told.

    Not `nnx.Linear`, nor `nnx.LayerNorm` below: those draw a random key for every constant too, and under
    `nnx.eval_shape` the time for n keys grows with n squared (flax 0.12: 9 s for a ViT-H, with these layers 1.5 s).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        kernel_init: nnx.Initializer = linear_init,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (in_features, out_features), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_features)) if bias else None
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies x @ kernel + bias in the compute dtype."""
        y = x.astype(self.dtype) @ self.kernel[...].astype(self.dtype)
        return y if self.bias is None else y + _along_last(self.bias, y.ndim).astype(self.dtype)


class LayerNorm(nnx.Module):
    """Layer norm over the last axis in float32, with PyTorch's two-pass variance.

    Flax's default E[x²] - E[x]² loses digits when the mean is large, as it is in the residual stream of a deep network.
    """

    def __init__(self, features: int, *, epsilon: float, dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.epsilon = epsilon
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., C]."""
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        factor = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + self.epsilon)
        y = centred * factor * _along_last(self.scale, x.ndim) + _along_last(self.bias, x.ndim)
        return y.astype(self.dtype)


class Convolution(nnx.Conv):
    """Square 2-D convolution [B, H, W, in] to [B, H', W', out] without bias and with PyTorch's symmetric padding.

    "SAME" would pad a strided convolution on one side only at even sizes: another function.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel: int,
        stride: int,
        *,
        groups: int = 1,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            features,
            (kernel, kernel),
            strides=stride,
            padding=((kernel // 2, kernel // 2),) * 2,  # a list would make the graphdef unhashable
            feature_group_count=groups,
            use_bias=False,
            kernel_init=convolution_init,
            dtype=dtype,
            rngs=rngs,
        )


class BatchNorm(nnx.Module):
    """Batch norm over all axes but the last, equal to `torch.nn.BatchNorm2d` also in its running statistics.

    Flax's own layer keeps the biased variance; PyTorch normalises with the biased one and remembers the unbiased.
    Under `jax.jit` with a sharded batch the statistics are those of the global batch.
    """

    epsilon = 1e-5
    momentum = 0.1  # weight of the new batch, as PyTorch counts it

    def __init__(self, features: int, *, zero_scale: bool = False, dtype: DTypeLike):
        self.scale = nnx.Param(jnp.full(features, 0.0 if zero_scale else 1.0))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.dtype = dtype

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises [..., C]; with `train` by this batch's statistics, which the running ones then move towards.

        Raises:
            BobError: a training batch with a single value per channel, which has no variance.
        """
        x32 = x.astype(jnp.float32)
        mean, var = self._update(x32) if train else (self.mean[...], self.var[...])
        factor = jax.lax.rsqrt(var + self.epsilon) * self.scale[...]
        y = (x32 - _along_last(mean, x.ndim)) * _along_last(factor, x.ndim) + _along_last(self.bias, x.ndim)
        return y.astype(self.dtype)

    def _update(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        count = x.size // x.shape[-1]
        if count == 1:
            raise BobError(
                f"batch norm: shape {x.shape} has one value per channel in training: use more or larger images"
            )
        axes = tuple(range(x.ndim - 1))
        mean, var = jnp.mean(x, axes), jnp.var(x, axes)
        unbiased = var * (count / (count - 1))
        for running, new in ((self.mean, mean), (self.var, unbiased)):
            running[...] = (1 - self.momentum) * running[...] + self.momentum * jax.lax.stop_gradient(new)
        return mean, var


def normalise_groups(x: jax.Array, epsilon: float) -> jax.Array:
    """Group norm (Wu & He 2018, arXiv 1803.08494) without scale and bias: [B, H, W, C] to the same in float32.

    The variance is PyTorch's two-pass one, as in `layers.LayerNorm`. Sums go over the cells of a channel first and over
    the few channels of a group then: with an axis of two channels innermost nothing vectorises.
    """
    x = x.astype(jnp.float32)
    centred = x - _group_means(jnp.mean(x, axis=(1, 2)))
    return centred * jax.lax.rsqrt(_group_means(jnp.mean(jnp.square(centred), axis=(1, 2))) + epsilon)


def _group_means(values: jax.Array) -> jax.Array:
    """The mean over each group's channels, for every channel: [B, C] to [B, 1, 1, C]."""
    batch, channels = values.shape
    means = jnp.mean(values.reshape(batch, GROUPS, channels // GROUPS), axis=-1)
    return jnp.repeat(means, channels // GROUPS, axis=-1).reshape(batch, 1, 1, channels)


class GroupNorm(nnx.Module):
    """Group norm of [B, H, W, C] in 32 groups, with a scale and a bias per channel."""

    def __init__(self, features: int, *, epsilon: float, dtype: DTypeLike):
        if features % GROUPS:
            raise BobError(f"group norm: width {features} is not divisible by the {GROUPS} groups: choose a multiple")
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.epsilon = epsilon
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises in float32."""
        scale, bias = (vector[...].reshape(1, 1, 1, -1) for vector in (self.scale, self.bias))
        return (normalise_groups(x, self.epsilon) * scale + bias).astype(self.dtype)


class LayerScale(nnx.Module):
    """A learned factor per channel (Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, features: int, value: float):
        self.gamma = nnx.Param(jnp.full(features, value))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales [B, N, C]."""
        return x * _along_last(self.gamma, x.ndim).astype(x.dtype)


class Mlp(nnx.Module):
    """The two-layer perceptron of a transformer block, [..., C] to [..., C]."""

    def __init__(self, features: int, hidden: int, activation: str, *, dtype: DTypeLike, rngs: nnx.Rngs):
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        self.fc1 = Linear(features, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = Linear(hidden, features, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies both layers."""
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class GatedMlp(nnx.Module):
    """SwiGLU perceptron with gate and value packed in one matrix, gate first (timm's SwiGLUPacked).

    `hidden` counts both halves. The value half starts at 1, whatever the input, as timm initialises it.
    """

    def __init__(self, features: int, hidden: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        if hidden % 2:
            raise BobError(f"SwiGLU: hidden width {hidden} of gate and value together must be even: change mlp_ratio")
        half = hidden // 2

        def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
            return linear_init(key, shape, dtype).at[:, half:].multiply(1e-6 / 0.02)

        self.fc1 = Linear(features, hidden, kernel_init=init, dtype=dtype, rngs=rngs)
        self.fc1.bias = nnx.Param(jnp.concatenate([jnp.zeros(half), jnp.ones(half)]))
        self.fc2 = Linear(half, features, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies silu(gate) * value between the layers."""
        gate, value = jnp.split(self.fc1(x), 2, axis=-1)
        return self.fc2(jax.nn.silu(gate) * value)


def attention(query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool = False) -> jax.Array:
    """Scaled dot-product attention.

    Args:
        query: [B, Q, heads, D].
        key: [B, K, heads, D].
        value: [B, K, heads, D].
        causal: nothing is attended to that stands behind the query.

    Returns:
        [B, Q, heads * D], in the dtype of `value`.
    """
    out = jax.nn.dot_product_attention(query, key, value, is_causal=causal)
    return out.reshape(*out.shape[:2], -1)


def drop_path(x: jax.Array, rate: float, rngs: nnx.Rngs | None) -> jax.Array:
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382): drops the whole branch of single images.

    Args:
        x: [B, ...] output of a residual branch.
        rate: probability with which an image loses the branch; what is kept is scaled by 1 / (1 - rate).
        rngs: given in training only; its stream `drop_path` (or the default one) is drawn from.
    """
    if rngs is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(rngs.drop_path(), 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def drop_path_ramp(rate: float, depth: int) -> list[float]:
    """Drop rates of `depth` blocks: one linear ramp over the whole network, 0 at the first and `rate` at the last."""
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def resample_positions(
    table: jax.Array,
    old: tuple[int, int],
    new: tuple[int, int],
    num_prefix_tokens: int,
    method: Literal["antialiased", "dinov2"] = "antialiased",
) -> jax.Array:
    """A position table for another grid, by bicubic interpolation.

    Args:
        table: [1, P + h * w, C] float32; P entries for prefix tokens, then the grid row by row.
        old: (h, w) of the table.
        new: (h', w') wanted.
        num_prefix_tokens: P; these entries are kept as they are.
        method: "antialiased" as timm's `resample_abs_pos_embed`, and DINOv2's own code for its models with registers;
            "dinov2" as that code (`interpolate_pos_encoding`) for those without: no antialiasing, and every step is
            h / (h' + 0.1) long, so that the grid does not quite end where the table does.

    Returns:
        [1, P + h' * w', C].
    """
    if old == new:
        return table
    channels = table.shape[-1]
    prefix, grid = table[:, :num_prefix_tokens], table[:, num_prefix_tokens:].reshape(1, *old, channels)
    shape = (1, *new, channels)
    if method == "antialiased":
        grid = jax.image.resize(grid, shape, "bicubic", antialias=True)
    else:
        scale = jnp.array([(after + 0.1) / before for before, after in zip(old, new, strict=True)], jnp.float32)
        grid = jax.image.scale_and_translate(
            grid, shape, (1, 2), scale, jnp.zeros(2), method="cubic-pytorch", antialias=False
        )
    return jnp.concatenate([prefix, grid.reshape(1, -1, channels)], axis=1)


def _along_last(vector: nnx.Variable | jax.Array, ndim: int) -> jax.Array:
    """[C] as [1, ..., 1, C]: said aloud, because implicit rank promotion is an error in the tests."""
    return vector[...].reshape((1,) * (ndim - 1) + (-1,))
