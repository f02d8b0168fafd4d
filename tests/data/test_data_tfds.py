"""A TFDS data set prepared with TensorFlow in another process, and read where TensorFlow cannot be imported."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_pictures import picture

from bob_jax.data import catalog, prepare, tfds
from bob_jax.errors import BobError

HERE = Path(__file__).parent

READ = """
import importlib.machinery, json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] == "tensorflow" else None
    def create_module(self, spec):
        raise ImportError(f"{spec.name} is blocked")
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Block())
from pathlib import Path
from bob_jax.backbones.card import Preprocessing
from bob_jax.data import catalog
from bob_jax.data.decode import CorruptImage
from bob_jax.data.loader import Loader
from bob_jax.data.transforms import Eval

if __name__ == "__main__":
    dataset = catalog.load("flowers", root=Path(sys.argv[1]))
    train, test = dataset.splits["train"], dataset.splits["test"]
    (batch,) = Loader(train, Eval(Preprocessing(8)), batch_size=12, shuffle=False, epochs=1, num_workers=1).batches()
    try:
        test[test.ids.index("image_20005.png")]
    except CorruptImage as error:
        corrupt = str(error)
    print(json.dumps({
        "classes": dataset.classes, "version": dataset.version, "notes": dataset.split_notes,
        "sizes": {split: len(source) for split, source in dataset.splits.items()},
        "ids": train.ids, "labels": train.labels.tolist(), "examples": [train[row]["id"] for row in range(12)],
        "images": [train[row]["image"].tolist() for row in range(12)], "batch_labels": batch["label"].tolist(),
        "corrupt": corrupt, "fingerprints": [train.fingerprint, test.fingerprint],
        "tensorflow": "tensorflow" in sys.modules,
    }))
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """The root of a prepared "flowers", made through the command that users run; its builder is `tiny_flowers`."""
    root = tmp_path_factory.mktemp("root")
    startup = tmp_path_factory.mktemp("startup")
    (startup / "sitecustomize.py").write_text("import tiny_flowers\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{startup}:{HERE}")
        patch.delenv("TFDS_DATA_DIR", raising=False)
        place = prepare.prepare("flowers", root)
    assert place == root / "tfds" / "oxford_flowers102" / "2.1.1"
    return root


@pytest.fixture(scope="module")
def found(prepared, tmp_path_factory) -> dict:
    script = tmp_path_factory.mktemp("script") / "read.py"
    script.write_text(READ)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(prepared)], capture_output=True, text=True, cwd=HERE.parents[1]
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def test_tensorflow_never_enters_the_reading_process(found):
    assert found["tensorflow"] is False


def test_splits_classes_and_version_are_those_of_the_builder(found):
    assert found["sizes"] == {"train": 12, "validation": 6, "test": 9}
    assert found["classes"] == ["rose", "lily", "iris"] and found["version"] == "2.1.1"
    assert found["notes"]["validation"] == "official validation"


def test_images_labels_and_ids_belong_together(found):
    assert sorted(found["ids"]) == [f"image_0{index:04d}.png" for index in range(12)]
    assert found["examples"] == found["ids"]
    for name, label, image in zip(found["ids"], found["labels"], found["images"], strict=True):
        index = int(name[7:11])
        assert label == index % 3
        np.testing.assert_array_equal(np.array(image), picture(index))
    assert found["batch_labels"] == found["labels"]


def test_a_corrupt_record_is_named(found):
    assert found["corrupt"].startswith("cannot decode image 'image_20005.png'")
    assert found["fingerprints"][0] != found["fingerprints"][1]


def test_labels_are_kept_in_the_cache(prepared, tmp_path):
    source = catalog.load("flowers", root=prepared).splits["validation"]
    labels, ids = source.labels.copy(), list(source.ids)
    (index,) = (tmp_path / "cache" / "data" / "index").iterdir()
    assert index.suffix == ".npz"
    again = catalog.load("flowers", root=prepared).splits["validation"]
    again.__dict__["_records"] = None  # the records are not read any more
    np.testing.assert_array_equal(again.labels, labels)
    assert again.ids == ids


def test_check_counts_and_finds_the_corrupt_one(prepared):
    report = prepare.check("flowers", prepared)
    assert report.splits["train"].images == report.splits["train"].decoded == 12
    assert report.splits["test"].corrupt == ("image_20005.png",)
    assert "train: 12 images, expected 1020" in report.problems
    assert "3 classes, expected 102" in report.problems


def test_prepared_sets_are_listed_as_ready(prepared, tmp_path):
    embedded = {name for name, card in catalog.CARDS.items() if card.access == "embedded"}
    ready = {line.card.name for line in prepare.available(prepared) if line.ready}
    assert ready == {*embedded, "flowers"}
    assert {line.card.name for line in prepare.available(tmp_path) if line.ready} == embedded


def test_tfds_data_dir_wins(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared / "tfds"))
    assert catalog.locate("flowers", tmp_path) == prepared / "tfds" / "oxford_flowers102" / "2.1.1"


def test_without_tensorflow_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BobError, match=r"pip install 'bob_jax\[tfds\]'.*bob data prepare pets"):
        catalog.load("pets", root=tmp_path)


def test_a_failed_preparation_is_one_line(tmp_path):
    with pytest.raises(BobError, match="TFDS could not prepare nonsense") as caught:
        tfds.prepare("no_such_data_set", "nonsense", tmp_path)
    assert "\n" not in str(caught.value) and "no_such_data_set" in str(caught.value)


def test_the_newest_version_is_read_and_tfrecords_are_passed_over(tmp_path):
    for version, kind in (("2.9.0", "array_record"), ("2.10.0", "array_record"), ("3.0.0", "tfrecord")):
        place = tmp_path / "pets" / version
        place.mkdir(parents=True)
        (place / "dataset_info.json").write_text(json.dumps({"fileFormat": kind}))
    assert tfds.find("pets", tmp_path) == tmp_path / "pets" / "2.10.0"
    assert tfds.find("dogs", tmp_path) is None
