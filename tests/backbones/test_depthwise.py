"""The depthwise convolution: on CPU a sum of shifted images, elsewhere XLA's convolution; both equal PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from from_timm import FAST_COMPILE, relative_error, to_torch

from bob_jax.backbones import depthwise
from bob_jax.backbones.depthwise import depthwise_convolution

CASES = {"7x7": (2, 9, 6, 5, 7), "3x3": (3, 4, 4, 2, 3), "map smaller than the kernel": (2, 2, 1, 3, 7)}


def arrays(batch, height, width, channels, size):
    rng = np.random.default_rng(0)
    shapes = ((batch, height, width, channels), (size, size, 1, channels), (batch, height, width, channels))
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def value_and_gradients(function, x, kernel, cotangent):
    """Output, and the gradients of both arguments."""

    def both(x, kernel, cotangent):
        output, backward = jax.vjp(function, x, kernel)
        return output, *backward(cotangent)

    return jax.jit(both, compiler_options=FAST_COMPILE)(x, kernel, cotangent)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("function", [depthwise_convolution, depthwise._grouped])
def test_output_and_gradients_equal_pytorchs(case, function):
    x, kernel, cotangent = arrays(*CASES[case])
    inputs = to_torch(x).requires_grad_()
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).requires_grad_()
    output = torch.nn.functional.conv2d(inputs, weight, padding="same", groups=x.shape[-1])
    of_x, of_weight = torch.autograd.grad(output, (inputs, weight), to_torch(cotangent))
    theirs = output.detach().permute(0, 2, 3, 1), of_x.permute(0, 2, 3, 1), of_weight.permute(2, 3, 1, 0)
    for mine, yours in zip(value_and_gradients(function, x, kernel, cotangent), theirs, strict=True):
        assert relative_error(np.asarray(mine), yours.numpy()) < 1e-5


def test_bfloat16_is_summed_in_float32():
    x, kernel, cotangent = arrays(2, 12, 12, 4, 7)
    exact = value_and_gradients(depthwise_convolution, x, kernel, cotangent)
    half = value_and_gradients(depthwise_convolution, *(jnp.asarray(a, jnp.bfloat16) for a in (x, kernel, cotangent)))
    for low, high in zip(half, exact, strict=True):
        assert low.dtype == jnp.bfloat16
        # Rounding of inputs and result alone, a sum of 49 or 288 terms in 8 bits would be off by several per cent.
        assert relative_error(np.asarray(low, np.float32), np.asarray(high)) < 0.008


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("cuda", 1), ("tpu", 1)])
def test_each_platform_gets_its_own_code(platform, convolutions):
    x, kernel, _ = arrays(1, 8, 8, 4, 7)
    text = jax.jit(depthwise_convolution).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions
    assert text.count("feature_group_count = 4") == convolutions
