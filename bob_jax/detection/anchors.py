"""Anchors: the boxes from which a region proposal network starts (Ren et al. 2015, arXiv 1506.01497).

As in mmdetection and torchvision, the anchors of the cell in column i and row j are centred at its corner
(i * stride, j * stride) and not in its middle. Their order is that of a head's output [H, W, A]: row, column, shape.
They depend on shapes alone, so they are made by NumPy when a program is traced, and are a constant in it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bob_jax.errors import BobError

RATIOS = (0.5, 1.0, 2.0)  # height over width
SCALES = (8.0,)  # side over stride: 32 pixels at stride 4, 512 at stride 64


class Anchors(NamedTuple):
    """All anchors of a pyramid, finest level first.

    Attributes:
        boxes: [N, 4] float32 corners in pixels; they may reach out of the image.
        centres: [N, 2] float32, x before y.
        counts: anchors of each level, N together.
    """

    boxes: np.ndarray
    centres: np.ndarray
    counts: tuple[int, ...]


def shapes(
    stride: float, scales: Sequence[float] = SCALES, ratios: Sequence[float] = RATIOS, *, rounded: bool = False
) -> np.ndarray:
    """The anchors of one cell, centred at the origin. [A, 4] float64; ratios in the outer order, scales in the inner.

    Args:
        stride: of the level in pixels.
        scales: sqrt(width * height) over the stride.
        ratios: height over width.
        rounded: corners are whole pixels, as in torchvision's public detectors.
    """
    root = np.sqrt(np.asarray(ratios, np.float64))[:, None]
    sides = stride * np.asarray(scales, np.float64)[None]
    half = np.stack([(sides / root).ravel(), (sides * root).ravel()], axis=-1) / 2
    corners = np.concatenate([-half, half], axis=-1)
    return np.round(corners) if rounded else corners


def anchors(
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    scales: Sequence[float] = SCALES,
    ratios: Sequence[float] = RATIOS,
    *,
    rounded: bool = False,
) -> Anchors:
    """The anchors of every cell of every level.

    Args:
        sizes: height and width of each level's map, in cells.
        strides: of the levels in pixels.
        scales: see `shapes`.
        ratios: see `shapes`.
        rounded: see `shapes`; cells are whole pixels apart too, the input's side over their number, rounded down. Of 13
            cells for 800 pixels that is 61 and not the stride, 64.

    Raises:
        BobError: not one stride for each level.
    """
    if len(sizes) != len(strides):
        raise BobError(f"anchors: {len(sizes)} maps and {len(strides)} strides: one each")
    boxes, centres = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        of_cell = shapes(stride, scales, ratios, rounded=rounded)
        apart = [float(stride)] * 2
        if rounded:
            apart = [side * strides[0] // cells for side, cells in zip(sizes[0], (height, width), strict=True)]
        y, x = np.mgrid[:height, :width].reshape(2, -1) * np.array(apart)[:, None]
        corners = np.stack([x, y, x, y], axis=-1)
        boxes.append((corners[:, None] + of_cell[None]).reshape(-1, 4))
        centres.append(np.repeat(corners[:, :2], len(of_cell), axis=0))
    counts = tuple(len(level) for level in boxes)
    return Anchors(np.concatenate(boxes).astype(np.float32), np.concatenate(centres).astype(np.float32), counts)


def usable(anchors: Anchors, height: ArrayLike, width: ArrayLike, border: float | None = None) -> jax.Array:
    """Which anchors may learn: those in the image, and not in the padding around it.

    Args:
        anchors: of the padded image.
        height: of the image without padding in pixels; may be traced. With that of the padded image, the padding counts
            as image.
        width: likewise.
        border: how many pixels an anchor may reach out of the image; None asks only that its centre is in it.

    Returns:
        [N] bool.
    """
    limits = jnp.stack([width, height], dtype=jnp.float32)[None]
    if border is None:
        return jnp.all(anchors.centres < limits, axis=-1)
    low, high = anchors.boxes[:, :2], anchors.boxes[:, 2:]
    return jnp.all((low >= -border) & (high < limits + border), axis=-1)
