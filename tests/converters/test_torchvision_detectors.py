"""torchvision's Mask R-CNN, both versions: converted random weights find what torchvision finds, stage by stage."""

import inspect
import re

import numpy as np
import pytest
import torch
from converter_models import numpy_state, randomised
from detector_parity import BEFORE, DETECTIONS, PROPOSALS, channels_last, errors, nms, run, scale_layers
from safetensors.numpy import save_file

from bob_jax.backbones import parameters
from bob_jax.backbones.pytorch import import_library
from bob_jax.detection.anchors import anchors
from bob_jax.detection.coder import CASCADE
from bob_jax.detection.objects import Found
from converters import detectors, rules
from converters.__main__ import main

torchvision = import_library("torchvision")
roi_align = import_library("torchvision.ops.roi_align")
box_ops = import_library("torchvision.ops.boxes")
mask_rcnn = import_library("torchvision.models.detection.mask_rcnn")

# Of two images on one canvas, of which the coarsest level sees one and a half cells: torchvision moves its anchors.
EXTENTS = ((56, 100), (96, 128))
OPTIONS = {
    "rpn_pre_nms_top_n_test": BEFORE,
    "rpn_post_nms_top_n_test": PROPOSALS,
    "box_detections_per_img": DETECTIONS,
}
# What `randomised` gives, with deltas that keep boxes in the image and scores on both sides of the threshold.
SPREAD = {
    "maskrcnn_resnet50_fpn": {
        "rpn.head.bbox_pred": 0.15,
        "roi_heads.box_predictor.cls_score": 2.0,
        "roi_heads.box_predictor.bbox_pred": 0.5,
        "roi_heads.mask_predictor.mask_fcn_logits": 4.0,
    },
    "maskrcnn_resnet50_fpn_v2": {
        "rpn.head.bbox_pred": 0.15,
        "roi_heads.box_predictor.cls_score": 4.0,
        "roi_heads.mask_predictor.mask_fcn_logits": 8.0,
    },
}
# The published file of the first version was written before torchvision gave these layers one more number.
OLD_NAMES = (
    (r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2."),
    (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
    (r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}."),
)


@pytest.fixture(autouse=True)
def operators(monkeypatch):
    """Python definitions of the two operators, where the compiled ones do not fit this torch."""
    if not torchvision.extension._has_ops():
        monkeypatch.setattr(box_ops, "nms", nms)
        monkeypatch.setattr(roi_align, "_roi_align", inspect.unwrap(roi_align._roi_align))


def build(name, **options):
    if name.endswith("v2"):
        return mask_rcnn.maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, **options)
    # As torchvision makes it for its published weights: frozen batch norms, their epsilon set to 0.
    backbone = torchvision.models.resnet50(norm_layer=torchvision.ops.misc.FrozenBatchNorm2d)
    model = mask_rcnn.MaskRCNN(mask_rcnn._resnet_fpn_extractor(backbone, 5), 91, **options)
    mask_rcnn.overwrite_eps(model, 0.0)
    return model


def with_old_names(arrays):
    renamed = {}
    for name, array in arrays.items():
        for pattern, replacement in OLD_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = array
    return renamed


def theirs(model):
    """Every stage of torchvision's on two images, and these, as its heads see them."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, *extent, generator=generator) for extent in EXTENTS]
    model.transform.resize = lambda image, target: (image, target)
    seen = {}
    for name in ("rpn.head", "roi_heads.box_roi_pool", "roi_heads.box_predictor", "roi_heads.mask_roi_pool"):
        model.get_submodule(name).register_forward_hook(lambda *call, name=name: seen.update({name: call[2]}))
    model.roi_heads.mask_predictor.register_forward_hook(lambda *call: seen.update(masks=call[2]))
    with torch.no_grad():
        batch, _ = model.transform(images)
        levels = model.backbone(batch.tensors)
        proposals, _ = model.rpn(batch, levels)
        found, _ = model.roi_heads(levels, proposals, batch.image_sizes)
    logits, deltas = seen["rpn.head"]
    scores, moves = seen["roi_heads.box_predictor"]
    labels = torch.cat([image["labels"] for image in found])
    return channels_last(batch.tensors), {
        "levels": [channels_last(level) for level in levels.values()],
        "rpn": (
            torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in logits], dim=1).numpy(),
            torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, 4) for x in deltas], dim=1).numpy(),
        ),
        "proposals": [image.numpy() for image in proposals],
        "box_features": channels_last(seen["roi_heads.box_roi_pool"]),
        "box_heads": [(np.roll(scores.numpy(), -1, axis=1), moves.reshape(len(moves), 91, 4)[:, 1:].numpy())],
        "found": [
            (image["boxes"].numpy(), image["scores"].numpy(), image["labels"].numpy() - 1, image["masks"][:, 0].numpy())
            for image in found
        ],
        "mask_features": channels_last(seen["roi_heads.mask_roi_pool"]),
        "mask_heads": [seen["masks"][torch.arange(len(labels)), labels].numpy()],
    }


@pytest.mark.parametrize("name", SPREAD)
def test_every_stage_equals_torchvision(name, tmp_path, capsys):
    model = randomised(build(name, **OPTIONS))
    scale_layers(model, SPREAD[name])
    with torch.no_grad():  # variances so small that an epsilon shows
        model.backbone.body.bn1.running_var.mul_(1e-3)
        model.backbone.body.bn1.weight.mul_(1e-3**0.5)
    published, converted = tmp_path / f"{name}_coco-00000000.safetensors", tmp_path / "folder" / "ours.safetensors"
    arrays = numpy_state(model)
    save_file(arrays if name.endswith("v2") else with_old_names(arrays), published)
    assert main(["detector", name, "--weights", str(published), "--out", str(converted)]) == 0
    assert capsys.readouterr().out == f"{converted}: written\n"
    backbone, heads, classes = detectors.load_public(name, converted)
    assert len(classes) == heads.classes == 90

    images, stages = theirs(model)
    ours = run(backbone, heads, images, np.array(EXTENTS, np.int32))
    for stage, error in errors(ours, stages).items():
        assert error < 1e-5, (stage, error)
    found: Found = ours["found"]
    assert np.all(np.sum(found.valid, axis=1) == DETECTIONS)
    assert len(np.unique(found.classes)) > 2 and np.std(found.scores) > 0.01 and np.std(found.masks) > 0.1


def test_files_of_today_and_of_then_are_the_same():
    name = "maskrcnn_resnet50_fpn"
    arrays = numpy_state(randomised(build(name)))
    old = with_old_names(arrays)
    assert sum(key not in old for key in arrays) == 2 * (4 + 4 + 1 + 4)
    public = detectors.DETECTORS[name]
    shapes = {key: leaf.shape for key, leaf in parameters.flatten(detectors._skeleton(public, None)).items()}
    of_today, of_then = (rules.convert(file, public.table, shapes, what="test") for file in (arrays, old))
    for key, array in of_today.items():
        np.testing.assert_array_equal(array, of_then[key])


@pytest.mark.parametrize("name", SPREAD)
def test_designs_are_torchvisions(name):
    with torch.device("meta"):
        model = build(name)
    design, rpn, heads = detectors.DETECTORS[name].design, model.rpn, model.roi_heads
    assert (rpn._pre_nms_top_n["training"], rpn._pre_nms_top_n["testing"]) == design.proposals_before
    assert (rpn._post_nms_top_n["training"], rpn._post_nms_top_n["testing"]) == design.proposals
    assert rpn.nms_thresh == design.proposal_overlap
    assert (heads.score_thresh, heads.nms_thresh) == (design.score_threshold, design.detection_overlap)
    assert heads.detections_per_img == design.detections
    assert heads.proposal_matcher.high_threshold == heads.proposal_matcher.low_threshold == design.stage_overlaps[0]
    assert heads.proposal_matcher.allow_low_quality_matches is design.low_quality
    assert (heads.fg_bg_sampler.batch_size_per_image, heads.fg_bg_sampler.positive_fraction) == (
        design.rois,
        design.positive_share,
    )
    np.testing.assert_allclose(1 / np.array(heads.box_coder.weights), CASCADE[0].stds)
    for pool in (heads.box_roi_pool, heads.mask_roi_pool):
        assert (pool.sampling_ratio, pool.featmap_names) == (design.roi_samples, ["0", "1", "2", "3"])
    cells = [(1, 1)] * 5  # one cell a level: what is left is the shapes
    ours = anchors(cells, (4, 8, 16, 32, 64), (design.anchor_scale,), rounded=design.anchors_rounded)
    fresh = type(rpn.anchor_generator)(rpn.anchor_generator.sizes, rpn.anchor_generator.aspect_ratios)
    np.testing.assert_array_equal(ours.boxes, torch.cat(fresh.cell_anchors).numpy())


def test_class_names_are_torchvisions():
    categories = mask_rcnn.MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert tuple(categories[1:]) == detectors.COCO_IDS
    assert [name for name in categories[1:] if name != "N/A"] == list(detectors.COCO_CLASSES)
    assert len(detectors.COCO_CLASSES) == 80


def test_wrong_files_are_told(tmp_path, capsys):
    name, out = "maskrcnn_resnet50_fpn", tmp_path / "out.safetensors"
    arrays = numpy_state(build(name))

    def message(file, name=name, out=out):
        assert main(["detector", name, "--weights", str(file), "--out", str(out)]) == 2
        assert not out.exists()
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "no checkpoint at" in message(tmp_path / "missing.pth")
    assert "did you mean" in message(tmp_path / "missing.pth", "maskrcnn_resnet_fpn")
    without_variance = arrays | {"backbone.body.bn1.running_var": np.zeros(64, np.float32)}
    file = tmp_path / "file.safetensors"
    save_file(without_variance, file)
    assert "backbone.body.bn1.running_var has values that are not positive" in message(file)
    save_file(arrays, file)
    assert "give such a name" in message(file, out=tmp_path / "out.pth")
    assert "does not fit the architecture" in message(file, "maskrcnn_resnet50_fpn_v2")
    assert "does not fit the architecture" in message(file, "cascade_mask_rcnn_r50_fpn")
    assert main(["detector", name, "--weights", str(file), "--out", str(out)]) == 0
    capsys.readouterr()
    with pytest.raises(Exception, match="holds the detector maskrcnn_resnet50_fpn, not cascade_mask_rcnn_r50_fpn"):
        detectors.load_public("cascade_mask_rcnn_r50_fpn", out)
