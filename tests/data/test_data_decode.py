import io
import re
import struct
import zlib

import numpy as np
import pytest
from data_pictures import picture, truncate, write
from PIL import Image, ImageOps

from bob_jax.data import folder
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


@pytest.mark.parametrize("orientation", range(10))
def test_exif_turns_a_picture_only_where_that_is_asked_for(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    image = Image.fromarray(picture(0))
    encoded = encode(image, "PNG", exif=tags)
    np.testing.assert_array_equal(decode_image(encoded, "as stored"), picture(0))
    with Image.open(io.BytesIO(encoded)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(decode_image(encoded, "upright", upright=True), expected)
    np.testing.assert_array_equal(decode_image(encode(image, "PNG"), "plain", upright=True), picture(0))


def test_a_damaged_tag_of_exif_does_not_hinder():
    tags = Image.Exif()
    tags[0x0112], tags[0x011A] = 6, 72.0
    content = bytearray(tags.tobytes())
    content[content.index(b"\x01\x1a\x00\x05") + 3] = 2  # a resolution that is a text
    encoded = encode(Image.fromarray(picture(0)), "PNG", exif=bytes(content))
    with pytest.raises((struct.error, TypeError)), Image.open(io.BytesIO(encoded)) as opened:
        ImageOps.exif_transpose(opened)
    assert decode_image(encoded, "upright", upright=True).shape == (30, 20, 3)


def test_sixteen_bits_keep_the_upper_eight():
    values = (np.arange(600, dtype=np.uint16) * 109).reshape(20, 30)
    decoded = decode_image(encode(Image.fromarray(values), "PNG"), "deep")
    np.testing.assert_array_equal(decoded[..., 1], values >> 8)


def test_palette_with_transparency_is_read_without_a_warning():
    palette = Image.fromarray(picture(2)).quantize(16)
    encoded = encode(palette, "PNG", transparency=b"\x00" * 16)
    np.testing.assert_array_equal(decode_image(encoded, "palette"), np.asarray(palette.convert("RGB")))


def test_sixteen_bits_of_colour_keep_the_upper_eight():
    """Written by hand: Pillow writes no such PNG."""
    values = np.random.default_rng(0).integers(0, 1 << 16, (5, 6, 3)).astype(np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 6, 5, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    encoded = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    np.testing.assert_array_equal(decode_image(encoded, "deep colour"), values >> 8)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_sixteen_bit_tiffs_of_both_byte_orders(byte_order):
    values = (np.arange(600, dtype=np.uint16) * 109).reshape(20, 30)
    mode = "I;16" if byte_order == "<" else "I;16B"
    image = Image.frombytes(mode, (30, 20), values.astype(f"{byte_order}u2").tobytes())
    np.testing.assert_array_equal(decode_image(encode(image, "TIFF"), "deep")[..., 0], values >> 8)


def test_black_and_white_and_grey_with_alpha():
    pixels = Image.fromarray(picture(1))
    black = pixels.convert("1")
    expected = np.asarray(black)[..., None].repeat(3, axis=-1) * np.uint8(255)
    np.testing.assert_array_equal(decode_image(encode(black, "PNG"), "bits"), expected)
    grey = pixels.convert("L")
    alpha = Image.merge("LA", (grey, Image.new("L", grey.size, 9)))
    expected = np.asarray(grey)[..., None].repeat(3, axis=-1)
    np.testing.assert_array_equal(decode_image(encode(alpha, "PNG"), "alpha"), expected)


def test_floats_are_refused_since_they_would_turn_black():
    image = Image.fromarray(np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30))
    with pytest.raises(CorruptImage, match="'light': its pixels are floats"):
        decode_image(encode(image, "TIFF"), "light")


def test_integers_of_no_stated_range_are_refused_since_small_ones_would_turn_black():
    image = Image.fromarray(np.arange(600, dtype=np.int32).reshape(20, 30))
    with pytest.raises(CorruptImage, match="'measured': its pixels are signed or 32-bit integers"):
        decode_image(encode(image, "TIFF"), "measured")


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_of_an_animation_the_first_frame_is_read(kind, options):
    first, second = (Image.fromarray(picture(seed)).quantize(16).convert("RGB") for seed in (5, 6))
    encoded = encode(first, kind, save_all=True, append_images=[second], **options)
    with Image.open(io.BytesIO(encoded)) as both:
        assert both.n_frames == 2
    np.testing.assert_array_equal(decode_image(encoded, "moving"), np.asarray(first))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted_to_rgb(kind):
    smooth = np.linspace(20, 230, 600).reshape(20, 30, 1) * [1, 0.5, 0.8]  # JPEG keeps it, to a few units
    encoded = encode(Image.fromarray(smooth.astype(np.uint8)).convert("CMYK"), kind)
    decoded = decode_image(encoded, "cmyk")
    assert decoded.shape == (20, 30, 3) and np.abs(decoded - smooth).mean() < 3
    assert np.corrcoef(decoded.ravel(), smooth.ravel())[0, 1] > 0.99  # and not its negative


@pytest.mark.parametrize("name", ["two words.jpg", "größe.png", "図 1.png", "naïve %20 #?.PNG", "a'b\"c.png"])
def test_files_of_any_name_are_read_and_known_by_it(tmp_path, name):
    place = write(tmp_path / "une espèce" / f"0{name}", 7)
    write(tmp_path / "une espèce" / f"1{name}", 8)
    write(tmp_path / "une espèce" / f"2{name}", 9)
    dataset = folder.load(tmp_path)
    images = {source.ids[0]: source[0]["image"] for source in dataset.splits.values()}
    assert dataset.classes == ("une espèce",)
    assert set(images) == {f"une espèce/{number}{name}" for number in range(3)}
    np.testing.assert_array_equal(images[f"une espèce/0{name}"], decode_image(place, "it"))
    place.write_bytes(b"")
    with pytest.raises(CorruptImage, match=re.escape(f"cannot decode image '{place}'")):
        decode_image(place, str(place))


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
