"""Shapes of objects: polygons and COCO's run-length codes, and their pixels on any grid.

A run-length code counts pixels column by column, beginning with the pixels outside: outside, inside, outside, ... Its
compressed form writes each count (from the fourth on, its difference to the one two before) in base 32, low digits
first, five bits and a flag for more in each printable character (pycocotools' maskApi.c).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bob_jax.errors import BobError

# Outlines [P, 2] of x, y in pixels, the corner of the image being 0, 0; or bool pixels [H, W].
Shape = tuple[np.ndarray, ...] | np.ndarray


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Pixels [H, W] bool to a compressed code {"size": [H, W], "counts": str}, as pycocotools writes it."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:-1] != flat[:-2])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    text = bytearray()
    for row, count in enumerate(counts):
        rest = count - counts[row - 2] if row > 2 else count
        more = True
        while more:
            digit, rest = rest & 31, rest >> 5
            more = rest != (-1 if digit & 16 else 0)
            text.append(48 + (digit | 32 if more else digit))
    return {"size": list(mask.shape), "counts": text.decode()}


def decode(code: Mapping[str, Any], what: str) -> np.ndarray:
    """A run-length code, compressed or not, to pixels [H, W] bool.

    Args:
        code: {"size": [H, W], "counts": a list, or the compressed text}.
        what: how an error names it.

    Raises:
        BobError: the code is damaged, or does not fill the picture exactly.
    """
    try:
        height, width = (int(side) for side in code["size"])
        counts = code["counts"]
        if isinstance(counts, str | bytes):
            counts = _counts(counts.encode() if isinstance(counts, str) else counts)
        runs = np.array(counts, np.int64)
        if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
            raise ValueError(f"its runs cover {int(runs.sum())} pixels of {height} x {width}")
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BobError(f"corrupt run-length mask of {what}: {reason[:120]}; write it anew, or remove it") from error
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((height, width), order="F")


def _counts(text: bytes) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = character - 48
        if not 0 <= digit < 64:
            raise ValueError(f"character {chr(character)!r} is none of its digits")
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("it ends within a number")
    return counts


def polygons(outlines: Any, what: str) -> tuple[np.ndarray, ...]:
    """COCO's lists of x, y, x, y, ... as arrays [P, 2]; parts with fewer than three points enclose nothing and go.

    Args:
        outlines: a list of lists of numbers.
        what: how an error names it.

    Raises:
        BobError: an odd number of coordinates, or something that is no finite number.
    """
    try:
        arrays = [np.array(outline, np.float64) for outline in outlines]
        good = all(array.ndim == 1 and len(array) % 2 == 0 and np.isfinite(array).all() for array in arrays)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise BobError(f"bad polygon of {what}: want a list of lists x, y, x, y, ... of finite numbers")
    return tuple(array.reshape(-1, 2) for array in arrays if len(array) >= 6)


def sample(shape: Shape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether the points of a grid lie in a shape.

    Polygons by the even-odd rule, each part by itself, joined; pixels hold the half-open squares they are.

    Args:
        shape: in the image's pixels.
        x: [W] of the columns, ascending or descending.
        y: [H] of the rows.

    Returns:
        [H, W] bool; outside of the image false.
    """
    if isinstance(shape, np.ndarray):
        return _pixels(shape, x, y)
    inside = np.zeros((len(y), len(x)), bool)
    order = np.argsort(x)
    for outline in shape:
        start, end = outline, np.roll(outline, -1, axis=0)
        row, edge = np.nonzero((start[:, 1] <= y[:, None]) != (end[:, 1] <= y[:, None]))  # edges that cross a row
        slope = (y[row] - start[edge, 1]) / (end[edge, 1] - start[edge, 1])
        crossing = start[edge, 0] + slope * (end[edge, 0] - start[edge, 0])
        column = np.searchsorted(x[order], crossing, side="left")  # all points from here on are right of the crossing
        counts = np.zeros((len(y), len(x) + 1), np.int64)
        np.add.at(counts, (row, column), 1)
        part = np.cumsum(counts[:, :-1], axis=1) % 2 == 1
        inside[:, order] |= part
    return inside


def _pixels(mask: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    held = (column >= 0) & (column < width), (row >= 0) & (row < height)
    return mask[np.ix_(row.clip(0, height - 1), column.clip(0, width - 1))] & held[0] & held[1][:, None]


def pixels(shape: Shape, height: int, width: int) -> np.ndarray:
    """The pixels [height, width] bool whose centres lie in the shape."""
    return sample(shape, np.arange(width) + 0.5, np.arange(height) + 0.5)
