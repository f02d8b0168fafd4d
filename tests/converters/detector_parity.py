"""What the tests of public detectors share: ours run stage by stage, and greedy suppression as it is written down."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from from_timm import FAST_COMPILE, relative_error

from bob_jax.backbones.base import Backbone
from bob_jax.detection.detector import Heads
from converters.stages import recorded

# Anchors of a level, proposals and objects of an image: enough for every stage, and quick.
BEFORE, PROPOSALS, DETECTIONS = 200, 40, 30


def run(backbone: Backbone, heads: Heads, images: np.ndarray, extents: np.ndarray) -> dict[str, Any]:
    """Every stage of ours, on images [B, H, W, 3]."""
    heads.design = dataclasses.replace(
        heads.design, proposals_before=(0, BEFORE), proposals=(0, PROPOSALS), detections=DETECTIONS
    )
    box_names, mask_names = (
        [f"{kind}_heads.{i}" for i in range(len(made))]
        for kind, made in (("box", heads.box_heads), ("mask", heads.mask_heads))
    )
    graph, state = nnx.split((backbone, heads))

    def stages(state: nnx.State, images: jax.Array, extents: jax.Array) -> dict[str, Any]:
        backbone, heads = nnx.merge(graph, state)
        proposals, features = _recording(heads, "_propose"), _recording(heads, "_features")
        with recorded(heads, ["neck", "rpn", *box_names, *mask_names]) as seen:
            found = heads.detect(backbone(images).maps, extents)
        return {
            "levels": seen["neck"],
            "rpn": seen["rpn"],
            "proposals": proposals[0],
            "box_features": features[0][0],
            "box_heads": [seen[name] for name in box_names],
            "found": found,
            "mask_features": features[-1][0],
            "mask_heads": [seen[name] for name in mask_names],
        }

    outputs = jax.jit(stages, compiler_options=FAST_COMPILE)(state, images, extents)
    return jax.tree.map(np.asarray, outputs)


def _recording(heads: Heads, name: str) -> list[Any]:
    """What the calls of this method return from now on."""
    call, returned = getattr(heads, name), []

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        returned.append(call(*args, **kwargs))
        return returned[-1]

    setattr(heads, name, wrapper)
    return returned


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()


def nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Indices of what greedy suppression keeps, best first."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = (high - low).clamp(min=0).prod(dim=-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1)
    overlap = common / (area[:, None] + area[None] - common)
    alive, kept = torch.ones(len(boxes), dtype=torch.bool), []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if alive[index]:
            kept.append(index)
            alive &= ~(overlap[index] > threshold)
    return torch.tensor(kept, dtype=torch.int64)


def scale_layers(model: torch.nn.Module, factors: Mapping[str, float]) -> None:
    """Multiplies weights and biases of the layers with these names."""
    with torch.no_grad():
        for name, factor in factors.items():
            for parameter in model.get_submodule(name).parameters(recurse=False):
                parameter.mul_(factor)


def errors(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Relative error of each stage; what is not in a slot of ours, or not of theirs, fails.

    Args:
        ours: of `run`.
        theirs: the same stages; proposals as [N, 4] of each image, what is found as boxes, scores, classes and masks of
            each image, and all that is of boxes in one row, that of the first image first.
    """
    proposals, found = ours["proposals"], ours["found"]
    assert [int(valid.sum()) for valid in proposals.valid] == [len(boxes) for boxes in theirs["proposals"]]
    assert [int(valid.sum()) for valid in found.valid] == [len(boxes) for boxes, *_ in theirs["found"]]
    assert not found.uncertain.any()
    boxes, scores, classes, masks = (np.concatenate(parts) for parts in zip(*theirs["found"], strict=True))
    np.testing.assert_array_equal(found.classes[found.valid], classes)
    pairs = {
        "rpn scores": (ours["rpn"][0], theirs["rpn"][0]),
        "rpn deltas": (ours["rpn"][1], theirs["rpn"][1]),
        "proposals": (proposals.boxes[proposals.valid], np.concatenate(theirs["proposals"])),
        "box features": (ours["box_features"][proposals.valid], theirs["box_features"]),
        "mask features": (ours["mask_features"][found.valid], theirs["mask_features"]),
        "boxes": (found.boxes[found.valid], boxes),
        "scores": (found.scores[found.valid], scores),
        "masks": (found.masks[found.valid], masks),
    }
    for i, level in enumerate(zip(ours["levels"], theirs["levels"], strict=True)):
        pairs[f"level {i}"] = level
    for i, (mine, yours) in enumerate(zip(ours["box_heads"], theirs["box_heads"], strict=True)):
        pairs[f"class scores {i}"] = (mine[0][proposals.valid], yours[0])
        pairs[f"box deltas {i}"] = (mine[1][proposals.valid], yours[1])
    for i, (mine, yours) in enumerate(zip(ours["mask_heads"], theirs["mask_heads"], strict=True)):
        pairs[f"mask scores {i}"] = (mine[found.valid], yours)
    return {name: relative_error(*pair) for name, pair in pairs.items()}
