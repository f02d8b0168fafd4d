"""A detector that is small in everything, and objects for it."""

import dataclasses

import numpy as np
from from_timm import FAST_COMPILE

from bob_jax.detection.design import Design
from bob_jax.detection.mask_targets import SIZE
from bob_jax.detection.objects import Objects

# Halves the time once more: many small loops, of which none is worth a kernel of its own.
FAST = FAST_COMPILE | {"xla_cpu_use_fusion_emitters": False}

DESIGN = Design(
    width=32,
    neck_norm="group",
    anchor_scale=8.0,
    anchors_rounded=False,
    anchor_border=-1.0,
    rpn_convs=1,
    rpn_norm="none",
    proposals_before=(60, 40),
    proposals=(40, 24),
    proposal_overlap=0.7,
    stage_overlaps=(0.5, 0.6, 0.7),
    stage_weights=(1.0, 0.5, 0.25),
    low_quality=False,
    rois=32,
    positive_share=0.25,
    roi_samples=2,
    roi_aligned=True,
    box_convs=0,
    box_fcs=1,
    box_hidden=16,
    box_norm="none",
    class_agnostic=True,
    box_loss="smooth_l1",
    box_beta=1.0,
    mask_heads=1,
    mask_convs=1,
    mask_norm="none",
    score_threshold=0.05,
    detection_overlap=0.5,
    detections=10,
)


def design(**changes) -> Design:
    """The small design, with changes."""
    return dataclasses.replace(DESIGN, **changes)


def objects(count: int, slots: int, classes: int, seed: int, side: float = 64) -> Objects:
    """So many objects in an image of this side; junk in the other slots, which come between.

    Masks have the 28 points of the heads' own: between those of another grid an object's own box reads halves exactly,
    and the last bit decides whether a point is in.
    """
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0.3 * side, 0.7 * side, (slots, 2))
    low = rng.uniform(0, 1, (slots, 2)) * (side - sides)
    valid = np.zeros(slots, bool)
    valid[rng.permutation(slots)[:count]] = True
    return Objects(
        boxes=np.concatenate([low, low + sides], axis=1).astype(np.float32),
        classes=rng.integers(classes, size=slots).astype(np.int32),
        valid=valid,
        masks=(rng.random((slots, SIZE, SIZE)) < 0.6).astype(np.uint8),
    )
