"""Printed characters drawn from the fonts that come with matplotlib: pictures without end, and nothing is downloaded.

47 classes, the "merge" of EMNIST (Cohen et al. 2017, arXiv 1702.05373): ten digits, 26 capitals, and the eleven small
letters whose shape is their own; c, i, j, k, l, m, o, p, s, u, v, w, x, y and z share the class of their capital.
Splits are by typeface: what is learned of one design is judged on another.

Each picture is a glyph under a random affine and elastic deformation (Simard et al. 2003), as a pen would vary it, then
scanned: blurred, reduced to 8, 16 or 32 pixels, with noise and a contrast of its own, bright ink on a dark ground.
"""

import dataclasses
import functools
import hashlib
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bob_jax.data.arrays import ArraySource
from bob_jax.data.base import Dataset

SIZE = 32  # side of a picture, pixels
CANVAS, BODY, EM = (
    64,
    44,
    96,
)  # side of a glyph's mask, longer side of the glyph in it, and the font size it is drawn at
WEIGHTS = (0, 2, 4)  # pixels at font size EM that a stroke is widened by on either side
SCANS = (8, 16, 32)  # resolutions in pixels a side, all enlarged to SIZE
SCAN_CHANCES = (0.5, 0.25, 0.25)
CHUNK = 2048  # pictures that are drawn at once

MERGED = "cijklmopsuvwxyz"
CLASSES = (*string.digits, *string.ascii_uppercase, *(c for c in string.ascii_lowercase if c not in MERGED))
NAMES = dict(
    zip(string.digits, ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"), strict=True)
)

# Bitstream's and STI's families have four styles each; Computer Modern comes as designs of their own.
FACES = {
    "train": (
        *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
        *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
        *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
        *("cmr10", "cmb10", "cmti10", "cmmi10", "cmsy10"),
    ),
    "validation": ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    "test": ("cmss10", "cmtt10"),
}
COPIES = {"train": 400, "validation": 40, "test": 40}  # pictures of each class


# Ranges of what is drawn at random for each picture.
SCALE = (0.85, 1.1)  # longer side of the glyph over the picture's
ROTATION = 15.0  # degrees either way
SHEAR = 0.3  # horizontal, either way
STRETCH = 0.25  # log of width over height, either way
SHIFT = 0.08  # of the picture's side, either way
ELASTIC = 0.04  # standard deviation of the displacement at 4 x 4 knots, of the picture's side
SHARPNESS = (1.0, 4.0)  # factor by which edges are made steeper, as a scanner's threshold does
GROUND, INK = (0.0, 0.2), (0.7, 1.0)  # grey values
NOISE = 0.06  # largest standard deviation, of grey values


@functools.cache
def load() -> Dataset:
    """The characters: 47 classes of 400 train, 40 validation and 40 test images [32, 32, 3] uint8."""
    return _dataset("glyphs", CLASSES)


@functools.cache
def load_digits() -> Dataset:
    """The ten digits alone, of 400 train, 40 validation and 40 test images each."""
    return _dataset("printed_digits", CLASSES[: len(string.digits)])


def _dataset(name: str, classes: Sequence[str]) -> Dataset:
    splits = {split: source(split, faces, COPIES[split], classes) for split, faces in FACES.items()}
    return Dataset(
        name=name,
        version=hashlib.sha256("".join(one.fingerprint for one in splits.values()).encode()).hexdigest()[:16],
        classes=tuple(classes),
        splits=dict(splits),
        split_notes={split: f"{len(faces)} typefaces of its own: {', '.join(faces)}" for split, faces in FACES.items()},
        metric="accuracy",
        licence="drawn from fonts free for any use: DejaVu (Bitstream Vera), STIX Font License, BaKoMa Fonts Licence",
    )


def source(split: str, faces: Sequence[str], copies: int, classes: Sequence[str] = CLASSES) -> ArraySource:
    """`copies` pictures of each class in these typefaces, every typeface and every letter case equally often."""
    shapes = [glyph for face in faces for glyph in glyphs(face)]
    drawn: list[int] = []
    for name in classes:
        own = [number for number, glyph in enumerate(shapes) if class_of(glyph.character) == name]
        drawn += [own[copy % len(own)] for copy in range(copies)]
    rng = np.random.default_rng(np.frombuffer(split.encode(), np.uint8))
    masks = np.stack([glyph.mask for glyph in shapes])
    chunks = [masks[drawn[start : start + CHUNK]] for start in range(0, len(drawn), CHUNK)]
    grey = np.concatenate([draw(chunk, rng) for chunk in chunks])
    ids = [f"{split}/{shapes[one].face}/{shapes[one].character}/{place:06d}" for place, one in enumerate(drawn)]
    labels = np.repeat(np.arange(len(classes)), copies)
    return ArraySource(np.repeat(grey[..., None], 3, axis=-1), labels, ids)


def class_of(character: str) -> str:
    """The class of a digit or letter: itself, or its capital where the two differ in size only."""
    return character.upper() if character in MERGED else character


@dataclasses.dataclass(frozen=True)
class Glyph:
    """A character of a typeface.

    Attributes:
        face: name of the font's file.
        character: a digit or letter.
        mask: [len(WEIGHTS), CANVAS, CANVAS] uint8, the ink at each stroke width, in the middle.
    """

    face: str
    character: str
    mask: np.ndarray


@functools.cache
def glyphs(face: str) -> tuple[Glyph, ...]:
    """The digits and letters that a font of matplotlib's really has.

    A symbol font has other glyphs at the places of the letters: the glyph's own name tells.
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    names, font = FT2Font(str(path)), ImageFont.truetype(path, EM)
    found = []
    for character in string.digits + string.ascii_letters:
        name = names.get_glyph_name(names.get_char_index(ord(character)))
        if name.removesuffix("oldstyle") == NAMES.get(character, character):
            found.append(Glyph(face, character, np.stack([_mask(font, character, weight) for weight in WEIGHTS])))
    return tuple(found)


def _mask(font: ImageFont.FreeTypeFont, character: str, weight: int) -> np.ndarray:
    """The glyph in white on black, [CANVAS, CANVAS] uint8: its longer side is BODY pixels, its box in the middle."""
    page = Image.new("L", (3 * EM, 3 * EM))
    ImageDraw.Draw(page).text((EM, EM), character, fill=255, font=font, stroke_width=weight)
    glyph = page.crop(page.getbbox())
    width, height = (max(1, round(BODY * side / max(glyph.size))) for side in glyph.size)
    mask = Image.new("L", (CANVAS, CANVAS))
    mask.paste(glyph.resize((width, height), Image.Resampling.BOX), ((CANVAS - width) // 2, (CANVAS - height) // 2))
    return np.asarray(mask)


def draw(masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pictures of glyphs, each bent, scanned and shaded at random.

    Args:
        masks: [N, len(WEIGHTS), CANVAS, CANVAS] uint8.
        rng: randomness.

    Returns:
        [N, SIZE, SIZE] uint8.
    """
    count = len(masks)
    weight = rng.integers(len(WEIGHTS), size=count)
    ink = _sample(masks[np.arange(count), weight], _places(count, rng)) / 255
    ink = np.clip((ink - 0.5) * _uniform(rng, SHARPNESS, (count, 1, 1)) + 0.5, 0, 1)
    scan = rng.choice(len(SCANS), size=count, p=SCAN_CHANCES)
    ground, bright = (_uniform(rng, levels, (count, 1, 1)) for levels in (GROUND, INK))
    noise = _uniform(rng, (0, NOISE), (count, 1, 1)) * rng.standard_normal((count, SIZE, SIZE), np.float32)
    pictures = np.empty((count, SIZE, SIZE), np.float32)
    for number, side in enumerate(SCANS):
        chosen, block = scan == number, SIZE // side
        small = ink[chosen].reshape(-1, side, block, side, block).mean((2, 4))
        small = ground[chosen] + (bright - ground)[chosen] * small + noise[chosen, :side, :side]
        pictures[chosen] = _enlarge(np.clip(small, 0, 1))
    return np.round(255 * np.clip(pictures, 0, 1)).astype(np.uint8)


def _uniform(rng: np.random.Generator, between: tuple[float, float], shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(*between, shape).astype(np.float32)


def _places(count: int, rng: np.random.Generator) -> np.ndarray:
    """Where in the mask each pixel of a picture lies, [count, 2, SIZE, SIZE]: y and x in pixels of the mask."""
    angle = np.deg2rad(_uniform(rng, (-ROTATION, ROTATION), (count,)))
    shear, stretch = (_uniform(rng, (-reach, reach), (count,)) for reach in (SHEAR, STRETCH))
    wide, zero = np.exp(stretch / 2), np.zeros_like(stretch)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # rows and columns are (y, x)
    bend = np.array([[wide, zero], [shear, 1 / wide]])
    matrix = np.einsum("ijn,jkn->nik", bend, turn) / _uniform(rng, SCALE, (count, 1, 1))
    side = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE - 0.5
    moved = np.stack(np.meshgrid(side, side, indexing="ij")) + _uniform(rng, (-SHIFT, SHIFT), (count, 2, 1, 1))
    moved += ELASTIC * _enlarge(rng.standard_normal((2 * count, 4, 4), np.float32)).reshape(moved.shape)
    return CANVAS / 2 - 0.5 + BODY * (matrix @ moved.reshape(count, 2, -1)).reshape(moved.shape)


def _sample(masks: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bilinear values [N, SIZE, SIZE] of masks [N, CANVAS, CANVAS] at places [N, 2, SIZE, SIZE]; 0 outside."""
    side = CANVAS + 2
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1))).reshape(-1)
    places = np.clip(places + 1, 0, side - 1.001)
    corner = places.astype(np.int32)
    (y, x), (down, right) = corner.swapaxes(0, 1), (places - corner).swapaxes(0, 1)
    first = (np.arange(len(masks), dtype=np.int32)[:, None, None] * side + y) * side + x
    top, bottom = ((1 - right) * padded[row] + right * padded[row + 1] for row in (first, first + side))
    return (1 - down) * top + down * bottom


def _enlarge(images: np.ndarray) -> np.ndarray:
    """Bicubic enlargement of [N, S, S] to [N, SIZE, SIZE], as Pillow does it: a product with one matrix either way."""
    size = images.shape[-1]
    unit = Image.fromarray(np.eye(size, dtype=np.float32))
    matrix = np.asarray(unit.resize((size, SIZE), Image.Resampling.BICUBIC))
    return matrix @ images @ matrix.T
