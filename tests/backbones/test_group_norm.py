"""Group norm against float64, where it is hardest: on maps whose mean is far from 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bob_jax.backbones.layers import GROUPS, GroupNorm, normalise_groups

EPSILON = 1e-5


@pytest.mark.parametrize(("shape", "mean"), [((8, 40, 40, 64), 10.0), ((2, 5, 7, 32), 0.0), ((1, 64, 64, 256), -3.0)])
def test_values_and_gradients_equal_float64(shape, mean):
    rng = np.random.default_rng(0)
    x, cotangent = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    x += np.float32(mean)
    ours, pull = jax.vjp(lambda x: normalise_groups(x, EPSILON), jnp.asarray(x))
    theirs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.group_norm(theirs.permute(0, 3, 1, 2), GROUPS, eps=EPSILON).permute(0, 2, 3, 1)
    expected.backward(torch.tensor(cotangent, dtype=torch.float64))
    assert np.abs(ours - expected.detach().numpy()).max() < 1e-5  # values are about 1
    assert np.abs(pull(jnp.asarray(cotangent))[0] - theirs.grad.numpy()).max() < 1e-5


def test_scale_and_bias_are_of_the_channels_and_half_precision_is_normalised_in_single():
    norm = GroupNorm(64, epsilon=EPSILON, dtype=jnp.bfloat16)
    norm.scale[...], norm.bias[...] = jnp.arange(64.0), -jnp.arange(64.0)
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 64), jnp.bfloat16)
    expected = np.asarray(normalise_groups(x.astype(jnp.float32), EPSILON)) * np.arange(64, dtype=np.float32)
    expected = jnp.asarray(expected - np.arange(64, dtype=np.float32))
    assert norm(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(norm(x), expected.astype(jnp.bfloat16))
