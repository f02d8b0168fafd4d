"""From a picture with objects to the fixed shapes a detector takes, on the host: the picture and its boxes and masks.

Training is large-scale jitter (Ghiasi et al. 2021, arXiv 2012.07177): the picture is resized by a random factor,
flipped, and cropped or padded to a fixed square. Evaluation fits the longer side into the square. Both pad on the right
and at the bottom. Masks are drawn last, each as a small grid over its own box, so that outlines are sampled once, where
they end up, and a hundred of them take 1.25 MB.
"""

import abc
import dataclasses
from typing import TypedDict

import numpy as np
from PIL import Image

from bob_jax.data import masks
from bob_jax.data.coco import Scene

PADDING = (124, 116, 104)  # ImageNet's mean: nearly 0 once normalised
SMALLEST = 0.01  # pixels; boxes with a shorter side after the crop are gone


class Framed(TypedDict):
    """A picture and its objects, padded. Crowds are not among them.

    image: [H, W, 3] uint8, a whole canvas.
    extent: [2] int32, height and width of the picture in it; the rest is padding.
    scale: [2] float32, pixels here per pixel of the file, along y and x; what is found at evaluation is divided by it.
    boxes: [G, 4] float32 left, top, right, bottom in pixels of `image`; 0 in empty slots.
    classes: [G] int32; 0 in empty slots.
    valid: [G] bool, whether a slot holds an object.
    masks: [G, M, M] uint8 of 0 and 1; row i, column j is the point ((j + 0.5) / M, (i + 0.5) / M) of the box.
    overflow: [] int32, objects for which there was no slot: the smallest.
    """

    image: np.ndarray
    extent: np.ndarray
    scale: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    valid: np.ndarray
    masks: np.ndarray
    overflow: np.ndarray


@dataclasses.dataclass(frozen=True)
class Slots:
    """How many objects a picture can hold, and how finely their masks are drawn.

    Attributes:
        count: G. COCO has up to 93 in an image.
        side: M, of the grid over each box.
    """

    count: int = 100
    side: int = 112


@dataclasses.dataclass(frozen=True)
class View:
    """Which part of a resized picture is seen, and whether mirrored: file pixels to view pixels and back.

    Attributes:
        source: height and width of the file's picture.
        resized: height and width it is resized to.
        corner: top and left of the view in the resized picture, after mirroring.
        extent: height and width of the view.
        flip: whether left and right are exchanged.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]
    extent: tuple[int, int]
    flip: bool

    @property
    def scale(self) -> np.ndarray:
        """[2] view pixels per file pixel, along y and x."""
        return np.array(self.resized) / np.array(self.source)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """[N, 4] boxes of the file in the view, not clipped."""
        scale_y, scale_x = self.scale
        left, top, right, bottom = (boxes.astype(np.float64) * [scale_x, scale_y, scale_x, scale_y]).T
        if self.flip:
            left, right = self.resized[1] - right, self.resized[1] - left
        y, x = self.corner
        return np.stack([left - x, top - y, right - x, bottom - y], axis=1)

    def columns(self, x: np.ndarray) -> np.ndarray:
        """Columns of the view in the file."""
        resized = x + self.corner[1]
        return (self.resized[1] - resized if self.flip else resized) / self.scale[1]

    def rows(self, y: np.ndarray) -> np.ndarray:
        """Rows of the view in the file."""
        return (y + self.corner[0]) / self.scale[0]

    def picture(self, image: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
        """[H, W, 3] uint8 -> canvas [*, *, 3] uint8: only what is seen is resized, bilinear and antialiased."""
        height, width = self.extent
        left, right = np.clip(self.columns(np.array([0.0, width])), 0, self.source[1]).tolist()
        top, bottom = np.clip(self.rows(np.array([0.0, height])), 0, self.source[0]).tolist()
        part = (min(left, right), top, max(left, right), bottom)
        seen = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=part)
        padded = np.full((*canvas, 3), PADDING, np.uint8)
        padded[:height, :width] = np.asarray(seen)[:, ::-1] if self.flip else np.asarray(seen)
        return padded


class SceneTransform(abc.ABC):
    """What a loader does with each scene.

    Attributes:
        slots: of objects.
    """

    slots: Slots

    @property
    @abc.abstractmethod
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """Height and width of every output there is; a batch has one of them."""

    def canvas(self, height: int, width: int) -> int:
        """Which of the canvases a file's picture comes out on."""
        return 0

    @abc.abstractmethod
    def __call__(self, scene: Scene, rng: np.random.Generator) -> Framed:
        """All randomness comes from `rng`."""

    def blank(self, canvas: int = 0) -> Framed:
        """What only fills a batch: no picture, no objects, scale 1."""
        count, side = self.slots.count, self.slots.side
        return {
            "image": np.zeros((*self.canvases[canvas], 3), np.uint8),
            "extent": np.zeros(2, np.int32),
            "scale": np.ones(2, np.float32),
            "boxes": np.zeros((count, 4), np.float32),
            "classes": np.zeros(count, np.int32),
            "valid": np.zeros(count, bool),
            "masks": np.zeros((count, side, side), np.uint8),
            "overflow": np.zeros((), np.int32),
        }


@dataclasses.dataclass(frozen=True)
class Jitter(SceneTransform):
    """Large-scale jitter, for training.

    Attributes:
        size: S, side of the square in pixels.
        slots: of objects.
        scale: range of the longer side that is fitted, as a fraction of S.
        flip: how often left and right are exchanged.
    """

    size: int = 1024
    slots: Slots = Slots()
    scale: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.5

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """The square."""
        return ((self.size, self.size),)

    def __call__(self, scene: Scene, rng: np.random.Generator) -> Framed:
        """All randomness comes from `rng`."""
        height, width = scene["image"].shape[:2]
        resized = _fitted(height, width, self.size * rng.uniform(*self.scale))
        extent = min(resized[0], self.size), min(resized[1], self.size)
        top, left = (int(rng.integers(whole - seen + 1)) for whole, seen in zip(resized, extent, strict=True))
        view = View((height, width), resized, (top, left), extent, bool(rng.random() < self.flip))
        return framed(scene, view, self.canvases[0], self.slots)


@dataclasses.dataclass(frozen=True)
class Fit(SceneTransform):
    """The longer side fitted into the square, for evaluation. Nothing is random.

    Attributes:
        size: S, side of the square in pixels.
        slots: of objects.
    """

    size: int = 1024
    slots: Slots = Slots()

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """The square."""
        return ((self.size, self.size),)

    def __call__(self, scene: Scene, rng: np.random.Generator | None = None) -> Framed:
        """The whole picture."""
        height, width = scene["image"].shape[:2]
        resized = _fitted(height, width, self.size)
        return framed(scene, View((height, width), resized, (0, 0), resized, False), self.canvases[0], self.slots)


def framed(scene: Scene, view: View, canvas: tuple[int, int], slots: Slots) -> Framed:
    """What of a scene is seen in a view, on a canvas of this height and width.

    A box that the view cuts is fitted anew to what is seen of its mask, to 1 / M of its side; an object of which
    nothing is seen is gone.
    """
    height, width = view.extent
    whole = view.boxes(scene["boxes"])
    cut = whole.clip(0, [width, height, width, height])
    sides = cut[:, 2:] - cut[:, :2]
    here = (sides >= SMALLEST).all(axis=1) & ~scene["crowd"]
    largest = np.argsort(-sides.prod(axis=1), kind="stable")
    boxes, drawn, rows = [], [], []
    for row in largest[here[largest]]:
        box, mask = cut[row], _drawn(scene["shapes"][row], cut[row], view, slots.side)
        if np.abs(box - whole[row]).max() > 1e-6:
            if not mask.any():
                continue
            box = _tight(box, mask)
            mask = _drawn(scene["shapes"][row], box, view, slots.side)
        boxes.append(box)
        drawn.append(mask)
        rows.append(row)
    kept = rows[: slots.count]
    out: Framed = {
        "image": view.picture(scene["image"], canvas),
        "extent": np.array(view.extent, np.int32),
        "scale": view.scale.astype(np.float32),
        "boxes": np.zeros((slots.count, 4), np.float32),
        "classes": np.zeros(slots.count, np.int32),
        "valid": np.arange(slots.count) < len(kept),
        "masks": np.zeros((slots.count, slots.side, slots.side), np.uint8),
        "overflow": np.array(len(rows) - len(kept), np.int32),
    }
    if kept:
        out["boxes"][: len(kept)] = boxes[: len(kept)]
        out["classes"][: len(kept)] = scene["classes"][kept]
        out["masks"][: len(kept)] = drawn[: len(kept)]
    return out


def _fitted(height: int, width: int, longer: float) -> tuple[int, int]:
    """Height and width with the longer side as wanted, aspect kept, at least a pixel."""
    factor = longer / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _drawn(shape: masks.Shape, box: np.ndarray, view: View, side: int) -> np.ndarray:
    """[side, side] bool: the shape at the centres of a grid over a box of the view."""
    steps = (np.arange(side) + 0.5) / side
    x, y = box[:2, None] + steps * (box[2:] - box[:2])[:, None]
    return masks.sample(shape, view.columns(x), view.rows(y))


def _tight(box: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The part of a box in which its mask is not empty."""
    cell = (box[2:] - box[:2]) / len(mask)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    first, last = np.array([columns[0], rows[0]]), np.array([columns[-1] + 1, rows[-1] + 1])
    return np.concatenate([box[:2] + first * cell, box[:2] + last * cell])
