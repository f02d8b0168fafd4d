"""Masks: targets of a RoI against SciPy and torchvision, predictions in the image against PyTorch, there and back."""

import jax
import numpy as np
import pytest
import scipy.ndimage
import torch

from bob_jax.backbones.pytorch import import_library
from bob_jax.detection.mask_targets import mask_targets, paste

FRAME = 112
rng = np.random.default_rng(0)
BOXES = np.array([[10, 20, 122, 132], [0, 0, 40, 300], [50.5, 60.25, 70.75, 90], [0, 0, 0, 0]], np.float32)
# Smooth shapes with holes, cut at many places by the frame.
MASKS = (scipy.ndimage.gaussian_filter(rng.standard_normal((4, FRAME, FRAME)), (0, 9, 9)) > 0).astype(np.uint8)


def rois_around(boxes: np.ndarray, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes moved and stretched by up to a third of their sides, and which they come from."""
    match = np.repeat(np.arange(len(boxes)), each)
    sides = np.tile(boxes[match, 2:] - boxes[match, :2], 2)
    return (boxes[match] + sides * rng.uniform(-0.3, 0.3, sides.shape)).astype(np.float32), match


def test_targets_are_scipys_interpolation_inside_the_box():
    rois, match = rois_around(BOXES[:3], 8)
    found = np.asarray(jax.jit(mask_targets)(rois, BOXES, MASKS, match))
    assert found.shape == (24, 28, 28) and set(np.unique(found)) == {0, 1}
    close = 0
    for target, roi, index in zip(found, rois.astype(np.float64), match, strict=True):
        x1, y1, x2, y2 = BOXES[index].astype(np.float64)
        steps = (np.arange(28) + 0.5) / 28
        y, x = np.meshgrid(roi[1] + steps * (roi[3] - roi[1]), roi[0] + steps * (roi[2] - roi[0]), indexing="ij")
        cells = [(y - y1) / (y2 - y1) * FRAME - 0.5, (x - x1) / (x2 - x1) * FRAME - 0.5]
        values = scipy.ndimage.map_coordinates(MASKS[index].astype(np.float64), cells, order=1, mode="nearest")
        values = np.where((y >= y1) & (y <= y2) & (x >= x1) & (x <= x2), values, 0)
        undecided = np.abs(values - 0.5) < 1e-3  # float32 may see it on the other side
        close += undecided.sum()
        np.testing.assert_array_equal(target[~undecided], values[~undecided] >= 0.5)
    assert close < 0.002 * found.size


def test_targets_are_torchvisions_roi_align_of_the_whole_bitmap():
    """The box has a pixel for each cell of the frame, so the frame is a cut from the bitmap and nothing is lost."""
    ops = import_library("torchvision.ops.roi_align")
    bitmap = np.zeros((160, 150), np.float32)
    bitmap[20:132, 10:122] = MASKS[0]
    rois = np.array([[10, 20, 122, 132], [30, 25, 100, 131], [60, 70, 64, 73], [11, 21, 121, 60]], np.float32)
    with_index = torch.from_numpy(np.concatenate([np.zeros((4, 1), np.float32), rois], axis=1))
    plain = getattr(ops._roi_align, "__wrapped__", ops._roi_align)
    values = plain(torch.from_numpy(bitmap)[None, None], with_index, 1.0, 28, 28, 1, True)[:, 0].numpy()
    found = np.asarray(mask_targets(rois, BOXES, MASKS, np.zeros(4, np.int32)))
    decided = np.abs(values - 0.5) > 1e-4
    # On the rim of the box the bitmap fades to the background, which the frame does not know: leave out half a pixel.
    steps = (np.arange(28) + 0.5) / 28
    points = rois[:, :2, None] + steps * (rois[:, 2:] - rois[:, :2])[..., None]
    inner = (points > BOXES[0, :2, None] + 0.5) & (points < BOXES[0, 2:, None] - 0.5)
    decided &= inner[:, 1, :, None] & inner[:, 0, None, :]
    assert decided.mean() > 0.95
    np.testing.assert_array_equal(found[decided], values[decided] >= 0.5)


def test_a_full_mask_fills_its_box_and_nothing_else():
    boxes = np.array([[10, 10, 38, 38]], np.float32)
    rois = np.array([[10, 10, 38, 38], [3, 3, 31, 31], [50, 50, 80, 80]], np.float32)
    found = np.asarray(mask_targets(rois, boxes, np.ones((1, FRAME, FRAME), bool), np.zeros(3, np.int32)))
    assert found[0].all() and not found[2].any()
    wanted = np.zeros((28, 28))
    wanted[7:, 7:] = 1
    np.testing.assert_array_equal(found[1], wanted)


def test_padding_gives_zeros_and_changes_nothing():
    rois, match = rois_around(BOXES, 4)
    found = np.asarray(mask_targets(rois, BOXES, MASKS, match))
    assert not found[match == 3].any() and found[match < 3].any()  # the last object is padding
    more = [np.concatenate([x, np.zeros_like(x)]) for x in (BOXES, MASKS)]
    np.testing.assert_array_equal(mask_targets(rois, *more, match), found)
    assert np.isfinite(mask_targets(rois, BOXES, MASKS, np.full(len(rois), -1))).all()


@pytest.mark.parametrize(
    "box",
    [(20.0, 30.0, 80.0, 75.0), (0.0, 0.0, 100.0, 90.0), (-15.5, 40.2, 33.3, 120.7), (50.2, 50.2, 51.9, 53.3)],
)
def test_pasting_is_pytorchs_grid_sample(box):
    height, width = 90, 100
    probabilities = rng.random((28, 28)).astype(np.float32)
    x1, y1, x2, y2 = box
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - y1) / (y2 - y1) * 2 - 1
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - x1) / (x2 - x1) * 2 - 1
    grid = torch.stack([x[None].expand(height, width), y[:, None].expand(height, width)], dim=-1)[None]
    values = torch.nn.functional.grid_sample(
        torch.from_numpy(probabilities).double()[None, None], grid, align_corners=False
    )[0, 0].numpy()
    for threshold in (0.2, 0.5):
        found = paste(probabilities, np.array(box), height, width, threshold)
        decided = np.abs(values - threshold) > 1e-9
        np.testing.assert_array_equal(found[decided], values[decided] >= threshold)
        assert found.any() and not found.all()


@pytest.mark.parametrize("box", [(5.0, 5.0, 5.0, 9.0), (200.0, 200.0, 220.0, 230.0), (-50.0, -50.0, -20.0, -10.0)])
def test_what_lies_outside_the_image_pastes_nothing(box):
    assert not paste(np.ones((28, 28)), np.array(box), 64, 64).any()


def test_there_and_back():
    """An ellipse through its box's frame, a shifted RoI's target, and back into the image."""
    box, roi = np.array([20.0, 30, 140, 110]), np.array([[14.0, 26, 146, 113]], np.float32)

    def inside(y, x):
        return ((x - 80) / 60) ** 2 + ((y - 70) / 40) ** 2 < 1

    cells = (np.arange(FRAME) + 0.5) / FRAME
    frame = inside(*np.meshgrid(30 + 80 * cells, 20 + 120 * cells, indexing="ij"))
    target = np.asarray(mask_targets(roi, box[None].astype(np.float32), frame[None], np.zeros(1, np.int32)))[0]
    found = paste(target, roi[0], 150, 160)
    truth = inside(*np.meshgrid(np.arange(150) + 0.5, np.arange(160) + 0.5, indexing="ij"))
    assert (found & truth).sum() / (found | truth).sum() > 0.95
