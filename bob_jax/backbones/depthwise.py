"""Depthwise convolution that is quick on every platform.

On GPU and TPU it is XLA's grouped convolution. XLA for CPU has no good code for that, so there the convolution is
written out as a sum of shifted images: on ConvNeXt's shapes 16 to 100 times as fast forward, and 2 to 8 times with
gradients (7x7, float32, both in the same run on two x86 cores, jax 0.10.2, November 2026).
"""

import functools

import jax
import jax.numpy as jnp


@jax.jit
def depthwise_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves each channel with a kernel of its own, stride 1, zeros around the border so that the size stays.

    Args:
        x: [B, H, W, C] float.
        kernel: [K, K, 1, C] of the same dtype, K odd; PyTorch's layout [C, 1, K, K] transposed.

    Returns:
        [B, H, W, C], in the dtype of `x`, accumulated in float32.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_shifted, default=_grouped)


def _grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
    margin = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=((margin, margin),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@jax.custom_vjp
def _shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The sum over the taps of the kernel, one XLA fusion.

    Its own gradient rule, because the transpose of each shift would be a whole image: slow to compile and to run.
    """
    size, (_, height, width, _) = kernel.shape[0], x.shape
    padded, taps = _padded(x, size), kernel.astype(jnp.float32)
    total = functools.reduce(
        jnp.add,
        (
            padded[:, row : row + height, column : column + width] * taps[row, column].reshape(1, 1, 1, -1)
            for row in range(size)
            for column in range(size)
        ),
    )
    return total.astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shifted(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    size = kernel.shape[0]
    padded, gradient32 = _padded(x, size), gradient.astype(jnp.float32)

    def tap(index: jax.Array) -> jax.Array:
        # Summed in two steps: the first leaves rows of [W, C], long enough for vector instructions.
        shifted = jax.lax.dynamic_slice(padded, (0, index // size, index % size, 0), x.shape)
        return jnp.sum(jnp.sum(shifted * gradient32, axis=(0, 1)), axis=0)

    of_kernel = jax.lax.map(tap, jnp.arange(size * size)).reshape(kernel.shape)
    return _shifted(gradient, kernel[::-1, ::-1]), of_kernel.astype(kernel.dtype)


_shifted.defvjp(_forward, _backward)


def _padded(x: jax.Array, size: int) -> jax.Array:
    margin = size // 2
    return jnp.pad(x.astype(jnp.float32), ((0, 0), (margin, margin), (margin, margin), (0, 0)))
