"""What a detector is taught and what it says, in arrays of fixed size with validity beside the values."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bob_jax.errors import BobError


class Objects(NamedTuple):
    """The objects of an image, or of a batch with a leading axis.

    Attributes:
        boxes: [G, 4] float32, left, top, right, bottom in pixels.
        classes: [G] int32.
        valid: [G] bool, whether a slot holds an object.
        masks: [G, M, M] 0 or 1, each over its own box.
    """

    boxes: jax.Array
    classes: jax.Array
    valid: jax.Array
    masks: jax.Array


class Boxes(NamedTuple):
    """Boxes with validity, and a score where they have one.

    Attributes:
        boxes: [N, 4] float32.
        valid: [N] bool.
        scores: [N] float32; minus infinity where not valid.
    """

    boxes: jax.Array
    valid: jax.Array
    scores: jax.Array


class Found(NamedTuple):
    """What a detector found in an image, the surest first; or in a batch, with a leading axis.

    Attributes:
        boxes: [D, 4] float32, left, top, right, bottom in pixels of the input.
        classes: [D] int32.
        scores: [D] float32 in [0, 1]; 0 in empty slots.
        valid: [D] bool.
        masks: [D, m, m] float32, the probability that a point of the box belongs to the object; m is 0 where the
            detector has no mask head.
        uncertain: [] bool, whether more boxes than were looked at might have changed what was found.
    """

    boxes: jax.Array
    classes: jax.Array
    scores: jax.Array
    valid: jax.Array
    masks: jax.Array
    uncertain: jax.Array


def relabelled(found: Found, names: Sequence[str], wanted: Sequence[str]) -> Found:
    """What was found, its classes numbered as those of a data set; objects of classes that it does not have are left
    out, their slots stay.

    Args:
        found: of an image, or of a batch with a leading axis.
        names: of the detector's classes, in their order.
        wanted: of the data set's classes, in their order.

    Raises:
        BobError: the two have no name in common.
    """
    places = {name: index for index, name in enumerate(wanted)}
    table = jnp.array([places.get(name, -1) for name in names], jnp.int32)
    if not places.keys() & set(names):
        raise BobError(f"the detector finds none of the data set's classes: {names[0]}, ... against {wanted[0]}, ...")
    classes = table[found.classes]
    valid = found.valid & (classes >= 0)
    return found._replace(
        classes=jnp.where(valid, classes, 0),
        scores=jnp.where(valid, found.scores, 0),
        valid=valid,
        masks=jnp.where(valid[..., None, None], found.masks, 0),
    )
