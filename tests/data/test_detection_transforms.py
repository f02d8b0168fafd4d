"""Pictures, boxes and masks stay together: against whole masks that go through the same geometry as pictures."""

import numpy as np
import pytest
from PIL import Image

from bob_jax.data import masks
from bob_jax.data.detection_transforms import PADDING, Fit, Jitter, Slots, View, framed

SEEDS = range(12)


def _scene(seed: int, count: int = 4, height: int = 90, width: int = 140, pixels: bool = False):
    """Ellipses that are painted into the picture: object n has the grey 25 n + 60, the ground is black."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    shapes, boxes = [], []
    for n in range(count):
        radius = rng.uniform(8, 20, 2)
        centre = rng.uniform(radius, np.array([width, height]) - radius)
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        outline = centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        mask = masks.pixels((outline,), height, width)
        image[mask] = 60 + 25 * n
        shapes.append(mask if pixels else (outline,))
        boxes.append([*outline.min(axis=0), *outline.max(axis=0)])
    return {
        "image": image,
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "classes": np.arange(count, dtype=np.int32),
        "crowd": np.zeros(count, bool),
        "shapes": shapes,
        "label": np.ones(3, np.float32),
        "id": str(seed),
    }


def _pasted(out, slot: int) -> np.ndarray:
    """The mask of a slot in the picture: each pixel's centre looked up in the grid."""
    left, top, right, bottom = out["boxes"][slot]
    side = out["masks"].shape[-1]
    size = len(out["image"])
    column = np.floor((np.arange(size) + 0.5 - left) / (right - left) * side).astype(int)
    row = np.floor((np.arange(size) + 0.5 - top) / (bottom - top) * side).astype(int)
    inside = ((row >= 0) & (row < side))[:, None] & ((column >= 0) & (column < side))
    return out["masks"][slot][np.ix_(row.clip(0, side - 1), column.clip(0, side - 1))].astype(bool) & inside


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_and_masks_follow_the_picture(seed, pixels):
    """One object, painted white: what is white in the view must be its mask, and its box must enclose just that."""
    scene = _scene(seed, 1, pixels=pixels)
    scene["image"] = np.where(scene["image"] > 0, 255, 0).astype(np.uint8)
    out = Jitter(size=160, scale=(0.4, 2.0))(scene, np.random.default_rng(seed))
    height, width = out["extent"]
    white = np.zeros((160, 160), bool)
    white[:height, :width] = out["image"][:height, :width, 0] > 127
    if white.sum() < 20:
        return
    assert out["valid"].tolist() == [True] + [False] * 99
    mask = _pasted(out, 0)
    union = (mask | white).sum()
    edge = np.sqrt(white.sum()) * 4  # pixels along the outline may differ
    assert (mask ^ white).sum() <= max(0.1 * union, edge)
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(out["boxes"][0], expected, atol=1.5 * max(out["scale"].max(), 1))


def test_most_seeds_show_something():
    shown = [Jitter(size=160, scale=(0.4, 2.0))(_scene(s, 1), np.random.default_rng(s))["valid"].any() for s in SEEDS]
    assert sum(shown) >= 8


@pytest.mark.parametrize("flip", [False, True])
def test_views_there_and_back(flip):
    view = View((90, 140), (180, 300), (13, 40), (100, 120), flip)
    boxes = np.array([[10.0, 20, 50, 60], [0, 0, 140, 90]])
    there = view.boxes(boxes)
    back = np.stack(
        [view.columns(there[:, 0]), view.rows(there[:, 1]), view.columns(there[:, 2]), view.rows(there[:, 3])]
    )
    expected = boxes[:, [2, 1, 0, 3]] if flip else boxes
    np.testing.assert_allclose(back.T, expected, atol=1e-9)


def test_the_part_seen_is_that_of_the_whole_resized():
    """Cropping before resizing equals cropping after it, but for a pixel at the border."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (9, 14, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    view = View((90, 140), (200, 311), (31, 57), (128, 128), True)
    whole = np.asarray(Image.fromarray(image).resize((311, 200), Image.Resampling.BILINEAR))[:, ::-1]
    part = view.picture(image, (128, 128))
    expected = whole[31 : 31 + 128, 57 : 57 + 128].astype(int)
    assert np.abs(part.astype(int) - expected)[2:-2, 2:-2].max() <= 1


def test_evaluation_shows_all():
    scene = _scene(3)
    out = Fit(size=64, slots=Slots(10, 28))(scene)
    assert out["extent"].tolist() == [41, 64]
    np.testing.assert_array_equal(out["image"][41:], np.broadcast_to(np.array(PADDING, np.uint8), (23, 64, 3)))
    expected = np.asarray(Image.fromarray(scene["image"]).resize((64, 41), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(out["image"][:41], expected)
    order = out["classes"][:4]
    scale_y, scale_x = out["scale"]
    np.testing.assert_allclose(
        out["boxes"][:4] / [scale_x, scale_y, scale_x, scale_y], scene["boxes"][order], rtol=1e-5, atol=1e-4
    )
    assert out["masks"].shape == (10, 28, 28)
    area = out["masks"][:4].mean(axis=(1, 2))
    # An ellipse in its box, counted in 28 x 28 cells: half of the hundred or so on its outline fall either way.
    np.testing.assert_allclose(area, np.pi / 4, atol=0.02)
    for name, dtype in {"boxes": np.float32, "classes": np.int32, "masks": np.uint8, "overflow": np.int32}.items():
        assert out[name].dtype == dtype


def test_the_largest_objects_get_the_slots():
    scene = _scene(4, 8, 400, 400)
    everything = Fit(size=400)(scene)
    out = Fit(size=400, slots=Slots(5, 28))(scene)
    assert everything["overflow"] == 0
    assert out["overflow"] == 3
    assert out["valid"].all()
    np.testing.assert_array_equal(out["boxes"], everything["boxes"][:5])
    area = np.prod(scene["boxes"][:, 2:] - scene["boxes"][:, :2], axis=1)
    assert out["classes"].tolist() == np.argsort(-area)[:5].tolist()


def test_crowds_and_empty_pictures():
    scene = _scene(5)
    scene["crowd"][:] = True
    for out in (Fit(size=64)(scene), Jitter(size=64)(_scene(5, 0), np.random.default_rng(0))):
        assert not out["valid"].any()
        assert not out["masks"].any()
        assert out["overflow"] == 0


def test_objects_out_of_view_are_gone():
    """An L whose box reaches into the view, while none of its pixels does."""
    corner = (np.array([[0.0, 0], [90, 0], [90, 10], [10, 10], [10, 90], [0, 90]]),)
    scene = {**_scene(0, 1, 100, 100), "boxes": np.array([[0, 0, 90, 90]], np.float32), "shapes": [corner]}
    gone = framed(scene, View((100, 100), (100, 100), (50, 50), (50, 50), False), (50, 50), Slots(3, 28))
    assert not gone["valid"].any()
    arm = framed(scene, View((100, 100), (100, 100), (40, 0), (50, 100), False), (50, 100), Slots(3, 90))
    np.testing.assert_allclose(arm["boxes"][0], [0, 0, 10, 50], atol=1.01)  # fitted to the arm that is seen
    assert arm["masks"][0].mean() > 0.98


def test_randomness_is_the_generators_alone():
    scene, jitter = _scene(6), Jitter(size=96)
    first, again, other = (jitter(scene, np.random.default_rng((0, 3, seed))) for seed in (1, 1, 2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert (first["image"] != other["image"]).any()


def test_scales_cover_their_range_and_flips_are_half():
    jitter = Jitter(size=100, slots=Slots(1, 4))
    outs = [jitter(_scene(7, 1, 40, 50), np.random.default_rng(seed)) for seed in range(400)]
    scales = np.array([out["scale"][1] * 50 / 100 for out in outs])
    assert 0.09 < scales.min() < 0.13
    assert 1.95 < scales.max() <= 2.0
    assert abs(np.mean(scales) - 1.05) < 0.1
    scene = _scene(7, 1, 40, 50)
    scene["image"] = np.repeat(np.arange(50, dtype=np.uint8)[None, :, None] * 5, 40, axis=0).repeat(3, axis=2)
    falls = []
    for seed in range(400):
        out = jitter(scene, np.random.default_rng(seed))
        row = out["image"][0, : out["extent"][1], 0].astype(int)
        falls.append(row[0] > row[-1])
    assert 0.43 < np.mean(falls) < 0.57
