"""Public detectors with their weights: torchvision's Mask R-CNN and mmdetection's Cascade Mask R-CNN, on ResNet-50.

All are designs of our one detector, so a published file shows on COCO what the detector and its evaluation are worth,
before anything is trained. What their publishers measured on COCO val2017 (box AP / mask AP), at a shorter side of 800
and a longer of at most 1333 pixels:

    maskrcnn_resnet50_fpn        37.9 / 34.6    maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth      download.pytorch.org/models
    maskrcnn_resnet50_fpn_v2     47.4 / 41.8    maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth   download.pytorch.org/models
    cascade_mask_rcnn_r50_fpn    41.2 / 35.9    cascade_mask_rcnn_r50_fpn_1x_coco            mmdetection's model zoo

Images are RGB in [0, 1], less ImageNet's mean, over its standard deviation; padding is 0 behind that.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors.numpy import save_file

from bob_jax.backbones import parameters
from bob_jax.backbones.base import Backbone
from bob_jax.backbones.resnet import ResNet
from bob_jax.backbones.zoo import OneKey
from bob_jax.detection.design import Design
from bob_jax.detection.detector import Heads
from bob_jax.errors import BobError, unknown_name
from converters import cache, formats, rules
from converters.detector_tables import MMDETECTION_CASCADE, TORCHVISION, TORCHVISION_V2
from converters.download import sha256_of
from converters.rules import Table

NO_CLASS = "N/A"
# COCO's 80 classes in the order of their ids.
COCO_CLASSES = (  # noqa: SIM905
    "person;bicycle;car;motorcycle;airplane;bus;train;truck;boat;traffic light;fire hydrant;stop sign;parking meter;"
    "bench;bird;cat;dog;horse;sheep;cow;elephant;bear;zebra;giraffe;backpack;umbrella;handbag;tie;suitcase;frisbee;"
    "skis;snowboard;sports ball;kite;baseball bat;baseball glove;skateboard;surfboard;tennis racket;bottle;wine glass;"
    "cup;fork;knife;spoon;bowl;banana;apple;sandwich;orange;broccoli;carrot;hot dog;pizza;donut;cake;chair;couch;"
    "potted plant;bed;dining table;toilet;tv;laptop;mouse;remote;keyboard;cell phone;microwave;oven;toaster;sink;"
    "refrigerator;book;clock;vase;scissors;teddy bear;hair drier;toothbrush"
).split(";")
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # ids from 1 to 90 that no class has


def _with_gaps() -> tuple[str, ...]:
    names = iter(COCO_CLASSES)
    return tuple(NO_CLASS if number in COCO_GAPS else next(names) for number in range(1, 91))


# torchvision's, background left out: class i has COCO's id i + 1, and those of no class take part in the softmax too.
COCO_IDS = _with_gaps()

# How torchvision's first version is built and trained. It lets all anchors learn, those in the padding too.
MASK_RCNN = Design(
    width=256,
    neck_norm="none",
    anchor_scale=8,
    anchors_rounded=True,
    anchor_border=-1,
    rpn_convs=1,
    rpn_norm="none",
    proposals_before=(2000, 1000),
    proposals=(2000, 1000),
    proposal_overlap=0.7,
    stage_overlaps=(0.5,),
    stage_weights=(1.0,),
    low_quality=False,
    rois=512,
    positive_share=0.25,
    roi_samples=2,
    roi_aligned=False,
    box_convs=0,
    box_fcs=2,
    box_hidden=1024,
    box_norm="none",
    class_agnostic=False,
    box_loss="smooth_l1",
    box_beta=1 / 9,
    mask_heads=1,
    mask_convs=4,
    mask_norm="none",
    score_threshold=0.05,
    detection_overlap=0.5,
    detections=100,
)
MASK_RCNN_V2 = dataclasses.replace(MASK_RCNN, rpn_convs=2, box_convs=4, box_fcs=1)
# mmdetection 2.x, configs/_base_/models/cascade_mask_rcnn_r50_fpn.py.
CASCADE_MASK_RCNN = dataclasses.replace(
    MASK_RCNN,
    anchors_rounded=False,
    anchor_border=0,
    stage_overlaps=(0.5, 0.6, 0.7),
    stage_weights=(1.0, 0.5, 0.25),
    roi_samples=0,
    roi_aligned=True,
    class_agnostic=True,
    box_beta=1.0,
    mask_heads=3,
)


class Public(NamedTuple):
    """A detector that others have published.

    Attributes:
        design: of its heads.
        table: key layout of its files.
        classes: names, in the order of its scores.
    """

    design: Design
    table: Table
    classes: tuple[str, ...]


DETECTORS = {
    "maskrcnn_resnet50_fpn": Public(MASK_RCNN, TORCHVISION, COCO_IDS),
    "maskrcnn_resnet50_fpn_v2": Public(MASK_RCNN_V2, TORCHVISION_V2, COCO_IDS),
    "cascade_mask_rcnn_r50_fpn": Public(CASCADE_MASK_RCNN, MMDETECTION_CASCADE, tuple(COCO_CLASSES)),
}


class _Whole(nnx.Module):
    """Backbone and heads under one root, so that each parameter has one path."""

    def __init__(self, public: Public, dtype: DTypeLike | None, rngs: nnx.Rngs):
        self.backbone = ResNet(dtype=dtype, rngs=rngs)
        self.heads = Heads(self.backbone, len(public.classes), public.design, dtype=dtype, rngs=rngs)


def load_public(name: str, path: Path, *, dtype: DTypeLike | None = None) -> tuple[Backbone, Heads, tuple[str, ...]]:
    """A public detector, ready for use: `heads.detect(backbone(images).maps, extents)`.

    Args:
        name: of `DETECTORS`.
        path: its weights as published, or as `save` wrote them.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.

    Returns:
        Backbone, heads, and the names of the classes in the order of the scores. Those of torchvision have gaps that
        are named "N/A": `objects.relabelled` leaves what is found of them out.

    Raises:
        BobError: an unknown name, or a file that cannot be read or is not of this detector.
    """
    public = _public(name)
    whole = _skeleton(public, dtype)
    parameters.assign(whole, _arrays(name, path), where=str(path))
    return whole.backbone, whole.heads, public.classes


def save(name: str, path: Path, to: Path) -> None:
    """Converts a published file, under the dotted paths of our parameters: `backbone.` and `heads.`.

    Args:
        name: of `DETECTORS`.
        path: the file as published.
        to: the .safetensors file that is written, at once or not at all.

    Raises:
        BobError: an unknown name, a file that cannot be read or is not of this detector, or a place that cannot be
            written.
    """
    if to.suffix != ".safetensors":
        raise BobError(f"{to}: converted weights are written as .safetensors: give such a name")
    arrays = _arrays(name, path)
    origin = {"file": path.name, "sha256": sha256_of(path), "converter": cache.CONVERTER_VERSION}
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as folder:
            written = Path(folder) / to.name
            save_file(arrays, written, metadata={"detector": name, "origin": json.dumps(origin)})
            cache.open_to_others(written)
            written.replace(to)
    except OSError as error:
        raise BobError(f"cannot write {to} ({error.strerror or error}): free space, or choose another place") from error


def _public(name: str) -> Public:
    if name not in DETECTORS:
        raise unknown_name("public detector", name, DETECTORS)
    return DETECTORS[name]


def _skeleton(public: Public, dtype: DTypeLike | None) -> _Whole:
    """Without memory: the parameters are `jax.ShapeDtypeStruct`."""
    rngs: Any = OneKey(jax.random.key(0))
    return nnx.eval_shape(lambda: _Whole(public, dtype, rngs))


def _arrays(name: str, path: Path) -> dict[str, np.ndarray]:
    """The parameters of a detector by dotted path, from a file as published or as `save` wrote it."""
    public = _public(name)
    arrays = formats.read(path)
    if path.suffix == ".safetensors":
        written = formats.read_safetensors_header(path).metadata.get("detector")
        if written == name:
            return arrays
        if written is not None:
            raise BobError(f"{path} holds the detector {written}, not {name}: take another file, or ask for that")
    shapes = {key: leaf.shape for key, leaf in parameters.flatten(_skeleton(public, None)).items()}
    return rules.convert(arrays, public.table, shapes, what=f"{path} for {name}")
