"""The catalogue, the official archives in miniature, and the check of what is there."""

import dataclasses
import hashlib
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_pictures import picture, truncate, write, write_classes
from scipy.io import savemat

from bob_jax.data import archives, catalog, prepare
from bob_jax.errors import BobError
from bob_jax.metrics.catalog import METRICS

VARIANTS = ("707-320", "F-16A/B", "BAE 146-200")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def tar(folder: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


@pytest.fixture
def aircraft(tmp_path) -> Path:
    """`fgvc-aircraft-2013b` with 2, 1 and 1 images of each of 3 variants."""
    data = tmp_path / "made" / "fgvc-aircraft-2013b" / "data"
    number = 0
    for part, count in (("train", 2), ("val", 1), ("test", 1)):
        lines = []
        for variant in VARIANTS:
            for _ in range(count):
                number += 1
                write(data / "images" / f"{number:07d}.jpg", number)
                lines.append(f"{number:07d} {variant}\n")
        (data / f"images_variant_{part}.txt").write_text("".join(lines))
    (data / "variants.txt").write_text("\n".join(VARIANTS))
    return data.parent


@pytest.fixture
def cars(tmp_path) -> Path:
    """A download folder as mirrors have it: two archives of images, the development kit, and a loose .mat file."""
    made, downloads = tmp_path / "made", tmp_path / "root" / "downloads" / "cars"
    names = np.array(["Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"], dtype=object)
    annotations = {}
    for split, classes in (("train", [1, 2, 2, 1, 2, 2, 1, 1, 1, 1]), ("test", [2, 1, 2])):
        for index, _ in enumerate(classes, start=1):
            write(made / f"cars_{split}" / f"{index:05d}.jpg", index + 100 * (split == "test"))
        rows = [(0, 0, 9, 9, number, f"{index:05d}.jpg") for index, number in enumerate(classes, start=1)]
        kinds = [*((f"bbox_{name}", "O") for name in ("x1", "y1", "x2", "y2")), ("class", "O"), ("fname", "O")]
        annotations[split] = np.array(rows, dtype=kinds)
        tar(made / f"cars_{split}", downloads / f"cars_{split}.tgz")
    devkit = made / "devkit"
    devkit.mkdir()
    savemat(devkit / "cars_meta.mat", {"class_names": names})
    savemat(devkit / "cars_train_annos.mat", {"annotations": annotations["train"]})
    tar(devkit, downloads / "car_devkit.tgz")
    savemat(downloads / "cars_test_annos_withlabels.mat", {"annotations": annotations["test"]})
    return tmp_path / "root"


@pytest.fixture
def cub(tmp_path) -> Path:
    data = tmp_path / "made" / "CUB_200_2011"
    images = [f"{1 + index // 4:03d}.{'AB'[index // 4]}/{index}.jpg" for index in range(8)]
    for index, image in enumerate(images):
        write(data / "images" / image, index)
    (data / "images.txt").write_text("".join(f"{index + 1} {image}\n" for index, image in enumerate(images)))
    (data / "train_test_split.txt").write_text("".join(f"{index + 1} {int(index % 4 != 3)}\n" for index in range(8)))
    return data


def published(monkeypatch, name: str, path: Path, md5: str | None = None) -> None:
    """Gives the card of a set a file address, with the file's own digest unless another is given."""
    md5 = md5 or hashlib.md5(path.read_bytes()).hexdigest()
    source = catalog.Archives(catalog.CARDS[name].source.read, ((path.as_uri(), md5),))
    monkeypatch.setattr(catalog, "CARDS", {**catalog.CARDS, name: replace(catalog.CARDS[name], source)})


def replace(card: catalog.DatasetCard, source: catalog.Archives) -> catalog.DatasetCard:
    return dataclasses.replace(card, source=source)


def test_aircraft_is_fetched_laid_out_and_loaded(tmp_path, aircraft, monkeypatch):
    archive = tar(aircraft, tmp_path / "served" / "fgvc-aircraft-2013b.tar.gz")
    published(monkeypatch, "aircraft", archive)
    root = tmp_path / "root"
    dataset = catalog.load("aircraft", root=root)
    assert dataset.classes == ("707-320", "BAE 146-200", "F-16A_B")  # sorted; "/" cannot be in a folder's name
    assert {split: len(source) for split, source in dataset.splits.items()} == {"train": 6, "validation": 3, "test": 3}
    assert dataset.metric == "mean_per_class_accuracy"
    assert set(dataset.splits["train"].ids) >= {"train/707-320/0000001.jpg", "train/F-16A_B/0000003.jpg"}
    row = list(dataset.splits["test"].ids).index("test/BAE 146-200/0000012.jpg")
    assert dataset.splits["test"][row]["label"] == 1
    assert np.abs(dataset.splits["test"][row]["image"].astype(int) - picture(12)).mean() < 30  # JPEG is not exact
    archive.unlink()  # not needed any more
    assert catalog.load("aircraft", root=root).version == dataset.version


def test_cars_are_laid_out_from_what_the_user_puts_there(cars):
    dataset = catalog.load("cars", root=cars)
    assert dataset.classes == ("Acura RL Sedan 2012", "Ram C_V Cargo Van Minivan 2012")
    assert {split: len(source) for split, source in dataset.splits.items()} == {"train": 8, "validation": 2, "test": 3}
    labels = dict(zip(dataset.splits["test"].ids, dataset.splits["test"].labels, strict=True))
    assert {Path(name).name: int(label) for name, label in labels.items()} == {
        "00001.jpg": 1,
        "00002.jpg": 0,
        "00003.jpg": 1,
    }
    assert (cars / "downloads" / "cars" / "cars_test_annos_withlabels.mat").exists()


def test_cub_reads_the_official_split(tmp_path, cub, monkeypatch):
    published(monkeypatch, "cub", tar(cub, tmp_path / "served" / "CUB_200_2011.tgz"))
    dataset = catalog.load("cub", root=tmp_path / "root")
    assert dataset.classes == ("001.A", "002.B")
    assert sorted(dataset.splits["test"].ids) == ["test/001.A/3.jpg", "test/002.B/7.jpg"]
    assert len(dataset.splits["train"]) == 4 and len(dataset.splits["validation"]) == 2
    assert dataset.split_notes["validation"] == "20% of folder train, stratified by class, seed 0"


def test_an_unpacked_folder_will_do_and_is_left_as_it_is(tmp_path, aircraft, monkeypatch):
    source = catalog.Archives(archives.aircraft)
    monkeypatch.setattr(catalog, "CARDS", {"aircraft": replace(catalog.CARDS["aircraft"], source)})
    root = tmp_path / "root"
    shutil.copytree(aircraft, root / "downloads" / "aircraft" / aircraft.name)
    before = sorted(root.rglob("*"))
    assert len(catalog.load("aircraft", root=root).splits["train"]) == 6
    assert [path for path in before if not path.exists()] == []


def test_an_incomplete_archive_leaves_nothing_behind(tmp_path, aircraft, monkeypatch):
    (aircraft / "data" / "images" / "0000007.jpg").unlink()
    published(monkeypatch, "aircraft", tar(aircraft, tmp_path / "served" / "a.tar.gz"))
    with pytest.raises(BobError, match=r"0000007\.jpg is missing in .*a\.tar\.gz"):
        catalog.prepare("aircraft", tmp_path / "root")
    assert {path.name for path in (tmp_path / "root").iterdir()} == {"downloads"}


def test_a_damaged_archive_is_one_line(tmp_path, aircraft, monkeypatch):
    archive = tar(aircraft, tmp_path / "served" / "a.tar.gz")
    truncate(archive)
    published(monkeypatch, "aircraft", archive)
    with pytest.raises(BobError, match=r"a\.tar\.gz is damaged"):
        catalog.prepare("aircraft", tmp_path / "root")


def test_two_images_of_one_name_in_a_class_are_told_and_not_lost(tmp_path):
    write_classes(tmp_path / "set", {"left": 1, "right": 1})  # left/0.png, right/0.png
    with pytest.raises(BobError, match=r"two images of train in class fish are called 0\.png: .*set/right/0\.png"):
        archives.lay_out(
            [tmp_path / "set"],
            lambda root: [("train", "fish", f"set/{side}/0.png") for side in ("left", "right")],
            tmp_path / "made",
        )
    assert {path.name for path in tmp_path.iterdir()} == {"set"}


def test_a_place_that_takes_no_files_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BobError, match=r"cannot fetch .*x\.tgz.* put it at"):
        archives.download((tmp_path / "x.tgz").as_uri(), tmp_path / "file" / "downloads" / "x.tgz")


@pytest.mark.parametrize("sample", [0, -3])
def test_a_sample_of_nothing_is_no_check(sample):
    with pytest.raises(BobError, match="would check nothing"):
        prepare.check("digits", sample=sample)


def test_another_digest_is_refused(tmp_path, aircraft, monkeypatch):
    published(monkeypatch, "aircraft", tar(aircraft, tmp_path / "served" / "a.tar.gz"), md5="0" * 32)
    with pytest.raises(BobError, match=r"not 0{32}"):
        catalog.prepare("aircraft", tmp_path / "root")
    assert not any((tmp_path / "root").rglob("a.tar.gz"))


def test_a_dead_address_says_where_to_put_the_file(tmp_path):
    target = tmp_path / "downloads" / "x.tgz"
    with pytest.raises(BobError, match=f"put it at {target}"):
        archives.download((tmp_path / "nowhere.tgz").as_uri(), target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(("name", "hint"), [("cars", "downloads/cars"), ("inat2021", "unpack both into .*inat2021")])
def test_what_cannot_be_fetched_says_how_to_get_it(tmp_path, name, hint):
    with pytest.raises(BobError, match=f"data set {name} is not in .*{hint}"):
        catalog.load(name, root=tmp_path)


def test_inat_is_read_from_its_folders(tmp_path):
    write_classes(tmp_path / "inat2021" / "train", {"00000_A": 20, "00001_B": 20})
    write_classes(tmp_path / "inat2021" / "val", {"00000_A": 2, "00001_B": 2}, seed=500)
    dataset = catalog.load("inat2021", root=tmp_path)
    assert [len(source) for source in dataset.splits.values()] == [36, 4, 4]
    assert dataset.split_notes["test"] == "folder val" and dataset.split_notes["validation"].startswith("10%")


def test_cards_are_complete_and_their_metrics_exist():
    for name, card in catalog.CARDS.items():
        assert card.name == name and card.licence and card.url.startswith("http")
        assert card.get and (card.download_size is None) == (card.access == "embedded")
        if card.task in ("classification", "multilabel"):
            made = {"validation"} if card.validation_fraction else set()
            made |= {"train", "test"} if card.test_fraction else set()
            assert {"train", "validation", "test"} == (set(card.sizes) - {"all"}) | made
            assert set(card.sizes) & made == set() and bool(card.test_fraction) == ("all" in card.sizes)
            assert card.metric in METRICS
        if card.task == "detection":
            assert card.metric in ("box_ap", "mask_ap") and {"train", "validation", "test"} >= set(card.sizes) - {
                "shifted"
            }
            assert card.validation_fraction or "validation" in card.sizes
        if card.task == "shift":
            assert card.sizes and card.shifted_from and card.metric in METRICS


def test_a_manual_card_says_where_its_files_go():
    for card in catalog.CARDS.values():
        if card.access == "manual":
            assert "{downloads}" in card.get or "{folder}" in card.get
            assert not isinstance(card.source, catalog.Tfds) or all(part in card.get for part in card.source.manual)


def test_tfds_knows_the_builders_and_their_features(tmp_path):
    import tensorflow_datasets

    for card in catalog.CARDS.values():
        if isinstance(card.source, catalog.Tfds):
            builder = tensorflow_datasets.builder(card.source.builder, data_dir=tmp_path)
            assert card.source.id_feature is None or card.source.id_feature in builder.info.features
            assert bool(card.source.manual) == bool(builder.MANUAL_DOWNLOAD_INSTRUCTIONS)
            if card.source.label is None and card.source.read is None:
                assert builder.info.features["label"].num_classes == card.classes
            assert len(card.source.classes) in (0, card.classes)


def test_digits_through_the_catalogue_have_the_sizes_of_their_card():
    dataset = catalog.load("digits")
    assert {split: len(source) for split, source in dataset.splits.items()} == dict(catalog.CARDS["digits"].sizes)


def test_limit_is_class_balanced_and_seeded():
    dataset = catalog.load("digits", limit=25)
    assert [len(source) for source in dataset.splits.values()] == [25, 25, 25]
    for source in dataset.splits.values():
        assert set(np.bincount(source.labels, minlength=10)) == {2, 3}
    assert "of these 25 at most, class-balanced, seed 0" in dataset.split_notes["test"]
    assert set(dataset.splits["test"].ids) <= set(catalog.load("digits").splits["test"].ids)


def test_errors_of_names():
    with pytest.raises(BobError, match="unknown data set 'digit': did you mean digits"):
        catalog.load("digit")
    with pytest.raises(BobError, match="limit is 0"):
        catalog.load("digits", limit=0)


def test_own_folder(tmp_path):
    write_classes(tmp_path, {"a": 5, "b": 5})
    dataset = catalog.load(f"folder:{tmp_path}", limit=2)
    assert dataset.name == f"folder:{tmp_path}" and len(dataset.splits["train"]) == 2


def test_check_of_digits_is_clean():
    report = prepare.check("digits")
    assert report.splits["train"].decoded == 1077 and report.classes == 10
    assert report.problems == () and report.duplicates == ()


def test_check_finds_duplicates_corrupt_files_and_wrong_counts(cars):
    catalog.prepare("cars", cars)
    ram = "Ram C_V Cargo Van Minivan 2012"
    shutil.copy(cars / "cars" / "test" / ram / "00003.jpg", cars / "cars" / "train" / ram / "copy.jpg")
    truncate(cars / "cars" / "test" / ram / "00001.jpg")
    report = prepare.check("cars", cars)
    assert report.splits["test"].corrupt == (f"{cars}/cars/test/{ram}/00001.jpg".removeprefix(f"{cars}/cars/"),)
    assert report.splits["test"].images == 3 and report.splits["test"].decoded == 2
    ((one, name, other, twin),) = report.duplicates
    assert {one, other} <= {"train", "validation", "test"} and {Path(name).name, Path(twin).name} == {
        "copy.jpg",
        "00003.jpg",
    }
    assert "classes" in report.problems[0]
    assert any(problem.startswith("train: 11 images, expected 8144") for problem in report.problems)
    assert any(problem.startswith("test: 3 images, expected 8041") for problem in report.problems)
    assert any("1 images cannot be decoded" in problem for problem in report.problems)


def test_check_of_a_sample_reads_no_more(tmp_path):
    write_classes(tmp_path, {"a": 10, "b": 10})
    report = prepare.check(f"folder:{tmp_path}", sample=2)
    assert {split: found.decoded for split, found in report.splits.items()} == {
        "train": 2,
        "validation": 2,
        "test": 2,
    }
    assert report.splits["train"].images == 12 and report.problems == ()
    assert (report.splits["train"].smallest_class, report.splits["train"].largest_class) == (6, 6)


def test_official_layouts_are_unpacked_as_they_are(tmp_path):
    write(tmp_path / "made" / "pictures" / "a.jpg", 1)
    write(tmp_path / "folder" / "b.jpg", 2)
    (tmp_path / "truth.csv").write_text("id\n")
    parts = [
        (tar(tmp_path / "made" / "pictures", tmp_path / "pictures.tgz"), "jpg"),
        (tmp_path / "folder", ""),
        (tmp_path / "truth.csv", ""),
    ]
    archives.unpack(parts, tmp_path / "done")
    files = sorted(path.relative_to(tmp_path / "done").as_posix() for path in (tmp_path / "done").rglob("*.*"))
    assert files == ["folder/b.jpg", "jpg/pictures/a.jpg", "truth.csv"]
    truncate(tmp_path / "pictures.tgz")
    with pytest.raises(BobError, match=r"pictures.tgz is damaged"):
        archives.unpack(parts, tmp_path / "again")
    assert not any("again" in path.name for path in tmp_path.iterdir())
