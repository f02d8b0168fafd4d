"""How much a detector computes beside its backbone, counted by hand from its design.

What is counted are the products of 3x3 convolutions and fully connected layers, two operations for a multiplication and
an addition. The laterals of the neck (they depend on the backbone), RoIAlign by gathers, norms and suppression are a
twentieth of the whole, as the compiler counts it (docs/performance.md).
"""

import itertools
import math

from bob_jax.data.multi_scale import SingleScale
from bob_jax.detection.box_head import SIZE as BOX_BINS
from bob_jax.detection.design import Design
from bob_jax.detection.fpn import ROI_LEVELS, STRIDES
from bob_jax.detection.mask_head import SIZE as MASK_BINS


def pixels(views: str, size: int) -> int:
    """Of a picture with its padding; of pictures on several canvases that of most photographs, which are 4:3."""
    return math.prod(SingleScale(size).canvases[0]) if views == "multi_scale" else size**2


def gflops(design: Design, area: int, *, training: bool) -> float:
    """GFLOPs of one picture, forward, without the backbone.

    Args:
        design: of the detector.
        area: of the picture with its padding, in pixels.
        training: on the boxes that it learns from; else on those that it proposes and finds.
    """
    cells = [area / stride**2 for stride in STRIDES]
    convolution = 9 * design.width**2  # products of a cell
    neck = sum(cells[:ROI_LEVELS]) * convolution
    proposing = sum(cells) * design.rpn_convs * convolution
    boxes = design.rois if training else design.proposals[1]
    widths = [BOX_BINS**2 * design.width] + [design.box_hidden] * design.box_fcs
    layers = sum(before * after for before, after in itertools.pairwise(widths))
    box_heads = design.stages * boxes * (BOX_BINS**2 * design.box_convs * convolution + layers)
    masks = design.most_positive if training else design.detections
    deconvolution = 4 * design.width**2
    mask_heads = design.mask_heads * masks * MASK_BINS**2 * (design.mask_convs * convolution + deconvolution)
    return 2e-9 * (neck + proposing + box_heads + mask_heads)
