"""Assignment: which boxes should find which object, and which should find none.

By overlap, as in mmdetection's `MaxIoUAssigner`. Objects are taken one after the other. So no matrix of all boxes and
all objects is ever held (105 MB for each image of 1024 x 1024 pixels), and the overlap that is compared with an
object's best is the very number of which the best was taken: ties are exact, whatever the compiler fuses.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bob_jax.detection.boxes import coverage, iou

IGNORED_COVERAGE = 0.5  # a box that lies in a crowd by more than this share of its area is no background


class Assignment(NamedTuple):
    """What each box should find.

    Attributes:
        match: [N] int32, the object of each positive box; of others the one they overlap most, 0 if none.
        positive: [N] bool.
        negative: [N] bool, background. Boxes that are neither do not learn.
        overlap: [N] float32, IoU with the object that the box overlaps most; 0 for boxes that are not usable.
    """

    match: jax.Array
    positive: jax.Array
    negative: jax.Array
    overlap: jax.Array


def assign(
    boxes: jax.Array,
    objects: jax.Array,
    valid: jax.Array,
    *,
    positive: float,
    negative: float,
    low_quality: float | None = None,
    crowd: jax.Array | None = None,
    usable: jax.Array | None = None,
) -> Assignment:
    """Assigns objects to boxes.

    A box is positive if its best IoU is at least `positive`, negative if it is below `negative`. Of objects that it
    overlaps equally the first counts. With `low_quality`, an object whose best IoU is at least that claims every box
    that has exactly this best IoU, below `positive` too; of several objects that claim one box the last gets it.

    Args:
        boxes: [N, 4], anchors or proposals.
        objects: [G, 4], padded.
        valid: [G] bool, which objects are none of the padding. An image without any has negative boxes only.
        positive: least IoU of a positive box.
        negative: IoU from which a box is no longer negative.
        low_quality: least IoU with which an object claims its best boxes, above 0; None if no object does.
        crowd: [G] bool, objects that stand for many and so are nobody's target; boxes in them are neither positive nor
            negative.
        usable: [N] bool; other boxes are neither, and are not counted among an object's best.
    """
    boxes, objects = jax.lax.stop_gradient((boxes.astype(jnp.float32), objects.astype(jnp.float32)))
    usable = jnp.ones(len(boxes), bool) if usable is None else jnp.asarray(usable)
    targets = valid
    if crowd is not None:
        targets = valid & ~crowd
        usable &= ~_covered(boxes, objects, valid & crowd)

    def compare(state: tuple, entry: tuple) -> tuple[tuple, None]:
        best, match, claimed = state
        index, box, is_target = entry
        # The barrier makes the overlap one array that all below read, instead of a formula that each may round anew.
        overlap = jax.lax.optimization_barrier(jnp.where(usable & is_target, iou(boxes, box[None]), -1))
        better = overlap > best
        if low_quality is not None:
            most = jnp.max(overlap, initial=-1)
            claimed = jnp.where((overlap == most) & (most >= low_quality), index, claimed)
        return (jnp.maximum(best, overlap), jnp.where(better, index, match), claimed), None

    none = jnp.full(len(boxes), -1, jnp.int32)
    start = (jnp.zeros(len(boxes)), jnp.zeros_like(none), none)
    order = jnp.arange(len(objects), dtype=jnp.int32)
    (best, match, claimed), _ = jax.lax.scan(compare, start, (order, objects, targets))
    is_positive = usable & ((best >= positive) | (claimed >= 0))
    return Assignment(
        match=jnp.where(claimed >= 0, claimed, match),
        positive=is_positive,
        negative=usable & ~is_positive & (best < negative),
        overlap=best,
    )


def _covered(boxes: jax.Array, objects: jax.Array, crowd: jax.Array) -> jax.Array:
    """[N] bool: boxes that lie in one of the crowds."""

    def add(covered: jax.Array, entry: tuple) -> tuple[jax.Array, None]:
        box, is_crowd = entry
        return covered | (is_crowd & (coverage(boxes, box[None]) > IGNORED_COVERAGE)), None

    return jax.lax.scan(add, jnp.zeros(len(boxes), bool), (objects, crowd))[0]
