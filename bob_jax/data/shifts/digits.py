"""Two shifts that need no download: handwritten digits under corruptions, and from printed digits to handwritten ones.

The corruptions are of our own making, after those of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261): five
kinds, each at five severities from mild to hard. What is random about a picture (the noise, which way it turns, where
it is covered) follows from the kind and the id alone: severity 5 of an image is severity 1, more so.

Accuracy in percent of a linear probe on `convnext_nano_glyphs`, severity 1 to 5, where clean digits have 98.6: noise 98
to 50, blur 99 to 80, rotation 96 to 62, occlusion 92 to 50, contrast 98 to 74; and 78.9 from print to hand.
"""

import functools
import hashlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from bob_jax.data import digits
from bob_jax.data.arrays import ArraySource
from bob_jax.data.base import ShiftDataset, Source
from bob_jax.data.shifts.sources import version

SIZE = 32  # side that the 8 x 8 pictures are enlarged to before they are corrupted, pixels
COVER = 0.5  # grey of what covers a part: neither ground nor ink

# Strengths at severity 1 to 5.
NOISE = (0.1, 0.18, 0.26, 0.36, 0.48)  # standard deviation, of grey values from 0 to 1
BLUR = (1.0, 1.75, 2.5, 3.25, 4.0)  # standard deviation, pixels
ROTATION = (8.0, 16.0, 24.0, 32.0, 40.0)  # degrees, either way
OCCLUSION = (8, 10, 12, 14, 16)  # side of the covering square, pixels
CONTRAST = (0.6, 0.45, 0.3, 0.2, 0.13)  # of the distance from the mean that is left


@functools.cache
def corrupted() -> ShiftDataset:
    """The 360 test images of the digits under 25 conditions, [32, 32, 3] uint8."""
    clean = digits.load().splits["test"]
    splits = {
        f"{kind}_{severity}": corrupt(clean, kind, severity) for kind in KINDS for severity in range(1, len(NOISE) + 1)
    }
    return ShiftDataset(
        name="digits_c",
        version=version(list(splits.values())),
        classes=digits.CLASSES,
        splits=dict(splits),
        split_notes=dict.fromkeys(splits, "the digits' test images"),
        metric="accuracy",
        licence=digits.LICENCE,
        source="digits",
        table=np.arange(len(digits.CLASSES)),
        clean=True,
    )


def from_print() -> ShiftDataset:
    """All 1,797 handwritten digits, for heads that saw printed ones only."""
    source = digits.everything()
    return ShiftDataset(
        name="digits_from_print",
        version=version([source]),
        classes=digits.CLASSES,
        splits={"test": source},
        split_notes={"test": "all 1,797 images"},
        metric="accuracy",
        licence=digits.LICENCE,
        source="printed_digits",
        table=np.arange(len(digits.CLASSES)),
    )


def corrupt(source: Source, kind: str, severity: int) -> ArraySource:
    """Grey pictures under one corruption, with their labels and ids.

    Args:
        source: small images; the first channel is read.
        kind: one of `KINDS`.
        severity: 1 to 5.

    Returns:
        Images [SIZE, SIZE, 3] uint8.
    """
    pictures = []
    for index in range(len(source)):
        example = source[index]
        grey = np.asarray(_enlarged(example["image"]), np.float32) / 255
        changed = KINDS[kind](grey, severity - 1, _generator(kind, example["id"]))
        pictures.append(np.round(255 * np.clip(changed, 0, 1)).astype(np.uint8))
    return ArraySource(np.repeat(np.stack(pictures)[..., None], 3, axis=-1), source.labels, source.ids)


def _enlarged(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image[..., 0])).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _generator(kind: str, name: str) -> np.random.Generator:
    return np.random.default_rng(np.frombuffer(hashlib.sha256(f"{kind}/{name}".encode()).digest(), np.uint32))


def _noise(grey: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return grey + NOISE[level] * rng.standard_normal(grey.shape, np.float32)


def _blur(grey: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    return ndimage.gaussian_filter(grey, BLUR[level], mode="constant")


def _rotation(grey: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    from scipy import ndimage

    return ndimage.rotate(grey, rng.choice([-1, 1]) * ROTATION[level], reshape=False, order=1)


def _occlusion(grey: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """A square somewhere on the picture's inner half, around the same place at every severity."""
    changed = grey.copy()
    y, x = rng.integers(SIZE // 4, 3 * SIZE // 4, 2)
    first, last = OCCLUSION[level] // 2, OCCLUSION[level] - OCCLUSION[level] // 2
    changed[max(0, y - first) : y + last, max(0, x - first) : x + last] = COVER
    return changed


def _contrast(grey: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    mean = grey.mean()
    return mean + CONTRAST[level] * (grey - mean)


Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
KINDS: dict[str, Corruption] = {
    "noise": _noise,
    "blur": _blur,
    "rotation": _rotation,
    "occlusion": _occlusion,
    "contrast": _contrast,
}
