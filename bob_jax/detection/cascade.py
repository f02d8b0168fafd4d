"""The cascade (Cai and Vasconcelos 2018, arXiv 1712.00726): boxes that get better from stage to stage, as mmdetection
trains them. Each stage draws its own boxes from those that the stage before moved, and the objects themselves.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bob_jax.detection import boxes as box_arithmetic
from bob_jax.detection.assign import assign
from bob_jax.detection.coder import Coder
from bob_jax.detection.design import GIOU_WEIGHT, Design
from bob_jax.detection.objects import Objects
from bob_jax.detection.rpn import smooth_l1
from bob_jax.detection.sample import sample


class Rois(NamedTuple):
    """The boxes of an image that a stage learns from: positive ones first, then background, then empty slots.

    Attributes:
        boxes: [T, 4].
        valid: [T] bool.
        positive: [T] bool; all of them in the first `most_positive` slots.
        match: [T] int32, the object of a positive box.
        classes: [T] int32 of the object, C for background.
        is_object: [T] bool, boxes that are an object itself and no proposal.
        overlap: [T] float32, IoU with the object that the box overlaps most.
        left_out: [] int32, positive boxes for which there was no room.
    """

    boxes: jax.Array
    valid: jax.Array
    positive: jax.Array
    match: jax.Array
    classes: jax.Array
    is_object: jax.Array
    overlap: jax.Array
    left_out: jax.Array


def draw(
    key: jax.Array,
    proposals: jax.Array,
    valid: jax.Array,
    objects: Objects,
    *,
    stage: int,
    classes: int,
    design: Design,
) -> Rois:
    """Chooses the boxes of one image that a stage learns from.

    Args:
        key: of the image and stage.
        proposals: [P, 4].
        valid: [P] bool.
        objects: of the image, which are candidates themselves.
        stage: number of the stage, whose overlap decides what is positive.
        classes: C.
        design: of the detector.
    """
    candidates = jax.lax.stop_gradient(jnp.concatenate([proposals, objects.boxes]))
    overlap = design.stage_overlaps[stage]
    assignment = assign(
        proposals,
        objects.boxes,
        objects.valid,
        positive=overlap,
        negative=overlap,
        low_quality=overlap if design.low_quality else None,
        usable=valid,
    )
    # Objects join after the assignment, each found by itself: among the proposals each would be its own best box, and
    # with `low_quality` claim no other.
    positive = jnp.concatenate([assignment.positive, objects.valid])
    negative = jnp.concatenate([assignment.negative, jnp.zeros_like(objects.valid)])
    matches = jnp.concatenate([assignment.match, jnp.arange(len(objects.boxes), dtype=jnp.int32)])
    overlaps = jnp.concatenate([assignment.overlap, jnp.ones(len(objects.boxes))])
    drawn = sample(key, positive, negative, size=design.rois, most_positive=design.most_positive)
    match = matches[drawn.indices]
    return Rois(
        boxes=jnp.where(drawn.valid[:, None], candidates[drawn.indices], 0),
        valid=drawn.valid,
        positive=drawn.positive,
        match=match,
        classes=jnp.where(drawn.positive, objects.classes[match], classes),
        is_object=drawn.valid & (drawn.indices >= len(proposals)),
        overlap=jnp.where(drawn.valid, overlaps[drawn.indices], 0),
        left_out=drawn.left_out,
    )


class StageTerms(NamedTuple):
    """Sums over the boxes of an image that a stage learns from, not yet divided by their number.

    Attributes:
        score: [] float32, cross-entropy of the classes.
        box: [] float32, of positive boxes.
        learning: [] float32, boxes that learn.
        right: [] float32, positive boxes whose class is found, background out of the question.
    """

    score: jax.Array
    box: jax.Array
    learning: jax.Array
    right: jax.Array


def stage_terms(
    scores: jax.Array, deltas: jax.Array, rois: Rois, objects: Objects, *, coder: Coder, design: Design
) -> StageTerms:
    """The losses of one stage on one image.

    Args:
        scores: [T, C + 1] float32.
        deltas: [T, C or 1, 4] float32.
        rois: the boxes that they are of.
        objects: of the image.
        coder: of the stage.
        design: of the detector.
    """
    weights = rois.valid.astype(jnp.float32)
    surprise = optax.softmax_cross_entropy_with_integer_labels(scores, rois.classes)
    own = own_deltas(deltas, rois.classes)
    targets = objects.boxes[rois.match]
    if design.box_loss == "giou":
        moved = coder.decode(rois.boxes, own)
        distances = GIOU_WEIGHT * box_arithmetic.giou_loss(moved, targets, rois.positive)
    else:
        wanted = jnp.where(rois.positive[:, None], coder.encode(rois.boxes, targets), 0)
        distances = smooth_l1(own, wanted, design.box_beta)
    right = rois.positive & (jnp.argmax(scores[:, :-1], axis=-1) == rois.classes)
    return StageTerms(
        score=jnp.sum(surprise * weights),
        box=jnp.sum(jnp.where(rois.positive, distances, 0)),
        learning=jnp.sum(weights),
        right=jnp.sum(right, dtype=jnp.float32),
    )


def own_deltas(deltas: jax.Array, classes: jax.Array) -> jax.Array:
    """The deltas of each box's own class. [T, C or 1, 4] and [T] to [T, 4]; background takes the last class's."""
    index = jnp.clip(classes, 0, deltas.shape[1] - 1)
    return jnp.take_along_axis(deltas, index[:, None, None], axis=1)[:, 0]


def refine(
    boxes: jax.Array,
    scores: jax.Array,
    deltas: jax.Array,
    extent: jax.Array,
    classes: jax.Array | None = None,
    *,
    coder: Coder,
) -> jax.Array:
    """Boxes as a stage moves them, clipped to the image; no gradient flows through them.

    Args:
        boxes: [T, 4].
        scores: [T, C + 1].
        deltas: [T, C or 1, 4].
        extent: [2] height and width of the image.
        classes: [T] int of positive boxes, C for background, whose best class is taken; None where no class is known.
        coder: of the stage.
    """
    best = jnp.argmax(scores[:, :-1], axis=-1)
    known = best if classes is None else jnp.where(classes < scores.shape[1] - 1, classes, best)
    moved = coder.decode(boxes, own_deltas(deltas, known))
    return jax.lax.stop_gradient(box_arithmetic.clip(moved, extent[0], extent[1]))
