"""From a picture of any size to the input of a backbone, on the host: uint8 in, uint8 out.

What needs no decoding of geometry (normalisation, flips, erasing, mixing) is done on the device: `on_device.py`.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np
from PIL import Image

from bob_jax.backbones.card import Preprocessing
from bob_jax.data.randaugment import INTERPOLATIONS, RandAugment

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Transform(Protocol):
    """What a loader does with each image.

    Attributes:
        size: side of the square output in pixels.
    """

    @property
    def size(self) -> int:
        """Side of the output in pixels."""
        ...

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """[H, W, 3] uint8 -> [size, size, 3] uint8; all randomness comes from `rng`."""
        ...


@dataclasses.dataclass(frozen=True)
class Eval:
    """The evaluation input, exactly as the card asks; bit-equal to timm's and torchvision's transforms of PIL images.

    Attributes:
        preprocessing: of the backbone's card.
        input_size: another side than the card's; the crop fraction stays.
    """

    preprocessing: Preprocessing
    input_size: int | None = None

    @property
    def size(self) -> int:
        """Side of the output in pixels."""
        return self.input_size or self.preprocessing.input_size

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """[H, W, 3] uint8 -> [size, size, 3] uint8. Nothing is random."""
        preprocessing = self.preprocessing
        side = math.floor(self.size / preprocessing.crop_pct)
        height, width = image.shape[:2]
        if preprocessing.crop_mode == "squash":
            width, height = side, side
        elif width <= height:
            width, height = side, int(side * height / width)
        else:
            width, height = int(side * width / height), side
        resized = Image.fromarray(image).resize((width, height), _RESAMPLING[preprocessing.interpolation])
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))


@dataclasses.dataclass(frozen=True)
class Train:
    """The training input: random resized crop with random interpolation, then RandAugment (timm's recipe).

    Attributes:
        preprocessing: of the backbone's card; gives the size, and the fill colour of RandAugment (its mean).
        input_size: another side than the card's.
        scale: range of the crop's area, as a fraction of the image's.
        ratio: range of the crop's width / height.
        randaugment: magnitude of RandAugment, of 10; 0 switches it off.
    """

    preprocessing: Preprocessing
    input_size: int | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    randaugment: float = 0

    @property
    def size(self) -> int:
        """Side of the output in pixels."""
        return self.input_size or self.preprocessing.input_size

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """[H, W, 3] uint8 -> [size, size, 3] uint8."""
        top, left, height, width = random_crop(image.shape[0], image.shape[1], self.scale, self.ratio, rng)
        crop = Image.fromarray(image[top : top + height, left : left + width])
        view = crop.resize((self.size, self.size), INTERPOLATIONS[rng.integers(2)])
        if self.randaugment:
            red, green, blue = (min(255, round(255 * value)) for value in self.preprocessing.mean)
            view = RandAugment(self.randaugment, (red, green, blue))(view, rng)
        return np.asarray(view)


def random_crop(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """The box of a random resized crop (Szegedy et al., arXiv 1409.4842): top, left, height, width in pixels.

    Ten tries to fit a box of random area and aspect; then the centre, as large as the aspect range allows.
    """
    for _ in range(10):
        area = rng.uniform(*scale) * height * width
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w
