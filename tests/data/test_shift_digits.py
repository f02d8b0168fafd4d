"""The shifts that need no download: what they hold, that it is the same every time, that severity means severity."""

import numpy as np
import pytest
from scipy import ndimage

from bob_jax.data import catalog, digits, glyphs, prepare
from bob_jax.data.base import ShiftDataset
from bob_jax.data.shifts import digits as shifted


@pytest.fixture(scope="module")
def corrupted() -> ShiftDataset:
    return catalog.load("digits_c")


def grey(source) -> np.ndarray:
    return source.images[..., 0].astype(np.float64) / 255


def test_every_condition_holds_the_digits_test_images(corrupted):
    assert list(corrupted.splits) == [f"{kind}_{severity}" for kind in shifted.KINDS for severity in (1, 2, 3, 4, 5)]
    clean = digits.load().splits["test"]
    for source in corrupted.splits.values():
        assert list(source.ids) == list(clean.ids) and source.images.shape == (360, 32, 32, 3)
        np.testing.assert_array_equal(source.labels, clean.labels)
    assert (corrupted.source, corrupted.clean, catalog.source_of("digits_c")) == ("digits", True, "digits")
    np.testing.assert_array_equal(corrupted.table, np.arange(10))


def test_the_farther_from_the_clean_picture_the_severer(corrupted):
    clean = digits.load().splits["test"]
    plain = np.stack([np.asarray(shifted._enlarged(clean[row]["image"])) for row in range(360)]) / 255
    for kind in shifted.KINDS:
        far = [np.abs(grey(corrupted.splits[f"{kind}_{severity}"]) - plain).mean() for severity in (1, 2, 3, 4, 5)]
        assert (np.diff(far) > 0.005).all(), (kind, far)


def test_what_each_kind_does():
    """On one picture: a cross of ink on a dark ground."""
    picture = np.zeros((32, 32), np.float32)
    picture[14:18, 4:28] = picture[4:28, 14:18] = 1
    rng = np.random.default_rng(0)
    noisy = shifted._noise(picture, 4, rng) - picture
    # Of 1,024 draws the deviation is known to 2 percent, and the mean to a 32nd of it.
    assert noisy.std() == pytest.approx(shifted.NOISE[4], rel=0.05) and abs(noisy.mean()) < 0.05
    blurred = shifted._blur(picture, 0, rng)
    assert blurred.sum() == pytest.approx(picture.sum(), rel=1e-6) and blurred.max() < 1
    turned = shifted._rotation(picture, 4, np.random.default_rng(1))
    back = (
        ndimage.rotate(turned, -40, reshape=False, order=1),
        ndimage.rotate(turned, 40, reshape=False),
    )
    assert max(np.corrcoef(picture.ravel(), other.ravel())[0, 1] for other in back) > 0.95
    covered = shifted._occlusion(picture, 2, rng)
    assert (covered == shifted.COVER).sum() == shifted.OCCLUSION[2] ** 2
    np.testing.assert_array_equal(covered[covered != shifted.COVER], picture[covered != shifted.COVER])
    faint = shifted._contrast(picture, 3, rng)
    assert np.ptp(faint) == pytest.approx(shifted.CONTRAST[3], rel=1e-5)
    assert faint.mean() == pytest.approx(picture.mean(), rel=1e-5)


def test_an_id_decides_the_draw_and_its_neighbours_do_not():
    clean = digits.load().splits["test"]
    few = catalog.balanced(clean, 5)
    for kind in ("noise", "rotation", "occlusion"):
        alone = shifted.corrupt(few, kind, 3)
        together = shifted.corrupt(clean, kind, 3)
        rows = [clean.ids.index(name) for name in few.ids]
        np.testing.assert_array_equal(alone.images, together.images[rows])
    assert shifted.corrupt(few, "noise", 3).fingerprint == shifted.corrupt(few, "noise", 3).fingerprint


def test_a_cover_stays_and_grows_and_a_turn_keeps_its_sense():
    few = catalog.balanced(digits.load().splits["test"], 12)
    small, large = (grey(shifted.corrupt(few, "occlusion", severity)) for severity in (1, 5))
    grown = np.round(255 * shifted.COVER) / 255
    assert ((small != grown) | (large == grown)).all()


def test_a_limit_keeps_the_same_images_everywhere():
    some, source = (catalog.load(name, limit=30) for name in ("digits_c", "digits"))
    for condition in some.splits.values():
        assert list(condition.ids) == list(source.splits["test"].ids)


def test_printed_digits_are_split_by_typeface_and_only_digits():
    dataset = catalog.load("printed_digits")
    assert dataset.classes == digits.CLASSES
    assert {split: len(source) for split, source in dataset.splits.items()} == catalog.card("printed_digits").sizes
    seen = set()
    for split, source in dataset.splits.items():
        faces, characters = zip(*(name.split("/")[1:3] for name in source.ids), strict=True)
        assert set(faces) <= set(glyphs.FACES[split]) and not seen & set(faces)
        seen |= set(faces)
        assert [dataset.classes[label] for label in source.labels] == list(characters)


def test_print_and_hand_are_bright_ink_on_a_dark_ground():
    """Else the shift would be one of polarity."""
    dataset = catalog.load("digits_from_print")
    assert (len(dataset.splits["test"]), dataset.source, dataset.clean) == (1797, "printed_digits", False)
    printed = glyphs.load_digits().splits["train"]
    for source in (dataset.splits["test"], printed):
        pictures = grey(source)
        rim = np.concatenate(
            [pictures[:, 0, :2], pictures[:, -1, :2], pictures[:, 0, -2:], pictures[:, -1, -2:]], axis=1
        )
        assert rim.mean() < 0.5 * pictures.mean()


@pytest.mark.parametrize("name", ["digits_c", "digits_from_print", "printed_digits"])
def test_the_card_tells_the_truth(name):
    report = prepare.check(name, sample=20)
    assert report.problems == ()
    assert {split: found.images for split, found in report.splits.items()} == catalog.card(name).sizes
