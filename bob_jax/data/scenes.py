"""Scenes of handwritten digits: a detection data set that is always there, written as a real COCO folder.

Ten classes, real ink (scikit-learn's digits), composed pictures: digits of very different sizes, turned a little, over
each other and over clutter, on textured grounds. Masks are exact: the pixels of a digit that nothing covers. Training,
validation and test scenes hold different handwritten digits, as the splits of `digits` have them.

What a scene holds depends on its split and number alone, so more scenes leave the earlier ones as they are.
"""

import dataclasses
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from bob_jax.cache import cache_dir
from bob_jax.data import coco, digits, masks
from bob_jax.data.base import DetectionDataset
from bob_jax.errors import BobError

NAME = "digit_scenes"
EDITION = "2"  # of the recipe below: another edition is another folder
COUNTS = {"train": 2400, "validation": 100, "test": 200}
SIZES = ((128, 128), (96, 128), (128, 96))  # height and width of pictures

# Ranges of what is drawn at random.
MOST = 7  # digits in a scene; from none
HEIGHT = (16.0, 72.0)  # of a digit's picture in pixels, log-uniform; its ink is a little smaller
ROTATION = 20.0  # degrees either way
STRETCH = 0.2  # log of width over height, either way
SEEN = 0.6  # least part of every digit that stays uncovered
CONTRAST = 0.3  # least distance of ink from the ground under it, in grey of [0, 1]
CLUTTER = 8  # most strokes and blobs of other colours, under the digits
SPECKLE = 0.03  # standard deviation of the noise of each pixel


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A scene.

    Attributes:
        image: [H, W, 3] uint8.
        labels: N digits.
        masks: N of [H, W] bool, what is seen of each; disjoint.
    """

    image: np.ndarray
    labels: list[int]
    masks: list[np.ndarray]


def load() -> DetectionDataset:
    """The scenes: 2,400 train (without empty ones), 100 validation and 200 test, drawn when first asked for.

    Raises:
        BobError: they cannot be written.
    """
    root = cache_dir("data") / f"{NAME}_{EDITION}"
    if not root.is_dir():
        try:
            write(root, COUNTS)
        except OSError as error:
            reason = error.strerror or error
            raise BobError(f"cannot write {root} ({reason}): free space there, or set BOB_CACHE") from error
    return coco.load(root, name=NAME, licence=digits.LICENCE)


def write(root: Path, counts: dict[str, int]) -> None:
    """Draws scenes into a new COCO folder, whole or not at all.

    Args:
        root: the folder; its parents are made. When another process was faster, its folder stays.
        counts: scenes of each split.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        (unfinished / "annotations").mkdir()
        for split, count in counts.items():
            _write_split(unfinished, split, count)
        unfinished.chmod(0o755)
        try:
            unfinished.rename(root)
        except OSError:
            if not root.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_split(root: Path, split: str, count: int) -> None:
    (root / split).mkdir()
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number in range(count):
        scene, name = draw(split, number), f"{number + 1:06d}.png"
        Image.fromarray(scene.image).save(root / split / name)
        height, width = scene.image.shape[:2]
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            left, top, right, bottom = (int(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": number + 1,
                    "category_id": label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": masks.encode(mask),
                }
            )
    content = {
        "info": {"description": f"Scenes of handwritten digits, {split}", "version": EDITION},
        "licenses": [{"id": 1, "name": digits.LICENCE}],
        "images": images,
        "annotations": objects,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(digits.CLASSES)],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def draw(split: str, number: int) -> Drawn:
    """One scene: ground, clutter, digits one over the other, noise.

    Args:
        split: "train", "validation" or "test"; whose handwritten digits are used.
        number: of the scene in its split.
    """
    rng = np.random.default_rng([*split.encode(), number])
    height, width = SIZES[rng.integers(len(SIZES))]
    picture = _ground(height, width, rng)
    for _ in range(rng.integers(CLUTTER + 1)):
        picture = _stroke(picture, rng)
    ink, label = _handwriting(split)
    labels: list[int] = []
    seen: list[np.ndarray] = []
    whole: list[int] = []
    for _ in range(rng.integers(MOST + 1)):
        one = int(rng.integers(len(ink)))
        cover = _placed(ink[one], height, width, rng)
        solid = cover > 0.5
        left = [mask & ~solid for mask in seen]
        if not solid.any() or any(part.sum() < SEEN * size for part, size in zip(left, whole, strict=True)):
            continue
        colour = _away_from(picture[solid].mean(), rng)
        picture += cover[..., None] * (colour - picture)
        labels.append(int(label[one]))
        seen = [*left, solid]
        whole.append(int(solid.sum()))
    picture += rng.normal(0, SPECKLE, picture.shape)
    return Drawn(np.round(255 * picture.clip(0, 1)).astype(np.uint8), labels, seen)


@functools.cache
def _handwriting(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The split's digits [N, 8, 8] of ink in [0, 1], and their classes [N]."""
    source = digits.load().splits[split]
    ink = np.stack([source[row]["image"][..., 0] for row in range(len(source))]).astype(np.float32) / 255
    return ink, source.labels


def _placed(ink: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """[height, width] how much each pixel is covered by a digit of random size, turn and place, all of it inside."""
    tall = float(np.exp(rng.uniform(*np.log(HEIGHT))))
    size = max(8, round(tall * float(np.exp(rng.uniform(-STRETCH, STRETCH))))), max(8, round(tall))
    angle = float(rng.uniform(-ROTATION, ROTATION))
    padded = Image.fromarray(np.pad(ink, 1))
    grown = padded.resize(size, Image.Resampling.BICUBIC).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    drawn = np.asarray(grown)[:height, :width]
    sharp = np.clip((drawn - 0.5) * tall / 8 + 0.5, 0, 1)  # edges one pixel wide, whatever the size
    cover = np.zeros((height, width), np.float32)
    top, left = (int(rng.integers(room - side + 1)) for room, side in zip(cover.shape, sharp.shape, strict=True))
    cover[top : top + sharp.shape[0], left : left + sharp.shape[1]] = sharp
    return cover


def _away_from(grey: float, rng: np.random.Generator) -> np.ndarray:
    """A colour [3] that can be read on a ground of this brightness."""
    while True:
        colour = rng.uniform(0, 1, 3)
        if abs(colour.mean() - grey) >= CONTRAST:
            return colour


def _ground(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """[height, width, 3] in [0, 1]: cloudy colours at three scales, and often stripes."""
    picture = np.ones((height, width, 3)) * rng.uniform(0.15, 0.85, 3)
    for knots, strength in ((3, 0.15), (8, 0.08), (32, 0.04)):
        small = rng.normal(0, strength, (3, knots, knots)).astype(np.float32)
        bands = [Image.fromarray(band).resize((width, height), Image.Resampling.BICUBIC) for band in small]
        picture += np.stack([np.asarray(band) for band in bands], axis=-1)
    if rng.random() < 0.5:
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 24)
        rows, columns = np.mgrid[:height, :width]
        wave = np.sin(2 * np.pi * (rows * np.sin(angle) + columns * np.cos(angle)) / period + rng.uniform(0, 6))
        picture += 0.1 * wave[..., None] * rng.uniform(0, 1, 3)
    return picture.clip(0, 1)


def _stroke(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture [H, W, 3] with one line, arc or blob of any colour; none of them looks like a digit."""
    height, width = picture.shape[:2]
    page = Image.new("L", (2 * width, 2 * height))  # drawn twice as large, so that edges are smooth
    pen = ImageDraw.Draw(page)
    x, y = rng.uniform(0, 2 * width), rng.uniform(0, 2 * height)
    reach = rng.uniform(10, 80, 2)
    kind, thick = rng.integers(3), int(rng.integers(2, 12))
    if kind == 0:
        pen.line((x, y, x + reach[0] * rng.choice([-1, 1]), y + reach[1]), fill=255, width=thick)
    elif kind == 1:
        start = rng.uniform(0, 360)
        pen.arc((x, y, x + reach[0], y + reach[1]), start, start + rng.uniform(60, 150), fill=255, width=thick)
    else:
        pen.ellipse((x, y, x + reach[0] / 2, y + reach[1] / 2), fill=255)
    cover = np.asarray(page.resize((width, height), Image.Resampling.BOX), np.float64)[..., None] / 255
    return picture + cover * (rng.uniform(0, 1, 3) - picture)
