"""mmdetection's Cascade Mask R-CNN in use, as its documentation and configs define it, under its parameter names.

It does not install beside today's torch. Sources: Cai and Vasconcelos 2018 (arXiv 1712.00726), He et al.
2017 (1703.06870), Lin et al. 2017 (1612.03144), and the values of `configs/_base_/models/cascade_mask_rcnn_r50_fpn.py`.
Boxes are computed in float64, the network in float32.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detector_parity import BEFORE, DETECTIONS, PROPOSALS, channels_last, nms
from torch import nn

from bob_jax.backbones.pytorch import import_library

STRIDES = (4, 8, 16, 32, 64)
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
CLASSES = 80


def names(**modules: nn.Module) -> nn.Module:
    """A module that only names others."""
    module = nn.Module()
    for name, part in modules.items():
        module.add_module(name, part)
    return module


class CascadeTwin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = import_library("torchvision").models.resnet50()
        del self.backbone.fc
        self.neck = names(
            lateral_convs=nn.ModuleList(names(conv=nn.Conv2d(256 * 2**i, 256, 1)) for i in range(4)),
            fpn_convs=nn.ModuleList(names(conv=nn.Conv2d(256, 256, 3, padding=1)) for _ in range(4)),
        )
        self.rpn_head = names(
            rpn_conv=nn.Conv2d(256, 256, 3, padding=1), rpn_cls=nn.Conv2d(256, 3, 1), rpn_reg=nn.Conv2d(256, 12, 1)
        )
        self.roi_head = names(
            bbox_head=nn.ModuleList(
                names(
                    shared_fcs=nn.ModuleList([nn.Linear(256 * 49, 1024), nn.Linear(1024, 1024)]),
                    fc_cls=nn.Linear(1024, CLASSES + 1),
                    fc_reg=nn.Linear(1024, 4),
                )
                for _ in STDS
            ),
            mask_head=nn.ModuleList(
                names(
                    convs=nn.ModuleList(names(conv=nn.Conv2d(256, 256, 3, padding=1)) for _ in range(4)),
                    upsample=nn.ConvTranspose2d(256, 256, 2, 2),
                    conv_logits=nn.Conv2d(256, CLASSES, 1),
                )
                for _ in STDS
            ),
        )

    def levels(self, images: torch.Tensor) -> list[torch.Tensor]:
        net = self.backbone
        x, maps = net.maxpool(net.relu(net.bn1(net.conv1(images)))), []
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            maps.append(x)
        laterals = [module.conv(x) for module, x in zip(self.neck.lateral_convs, maps, strict=True)]
        for i in (2, 1, 0):
            laterals[i] = laterals[i] + nn.functional.interpolate(laterals[i + 1], laterals[i].shape[2:])
        levels = [module.conv(x) for module, x in zip(self.neck.fpn_convs, laterals, strict=True)]
        return [*levels, levels[-1][:, :, ::2, ::2]]

    def propose(self, levels: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Scores [B, H * W * 3] and deltas [B, H * W * 3, 4] of each level."""
        scores, deltas = [], []
        for x in levels:
            x = self.rpn_head.rpn_conv(x).relu()
            scores.append(self.rpn_head.rpn_cls(x).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.rpn_head.rpn_reg(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4))
        return scores, deltas

    def boxes(self, stage: int, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        head, x = self.roi_head.bbox_head[stage], features.flatten(1)
        for layer in head.shared_fcs:
            x = layer(x).relu()
        return head.fc_cls(x), head.fc_reg(x)

    def masks(self, stage: int, x: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        head = self.roi_head.mask_head[stage]
        for module in head.convs:
            x = module.conv(x).relu()
        return head.conv_logits(head.upsample(x).relu())[torch.arange(len(x)), classes]


def anchors(stride: int, height: int, width: int) -> torch.Tensor:
    """[H * W * 3, 4]: area (8 strides) squared, height over width .5, 1, 2, centred at the corners of the cells."""
    found = []
    for y in range(height):
        for x in range(width):
            for ratio in (0.5, 1.0, 2.0):
                w, h = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                cx, cy = x * stride, y * stride
                found.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
    return torch.tensor(found, dtype=torch.float64)


def move(boxes: torch.Tensor, deltas: torch.Tensor, stds: Sequence[float], extent: Sequence[int]) -> torch.Tensor:
    """Boxes moved by deltas, sides by a factor from 16/1000 to 1000/16, cut at the border of the image."""
    dx, dy, dw, dh = (deltas.double() * torch.tensor(stds, dtype=torch.float64)).unbind(dim=1)
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    most = math.log(1000 / 16)
    w, h = (x2 - x1) * dw.clamp(-most, most).exp(), (y2 - y1) * dh.clamp(-most, most).exp()
    cx, cy = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
    height, width = extent
    xs, ys = torch.stack([cx - w / 2, cx + w / 2]), torch.stack([cy - h / 2, cy + h / 2])
    (x1, x2), (y1, y2) = xs.clamp(0, width), ys.clamp(0, height)
    return torch.stack([x1, y1, x2, y2], dim=1)


def adaptive_roi_align(levels: Sequence[torch.Tensor], boxes: torch.Tensor, size: int) -> torch.Tensor:
    """[N, C, size, size] of one image's levels [C, H, W]: in each bin as many samples as it has cells, rounded up."""
    found = []
    for box in boxes:
        x1, y1, x2, y2 = box.tolist()
        level = math.floor(math.log2(math.sqrt((x2 - x1) * (y2 - y1)) / 56 + 1e-6))
        level = min(max(level, 0), 3)
        x, grid, counts = levels[level], [], []
        for low, high, cells in ((x1, x2, x.shape[2]), (y1, y2, x.shape[1])):
            start, side = low / STRIDES[level] - 0.5, (high - low) / STRIDES[level]
            count = math.ceil(side / size)
            points = start + (torch.arange(size * count, dtype=torch.float64) + 0.5) * side / (size * count)
            grid.append(2 * points / (cells - 1) - 1)
            counts.append(count)
        where = torch.stack(torch.meshgrid(*grid, indexing="xy"), dim=-1).to(x.dtype)
        values = nn.functional.grid_sample(x[None], where[None], padding_mode="border", align_corners=True)
        found.append(nn.functional.avg_pool2d(values, counts[::-1])[0])
    return torch.stack(found)


def proposals_of(
    scores: Sequence[torch.Tensor], deltas: Sequence[torch.Tensor], shapes: Sequence[Any], extent: Sequence[int]
) -> torch.Tensor:
    """[N, 4] of one image: the best of each level, suppressed within it, then the best of all."""
    boxes, ranks = [], []
    for score, delta, stride, shape in zip(scores, deltas, STRIDES, shapes, strict=True):
        best = score.argsort(descending=True)[:BEFORE]
        moved = move(anchors(stride, *shape)[best], delta[best], (1, 1, 1, 1), extent)
        there = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
        moved, rank = moved[there], score[best][there]
        kept = nms(moved, rank, 0.7)
        boxes.append(moved[kept])
        ranks.append(rank[kept])
    best = torch.cat(ranks).argsort(descending=True)[:PROPOSALS]
    return torch.cat(boxes)[best]


def found_of(scores: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes, scores and classes of one image; `scores` [N, 81] are means of logits."""
    probabilities = scores.double().softmax(dim=1)
    found = []
    for label in range(CLASSES):
        sure = torch.nonzero(probabilities[:, label] > 0.05)[:, 0]
        kept = sure[nms(boxes[sure], probabilities[sure, label], 0.5)]
        found += [(float(probabilities[i, label]), int(i), label) for i in kept]
    found = sorted(found, reverse=True)[:DETECTIONS]
    index = torch.tensor([i for _, i, _ in found])
    return boxes[index], torch.tensor([score for score, _, _ in found]), torch.tensor([label for *_, label in found])


@torch.no_grad()
def stages(model: CascadeTwin, images: torch.Tensor, extents: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Every stage on images [B, 3, H, W], as `detector_parity.errors` reads them."""
    levels = model.levels(images)
    scores, deltas = model.propose(levels)
    result: dict[str, Any] = {
        "levels": [channels_last(x) for x in levels],
        "rpn": (torch.cat(scores, dim=1).numpy(), torch.cat(deltas, dim=1).numpy()),
        "proposals": [],
        "found": [],
    }
    box_heads: list[list[Any]] = [[] for _ in STDS]
    mask_heads: list[list[Any]] = [[] for _ in STDS]
    box_features, mask_features = [], []
    for i, extent in enumerate(extents):
        own = [x[i] for x in levels]
        boxes = proposals_of([x[i] for x in scores], [x[i] for x in deltas], [x.shape[1:] for x in own], extent)
        result["proposals"].append(boxes.numpy())
        for stage, stds in enumerate(STDS):
            features = adaptive_roi_align(own, boxes, 7)
            box_features += [features] if stage == 0 else []
            box_heads[stage].append(model.boxes(stage, features))
            boxes = move(boxes, box_heads[stage][-1][1], stds, extent)
        mean = sum(heads[-1][0] for heads in box_heads) / len(STDS)
        boxes, sure, classes = found_of(mean, boxes)
        features = adaptive_roi_align(own, boxes, 14)
        mask_features.append(features)
        for stage in range(len(STDS)):
            mask_heads[stage].append(model.masks(stage, features, classes))
        masks = sum(heads[-1].sigmoid() for heads in mask_heads) / len(STDS)
        result["found"].append((boxes.numpy(), sure.numpy(), classes.numpy(), masks.numpy()))
    return result | {
        "box_features": channels_last(torch.cat(box_features)),
        "box_heads": [
            (torch.cat([said[0] for said in heads]).numpy(), torch.cat([said[1] for said in heads])[:, None].numpy())
            for heads in box_heads
        ],
        "mask_features": channels_last(torch.cat(mask_features)),
        "mask_heads": [torch.cat(heads).numpy() for heads in mask_heads],
    }
