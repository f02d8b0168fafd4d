"""Shapes against pycocotools: codes both ways, polygons pixel by pixel, and damaged codes."""

import numpy as np
import pytest

from bob_jax.data import masks
from bob_jax.errors import BobError


def _blobs(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    inside = np.zeros((height, width), bool)
    for _ in range(3):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(2, 20)
        inside |= (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    return inside


@pytest.mark.parametrize(
    "mask",
    [
        *(_blobs(seed, 37, 53) for seed in range(4)),
        np.random.default_rng(0).random((61, 40)) < 0.5,
        np.zeros((5, 7), bool),
        np.ones((300, 400), bool),
        np.arange(12).reshape(3, 4) == 0,
    ],
)
def test_codes_are_those_of_pycocotools(mask):
    from pycocotools import mask as oracle

    expected = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
    code = masks.encode(mask)
    assert code == {"size": expected["size"], "counts": expected["counts"].decode()}
    np.testing.assert_array_equal(masks.decode(code, "it"), mask)
    np.testing.assert_array_equal(masks.decode(expected, "it"), mask)  # bytes


def test_counts_are_read_column_by_column():
    mask = masks.decode({"size": [2, 3], "counts": [1, 2, 3]}, "it")
    np.testing.assert_array_equal(mask, [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ({"size": [2, 3], "counts": [1, 2]}, "cover 3 pixels of 2 x 3"),
        ({"size": [2, 3], "counts": [-1, 4, 3]}, "cover 6"),
        ({"size": [2, 3], "counts": "1\n3"}, "none of its digits"),
        ({"size": [2, 3], "counts": "1b"}, "ends within a number"),
        ({"size": [2, 3]}, "'counts'"),
        ({"size": 6, "counts": [6]}, "not iterable"),
        ({"size": [2, 3], "counts": [[1, 2], [3]]}, "inhomogeneous"),
    ],
)
def test_a_corrupt_code_is_one_line(code, reason):
    with pytest.raises(BobError, match=f"corrupt run-length mask of object 9.*{reason}") as error:
        masks.decode(code, "object 9")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("outlines", [[[1, 2, 3]], [[1, 2, 3, "x"]], [[0, 0, 1, float("nan"), 1, 1]], [[[0, 0]]], 5])
def test_a_bad_polygon_is_one_line(outlines):
    with pytest.raises(BobError, match="bad polygon of object 9"):
        masks.polygons(outlines, "object 9")


def test_parts_of_two_points_enclose_nothing():
    assert masks.polygons([[0, 0, 1, 1], []], "it") == ()


def _star(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
    radius = rng.uniform(10, 45, 12)
    return np.stack([60 + radius * np.cos(angle), 50 + radius * np.sin(angle)], axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_pixels_of_polygons_are_exact(seed):
    """Every centre is asked by itself, with matplotlib's point-in-polygon test."""
    from matplotlib.path import Path

    parts = (_star(seed), _star(seed + 100) * 0.5)
    centres = np.stack(np.meshgrid(np.arange(120) + 0.5, np.arange(100) + 0.5), axis=-1).reshape(-1, 2)
    expected = np.any([Path(part).contains_points(centres) for part in parts], axis=0).reshape(100, 120)
    np.testing.assert_array_equal(masks.pixels(parts, 100, 120), expected)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # its own code
@pytest.mark.parametrize("seed", range(3))
def test_polygons_are_nearly_pycocotools_pixels(seed):
    """It rounds outlines to a fifth of a pixel and draws them: only pixels on the outline may differ."""
    from pycocotools import mask as oracle

    part = _star(seed)
    drawn = oracle.decode(oracle.merge(oracle.frPyObjects([part.ravel().tolist()], 100, 120))).astype(bool)
    ours = masks.pixels((part,), 100, 120)
    edge = np.zeros_like(ours)
    edge[:, 1:] |= ours[:, 1:] != ours[:, :-1]
    edge[:, :-1] |= ours[:, 1:] != ours[:, :-1]
    edge[1:] |= ours[1:] != ours[:-1]
    edge[:-1] |= ours[1:] != ours[:-1]
    assert not ((drawn != ours) & ~edge).any()
    assert (drawn & ours).sum() / (drawn | ours).sum() > 0.95


def test_grids_may_run_backwards_and_leave_the_image():
    triangle = (np.array([[0.0, 0], [10, 0], [0, 10]]),)
    x, y = np.linspace(-3, 12, 40), np.linspace(-2, 14, 30)
    inside = masks.sample(triangle, x, y)
    np.testing.assert_array_equal(masks.sample(triangle, x[::-1], y)[:, ::-1], inside)
    pixels = masks.pixels(triangle, 8, 9)
    sampled = masks.sample(pixels, x, y)
    assert not sampled[:, x < 0].any()
    assert not sampled[y >= 8].any()
    assert sampled[np.ix_((y > 0) & (y < 1), (x > 0) & (x < 1))].all()
    np.testing.assert_array_equal(masks.sample(pixels, np.arange(9) + 0.5, np.arange(8) + 0.5), pixels)
