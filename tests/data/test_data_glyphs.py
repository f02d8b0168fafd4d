"""The drawn characters: what each split holds, that it is the same every time, and that a symbol is no letter."""

import string

import numpy as np
import pytest
from PIL import Image

from bob_jax.data import catalog, glyphs

TEXT = string.digits + string.ascii_letters


@pytest.fixture(scope="module")
def dataset():
    return catalog.load("glyphs")


def test_classes_are_emnists_merge(dataset):
    assert dataset.classes == tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")
    assert {glyphs.class_of(character) for character in TEXT} == set(dataset.classes)
    assert (glyphs.class_of("s"), glyphs.class_of("a"), glyphs.class_of("A")) == ("S", "a", "A")


def test_splits_are_balanced_and_as_the_catalogue_says(dataset):
    assert {split: len(source) for split, source in dataset.splits.items()} == catalog.card("glyphs").sizes
    for split, source in dataset.splits.items():
        np.testing.assert_array_equal(np.bincount(source.labels), np.full(47, glyphs.COPIES[split]))
        for identifier, label in zip(source.ids, source.labels, strict=True):
            assert glyphs.class_of(identifier.split("/")[2]) == dataset.classes[label]


def test_no_typeface_is_in_two_splits(dataset):
    faces = [{identifier.split("/")[1] for identifier in source.ids} for source in dataset.splits.values()]
    assert faces == [set(glyphs.FACES[split]) for split in dataset.splits]
    assert len(set().union(*faces)) == sum(map(len, faces))


def test_no_picture_is_blank_and_no_two_are_alike(dataset):
    for source in dataset.splits.values():
        grey = source.images[..., 0]
        assert grey.shape[1:] == (32, 32) and grey.dtype == np.uint8
        assert np.array_equal(source.images, np.repeat(grey[..., None], 3, axis=-1))
        contrast = np.percentile(grey, 98, axis=(1, 2)) - np.percentile(grey, 2, axis=(1, 2))
        assert contrast.min() > 40  # of 255
        assert len({picture.tobytes() for picture in grey}) == len(grey)


def test_the_same_again_and_another_split_draws_other_numbers():
    first, again = (glyphs.source("test", ("cmss10",), 2) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    assert not np.array_equal(first.images, glyphs.source("train", ("cmss10",), 2).images)


def test_half_of_the_pictures_are_scanned_at_8_pixels(dataset):
    """Those are what a bicubic enlargement of 8 x 8 values can be, but for rounding and clipping."""
    grey = dataset.splits["validation"].images[..., 0].astype(np.float32)
    enlarging = np.asarray(Image.fromarray(np.eye(8, dtype=np.float32)).resize((8, 32), Image.Resampling.BICUBIC))
    onto = enlarging @ np.linalg.pinv(enlarging)
    rest = np.linalg.norm(grey - onto @ grey @ onto.T, axis=(1, 2)) / np.std(grey, axis=(1, 2)) / 32
    # A share of 1,880 draws has a deviation of 0.012.
    assert (rest < 0.08).mean() == pytest.approx(glyphs.SCAN_CHANCES[0], abs=0.05)


@pytest.mark.parametrize(
    ("face", "characters"),
    [
        ("DejaVuSans", TEXT),
        ("cmmi10", TEXT),  # old-style figures
        ("cmsy10", string.ascii_uppercase),  # calligraphic capitals; symbols at the other places
        ("cmex10", ""),
        ("STIXSizOneSymReg", ""),
    ],
)
def test_a_glyph_is_known_by_its_name(face, characters):
    assert "".join(glyph.character for glyph in glyphs.glyphs(face)) == characters


def test_a_glyph_fills_its_canvas_the_same_way_at_every_stroke_width():
    for glyph in glyphs.glyphs("DejaVuSerif"):
        ink = [np.argwhere(mask > 0) for mask in glyph.mask]
        sides = [places.max(0) - places.min(0) + 1 for places in ink]
        assert [side.max() for side in sides] == [glyphs.BODY] * len(glyphs.WEIGHTS)
        areas = [(mask > 127).sum() for mask in glyph.mask]
        assert areas == sorted(areas), glyph.character


def test_a_picture_of_an_undeformed_glyph_is_the_glyph(monkeypatch):
    """With every range shut, drawing is the mask at half its size."""
    for name in ("ROTATION", "SHEAR", "STRETCH", "SHIFT", "ELASTIC", "NOISE"):
        monkeypatch.setattr(glyphs, name, 0.0)
    for name, value in (("SCALE", glyphs.BODY / glyphs.CANVAS), ("SHARPNESS", 1.0), ("GROUND", 0.0), ("INK", 1.0)):
        monkeypatch.setattr(glyphs, name, (value, value))
    monkeypatch.setattr(glyphs, "SCAN_CHANCES", (0.0, 0.0, 1.0))
    masks = np.stack([glyph.mask[:1].repeat(3, 0) for glyph in glyphs.glyphs("DejaVuSans")])
    drawn = glyphs.draw(masks, np.random.default_rng(0)).astype(np.float32)
    halved = masks[:, 0].reshape(-1, 32, 2, 32, 2).mean((2, 4))
    np.testing.assert_allclose(drawn, halved, atol=1)
