"""Losses with weights: against PyTorch's, and what slots that do not count may hold."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bob_jax.detection.losses import mask_loss, weighted_mean

rng = np.random.default_rng(0)
LOGITS = (5 * rng.standard_normal((2, 6, 28, 28))).astype(np.float32)
TARGETS = (rng.random(LOGITS.shape) < 0.5).astype(np.float32)
WEIGHTS = np.array([[1, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]], np.float32)


def test_mask_loss_and_gradient_are_pytorchs_over_what_counts():
    logits = torch.tensor(LOGITS, requires_grad=True)
    counts = torch.from_numpy(WEIGHTS > 0)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits[counts], torch.from_numpy(TARGETS)[counts])
    wanted.backward()
    found, gradient = jax.value_and_grad(mask_loss)(LOGITS, TARGETS, WEIGHTS)
    np.testing.assert_allclose(found, wanted.detach(), rtol=1e-6)
    np.testing.assert_allclose(gradient, logits.grad, rtol=1e-5, atol=1e-9)


def test_slots_that_do_not_count_may_hold_anything():
    junk = np.where(WEIGHTS[..., None, None] > 0, LOGITS, np.inf)
    found, gradient = jax.value_and_grad(mask_loss)(junk, TARGETS, WEIGHTS)
    np.testing.assert_array_equal(found, mask_loss(LOGITS, TARGETS, WEIGHTS))
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[WEIGHTS == 0].any()


def test_an_image_without_objects_costs_nothing():
    found, gradient = jax.value_and_grad(mask_loss)(LOGITS, TARGETS, np.zeros_like(WEIGHTS))
    assert found == 0 and not np.asarray(gradient).any()


def test_huge_logits_do_not_overflow():
    logits = jnp.array([[[1e4, -1e4]]]) * jnp.ones((1, 2, 2))
    np.testing.assert_allclose(mask_loss(logits, jnp.zeros((1, 2, 2)), jnp.ones(1)), 5000)


def test_weighted_mean():
    values, weights = jnp.array([1, np.nan, 5, np.inf]), jnp.array([1.0, 0, 3, 0])
    assert weighted_mean(values, weights) == 4
    assert weighted_mean(values, weights / 8) == 2  # weights of less than 1 together are not blown up
