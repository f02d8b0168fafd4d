"""Box deltas: the formula by hand, torchvision's coder, round trips, and boxes that are none."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bob_jax.backbones.pytorch import import_library
from bob_jax.detection.coder import CASCADE, RPN, Coder

WHOLE = Coder((0.1, 0.2, 0.3, 0.4), (0.01, -0.02, 0.03, -0.04))
EVERY = pytest.mark.parametrize("coder", [RPN, *CASCADE, WHOLE])


def pairs(count: int = 100) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 200, (2, count, 2))
    corners = np.concatenate([low, low + np.exp(rng.uniform(1, 5, (2, count, 2)))], axis=-1)
    return tuple(corners.astype(np.float32))


def encoded_by_hand(box, target, coder: Coder) -> list[float]:
    x1, y1, x2, y2 = (float(x) for x in box)
    u1, v1, u2, v2 = (float(x) for x in target)
    raw = [
        ((u1 + u2) / 2 - (x1 + x2) / 2) / (x2 - x1),
        ((v1 + v2) / 2 - (y1 + y2) / 2) / (y2 - y1),
        math.log((u2 - u1) / (x2 - x1)),
        math.log((v2 - v1) / (y2 - y1)),
    ]
    return [(value - mean) / std for value, mean, std in zip(raw, coder.means, coder.stds, strict=True)]


@EVERY
def test_deltas_are_those_by_hand_and_lead_back(coder):
    boxes, targets = pairs()
    deltas = np.asarray(coder.encode(boxes, targets))
    wanted = np.array([encoded_by_hand(*pair, coder) for pair in zip(boxes, targets, strict=True)])
    np.testing.assert_allclose(deltas, wanted, rtol=2e-5, atol=2e-5 / min(coder.stds))
    assert np.abs(deltas[:, 2:] * np.array(coder.stds[2:])).max() < math.log(62.5)
    np.testing.assert_allclose(coder.decode(boxes, deltas), targets, rtol=1e-5, atol=1e-4)  # pixels


@pytest.mark.parametrize("coder", [RPN, *CASCADE])
def test_equals_torchvision(coder):
    boxes, targets = pairs()
    reference = import_library("torchvision.models.detection._utils").BoxCoder(tuple(1 / x for x in coder.stds))
    a, b = torch.from_numpy(boxes), torch.from_numpy(targets)
    wanted = reference.encode_single(b, a).numpy()
    np.testing.assert_allclose(coder.encode(boxes, targets), wanted, rtol=1e-5, atol=1e-5 / min(coder.stds))
    deltas = (np.random.default_rng(1).standard_normal((100, 4)) * 2).astype(np.float32)
    deltas = np.maximum(deltas, -4)  # below, torchvision lets sides shrink further
    deltas[:5, 2:] = 1e3
    np.testing.assert_allclose(
        coder.decode(boxes, deltas), reference.decode_single(torch.from_numpy(deltas), a), rtol=1e-5, atol=1e-4
    )


def test_sides_change_by_a_thousand_sixteenths_at_most():
    box = jnp.array([[0.0, 0, 16, 16]])
    grown = RPN.decode(box, jnp.array([[0, 0, 1e4, 5.0]]))
    np.testing.assert_allclose(grown[0, 2:] - grown[0, :2], [1000, 1000], rtol=1e-5)
    shrunk = RPN.decode(box, jnp.array([[0, 0, -1e4, -5.0]]))
    np.testing.assert_allclose(shrunk[0, 2:] - shrunk[0, :2], [0.256, 0.256], rtol=1e-4)
    wider = CASCADE[2].decode(box, jnp.array([[0, 0, 5.0, 0]]))  # the bound is of the ratio, after the stds
    np.testing.assert_allclose(wider[0, 2] - wider[0, 0], 16 * math.exp(5 * 0.067), rtol=1e-5)


def test_stages_of_the_cascade():
    assert [stage.stds for stage in CASCADE] == [
        (0.1, 0.1, 0.2, 0.2),
        (0.05, 0.05, 0.1, 0.1),
        (0.033, 0.033, 0.067, 0.067),
    ]
    assert all(stage.means == (0, 0, 0, 0) for stage in (RPN, *CASCADE)) and RPN.stds == (1, 1, 1, 1)


def test_padded_boxes_give_finite_deltas_and_gradients():
    boxes = np.array([[0, 0, 0, 0], [5, 5, 5, 9], [9, 9, 3, 3], [0, 0, 8, 8]], np.float32)
    targets = boxes[::-1].copy()
    value, gradient = jax.value_and_grad(lambda a, b: jnp.sum(RPN.encode(a, b)), argnums=(0, 1))(boxes, targets)
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in gradient)
    gradient = jax.grad(lambda deltas: jnp.sum(RPN.decode(boxes, deltas)))(np.full((4, 4), 1e4, np.float32))
    assert np.isfinite(gradient).all()


@EVERY
def test_a_batch_is_its_images_and_half_precision_deltas_are_decoded_in_single(coder):
    boxes, targets = (x.reshape(4, 25, 4) for x in pairs())
    deltas = jax.jit(jax.vmap(coder.encode))(boxes, targets)
    np.testing.assert_allclose(deltas, coder.encode(boxes, targets), rtol=1e-5, atol=1e-5)
    half = jnp.asarray(deltas, jnp.bfloat16)
    decoded = coder.decode(boxes, half)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, coder.decode(boxes, half.astype(np.float32)))
