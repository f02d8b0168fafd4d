"""Pictures of what a detector found: boxes, masks, names and scores over the image."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bob_jax.data import masks as pixel_masks
from bob_jax.data.base import Source
from bob_jax.metrics.coco import Detections

SAMPLES = 4
SURE = 0.5  # least score that is drawn
LEAST_SIDE = 480  # pixels; smaller pictures are enlarged, or names would cover them
TINT = 0.45  # how much of a mask's colour is laid over the image
GOLDEN = 0.618034  # of the colour circle between one class and the next: neighbours differ


def draw(
    image: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    colours: Sequence[int],
    shapes: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """An image with objects drawn over it.

    Args:
        image: [H, W, 3] uint8.
        boxes: [N, 4] left, top, right, bottom in pixels.
        names: N words to write at the boxes.
        colours: N numbers; equal ones get equal colours.
        shapes: N masks [H, W] bool; None draws boxes alone.

    Returns:
        [H', W', 3] uint8, enlarged by a whole factor where the image is small.
    """
    factor = max(1, -(-LEAST_SIDE // max(image.shape[:2])))
    large = image.repeat(factor, axis=0).repeat(factor, axis=1)
    paints = [_colour(number) for number in colours]
    for paint, shape in zip(paints, shapes or (), strict=False):
        inside = shape.repeat(factor, axis=0).repeat(factor, axis=1)
        large[inside] = np.round((1 - TINT) * large[inside] + TINT * np.array(paint))
    canvas = Image.fromarray(large)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for paint, name, box in zip(paints, names, boxes * factor, strict=True):
        left, top, right, bottom = (float(edge) for edge in box)
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=paint, width=2)
        x, y, end, low = pen.textbbox((left, max(0.0, top - 18)), name, font)
        pen.rectangle((x - 2, y - 2, end + 2, low + 2), fill=paint)
        pen.text((left, max(0.0, top - 18)), name, fill=_ink(paint), font=font)
    return np.asarray(canvas)


def found(
    image: np.ndarray, detections: Detections, row: int, classes: Sequence[str], threshold: float = SURE
) -> np.ndarray:
    """An image with what was found on it, the surest on top.

    Args:
        image: [H, W, 3] uint8.
        detections: of several images.
        row: which of them this is.
        classes: names.
        threshold: least score.
    """
    mine = np.flatnonzero((detections.image == row) & (detections.score >= threshold))[::-1]
    shapes = None
    if detections.masks is not None:
        shapes = [pixel_masks.decode(detections.masks[i], "what was found") for i in mine]
    names = [f"{classes[detections.label[i]]} {detections.score[i]:.2f}" for i in mine]
    return draw(image, detections.boxes[mine], names, detections.label[mine].tolist(), shapes)


def samples(source: Source, detections: Detections, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """A few test images: the objects as they are to the left, as they were found to the right.

    Args:
        source: of scenes.
        detections: on its images.
        classes: names.
    """
    rows = np.linspace(0, len(detections.images) - 1, min(SAMPLES, len(detections.images))).round().astype(int)
    places = {name: place for place, name in enumerate(source.ids)}
    pictures = {}
    for number, row in enumerate(rows.tolist(), 1):
        scene = source[places[detections.images[row]]]
        image, labels = scene["image"], scene["classes"]  # type: ignore[typeddict-item]
        shapes = [pixel_masks.pixels(shape, *image.shape[:2]) for shape in scene["shapes"]]  # type: ignore[typeddict-item]
        truth = draw(image, scene["boxes"], [classes[label] for label in labels], labels.tolist(), shapes)  # type: ignore[typeddict-item]
        gap = np.full((len(truth), 8, 3), 255, np.uint8)
        pictures[f"sample{number}"] = np.concatenate([truth, gap, found(image, detections, row, classes)], axis=1)
    return pictures


def _colour(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.85, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def _ink(paint: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever can be read on it (luma of BT.601)."""
    return (0, 0, 0) if np.dot(paint, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
