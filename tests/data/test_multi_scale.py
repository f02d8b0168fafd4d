"""Four canvases by aspect: sides, scales, crops and where objects end up."""

import numpy as np
import pytest

from bob_jax.data import masks
from bob_jax.data.detection_transforms import PADDING, Fit, Jitter, Slots
from bob_jax.data.multi_scale import MultiScale, SingleScale

SLOTS = Slots(4, 14)
CANVASES = ((800, 1088), (800, 1344), (1088, 800), (1344, 800))
SMALL = 160  # short side of the canvases where the picture is looked at


def scene(height: int, width: int, objects: bool = True):
    """A white ellipse on black, at the centre."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    outline = np.stack([width * (0.5 + 0.3 * np.cos(angle)), height * (0.5 + 0.3 * np.sin(angle))], axis=1)
    image = np.repeat(masks.pixels((outline,), height, width)[..., None] * np.uint8(255), 3, axis=2)
    boxes = np.array([[*outline.min(axis=0), *outline.max(axis=0)]], np.float32)
    count = int(objects)
    return {
        "image": image,
        "boxes": boxes[:count],
        "classes": np.full(count, 2, np.int32),
        "crowd": np.zeros(count, bool),
        "shapes": [(outline,)] * count,
        "label": np.ones(3, np.float32),
        "id": "one",
    }


@pytest.mark.parametrize(
    ("height", "width", "canvas", "extent"),
    [
        (480, 640, 0, (800, 1067)),  # 4:3
        (427, 640, 1, (800, 1199)),  # 3:2
        (375, 500, 0, (800, 1067)),
        (640, 480, 2, (1067, 800)),
        (640, 427, 3, (1199, 800)),
        (500, 500, 0, (800, 800)),
        (1000, 1360, 0, (800, 1088)),  # the narrow canvas is full
        (1000, 1361, 1, (800, 1089)),
        (1024, 2048, 1, (666, 1333)),  # the longer side is the limit
        (20, 900, 1, (30, 1333)),
        (3, 5, 1, (800, 1333)),
    ],
)
def test_the_aspect_chooses_the_canvas(height, width, canvas, extent):
    transform = SingleScale(slots=SLOTS)
    assert transform.canvases == MultiScale(slots=SLOTS).canvases == CANVASES
    assert transform.canvas(height, width) == MultiScale(slots=SLOTS).canvas(height, width) == canvas
    out = transform(scene(height, width))
    assert out["image"].shape == (*CANVASES[canvas], 3)
    np.testing.assert_array_equal(out["extent"], extent)
    padding = np.ones(CANVASES[canvas], bool)
    padding[: extent[0], : extent[1]] = False
    assert (out["image"][padding] == PADDING).all()
    np.testing.assert_allclose(out["scale"], [extent[0] / height, extent[1] / width], rtol=1e-6)
    assert not transform.blank(canvas)["image"].any()
    assert transform.blank(canvas)["image"].shape == out["image"].shape


def views(height: int, width: int, count: int, size: int = SMALL):
    transform, one = MultiScale(size, SLOTS), scene(height, width)
    return [transform(one, np.random.default_rng(seed)) for seed in range(count)]


def test_the_whole_picture_at_eleven_scales_or_a_part_of_it():
    transform, one = MultiScale(slots=SLOTS), scene(480, 640, objects=False)
    whole, parts = [], []
    for seed in range(300):
        out = transform(one, np.random.default_rng(seed))
        assert out["image"].shape == (800, 1088, 3)
        extent, scale = out["extent"], out["scale"]
        seen = extent / scale
        if np.abs(seen - [480, 640]).max() < 1e-3:
            whole.append(int(extent.min()))
        else:
            parts.append((*extent.tolist(), *seen.tolist()))
    assert set(whole) == set(range(480, 801, 32))
    assert 0.42 < len(whole) / 300 < 0.58
    extents, seen = np.array(parts)[:, :2], np.array(parts)[:, 2:]
    assert (extents[:, 0] <= 800).all() and (extents[:, 1] <= 1088).all()
    # Of 400 x 533, 500 x 667 or 600 x 800, sides from 384 to 600 pixels: in the file's pixels
    assert seen.min() >= 384 / 600 * 480 - 1 and seen[:, 0].max() < 480.001 and seen[:, 1].max() <= 640.001
    assert (seen[:, 0] > seen[:, 1]).any()  # upright parts of a lying picture, scaled down to its canvas
    short = extents.min(axis=1)
    fits = np.isin(short, range(480, 801, 32))
    assert 0.7 < fits.mean() < 1
    full = (extents == [800, 1088]).any(axis=1)
    assert (fits | full).all()


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (50, 90), (90, 50), (7, 300), (70, 70), (1, 1)])
def test_all_fits_and_aspects_are_kept(height, width):
    for out in views(height, width, 40):
        canvas = MultiScale(SMALL).canvases[MultiScale(SMALL).canvas(height, width)]
        assert out["image"].shape == (*canvas, 3)
        assert (out["extent"] >= 1).all() and (out["extent"] <= canvas).all()
        sides = np.array([height, width]) * out["scale"]
        assert abs(sides[0] / height - sides[1] / width) * min(height, width) <= 1  # whole pixels
        boxes = out["boxes"][out["valid"]]
        assert (boxes >= 0).all() and (boxes <= np.tile(out["extent"][::-1], 2) + 1e-3).all()


def test_objects_follow_the_picture():
    shown = 0
    for out in views(60, 80, 60):
        height, width = out["extent"]
        white = out["image"][:height, :width, 0] > 127
        if white.sum() < 50:
            continue
        shown += 1
        assert out["valid"].tolist() == [True, False, False, False] and out["classes"][0] == 2
        rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
        expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        # 14 cells over a box of up to 70 pixels, and a pixel of resizing
        np.testing.assert_allclose(out["boxes"][0], expected, atol=6.0)
    assert shown > 40


def test_half_are_mirrored_and_all_randomness_is_the_generators():
    one = scene(60, 80)
    one["image"] = np.repeat(np.arange(80, dtype=np.uint8)[None, :, None] * 3, 60, axis=0).repeat(3, axis=2)
    transform = MultiScale(SMALL, SLOTS)
    mirrored = []
    for seed in range(300):
        out = transform(one, np.random.default_rng((1, seed)))
        row = out["image"][0, : out["extent"][1], 0].astype(int)
        mirrored.append(row[0] > row[-1])
    assert 0.42 < np.mean(mirrored) < 0.58
    first, again = (transform(one, np.random.default_rng((0, 4))) for _ in range(2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])


def test_crops_without_objects_are_kept():
    one = scene(60, 120)
    one["boxes"][:] = [0, 0, 4, 4]
    one["shapes"] = [(np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]]),)]
    transform = MultiScale(SMALL, SLOTS)
    objects = [transform(one, np.random.default_rng(seed))["valid"].any() for seed in range(100)]
    assert 0.5 < np.mean(objects) < 0.95


def test_the_other_single_scale_is_the_longer_side_at_512_and_flips_alone():
    one = scene(60, 80)
    expected = Fit(512, SLOTS)(one)
    for seed in range(6):
        out = Jitter(512, SLOTS, scale=(1, 1))(one, np.random.default_rng(seed))
        np.testing.assert_array_equal(out["extent"], [384, 512])
        np.testing.assert_array_equal(out["scale"], expected["scale"])
        image = out["image"][:384]
        assert any((np.abs(image.astype(int) - side) <= 1).all() for side in (expected["image"][:384], image[:, ::-1]))
