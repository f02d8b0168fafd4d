"""Scenes of digits: the same everywhere, exact, and read back from their COCO folder as they were drawn."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from bob_jax.data import coco, digits, scenes
from bob_jax.data.coco import CocoSource
from bob_jax.data.detection_transforms import Fit, Jitter, Slots
from bob_jax.errors import BobError

COUNTS = {"train": 12, "validation": 5, "test": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes") / "folder"
    scenes.write(root, COUNTS)
    return root


def _source(folder, split) -> CocoSource:
    return CocoSource(folder / "annotations" / f"instances_{split}.json", folder / split)


@pytest.mark.parametrize("split", COUNTS)
def test_what_is_read_is_what_was_drawn(folder, split):
    source = _source(folder, split)
    assert source.classes == digits.CLASSES
    assert len(source) == COUNTS[split]
    for number in range(len(source)):
        drawn, read = scenes.draw(split, number), source[number]
        np.testing.assert_array_equal(read["image"], drawn.image)
        assert read["classes"].tolist() == drawn.labels
        for shape, mask, box in zip(read["shapes"], drawn.masks, read["boxes"], strict=True):
            np.testing.assert_array_equal(shape, mask)
            rows, columns = np.nonzero(mask)
            np.testing.assert_array_equal(box, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # pycocotools' own code
def test_pycocotools_reads_the_same(folder):
    from pycocotools.coco import COCO

    oracle = COCO(folder / "annotations" / "instances_test.json")
    for number in range(COUNTS["test"]):
        theirs = oracle.loadAnns(oracle.getAnnIds(number + 1))
        drawn = scenes.draw("test", number)
        assert [one["category_id"] - 1 for one in theirs] == drawn.labels
        for one, mask in zip(theirs, drawn.masks, strict=True):
            np.testing.assert_array_equal(oracle.annToMask(one).astype(bool), mask)
            assert one["area"] == mask.sum()


def test_scenes_hold_the_splits_own_handwriting():
    held = {split: {ink.tobytes() for ink in scenes._handwriting(split)[0]} for split in COUNTS}
    sources = digits.load().splits
    for split in COUNTS:
        assert len(scenes._handwriting(split)[0]) == len(sources[split])
    assert not set(sources["train"].ids) & (set(sources["validation"].ids) | set(sources["test"].ids))
    assert not set(sources["validation"].ids) & set(sources["test"].ids)
    assert not held["train"] & held["test"]
    assert not held["train"] & held["validation"]


def test_scenes_are_hard_and_fair():
    drawn = [scenes.draw("train", number) for number in range(150)]
    counts = np.array([len(one.labels) for one in drawn])
    assert counts.min() == 0
    assert counts.max() >= 6
    assert 0.02 < (counts == 0).mean() < 0.25
    assert {label for one in drawn for label in one.labels} == set(range(10))
    heights, contrasts, touching = [], [], 0
    for one in drawn:
        total = np.zeros(one.image.shape[:2], int)
        for mask in one.masks:
            total += mask
            rows = np.flatnonzero(mask.any(axis=1))
            heights.append(rows[-1] + 1 - rows[0])
            ring = binary_dilation(mask, iterations=4) & ~binary_dilation(mask)
            contrasts.append(abs(one.image[mask].mean() - one.image[ring].mean()) / 255)
        assert total.max(initial=0) <= 1  # a pixel is of one digit
        touching += any((np.pad(a, 1)[2:, 1:-1] & b).any() for n, a in enumerate(one.masks) for b in one.masks[n + 1 :])
    assert np.min(heights) < 14
    assert np.max(heights) > 50
    assert np.mean(np.array(contrasts) > 0.15) > 0.9  # what is around may be another digit, or a stroke
    assert touching > 30  # scenes in which digits lie over each other


def test_a_digit_is_mostly_seen(monkeypatch):
    sizes: list[int] = []
    placed = scenes._placed

    def watched(*arguments):
        cover = placed(*arguments)
        sizes.append(int((cover > 0.5).sum()))
        return cover

    monkeypatch.setattr(scenes, "_placed", watched)
    covered = []
    for number in range(60):
        sizes.clear()
        drawn = scenes.draw("train", number)
        if len(sizes) == len(drawn.masks):  # none was refused: sizes are of these digits
            covered += [mask.sum() / size for mask, size in zip(drawn.masks, sizes, strict=True)]
    assert min(covered) >= scenes.SEEN
    assert min(covered) < 0.9
    assert len(covered) > 60


def test_a_scene_depends_on_its_number_alone(folder, tmp_path):
    scenes.write(tmp_path / "more", {"test": 8})
    more, few = _source(tmp_path / "more", "test"), _source(folder, "test")
    assert more.ids[:6] == few.ids
    for row in range(6):
        np.testing.assert_array_equal(more[row]["image"], few[row]["image"])
    assert (scenes.draw("train", 1).image.shape, scenes.draw("train", 1).image.sum()) != (
        scenes.draw("test", 1).image.shape,
        scenes.draw("test", 1).image.sum(),
    )


def test_the_data_set_is_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path))
    monkeypatch.setattr(scenes, "COUNTS", COUNTS)
    dataset = scenes.load()
    assert dataset.name == "digit_scenes"
    assert dataset.task == "detection"
    assert dataset.metric == "mask_ap"
    empty = sum(not scenes.draw("train", number).labels for number in range(12))
    assert len(dataset.splits["train"]) == 12 - empty
    assert len(dataset.splits["validation"]) == 5
    monkeypatch.setattr(scenes, "draw", None)
    assert scenes.load().version == dataset.version


def test_half_a_folder_is_never_there(tmp_path, monkeypatch):
    def broken(split: str, number: int):
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "draw", broken)
    with pytest.raises(KeyboardInterrupt):
        scenes.write(tmp_path / "scenes", COUNTS)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "file"))
    with pytest.raises(BobError, match=r"cannot write .*digit_scenes_.* \(Not a directory\): free space there, or set"):
        scenes.load()


def test_a_faster_process_wins(folder):
    before = _source(folder, "test").fingerprint
    scenes.write(folder, {"test": 1})
    assert _source(folder, "test").fingerprint == before
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_found_as_drawn_is_found_perfectly(folder):
    """From the scene through the evaluation view and back: boxes and masks pasted from 112 x 112 score nearly 1."""
    from bob_jax.detection.mask_targets import paste
    from bob_jax.metrics.coco import Detections, evaluate

    source = _source(folder, "validation")
    fit = Fit(size=256, slots=Slots(10, 112))
    image, label, boxes, codes = [], [], [], []
    for row in range(len(source)):
        scene = source[row]
        out = fit(scene)
        scale = np.tile(out["scale"][::-1], 2)
        for slot in np.flatnonzero(out["valid"]):
            box = out["boxes"][slot] / scale
            image.append(row)
            label.append(out["classes"][slot])
            boxes.append(box)
            codes.append(coco.masks.encode(paste(out["masks"][slot].astype(float), box, *scene["image"].shape[:2])))
    found = Detections(tuple(source.ids), np.array(image), np.array(label), np.ones(len(image)), np.array(boxes), codes)
    assert evaluate(source.truth(), found, "box", resamples=20)["box_ap"].value > 0.999
    assert evaluate(source.truth(), found, "mask", resamples=20)["mask_ap"].value > 0.95
    jittered = Jitter(size=128, slots=Slots(10, 56))(source[0], np.random.default_rng(0))
    assert jittered["image"].shape == (128, 128, 3)
