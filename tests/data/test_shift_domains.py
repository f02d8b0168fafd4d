"""VisDA-2017, DomainNet, CIFAR-10.1 and CIFAR-10-C, each read from a small copy in the official form."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_pictures import picture, write

from bob_jax.data import catalog, prepare
from bob_jax.data.shifts import cifar, domainnet, imagenet, visda
from bob_jax.errors import BobError

HERE = Path(__file__).parent
MODELS, VIEWS = 20, 3  # 3D models of each class, renderings of each model


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def pack(archive: Path, *members: tuple[Path, str]) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w") as file:
        for path, name in members:
            file.add(path, name)


# ---- VisDA


@pytest.fixture
def visda_root(tmp_path) -> Path:
    """The two official archives, where downloads go: class folders and lists."""
    made, downloads = tmp_path / "made", tmp_path / "root" / "downloads" / "visda2017"
    lines: dict[str, list[str]] = {"train": [], "validation": []}
    for label, name in enumerate(visda.CLASSES):
        for model in range(MODELS):
            for view in range(VIEWS):
                lines["train"].append(f"{name}/src_1_0269{label:04d}_{model:08x}__{view}_236_150.png {label}")
        lines["validation"] += [f"{name}/validation_{10 * label + row}.jpg {label}" for row in range(label % 3 + 1)]
    for folder, listed in lines.items():
        for seed, line in enumerate(listed):
            write(made / folder / line.split()[0], seed, height=8, width=8)
        (made / folder / "image_list.txt").write_text("\n".join(listed) + "\n")
        pack(downloads / f"{folder}.tar", (made / folder, folder))
    return tmp_path / "root"


def test_visda_is_held_out_from_the_source_by_3d_model(visda_root):
    dataset = catalog.load("visda_synthetic", root=visda_root)
    assert dataset.classes == visda.CLASSES and dataset.metric == "mean_per_class_accuracy"
    sizes = {split: len(source) for split, source in dataset.splits.items()}
    assert sizes == {"train": 12 * 16 * VIEWS, "validation": 12 * 2 * VIEWS, "test": 12 * 2 * VIEWS}
    models = [{name.split("__")[0] for name in source.ids} for source in dataset.splits.values()]
    assert len(set().union(*models)) == sum(map(len, models)) == 12 * MODELS
    for source in dataset.splits.values():
        assert [dataset.classes[label] for label in source.labels] == [name.split("/")[0] for name in source.ids]
        assert set(np.bincount(source.labels)) == {len(source) // 12}
        assert set(map(str, source.ids)).isdisjoint(catalog.load("visda_real", root=visda_root).splits["test"].ids)


def test_check_counts_what_was_held_out_with_the_rest(visda_root):
    total = 12 * MODELS * VIEWS
    report = prepare.check("visda_synthetic", visda_root, sample=12)
    assert report.problems == (f"train: {12 * 16 * VIEWS + 2 * 12 * 2 * VIEWS} images, expected 152397",)
    assert sum(split.images for split in report.splits.values()) == total


def test_visda_real_is_the_official_validation_list(visda_root):
    dataset = catalog.load("visda_real", root=visda_root)
    assert (dataset.source, dataset.clean, dataset.metric) == ("visda_synthetic", False, "mean_per_class_accuracy")
    test = dataset.splits["test"]
    assert np.bincount(test.labels).tolist() == [label % 3 + 1 for label in range(12)]
    assert test.ids[1] == "bicycle/validation_10.jpg" and test.labels[1] == 1
    assert np.abs(test[1]["image"].astype(int) - picture(1, 8, 8)).mean() < 40
    assert catalog.source_of("visda_real") == "visda_synthetic"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no list", r"ground truth .*image_list.txt of visda_real is missing: unpack the official validation.tar"),
        ("outside", r'line 1 of .*image_list.txt is "aeroplane/validation_0.jpg 12": want "class/image number"'),
        ("other class", r'line 1 of .*image_list.txt is "aeroplane/validation_0.jpg 3": want'),
        ("no image", r"image aeroplane/validation_0.jpg that .*image_list.txt names is not there"),
        ("no class", r"1 of the 12 classes of visda_real in .* have no image, first class 11"),
    ],
)
def test_bad_lists_are_one_line(visda_root, change, message):
    folder = catalog.prepare("visda_real", visda_root) / "validation"
    text = (folder / "image_list.txt").read_text()
    if change == "no list":
        (folder / "image_list.txt").unlink()
    elif change == "no image":
        (folder / "aeroplane" / "validation_0.jpg").unlink()
    elif change == "no class":
        (folder / "image_list.txt").write_text(
            "".join(f"{line}\n" for line in text.splitlines() if "truck" not in line)
        )
    else:
        (folder / "image_list.txt").write_text(text.replace("0.jpg 0", f"0.jpg {12 if change == 'outside' else 3}", 1))
    with pytest.raises(BobError, match=message) as caught:
        catalog.load("visda_real", root=visda_root)
    assert "\n" not in str(caught.value)


# ---- DomainNet and CIFAR-10.1, as TFDS stores them


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    root, made = tmp_path_factory.mktemp("stored"), tmp_path_factory.mktemp("made")
    for domain, classes in (("real", (0, 3, 344)), ("sketch", (3, 344))):
        for split, count in (("train", 10), ("test", 2)):
            lines = []
            for label in classes:
                for row in range(count):
                    path = f"{domain}/c{label}/{domain}_{label}_{split}_{row}.jpg"
                    write(made / path, 1000 * label + row, height=8, width=8)
                    lines.append(f"{path} {label}")
            (made / f"{domain}_{split}.txt").write_text("\n".join(lines) + "\n")
    np.save(made / "data.npy", np.stack([picture(seed, 32, 32) for seed in range(12)]))
    np.save(made / "labels.npy", np.arange(12) % 10)
    wanted = dict.fromkeys(("domainnet/real", "domainnet/sketch", "cifar10_1/v6"), str(made))
    done = subprocess.run(
        [sys.executable, HERE / "prepare_local.py", root / "tfds", json.dumps(wanted)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def test_a_domain_is_source_and_target(stored):
    source, target = (catalog.load(name, root=stored) for name in ("domainnet_real", "domainnet_real_to_sketch"))
    assert {split: len(found) for split, found in source.splits.items()} == {"train": 24, "validation": 6, "test": 6}
    assert target.source == catalog.source_of(target.name) == source.name
    assert target.classes == source.classes and len(target.classes) == 345 and target.classes[344] == "zigzag"
    test = target.splits["test"]
    assert sorted(test.labels) == [3, 3, 344, 344] and target.split_notes == {
        "test": "official test of the target domain"
    }
    for row, label in enumerate(test.labels):
        shown = test[row]["image"].astype(int)
        assert min(np.abs(shown - picture(1000 * label + number, 8, 8)).mean() for number in range(2)) < 30


def test_all_ordered_pairs_have_a_card():
    names = {name for name in catalog.CARDS if name.startswith("domainnet_")}
    assert len(domainnet.PAIRS) == 30 and len(names) == 36
    for first, second in domainnet.PAIRS:
        card = catalog.card(f"domainnet_{first}_to_{second}")
        assert (card.task, card.shifted_from) == ("shift", f"domainnet_{first}")
        assert card.source.builder == f"domainnet/{second}"


def test_cifar10_1_is_read_as_tfds_stores_it(stored):
    dataset = catalog.load("cifar10_1", root=stored)
    assert (dataset.classes, dataset.source) == (cifar.CLASSES, "cifar10")
    test = dataset.splits["test"]
    assert len(test) == 12 and len(set(test.ids)) == 12 and not dataset.clean
    for row in range(12):
        assert any(
            np.array_equal(test[row]["image"], picture(seed, 32, 32)) for seed in range(test.labels[row], 12, 10)
        )


# ---- CIFAR-10-C


@pytest.fixture
def cifar_root(tmp_path) -> Path:
    """The official archive, of four test images: nineteen files of 5 x 4 pictures, and their labels five times over."""
    made, root = tmp_path / "CIFAR-10-C", tmp_path / "root"
    made.mkdir()
    np.save(made / "labels.npy", np.tile(np.array([3, 8, 8, 0], np.uint8), 5))
    for number, corruption in enumerate(imagenet.CORRUPTIONS):
        np.save(
            made / f"{corruption}.npy",
            np.arange(20, dtype=np.uint8)[:, None, None, None] + np.full((20, 32, 32, 3), number, np.uint8),
        )
    pack(root / "downloads" / "cifar10_c" / "CIFAR-10-C.tar", (made, "CIFAR-10-C"))
    return root


def test_cifar10_c_slices_severities(cifar_root):
    dataset = catalog.load("cifar10_c", root=cifar_root)
    assert dataset.splits.keys() == catalog.card("cifar10_c").sizes.keys() and dataset.clean
    for number, corruption in enumerate(imagenet.CORRUPTIONS):
        for severity in range(1, 6):
            source = dataset.splits[f"{corruption}_{severity}"]
            assert source.labels.tolist() == [3, 8, 8, 0]
            assert source.ids == ["test_00000", "test_00001", "test_00002", "test_00003"]  # as TFDS's "id" of cifar10
            assert (source[2]["image"] == number + 4 * (severity - 1) + 2).all() and source[2]["image"].shape == (
                32,
                32,
                3,
            )
    assert len({source.fingerprint for source in dataset.splits.values()}) == 95


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("labels.npy", r"ground truth labels.npy of cifar10_c is not in"),
        ("fog.npy", r"fog.npy of cifar10_c is not in .*: unpack CIFAR-10-C.tar there again"),
        ("short", r"fog.npy has 16 images, but labels.npy has 20 labels: all conditions hold the same images"),
    ],
)
def test_a_torn_copy_of_cifar10_c_is_one_line(cifar_root, change, message):
    folder = catalog.prepare("cifar10_c", cifar_root) / "CIFAR-10-C"
    if change == "short":
        np.save(folder / "fog.npy", np.zeros((16, 32, 32, 3), np.uint8))
    else:
        (folder / change).unlink()
    with pytest.raises(BobError, match=message) as caught:
        catalog.load("cifar10_c", root=cifar_root)
    assert "\n" not in str(caught.value)
