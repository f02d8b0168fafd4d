"""Losses of the detector's heads: dense arrays with weights, which say which slots count."""

import jax
import jax.numpy as jnp


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum of values * weights over max(sum of weights, 1): 0 where nothing counts. [...] twice to [] float32.

    A value without weight may be infinite or NaN, and hurts neither the mean nor the gradient of what counts; to keep
    its own gradient finite, mask what it is computed from too.
    """
    counted = jnp.where(weights > 0, values.astype(jnp.float32) * weights, 0)
    return jnp.sum(counted) / jnp.maximum(jnp.sum(weights, dtype=jnp.float32), 1)


def mask_loss(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """Binary cross-entropy of masks, the mean over pixels and over the RoIs that count (arXiv 1703.06870).

    Args:
        logits: [..., T, m, m], of the object's own class.
        targets: [..., T, m, m], 0 or 1.
        weights: [..., T], 1 for RoIs that have an object, else 0.

    Returns:
        [] float32; 0 where no RoI has an object.
    """
    logits = jnp.where(weights[..., None, None] > 0, logits.astype(jnp.float32), 0)
    # log(1 + exp(logit)) - target * logit, without overflow.
    pixels = jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return weighted_mean(jnp.mean(pixels, axis=(-2, -1)), weights)
