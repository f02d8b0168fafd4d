"""The Square attack: its schedule and patterns as published, its ball, and what gradients cannot do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bob_jax.protocols import attacks
from bob_jax.protocols.attacks import Ball
from bob_jax.protocols.square import _pattern, _sides, square

B, SIDE, CLASSES = 12, 12, 5
NORMS = ("linf", "l2")
RADII = {"linf": 0.05, "l2": 0.6}


@pytest.fixture(scope="module")
def logits():
    weights = np.random.default_rng(0).normal(size=(SIDE * SIDE * 3, CLASSES)).astype(np.float32)
    return lambda pixels: jnp.matmul(pixels.reshape(len(pixels), -1), weights, precision="float32")


@pytest.fixture(scope="module")
def pixels():
    return np.clip(np.random.default_rng(1).uniform(-0.3, 1.3, (B, SIDE, SIDE, 3)), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def labels(logits, pixels):
    return np.asarray(logits(pixels)).argmax(1)


def keys(count=B):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(count))


@functools.cache
def attack(logits, norm, queries):
    return jax.jit(
        lambda pixels, labels, radius: square(
            logits, Ball(pixels, norm, radius), labels, keys(len(labels)), queries=queries
        )
    )


@pytest.mark.parametrize("norm", NORMS)
def test_within_ball_and_box_and_misclassified_where_said(norm, logits, pixels, labels):
    radius = RADII[norm]
    found = attack(logits, norm, 200)(pixels, labels, radius)
    change = np.asarray(found.pixels, np.float64) - pixels
    assert found.pixels.min() >= 0 and found.pixels.max() <= 1
    size = np.abs(change).max((1, 2, 3)) if norm == "linf" else np.sqrt((change**2).sum((1, 2, 3)))
    assert (size <= radius + 1e-6).all() and (size > radius / 2).all()
    np.testing.assert_array_equal(found.fooled, np.asarray(logits(found.pixels)).argmax(1) != labels)
    assert 0 < found.fooled.sum() < B


@pytest.mark.parametrize("norm", NORMS)
def test_queries_and_budget_help(norm, logits, pixels, labels):
    def margin(queries, radius):
        found = attack(logits, norm, queries)(pixels, labels, radius)
        scores = np.asarray(logits(found.pixels))
        right = np.eye(CLASSES, dtype=bool)[labels]
        return (scores[right] - np.where(right, -np.inf, scores).max(1)).clip(0).mean()

    small = RADII[norm] / 4
    assert margin(200, small) < margin(20, small) < margin(1, small)
    assert margin(20, 4 * small) < margin(20, 2 * small) < margin(20, small)


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_does_not_see_its_batch(norm, logits, pixels, labels):
    whole = attack(logits, norm, 50)(pixels, labels, RADII[norm] / 2)
    part = attack(logits, norm, 50)(pixels[:5], labels[:5], RADII[norm] / 2)
    np.testing.assert_allclose(whole.pixels[:5], part.pixels, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(whole.fooled[:5], part.fooled)


@pytest.mark.parametrize("norm", NORMS)
def test_fools_where_there_is_no_gradient(norm, logits, pixels, labels):
    """A classifier of pixels in 64 steps: flat almost everywhere, and no safer for it."""

    def stepped(pixels):
        return logits(jnp.round(pixels * 63) / 63)

    known = np.asarray(stepped(pixels)).argmax(1)
    ball = Ball(jnp.asarray(pixels), norm, RADII[norm])
    blind = attacks.pgd(stepped, ball, known, None, steps=10, step_size=0.25)
    assert not blind.fooled.any()
    assert attack(stepped, norm, 200)(pixels, known, RADII[norm]).fooled.any()


def published_side(query, queries, norm):
    """The authors' schedule as their code states it."""
    p, it = 0.8, int(query / queries * 10000)
    for above, share in (
        (10, 2),
        (50, 4),
        (200, 8),
        (500, 16),
        (1000, 32),
        (2000, 64),
        (4000, 128),
        (6000, 256),
        (8000, 512),
    ):
        if it > above:
            p = 0.8 / share
    side = max(round(np.sqrt(p * SIDE * SIDE)), 1 if norm == "linf" else 3)
    return side + (norm == "l2" and side % 2 == 0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("queries", [10, 137, 10_000])
def test_squares_shrink_on_the_published_schedule(norm, queries):
    expected = [min(published_side(query, queries, norm), SIDE) for query in range(queries)]
    np.testing.assert_array_equal(_sides(queries, SIDE, SIDE, norm)[1:], expected)


def published_pattern(side):
    """The two bumps, built ring by ring as in the paper's supplement, A.2."""

    def bump(height, width):
        values = np.zeros((height, width))
        centre = height // 2, width // 2
        for ring in range(max(height, width) // 2 + 1):
            top, left = (max(c - ring, 0) for c in centre)
            values[top : max(centre[0] + ring + 1, 0), left : centre[1] + ring + 1] += 1 / (ring + 1) ** 2
        return values / np.linalg.norm(values)

    values = np.concatenate([bump(side // 2, side), -bump(side - side // 2, side)])
    return values / np.linalg.norm(values)


@pytest.mark.parametrize("side", [3, 5, 9])
def test_the_pattern_is_the_published_one(side):
    found = np.array(_pattern(np.arange(SIDE) - 1, np.arange(SIDE) - 2, side))
    np.testing.assert_allclose(found[1 : 1 + side, 2 : 2 + side], published_pattern(side), rtol=0, atol=1e-6)
    found[1 : 1 + side, 2 : 2 + side] = 0
    assert not found.any()
