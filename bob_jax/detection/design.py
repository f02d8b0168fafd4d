"""The design of a detector: everything about it that is not its backbone. One design serves every backbone."""

import dataclasses

from bob_jax.detection.coder import CASCADE
from bob_jax.errors import BobError

BOX_LOSSES = ("smooth_l1", "giou")
GIOU_WEIGHT = 10.0  # of mmdetection's detectors that are trained with it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """A region proposal network, a cascade of box heads, mask heads, and how they are trained and read.

    A detector of one stage is the plain Mask R-CNN.

    Attributes:
        width: channels of every level of the pyramid, and of the heads' convolutions.
        neck_norm: norm of a feature pyramid network: "group", "layer" or "none". The simple pyramid of plain backbones
            always has layer norms.
        anchor_scale: side of the anchors over the stride of their level.
        anchors_rounded: their corners and distances are whole pixels, as in torchvision's public detectors.
        anchor_border: pixels that an anchor that learns may reach out of the picture; negative: its centre must be in
            the picture, and no more.
        rpn_convs: 3x3 convolutions of the proposal network, each with a ReLU.
        rpn_norm: their norm.
        proposals_before: best anchors of each level that are compared with each other: in training, in use.
        proposals: boxes that are proposed: in training, in use.
        proposal_overlap: greatest IoU of two proposals of a level.
        stage_overlaps: IoU from which a box is positive, for each stage of the cascade.
        stage_weights: of each stage's losses.
        low_quality: whether an object also claims the box that overlaps it most, if that is by half (the cascade of
            the original's plain backbones).
        rois: boxes of an image that each stage learns from.
        positive_share: greatest share of them that may be positive.
        roi_samples: of each bin and side; 0 is adaptive, as mmdetection's detectors were trained.
        roi_aligned: a pixel's centre lies half a pixel inside it; False as in torchvision's public detectors.
        box_convs: 3x3 convolutions of each box head,
        box_fcs: then fully connected layers
        box_hidden: of this width.
        box_norm: of the convolutions.
        class_agnostic: one box for all classes, or one for each.
        box_loss: "smooth_l1" on deltas, or "giou" on boxes.
        box_beta: where smooth L1 goes from square to line, in standard deviations of the deltas.
        mask_heads: 0 for boxes alone; 1, which learns from the boxes of the first stage; or one for each stage.
        mask_convs: 3x3 convolutions of a mask head.
        mask_norm: of these.
        score_threshold: least score of what is found.
        detection_overlap: greatest IoU of two boxes of a class that are found.
        detections: most objects that are found in an image.
    """

    width: int
    neck_norm: str
    anchor_scale: float
    anchors_rounded: bool
    anchor_border: float
    rpn_convs: int
    rpn_norm: str
    proposals_before: tuple[int, int]
    proposals: tuple[int, int]
    proposal_overlap: float
    stage_overlaps: tuple[float, ...]
    stage_weights: tuple[float, ...]
    low_quality: bool
    rois: int
    positive_share: float
    roi_samples: int
    roi_aligned: bool
    box_convs: int
    box_fcs: int
    box_hidden: int
    box_norm: str
    class_agnostic: bool
    box_loss: str
    box_beta: float
    mask_heads: int
    mask_convs: int
    mask_norm: str
    score_threshold: float
    detection_overlap: float
    detections: int

    @property
    def stages(self) -> int:
        """Of the cascade."""
        return len(self.stage_overlaps)

    @property
    def most_positive(self) -> int:
        """Positive boxes of an image that a stage learns from at most; they come first in its slots."""
        return int(self.rois * self.positive_share)

    def check(self) -> None:
        """Whether the parts fit together.

        Raises:
            BobError: they do not.
        """
        if len(self.stage_weights) != self.stages or not 1 <= self.stages <= len(CASCADE):
            raise BobError(
                f"detector: {self.stages} stage_overlaps and {len(self.stage_weights)} stage_weights: give one each "
                f"for 1 to {len(CASCADE)} stages"
            )
        if self.mask_heads not in (0, 1, self.stages):
            raise BobError(f"detector: {self.mask_heads} mask_heads for {self.stages} stages: take 0, 1 or one each")
        if self.box_loss not in BOX_LOSSES:
            raise BobError(f"detector: box_loss '{self.box_loss}': take {' or '.join(BOX_LOSSES)}")
        shares = (*self.stage_overlaps, self.proposal_overlap, self.detection_overlap, self.score_threshold)
        if not all(0 <= share <= 1 for share in shares):
            raise BobError("detector: overlaps and score_threshold must be from 0 to 1, they are " + _listed(shares))
        counts = (*self.proposals_before, *self.proposals, self.detections, self.box_fcs)
        if min(*counts, self.anchor_scale) <= 0:
            raise BobError(
                "detector: proposals_before, proposals, detections, box_fcs and anchor_scale must be above 0, they are "
                + _listed((*counts, self.anchor_scale))
            )
        if not 0 < self.most_positive < self.rois:
            raise BobError(f"detector: {self.rois} rois with a positive_share of {self.positive_share} leave no room")


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
