"""Twins of test images in train: written down by a check, known to the runs after it."""

import shutil

import numpy as np
import pytest
from data_pictures import write_classes

from bob_jax.data import catalog, duplicates, prepare
from bob_jax.data.duplicates import Twin
from bob_jax.data.subset import Subset


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Class folders in which two test images are copies of training images."""
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))
    for number, split in enumerate(("train", "validation", "test")):
        write_classes(tmp_path / "data" / split, {"a": 6, "b": 6}, seed=10_000 * number)
    for name in ("a/0.png", "b/3.png"):
        shutil.copy(tmp_path / "data" / "train" / name, tmp_path / "data" / "test" / name)
    return tmp_path / "data"


def test_a_check_leaves_what_it_found(root, tmp_path):
    dataset = catalog.load(f"folder:{root}")
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert duplicates.known(train, test) is None
    report = prepare.check(dataset.name)
    assert "2 images are also in another split" in report.problems[0]
    assert duplicates.known(train, test) == {"test/a/0.png", "test/b/3.png"}
    assert duplicates.known(dataset.splits["validation"], test) is None
    (file,) = (tmp_path / "cache" / "data" / "duplicates").iterdir()
    file.write_text("{ damaged")
    assert duplicates.known(train, test) is None


def test_a_sample_says_nothing_of_the_whole(root):
    dataset = catalog.load(f"folder:{root}")
    prepare.check(dataset.name, sample=4)
    assert duplicates.known(dataset.splits["train"], dataset.splits["test"]) is None


def test_parts_of_what_was_checked_are_known_too(root):
    dataset = catalog.load(f"folder:{root}")
    prepare.check(dataset.name)
    train, test = dataset.splits["train"], dataset.splits["test"]
    without = Subset(train, np.array([row for row, name in enumerate(train.ids) if name != "train/a/0.png"]))
    assert duplicates.known(without, test) == {"test/b/3.png"}
    half = Subset(test, np.array([row for row, name in enumerate(test.ids) if "/a/" in name]))
    assert duplicates.known(train, half) == {"test/a/0.png"}
    assert duplicates.known(without, half) == frozenset()
    limited = catalog.load(dataset.name, limit=4)
    expected = {"test/a/0.png", "test/b/3.png"} & set(limited.splits["test"].ids)
    assert duplicates.known(train, limited.splits["test"]) == expected


def test_both_ways_of_looking_are_kept(root):
    dataset = catalog.load(f"folder:{root}")
    train, test = dataset.splits["train"], dataset.splits["test"]
    duplicates.keep(train, test, "nearest", [Twin("test/a/5.png", "train/a/1.png", 0.97)], similarity=0.95)
    assert duplicates.known(train, test) == {"test/a/5.png"}
    prepare.check(dataset.name)
    assert duplicates.known(train, test) == {"test/a/5.png", "test/a/0.png", "test/b/3.png"}
    duplicates.keep(train, test, "nearest", [], similarity=0.99)
    assert duplicates.known(train, test) == {"test/a/0.png", "test/b/3.png"}
