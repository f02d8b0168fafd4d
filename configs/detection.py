"""Object detection and instance segmentation: one Cascade Mask R-CNN for every backbone, scored as COCO scores.

    python main.py --config=configs/detection.py:convnext_t_in1k
    python main.py --config=configs/detection.py:vit_b16_mae,dataset=coco --config.protocols.detection.epochs=12
    python main.py --config=configs/detection.py:resnet50_in1k --config.protocols.detection.mode=frozen
    python main.py --config=configs/detection.py:all,dataset=sim10k_to_cityscapes
    python main.py --config=configs/detection.py:vit_b16_clip,dataset=coco:PATH
    python main.py --config=configs/detection.py:swinv2_t_in1k,protocol=bob2023

Needs: the weights, and the data in COCO's own layout (`bob data list`). Frozen backbones and random ones
(`convnext_t_random`) run by the same recipe.

`detection` is the recipe of today: heads, norms, losses, augmentation, input size, precision and batch are the same for
all, so the backbone is all that differs.

Expected: not known yet. Nearest are ViTDet's (ViT-B of MAE,
cascade, 100 epochs: box AP 54.0, mask AP 46.7) and ConvNeXt's (ConvNeXt-T, 36 epochs: 50.4 and 43.7), see
docs/detection.md.

`bob2023` is what the 2023 benchmark gave each family (hierarchical, plain, diffusion), each in a recipe of its own,
without its bugs. Where it differs from the original it says so beside the value.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.argument import Offer, config
from configs.recipes import BACKBONES, DEFAULT_BACKBONES

# Cascade Mask R-CNN as mmdetection and detectron2 publish it (configs/cascade_rcnn; projects/ViTDet), with norms that
# do not look at other images.
DESIGN: dict[str, Any] = {
    "width": 256,
    "neck_norm": "group",
    "anchor_scale": 8.0,
    "anchors_rounded": False,
    "anchor_border": -1.0,
    "rpn_convs": 1,
    "rpn_norm": "none",
    "proposals_before": (2000, 1000),
    "proposals": (1000, 1000),  # ViTDet's; mmdetection trains on 2,000
    "proposal_overlap": 0.7,
    "stage_overlaps": (0.5, 0.6, 0.7),
    "stage_weights": (1.0, 0.5, 0.25),
    "low_quality": False,
    "rois": 512,
    "positive_share": 0.25,
    "roi_samples": 2,
    "roi_aligned": True,
    "box_convs": 0,
    "box_fcs": 2,
    "box_hidden": 1024,
    "box_norm": "none",
    "class_agnostic": True,
    "box_loss": "smooth_l1",
    "box_beta": 1.0,
    "mask_heads": 1,  # detectron2's; one for each stage triples the most expensive part
    "mask_convs": 4,
    "mask_norm": "group",
    "score_threshold": 0.05,
    "detection_overlap": 0.5,
    "detections": 100,
}

TRAINING: dict[str, Any] = {
    "mode": "finetune",
    "views": "jitter",
    "size": 1024,
    "scale": (0.1, 2.0),
    "flip": 0.5,
    "slots": 100,
    "mask_side": 112,
    "learning_rates": (1e-4, 2e-4),  # ViTDet's at this batch, and twice that; the better is chosen on validation
    "weight_decay": 0.05,
    # ViTDet-B's layer decay leaves the stem 0.014 of the rate, ConvNeXt-B's 0.069, ConvNeXt-T's 0.12.
    "stem_rate": 0.05,
    "batch_size": 64,
    "accumulate": 1,
    "epochs": 36,
    "warmup_steps": 500,
    "schedule": "cosine",
    "evaluations": 6,
    "drop_path": 0.1,
    "window": 14,
    "clip_norm": 1.0,
}

# What the families have in common in 2023 (mmdetection 2.26's 3x schedule).
THEN: dict[str, Any] = (
    DESIGN
    | TRAINING
    | {
        "neck_norm": "none",
        "proposals": (2000, 1000),
        "box_convs": 4,
        "box_fcs": 1,
        "class_agnostic": False,
        "mask_heads": 3,
        # mmdetection samples a bin by its size (0 does it here too), which costs many times as much for no known gain.
        "roi_samples": 2,
        "learning_rates": (8e-5, 1e-4, 2e-4, 3e-4),
        "stem_rate": 1.0,
        "batch_size": 16,
        "warmup_steps": 1000,
        "schedule": "steps",
        "evaluations": 36,
        "clip_norm": 0.0,
    }
)

PROTOCOLS: dict[str, dict[str, Any]] = {
    "detection": DESIGN | TRAINING,
    "bob2023_hierarchical": THEN
    | {
        "anchor_border": 0.0,
        "box_norm": "group",  # then batch norm over all devices' boxes, which makes them depend on each other
        "box_loss": "giou",
        "mask_norm": "none",
        "views": "multi_scale",
        "size": 800,
        "drop_path": 0.4,  # ConvNeXt-T's; then from 0.2 (Swin) to 0.7 (ConvNeXt-B), chosen backbone by backbone
    },
    "bob2023_plain": THEN
    | {
        "rpn_convs": 2,
        "rpn_norm": "layer",
        "proposals": (1000, 1000),
        "stage_overlaps": (0.5, 0.5, 0.5),  # not really a cascade: what the plain backbones were given
        "low_quality": True,
        "box_norm": "layer",
        "mask_norm": "layer",
    },
    "bob2023_diffusion": THEN
    | {
        "anchor_border": 0.0,
        "box_norm": "group",
        "box_loss": "giou",
        "mask_norm": "none",
        "size": 512,
        "scale": (1.0, 1.0),
        "drop_path": 0.0,
    },
}

BOB2023 = tuple(name for name in PROTOCOLS if name != "detection")
DATASETS = ("coco", "lvis", "sim10k_to_cityscapes")


def get_config(argument: str | None = None) -> ConfigDict:
    """The grid that the argument asks for; see `configs/argument.py` for its grammar."""
    offer = Offer(
        backbones=BACKBONES,
        datasets=DATASETS,
        protocols=tuple(PROTOCOLS),
        default_backbones=DEFAULT_BACKBONES,
        default_datasets=("coco",),
        default_protocols=("detection",),
        groups={"bob2023": BOB2023},
    )
    return config("detection", argument, offer, PROTOCOLS)
