"""RandAugment (Cubuk et al., arXiv 1909.13719) in the variant that timm trains with: `rand-m9-mstd0.5-inc1`.

"Increasing": every operation gets stronger with the magnitude. Two of 15 operations are drawn for an image, with
replacement, and each is applied with probability 0.5, at a magnitude drawn around the given one.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Fill = tuple[int, int, int]
Operation = Callable[[Image.Image, float, np.random.Generator, Fill], Image.Image]

LAYERS, PROBABILITY, NOISE, MAXIMUM = 2, 0.5, 0.5, 10.0
INTERPOLATIONS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Random operations on a PIL image.

    Attributes:
        magnitude: mean strength, in [0, 10]; the one of an operation is normal around it (deviation 0.5), clipped.
        fill: colour of what comes in from outside of the image, 0 to 255.
    """

    magnitude: float
    fill: Fill

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The augmented image, of the same size."""
        operations = tuple(OPERATIONS.values())
        for chosen in rng.integers(len(operations), size=LAYERS):
            if rng.random() > PROBABILITY:
                continue
            magnitude = max(0.0, min(rng.normal(self.magnitude, NOISE), MAXIMUM))
            image = operations[chosen](image, magnitude / MAXIMUM, rng, self.fill)
        return image


def _signed(value: float, rng: np.random.Generator) -> float:
    return -value if rng.random() > 0.5 else value


def _interpolation(rng: np.random.Generator) -> Image.Resampling:
    return INTERPOLATIONS[rng.integers(2)]


def _rotate(image: Image.Image, level: float, rng: np.random.Generator, fill: Fill) -> Image.Image:
    """By up to 30 degrees."""
    return image.rotate(_signed(level * 30.0, rng), _interpolation(rng), fillcolor=fill)


def _affine(image: Image.Image, matrix: tuple[float, ...], rng: np.random.Generator, fill: Fill) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, _interpolation(rng), fillcolor=fill)


def _shear_x(image: Image.Image, level: float, rng: np.random.Generator, fill: Fill) -> Image.Image:
    """By up to 0.3."""
    return _affine(image, (1, _signed(level * 0.3, rng), 0, 0, 1, 0), rng, fill)


def _shear_y(image: Image.Image, level: float, rng: np.random.Generator, fill: Fill) -> Image.Image:
    return _affine(image, (1, 0, 0, _signed(level * 0.3, rng), 1, 0), rng, fill)


def _translate_x(image: Image.Image, level: float, rng: np.random.Generator, fill: Fill) -> Image.Image:
    """By up to 45 % of the width."""
    return _affine(image, (1, 0, _signed(level * 0.45, rng) * image.width, 0, 1, 0), rng, fill)


def _translate_y(image: Image.Image, level: float, rng: np.random.Generator, fill: Fill) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, _signed(level * 0.45, rng) * image.height), rng, fill)


def _posterize(image: Image.Image, level: float, rng: np.random.Generator, fill: Fill) -> Image.Image:
    """Keeps 4 bits down to 1; at the very maximum timm asks for none, which Pillow refuses since version 13."""
    return ImageOps.posterize(image, max(1, 4 - int(level * 4)))


def _solarize(image: Image.Image, level: float, rng: np.random.Generator, fill: Fill) -> Image.Image:
    """Inverts what is brighter than a threshold, 256 down to 0."""
    return ImageOps.solarize(image, 256 - int(level * 256))


def _solarize_add(image: Image.Image, level: float, rng: np.random.Generator, fill: Fill) -> Image.Image:
    """Brightens what is darker than 128, by up to 110."""
    values = np.arange(256)
    brighter = np.where(values < 128, np.minimum(255, values + int(level * 110)), values)
    return image.point(3 * brighter.tolist())


def _autocontrast(image: Image.Image, level: float, rng: np.random.Generator, fill: Fill) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, level: float, rng: np.random.Generator, fill: Fill) -> Image.Image:
    return ImageOps.equalize(image)


def _invert(image: Image.Image, level: float, rng: np.random.Generator, fill: Fill) -> Image.Image:
    return ImageOps.invert(image)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    """By a factor of 1 -+ up to 0.9."""

    def operation(image: Image.Image, level: float, rng: np.random.Generator, fill: Fill) -> Image.Image:
        return kind(image).enhance(max(0.1, 1.0 + _signed(level * 0.9, rng)))

    return operation


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}
