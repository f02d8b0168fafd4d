import io

import numpy as np
import pytest
from data_pictures import picture, truncate, write
from PIL import Image

from bob_jax.data.decode import CorruptImage, decode_image


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_jpeg_gives_the_pixels_that_torchvision_reads():
    encoded = encode(Image.fromarray(picture(0)), "JPEG", quality=80)
    reference = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    decoded = decode_image(encoded, "one")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, reference)


def test_grey_is_repeated_and_alpha_dropped():
    pixels = picture(1)
    grey = decode_image(encode(Image.fromarray(pixels[..., 0]), "PNG"), "grey")
    np.testing.assert_array_equal(grey, pixels[..., :1].repeat(3, axis=-1))
    rgba = np.dstack([pixels, np.arange(600).reshape(20, 30).astype(np.uint8)])
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(rgba), "PNG"), "rgba"), pixels)


def test_sixteen_bits_keep_the_upper_eight():
    values = (np.arange(600, dtype=np.uint16) * 109).reshape(20, 30)
    decoded = decode_image(encode(Image.fromarray(values), "PNG"), "deep")
    np.testing.assert_array_equal(decoded[..., 1], values >> 8)


def test_palette_with_transparency_is_read_without_a_warning():
    palette = Image.fromarray(picture(2)).quantize(16)
    encoded = encode(palette, "PNG", transparency=b"\x00" * 16)
    np.testing.assert_array_equal(decode_image(encoded, "palette"), np.asarray(palette.convert("RGB")))


def test_cmyk_is_converted_to_rgb():
    encoded = encode(Image.fromarray(picture(3)).convert("CMYK"), "JPEG")
    assert decode_image(encoded, "cmyk").shape == (20, 30, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp"])
def test_a_truncated_file_is_one_line_that_names_it(tmp_path, suffix):
    path = write(tmp_path / f"half{suffix}", 4, height=64, width=64)
    truncate(path)
    with pytest.raises(CorruptImage, match=f"cannot decode image '.*half{suffix}': ") as caught:
        decode_image(path, str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + b"\0" * 30])
def test_what_is_no_image_is_a_corrupt_image(content):
    with pytest.raises(CorruptImage, match="'that one'"):
        decode_image(content, "that one")


def test_a_missing_file_is_a_corrupt_image(tmp_path):
    with pytest.raises(CorruptImage, match="gone"):
        decode_image(tmp_path / "gone.png", "gone")
