"""What a detector is taught and what it says, in arrays of fixed size with validity beside the values."""

from typing import NamedTuple

import jax


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
