"""Every data set that TFDS keeps, loaded from small sets with the features of the real builders."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_tfds

from bob_jax.data import catalog, prepare, vtab
from bob_jax.data.tfds import TfdsSource
from bob_jax.errors import BobError

HERE = Path(__file__).parent
NAMES = [
    name
    for name, card in catalog.CARDS.items()
    if isinstance(card.source, catalog.Tfds) and card.task == "classification" and card.source.read is None
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("root")
    command = [sys.executable, HERE / "tiny_tfds.py", root / "tfds"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def numbers(source: TfdsSource, split: str) -> np.ndarray:
    """Of the examples of a whole split, in the order of its records."""
    return 100 * tiny_tfds.SPLITS.index(split) + np.arange(len(source))


def test_the_small_sets_are_those_of_the_catalogue():
    assert set(tiny_tfds.BUILDERS) == {catalog.CARDS[name].source.builder for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_found_divided_and_decoded(root, name):
    card = catalog.CARDS[name]
    dataset = catalog.load(name, root=root)
    assert catalog.locate(name, root) == root / "tfds" / card.source.builder / dataset.version
    assert list(dataset.splits) == list(dataset.split_notes) == ["train", "validation", "test"]
    assert len(dataset.classes) == card.classes and (dataset.metric, dataset.licence) == (card.metric, card.licence)
    images = tiny_tfds.COUNT * (1 if "all" in card.sizes else len(card.sizes))
    assert sum(map(len, dataset.splits.values())) == images and all(map(len, dataset.splits.values()))
    ids = [name for source in dataset.splits.values() for name in source.ids]
    assert len(set(ids)) == images
    for source in dataset.splits.values():
        example = source[0]
        assert example["image"].ndim == 3 and example["image"].shape[2] == 3 and example["image"].dtype == np.uint8
        assert (example["id"], example["label"]) == (source.ids[0], source.labels[0])
        assert source.labels.min() >= 0 and source.labels.max() < card.classes
    if card.source.id_feature is not None:
        assert "größe " in ids[0]


def test_imagenet_is_judged_on_the_official_validation_images(root):
    for name in ("imagenet", "imagenet_10pct", "imagenet_1pct"):
        dataset = catalog.load(name, root=root)
        held_out = np.ceil(tiny_tfds.COUNT * catalog.CARDS[name].validation_fraction)
        assert [len(source) for source in dataset.splits.values()] == [40 - held_out, held_out, 40]
        assert all(name.startswith("validation/") for name in dataset.splits["test"].ids)
        assert all(name.startswith("train/") for name in dataset.splits["validation"].ids)
        assert dataset.split_notes["test"] == "official validation"


@pytest.mark.parametrize("name", ["eurosat", "resisc45"])
def test_satellite_images_are_divided_by_hash_60_20_20(root, name):
    dataset = catalog.load(name, root=root)
    assert [len(source) for source in dataset.splits.values()] == [24, 8, 8]
    for source in dataset.splits.values():
        assert set(np.bincount(source.labels)) == {len(source) // 4}
    assert dataset.split_notes["test"] == "20% of all images, stratified by class, seed 0"
    again = catalog.load(name, root=root)
    assert all(list(again.splits[split].ids) == list(source.ids) for split, source in dataset.splits.items())
    assert f"train: 40 images, expected {catalog.CARDS[name].sizes['all']}" in prepare.check(name, root).problems


def test_low_data_of_a_prepared_set(root):
    dataset = catalog.load("eurosat@10pct", root=root)
    assert np.bincount(dataset.splits["train"].labels).tolist() == [1] * 4 and len(dataset.splits["test"]) == 8
    with pytest.raises(BobError, match=r"eurosat@2shot: class '.*' has 0 training images"):
        catalog.load("eurosat@2shot", root=root)


def bin_of(value: float, thresholds: list[float]) -> int:
    """As task_adaptation says it: the last threshold that is smaller."""
    return int(np.max(np.where(np.array(thresholds) - value < 0)))


def whole(root: Path, name: str, split: str) -> tuple[TfdsSource, np.ndarray]:
    """One split of TFDS's, with the labels that the card gives, and the numbers of its examples."""
    source = catalog.CARDS[name].source
    found = TfdsSource(
        catalog.locate(name, root), split, source.id_feature, source.label, source.classes, source.pixels
    )
    return found, numbers(found, split)


@pytest.mark.parametrize("split", tiny_tfds.SPLITS)
def test_clevr(root, split):
    source, rows = whole(root, "clevr_count", split)
    assert source.labels.tolist() == [len(tiny_tfds.depths(row)) - 3 for row in rows]
    assert [source.classes[label] for label in source.labels[:2]] == [
        f"{len(tiny_tfds.depths(row))} objects" for row in rows[:2]
    ]
    source, rows = whole(root, "clevr_distance", split)
    bounds = [0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0]
    expected = [bin_of(min(tiny_tfds.depths(row)), bounds) for row in rows]
    assert source.labels.tolist() == expected and set(expected) == set(range(6))
    assert any(min(tiny_tfds.depths(row)) in bounds for row in rows)  # a value on a bound is there


@pytest.mark.parametrize("split", tiny_tfds.SPLITS)
def test_kitti(root, split):
    source, rows = whole(root, "kitti_distance", split)
    nearest = [min([away for kind, away in tiny_tfds.traffic(row) if kind < 3] + [1000.0]) for row in rows]
    expected = [bin_of(away, [-100.0, 8.0, 20.0, 999.0]) for away in nearest]
    assert source.labels.tolist() == expected and set(expected) == set(range(4))
    assert {8.0, 20.0} <= set(nearest)


def test_dsprites(root):
    for name, steps in (("dsprites_location", 32), ("dsprites_orientation", 40)):
        source, rows = whole(root, name, "train")
        assert source.labels.tolist() == [int(tiny_tfds.latent(row, steps) // (steps / 16)) for row in rows]
        assert set(source.labels) == set(range(16))
        image = source[5]["image"]
        np.testing.assert_array_equal(image, 255 * tiny_tfds.pixels(5, 1, 64, 64).repeat(3, axis=2))
        assert set(np.unique(image)) == {0, 255}


def test_smallnorb(root):
    for name, steps in (("smallnorb_azimuth", 18), ("smallnorb_elevation", 9)):
        source, rows = whole(root, name, "test")
        assert source.labels.tolist() == [tiny_tfds.latent(row, steps) for row in rows]
    assert source.classes == tuple(f"{angle} degrees" for angle in (30, 35, 40, 45, 50, 55, 60, 65, 70))


def test_two_tasks_of_the_same_images_are_not_taken_for_one_another(root):
    for one, other in (("clevr_count", "clevr_distance"), ("smallnorb_azimuth", "smallnorb_elevation")):
        first, second = (catalog.load(name, root=root).splits["test"] for name in (one, other))
        assert list(first.ids) == list(second.ids) and first.fingerprint != second.fingerprint
        assert first.labels.tolist() != second.labels.tolist()


def test_every_step_of_an_orientation_is_in_the_bin_of_task_adaptation():
    class Feature:
        def __init__(self, value: int):
            self.int64_list = type("List", (), {"value": [value]})

    for steps, key, label in (
        (32, "label_x_position", vtab.dsprites_location),
        (40, "label_orientation", vtab.dsprites_orientation),
    ):
        for value in range(steps):
            expected = int(np.float32(value) // np.float32(steps / 16))
            assert label({key: Feature(value)}) == expected


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("imagenet", "ILSVRC2012_img_train.tar"),
        ("imagenet_1pct", "ILSVRC2012_img_val.tar"),
        ("resisc45", "NWPU-RESISC45"),
        ("diabetic_retinopathy", "trainLabels.csv"),
    ],
)
def test_what_must_be_brought_is_asked_for_by_name(tmp_path, name, part):
    manual = tmp_path / "tfds" / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "something else.zip").touch()
    with pytest.raises(BobError, match=f"data set {name} is not in .*") as caught:
        catalog.load(name, root=tmp_path)
    assert part in str(caught.value) and str(manual) in str(caught.value) and "\n" not in str(caught.value)
