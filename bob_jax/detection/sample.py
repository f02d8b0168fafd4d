"""Sampling: a fixed number of boxes that learn, drawn at random from the positive and the negative ones.

An image's draw depends on the seed, the step and the image's own number, and on nothing else: not on its place in the
batch, nor on the devices, nor on how many boxes of padding stand behind the real ones.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class Sample(NamedTuple):
    """Drawn boxes: first the positive ones, then the negative ones, then empty slots.

    Attributes:
        indices: [size] int32, which box is in a slot; 0 in empty ones.
        valid: [size] bool, whether a box is.
        positive: [size] bool, False in empty slots.
        left_out: [] int32, positive boxes for which there was no room.
        empty: [] int32, slots for which there was no box.
    """

    indices: jax.Array
    valid: jax.Array
    positive: jax.Array
    left_out: jax.Array
    empty: jax.Array


def image_keys(key: jax.Array, step: ArrayLike, images: jax.Array) -> jax.Array:
    """A random key for each image of a batch.

    Args:
        key: of the run.
        step: number of the training step.
        images: [B] int, the images' numbers in their data set.

    Returns:
        [B] keys.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), images)


def sample(key: jax.Array, positive: jax.Array, negative: jax.Array, *, size: int, most_positive: int) -> Sample:
    """Draws boxes without replacement, each positive one equally likely and each negative one too.

    As many positive ones as there are, up to `most_positive`; negative ones fill up.

    Args:
        key: of the image.
        positive: [N] bool.
        negative: [N] bool; where both are set, positive counts.
        size: slots.
        most_positive: slots that positive boxes may take.
    """
    # One number for each box is enough, as no box takes part in both draws. Element i is a function of the key and i
    # alone, with JAX's default generator, so that boxes behind it do not matter.
    order = jax.random.uniform(key, positive.shape)
    chosen, is_positive = _drawn(order, positive, min(most_positive, size))
    others, is_negative = _drawn(order, negative & ~positive, size)

    first = jnp.sum(is_positive, dtype=jnp.int32)
    slots = jnp.arange(size, dtype=jnp.int32)
    total = jnp.minimum(first + jnp.sum(is_negative, dtype=jnp.int32), size)
    from_positive = jnp.take(chosen, slots, mode="clip") if len(chosen) else jnp.zeros_like(slots)
    from_negative = jnp.take(others, slots - first, mode="clip") if len(others) else jnp.zeros_like(slots)
    valid = slots < total
    return Sample(
        indices=jnp.where(valid, jnp.where(slots < first, from_positive, from_negative), 0),
        valid=valid,
        positive=slots < first,
        left_out=jnp.sum(positive, dtype=jnp.int32) - first,
        empty=size - total,
    )


def _drawn(order: jax.Array, wanted: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Up to `most` of those wanted, in the order of their numbers: which, and whether there was one."""
    numbers, index = jax.lax.top_k(jnp.where(wanted, order, -1), min(most, len(order)))
    return index.astype(jnp.int32), numbers >= 0
