"""mmdetection's Cascade Mask R-CNN: converted random weights find what a twin in PyTorch finds, stage by stage."""

import numpy as np
import torch
from cascade_twin import CascadeTwin, stages
from converter_models import randomised
from detector_parity import DETECTIONS, channels_last, errors, run, scale_layers

from converters import detectors

NAME = "cascade_mask_rcnn_r50_fpn"
EXTENTS = ((56, 100), (64, 128))  # of two images on one canvas
# What `randomised` gives, with deltas that keep boxes in the image and scores on both sides of the threshold.
SPREAD = {
    "rpn_head.rpn_reg": 0.05,
    **{f"roi_head.bbox_head.{i}.fc_cls": 2.0 for i in range(3)},
    **{f"roi_head.mask_head.{i}.conv_logits": 4.0 for i in range(3)},
}


def test_every_stage_equals_a_twin(tmp_path):
    with torch.device("meta"):  # not initialised twice
        empty = CascadeTwin()
    model = randomised(empty.to_empty(device="cpu"))
    scale_layers(model, SPREAD)
    file = tmp_path / f"{NAME}_1x_coco.pth"
    # As mmdetection writes it: the state dict beside what it was trained with.
    torch.save({"meta": {"epoch": 12, "CLASSES": detectors.COCO_CLASSES}, "state_dict": model.state_dict()}, file)
    backbone, heads, classes = detectors.load_public(NAME, file)
    assert len(classes) == heads.classes == 80

    images = torch.zeros(2, 3, 64, 128)
    generator = torch.Generator().manual_seed(1)
    for image, (height, width) in zip(images, EXTENTS, strict=True):
        image[:, :height, :width] = torch.randn(3, height, width, generator=generator)
    theirs = stages(model, images, EXTENTS)
    ours = run(backbone, heads, channels_last(images), np.array(EXTENTS, np.int32))
    for stage, error in errors(ours, theirs).items():
        assert error < 1e-5, (stage, error)
    found = ours["found"]
    assert np.all(np.sum(found.valid, axis=1) == DETECTIONS)
    assert len(np.unique(found.classes)) > 2 and np.std(found.scores) > 0.01 and np.std(found.masks) > 0.1
