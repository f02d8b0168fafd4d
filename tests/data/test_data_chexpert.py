"""CheXpert from a small tree as CheXpert-v1.0-small has it: its tables, its folders, its blanks and minus ones."""

import csv
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_pictures import truncate, write

from bob_jax.data import catalog, chexpert, prepare
from bob_jax.data.base import MultilabelDataset
from bob_jax.errors import BobError

COLUMNS = [
    "Path",
    "Sex",
    "Age",
    "Frontal/Lateral",
    "AP/PA",
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
]
STATES = ("1.0", "0.0", "-1.0", "")
PATIENTS = 50


def rows(part: str, patients: range, states: tuple[str, ...]) -> list[dict[str, str]]:
    """Two frontal views and a lateral one for each patient, with findings that go through all the states."""
    table = []
    for patient in patients:
        for view, side in ((1, "Frontal"), (2, "Lateral"), (3, "Frontal")):
            path = f"CheXpert-v1.0-small/{part}/patient{patient:05d}/study1/view{view}_{side.lower()}.jpg"
            row = dict.fromkeys(COLUMNS, "") | {"Path": path, "Sex": "Female", "Age": "68", "Frontal/Lateral": side}
            row["AP/PA"] = "AP" if side == "Frontal" else ""
            for number, finding in enumerate(chexpert.FINDINGS):
                row[finding] = states[(patient // len(states) ** (number % 2) + number) % len(states)]
            table.append(row)
    return table


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """The root of data sets, with the release in its folder."""
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "root"
    release = root / "chexpert" / "CheXpert-v1.0-small"
    for part, patients, states in (
        ("train", range(1, 1 + PATIENTS), STATES),
        ("valid", range(64541, 64549), ("1.0", "0.0")),
    ):
        table = rows(part, patients, states)
        for number, row in enumerate(table):
            image = root / "chexpert" / row["Path"]
            write(image, number + 1000 * (part == "valid"), height=8, width=10)
        with (release / f"{part}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(table)
    return root


def patients(source) -> set[str]:
    return {name.split("/")[1] for name in source.ids}


def test_frontal_views_and_whole_patients(tree):
    dataset = catalog.load("chexpert", root=tree)
    assert isinstance(dataset, MultilabelDataset) and dataset.task == "multilabel" == catalog.task("chexpert")
    assert dataset.classes == ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
    assert dataset.metric == "mean_auc" and dataset.name == "chexpert"
    sizes = {split: len(source) for split, source in dataset.splits.items()}
    assert sizes == {"train": 2 * 45, "validation": 2 * 5, "test": 2 * 8}
    groups = [patients(source) for source in dataset.splits.values()]
    assert len(set.union(*groups)) == sum(map(len, groups)) == PATIENTS + 8
    assert all("frontal" in name for source in dataset.splits.values() for name in source.ids)
    test = dataset.splits["test"]
    assert test.ids[0] == "valid/patient64541/study1/view1_frontal.jpg"
    assert test[0]["image"].shape == (8, 10, 3) and test[0]["id"] == test.ids[0]
    np.testing.assert_array_equal(test[0]["label"], test.labels[0])
    assert test.labels.shape == (16, 5) and test.labels.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "uncertain"),
    [("chexpert", (0, 1, 0, 1, 0)), ("chexpert@u_ones", (1, 1, 1, 1, 1)), ("chexpert@u_zeros", (0, 0, 0, 0, 0))],
)
def test_uncertain_and_unmentioned_findings(tree, name, uncertain):
    dataset = catalog.load(name, root=tree)
    written = {row["Path"].split("/", 1)[1]: row for row in rows("train", range(1, 1 + PATIENTS), STATES)}
    counts = dict(zip(chexpert.FINDINGS, uncertain, strict=True))
    seen = set()
    for split in ("train", "validation"):
        source = dataset.splits[split]
        for image, labels in zip(source.ids, source.labels, strict=True):
            for finding, label in zip(chexpert.FINDINGS, labels, strict=True):
                state = written[image][finding]
                seen.add((finding, state))
                assert label == (counts[finding] if state == "-1.0" else float(state == "1.0"))
    assert len(seen) == len(chexpert.FINDINGS) * len(STATES)
    assert dataset.name == name
    assert f"Cardiomegaly {uncertain[0]}, Edema {uncertain[1]}" in dataset.split_notes["train"]


def test_policies_differ_in_labels_alone(tree):
    whole, ones = (catalog.load(name, root=tree) for name in ("chexpert", "chexpert@u_ones"))
    for split in ("train", "validation"):
        assert list(whole.splits[split].ids) == list(ones.splits[split].ids)
        assert whole.splits[split].fingerprint != ones.splits[split].fingerprint
    assert whole.splits["test"].fingerprint == ones.splits["test"].fingerprint


def test_few_patients(tree):
    whole, ten, one = (catalog.load(name, root=tree) for name in ("chexpert", "chexpert@10pct", "chexpert@1pct"))
    for split, ten_count in (("train", 5), ("validation", 1)):
        assert len(patients(ten.splits[split])) == ten_count and len(patients(one.splits[split])) == 1
        assert patients(one.splits[split]) <= patients(ten.splits[split]) <= patients(whole.splits[split])
        assert len(ten.splits[split]) == 2 * ten_count  # all images of each
    assert ten.splits["test"].fingerprint == whole.splits["test"].fingerprint
    assert ten.split_notes["train"].endswith("of these 10 % of the patients, seed 0")


@pytest.mark.parametrize("variant", ["5shot", "20pct", "u_twos"])
def test_what_it_has_not_is_one_line(tree, variant):
    with pytest.raises(BobError, match=f"no variant '{variant}': there is u_ones, u_zeros, 10pct, 1pct$"):
        catalog.load(f"chexpert@{variant}", root=tree)


def test_a_limit_keeps_both_answers_to_every_label(tree):
    for source in catalog.load("chexpert", root=tree, limit=8).splits.values():
        assert len(source) == 8
        assert ((source.labels.mean(axis=0) > 0) & (source.labels.mean(axis=0) < 1)).all()


def test_the_archive_is_unpacked_where_it_was_put(tree):
    archive = tree / "downloads" / "chexpert" / "CheXpert-v1.0-small.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((tree / "chexpert").rglob("*.*")):
            file.write(path, path.relative_to(tree / "chexpert"))
    fingerprint = catalog.load("chexpert", root=tree).splits["train"].fingerprint
    shutil.rmtree(tree / "chexpert")
    assert catalog.load("chexpert", root=tree).splits["train"].fingerprint == fingerprint


def test_the_check_counts_images_of_each_finding(tree):
    report = prepare.check("chexpert", tree)
    assert report.problems == ("train: 100 images, expected 191027", "test: 16 images, expected 202")
    assert report.splits["train"].decoded == 90
    labels = catalog.load("chexpert", root=tree).splits["train"].labels
    assert report.splits["train"].smallest_class == labels.sum(axis=0).min()


def test_what_is_missing_or_strange_is_one_line(tree):
    release = tree / "chexpert" / "CheXpert-v1.0-small"
    image = release / "train" / "patient00007" / "study1" / "view3_frontal.jpg"
    image.rename(tree / "aside.jpg")
    with pytest.raises(BobError, match=r"patient00007/study1/view3_frontal\.jpg is missing"):
        catalog.load("chexpert", root=tree)
    (tree / "aside.jpg").rename(image)
    table = (release / "train.csv").read_text()
    (release / "train.csv").write_text(table.replace("-1.0", "2.0", 1))
    with pytest.raises(BobError, match=r"train\.csv: CheXpert.* has a finding '2\.0'"):
        catalog.load("chexpert", root=tree)
    (release / "train.csv").write_text(table.replace("Edema", "Oedema", 1))
    with pytest.raises(BobError, match=r"train\.csv lacks Edema"):
        catalog.load("chexpert", root=tree)
    (release / "train.csv").write_text(table.splitlines()[0])
    with pytest.raises(BobError, match=r"train\.csv lacks .*Path"):
        catalog.load("chexpert", root=tree)
    (release / "train.csv").write_text(table)
    (release / "valid.csv").unlink()
    with pytest.raises(BobError, match=r"valid\.csv is missing"):
        catalog.load("chexpert", root=tree)
    (release / "train.csv").unlink()
    with pytest.raises(BobError, match=r"no train\.csv in .*chexpert"):
        catalog.load("chexpert", root=tree)


def test_a_damaged_image_is_named(tree):
    image = tree / "chexpert" / "CheXpert-v1.0-small" / "valid" / "patient64541" / "study1" / "view1_frontal.jpg"
    truncate(image)
    report = prepare.check("chexpert", tree)
    assert report.splits["test"].corrupt == ("valid/patient64541/study1/view1_frontal.jpg",)


def test_it_says_how_to_get_it(tmp_path):
    with pytest.raises(BobError, match=r"sign the agreement .*CheXpert-v1\.0-small\.zip.* into .*downloads/chexpert"):
        catalog.load("chexpert", root=tmp_path)
