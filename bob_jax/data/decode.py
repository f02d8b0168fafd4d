"""From the bytes of an image file to pixels, or to one line that names the file."""

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from bob_jax.errors import BobError

# What Pillow raises on files that are truncated, damaged, or no images at all.
ADVICE = "; repair or delete it, or set skip_corrupt"  # how the line of an image that cannot be decoded ends
FAILURES = (OSError, SyntaxError, ValueError, EOFError, IndexError, zlib.error, Image.DecompressionBombError)

# What EXIF's orientation asks for. Pillow's own `exif_transpose` writes the other tags anew, and fails on damaged ones.
ORIENTATION = ExifTags.Base.Orientation
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class CorruptImage(BobError):  # noqa: N818  # named by what it is about, as BobError's kind
    """An image that cannot be decoded; the message names it."""


def decode_image(encoded: bytes | Path, name: str, *, upright: bool = False) -> np.ndarray:
    """Pixels of an encoded image, as timm and torchvision see them: RGB, alpha dropped, EXIF rotation ignored.

    Args:
        encoded: the file's content, or where it is. Any format Pillow reads.
        name: what an error calls the image.
        upright: turned as EXIF asks, which is how viewers show it and labelling tools store boxes.

    Returns:
        [H, W, 3] uint8. Grey images are repeated over the channels; 16 bits keep the upper 8; black and white are 0 and
        255; CMYK is converted; of an animation this is the first frame.

    Raises:
        CorruptImage: the bytes are no whole image, or their pixels are floats, or signed or 32-bit integers, whose
            range no file states.
    """
    try:
        with Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded)) as image:
            turn = TURNS.get(image.getexif().get(ORIENTATION, 1)) if upright else None
            pixels = _to_rgb(image)
            return np.asarray(pixels if turn is None else pixels.transpose(turn))
    except FAILURES as error:
        quoted = repr(str(encoded) if isinstance(encoded, Path) else encoded)  # the line has its name already
        reason = " ".join(str(error).replace(quoted, "it").split()) or type(error).__name__
        raise CorruptImage(f"cannot decode image '{name}': {reason[:200]}{ADVICE}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":  # Pillow would clip them to [0, 255]: black, where they are in [0, 1]
        raise ValueError("its pixels are floats, which have no stated range")
    if image.mode == "I" and image.format == "TIFF":  # of other formats this is 16 bits
        raise ValueError("its pixels are signed or 32-bit integers, which have no stated range")
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips it at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; straight to RGB, Pillow warns
    return image.convert("RGB")
