"""Anchors: by hand in plain loops, against torchvision's generator, and which of them are in the image."""

import math

import jax
import numpy as np
import pytest
import torch

from bob_jax.backbones.pytorch import import_library
from bob_jax.detection.anchors import anchors, shapes, usable
from bob_jax.detection.fpn import STRIDES
from bob_jax.errors import BobError


def sizes(height: int, width: int, strides=STRIDES) -> list[tuple[int, int]]:
    return [(math.ceil(height / s), math.ceil(width / s)) for s in strides]


def by_hand(sizes, strides, scales, ratios) -> list[list[float]]:
    rows = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        for row in range(height):
            for column in range(width):
                for ratio in ratios:
                    for scale in scales:
                        w, h = stride * scale / math.sqrt(ratio), stride * scale * math.sqrt(ratio)
                        x, y = column * stride, row * stride
                        rows.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return rows


def test_they_are_those_by_hand():
    maps = sizes(128, 192)
    found = anchors(maps, STRIDES)
    np.testing.assert_allclose(found.boxes, by_hand(maps, STRIDES, (8,), (0.5, 1, 2)), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose((found.boxes[:, :2] + found.boxes[:, 2:]) / 2, found.centres, atol=1e-4)
    assert found.counts == tuple(3 * h * w for h, w in maps) and sum(found.counts) == len(found.boxes)
    many = anchors([(2, 3)], [16], (4, 8), (0.5, 1.0))
    np.testing.assert_allclose(many.boxes, by_hand([(2, 3)], [16], (4, 8), (0.5, 1)), rtol=1e-6, atol=1e-5)


def test_a_whole_image_has_as_many_as_the_reference():
    found = anchors(sizes(1024, 1024), STRIDES)
    assert found.boxes.shape == (261_888, 4) and found.boxes.dtype == found.centres.dtype == np.float32
    first = 0
    for stride, count in zip(STRIDES, found.counts, strict=True):
        level = found.boxes[first : first + count]
        side = np.sqrt(np.prod(level[:, 2:] - level[:, :2], axis=1))
        np.testing.assert_allclose(side, 8 * stride, rtol=1e-5)
        first += count


@pytest.mark.parametrize("height, width", [(256, 320), (800, 1088), (96, 160)])
def test_equals_torchvision(height, width):
    """Its public detectors' settings: sides 32 to 512, whole pixels; also where the coarsest cells are cut off."""
    maps = sizes(height, width)
    generator = import_library("torchvision.models.detection.anchor_utils").AnchorGenerator(
        tuple((8 * s,) for s in STRIDES), ((0.5, 1.0, 2.0),) * 5
    )
    images = import_library("torchvision.models.detection.image_list").ImageList(
        torch.zeros(1, 1, height, width), [(height, width)]
    )
    (theirs,) = generator(images, [torch.zeros(1, 1, *cells) for cells in maps])
    found = anchors(maps, STRIDES, rounded=True)
    np.testing.assert_array_equal(found.boxes, theirs.numpy())
    assert (found.boxes != anchors(maps, STRIDES).boxes).any()  # it does matter
    np.testing.assert_array_equal(shapes(4, rounded=True), generator.cell_anchors[0].numpy())


@pytest.mark.parametrize("border", [None, 0, 16])
@pytest.mark.parametrize("height, width", [(128, 192), (100, 131), (1, 1)])
def test_those_that_may_learn(height, width, border):
    found = anchors(sizes(128, 192), STRIDES)
    wanted = []
    for (x1, y1, x2, y2), (x, y) in zip(found.boxes.tolist(), found.centres.tolist(), strict=True):
        if border is None:
            wanted.append(x < width and y < height)
        else:
            wanted.append(x1 >= -border and y1 >= -border and x2 < width + border and y2 < height + border)
    np.testing.assert_array_equal(usable(found, height, width, border), wanted)
    assert any(wanted) or border is not None
    if border is None and (height, width) == (128, 192):
        assert all(wanted)


def test_sizes_of_images_may_be_traced():
    found = anchors(sizes(64, 64), STRIDES)
    batch = np.array([[64, 64], [30, 50]])
    masks = jax.jit(jax.vmap(lambda size: usable(found, size[0], size[1], 8)))(batch)
    for mask, (height, width) in zip(masks, batch, strict=True):
        np.testing.assert_array_equal(mask, usable(found, int(height), int(width), 8))


def test_a_stride_for_each_map():
    with pytest.raises(BobError, match="2 maps and 1 strides"):
        anchors([(1, 1), (2, 2)], [4])
