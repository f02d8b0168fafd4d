"""Detection sets through the catalogue: fetched, brought, checked, and a part of them."""

import json
import shutil
import zipfile
from pathlib import Path

import coco_folder
import numpy as np
import pytest
from data_pictures import truncate

from bob_jax import cli
from bob_jax.data import catalog, coco, prepare, scenes
from bob_jax.data.cards.card import Official, Part
from bob_jax.errors import BobError
from configs import argument


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def few_scenes(monkeypatch):
    """The card and the maker of scenes share their counts."""
    for split, count in {"train": 24, "validation": 6, "test": 9}.items():
        monkeypatch.setitem(scenes.COUNTS, split, count)


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder.parent))
    return archive


def served(monkeypatch, name: str, archives: list[Path]) -> None:
    """The card with addresses of this machine."""
    card = catalog.CARDS[name]
    parts = tuple(Part(path.as_uri()) for path in archives)
    replaced = catalog.dataclasses.replace(card, source=Official(card.source.read, parts))
    monkeypatch.setitem(catalog.CARDS, name, replaced)


def test_scenes_are_in_the_catalogue(few_scenes):
    dataset = catalog.load("digit_scenes")
    card = catalog.CARDS["digit_scenes"]
    assert dataset.task == card.task == catalog.task("digit_scenes") == "detection"
    assert (dataset.name, dataset.metric, dataset.licence) == (card.name, card.metric, card.licence)
    assert len(dataset.classes) == card.classes
    empty = coco.empty_images(dataset.splits["train"])
    assert {split: len(source) for split, source in dataset.splits.items()} == {
        "train": 24 - empty,
        "validation": 6,
        "test": 9,
    }
    assert empty > 0 and catalog.source_of("digit_scenes") == "digit_scenes"


def test_a_check_of_scenes_is_clean(few_scenes, monkeypatch):
    report = prepare.check("digit_scenes")
    assert report.problems == () and report.splits["test"].decoded == 9
    assert prepare.check("digit_scenes", sample=2).splits["train"].decoded == 2
    assert cli.main(["data", "check", "digit_scenes"]) == 0
    monkeypatch.setitem(scenes.COUNTS, "test", 10)
    assert prepare.check("digit_scenes").problems == ("test: 9 images, expected 10",)


def test_limit_draws_images_whatever_is_in_them(few_scenes):
    whole, some, fewer = (catalog.load("digit_scenes", limit=limit) for limit in (None, 5, 3))
    for split in ("train", "validation", "test"):
        assert len(some.splits[split]) == 5 and len(fewer.splits[split]) == 3
        ids = [list(dataset.splits[split].ids) for dataset in (whole, some, fewer)]
        assert set(ids[2]) < set(ids[1]) < set(ids[0])
        assert ids[1] == [name for name in ids[0] if name in ids[1]] != ids[0][:5]
        assert [image["id"] for image in coco.truth(some.splits[split])["images"]] == ids[1]
    assert some.split_notes["test"].endswith("; of these 5 at most, by hash of the image's id, seed 0")


def test_a_percentage_is_of_images_and_there_are_no_shots(few_scenes):
    whole, tenth, third = (catalog.load(name) for name in ("digit_scenes", "digit_scenes@10pct", "digit_scenes@33pct"))
    assert len(tenth.splits["train"]) == int(np.ceil(0.1 * len(whole.splits["train"])))
    assert set(tenth.splits["train"].ids) < set(third.splits["train"].ids) < set(whole.splits["train"].ids)
    assert len(tenth.splits["validation"]) == 1 and len(tenth.splits["test"]) == 9
    assert tenth.name == "digit_scenes@10pct" and tenth.draw is None and tenth.task == "detection"
    with pytest.raises(BobError, match=r"data set digit_scenes has no variant '5shot': there is 10pct") as caught:
        catalog.load("digit_scenes@5shot")
    assert "\n" not in str(caught.value)


@pytest.fixture
def official(tmp_path, monkeypatch) -> Path:
    """COCO's three archives with three images in each split; images of both splits differ in nothing but that."""
    made = tmp_path / "made"
    for split in ("train2017", "val2017"):
        coco_folder.write(made, split=split)
    archives = [zipped(made / part, tmp_path / f"{part}.zip") for part in ("train2017", "val2017", "annotations")]
    served(monkeypatch, "coco", archives)
    return tmp_path


def test_coco_is_fetched_and_read_as_it_is(official):
    root = official / "root"
    assert cli.main(["data", "prepare", "coco", "--root", str(root)]) == 0
    assert (root / "coco" / "train2017" / "000000000042.png").is_file()
    dataset = catalog.load("coco", root=root)
    assert dataset.name == "coco" and dataset.metric == "mask_ap"
    assert sorted([*dataset.splits["train"].ids, *dataset.splits["validation"].ids]) == ["42", "7"]
    assert list(dataset.splits["test"].ids) == ["7", "42", "139"]
    assert dataset.split_notes["validation"].startswith("4% of instances_train2017.json; 1 images without objects")
    shutil.rmtree(root / "downloads")
    assert catalog.load("coco", root=root).version == dataset.version


def test_a_check_of_coco_says_what_is_missing(official):
    root = official / "root"
    catalog.prepare("coco", root)
    truncate(root / "coco" / "val2017" / "000000000042.png")
    problems = prepare.check("coco", root).problems
    assert "train: 3 images, expected 118287" in problems  # the one without objects counts as there
    assert "test: 3 images, expected 5000" in problems
    assert any("1 images cannot be decoded, first 42" in problem for problem in problems)


def test_a_folder_of_ones_own(tmp_path):
    for split in ("train2017", "val2017"):
        coco_folder.write(tmp_path, split=split)
    name = f"coco:{tmp_path}"
    assert catalog.task(name) == "detection" and catalog.source_of(name) == name
    dataset = catalog.load(name, limit=2)
    assert dataset.name == name and {len(source) for source in dataset.splits.values()} <= {1, 2}
    report = prepare.check(name)
    assert report.splits["test"].decoded == 3
    assert report.problems[0] == "train: a class without images"  # of two images one is validation; no such line for it
    assert len(report.problems) == 2 and "are also in another split" in report.problems[1]
    offer = argument.Offer(("vit",), ("digit_scenes",), ("knn",), ("vit",))
    assert argument.parse(f"vit,dataset={name}", offer).datasets == (name,)
    with pytest.raises(BobError, match="no training annotations in"):
        catalog.load(f"coco:{tmp_path / 'nowhere'}")
    with pytest.raises(BobError, match="unknown data set 'cocoa': did you mean coco"):
        catalog.load("cocoa")


def test_lists_name_the_sets(capsys):
    assert cli.main(["data", "list", "--json"]) == 0
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert lines["coco"]["task"] == "detection" and not lines["coco"]["ready"] and lines["digit_scenes"]["ready"]
