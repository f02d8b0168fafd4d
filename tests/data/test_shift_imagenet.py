"""ImageNet's shifted test sets, each read from a small copy in the official form: class folders, TFDS, archives."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_pictures import picture, write

from bob_jax.data import catalog, prepare
from bob_jax.data.shifts import imagenet
from bob_jax.errors import BobError
from bob_jax.metrics.shift import expected_accuracy

HERE = Path(__file__).parent
WNIDS = imagenet.wordnet_ids()
FOLDER = {  # what the official archive of each unpacks into
    "imagenet_v2": "imagenetv2-matched-frequency-format-val",
    "imagenet_a": "imagenet-a",
    "imagenet_r": "imagenet-r",
    "imagenet_sketch": "sketch",
}
BUILDER = {"imagenet_v2": "imagenet_v2/matched-frequency"}


def info(package: str, file: str, *, whole: bool = False) -> list[str]:
    """Words of a data file of an installed package, or its whole text, without importing the package."""
    text = (Path(importlib.util.find_spec(package).origin).parent / file).read_text()
    return [text] if whole else text.split()


def class_folder(name: str, label: int) -> str:
    return str(label) if name == "imagenet_v2" else WNIDS[label]


def file_name(name: str, label: int) -> str:
    return f"sketch_{label}.JPEG" if name == "imagenet_sketch" else f"{label:05d}.jpg"


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [write(folder / f"{seed}.jpg", seed, height=12, width=16) for seed in range(7)]


@pytest.fixture(scope="module")
def official(tmp_path_factory, pictures) -> Path:
    """The unpacked archives, an image for each class; and a README, as ImageNet-A and ImageNet-R have one."""
    root = tmp_path_factory.mktemp("official")
    for name, folder in FOLDER.items():
        for label in imagenet.table(name):
            place = root / name / folder / class_folder(name, label) / file_name(name, label)
            place.parent.mkdir(parents=True)
            os.link(pictures[label % 7], place)
    (root / "imagenet_a" / "imagenet-a" / "README.txt").write_text("hello")
    return root


@pytest.fixture(scope="module")
def validation(tmp_path_factory, pictures) -> Path:
    """Six of ImageNet's validation images in `val.tar`, with the labels that TFDS knows them by."""
    root = tmp_path_factory.mktemp("validation")
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 7)]
    with tarfile.open(root / "val.tar", "w") as archive:
        for number, name in enumerate(names):
            archive.add(pictures[number], name)
    (root / "labels.json").write_text(json.dumps({name: WNIDS[10 * number] for number, name in enumerate(names)}))
    return root


@pytest.fixture(scope="module")
def stored(tmp_path_factory, official, validation) -> Path:
    """A data folder in which TFDS's own builders have prepared all of these."""
    root = tmp_path_factory.mktemp("stored")
    sketch = root / "sketch.zip"
    with zipfile.ZipFile(sketch, "w") as archive:
        for file in sorted((official / "imagenet_sketch" / "sketch").glob("*/*")):
            archive.write(file, f"sketch/{file.parent.name}/{file.name}")
    wanted = {BUILDER.get(name, name): str(official / name / folder) for name, folder in FOLDER.items()}
    wanted |= {"imagenet_sketch": str(sketch), "imagenet2012": str(validation)}
    done = subprocess.run(
        [sys.executable, HERE / "prepare_local.py", root / "tfds", json.dumps(wanted)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root


# ---- classes


def test_classes_are_those_of_timm_and_tfds():
    assert list(WNIDS) == sorted(WNIDS) == info("timm", "data/_info/imagenet_synsets.txt")
    assert list(WNIDS) == info("tensorflow_datasets", "datasets/imagenet2012/labels.txt")


def test_subsets_are_timms_and_share_86_classes():
    for name in ("imagenet_a", "imagenet_r"):
        assert imagenet.table(name).tolist() == list(map(int, info("timm", f"data/_info/{name}_indices.txt")))
    assert len(set(imagenet.table("imagenet_a")) & set(imagenet.table("imagenet_r"))) == 86


# ---- V2, A, R, Sketch


@pytest.mark.parametrize("name", FOLDER)
def test_class_folders_and_tfds_say_the_same(official, stored, name):
    """Both ways give each image the class that its folder names, in place of the set's own classes."""
    folders, records = catalog.load(name, root=official), catalog.load(name, root=stored)
    assert records.version != folders.version
    for dataset in (folders, records):
        assert (dataset.source, dataset.clean, dataset.metric) == ("imagenet", False, "accuracy")
        assert dataset.classes == tuple(WNIDS[label] for label in dataset.table)
        test = dataset.splits["test"]
        assert len(test) == len(dataset.classes) == catalog.card(name).classes
        assert sorted(test.labels) == list(range(len(test)))
        for row in range(0, len(test), 37):
            label = dataset.table[test.labels[row]]
            assert test.ids[row].split("/")[-1] == file_name(name, label)
            assert test[row]["label"] == test.labels[row] and test[row]["id"] == test.ids[row]
            assert np.abs(test[row]["image"].astype(int) - picture(label % 7, 12, 16)).mean() < 30
    by_id = [
        {
            one.split("/")[-1]: label
            for one, label in zip(found.splits["test"].ids, found.splits["test"].labels, strict=True)
        }
        for found in (folders, records)
    ]
    assert by_id[0] == by_id[1]


def test_the_folders_of_v2_are_numbers_and_not_text(official):
    """As text "10" comes before "2"."""
    test = catalog.load("imagenet_v2", root=official).splits["test"]
    for row, name in enumerate(test.ids):
        assert int(name.split("/")[0]) == test.labels[row]
    assert test.labels[list(test.ids).index("2/00002.jpg")] == 2
    assert test.labels[list(test.ids).index("10/00010.jpg")] == 10


@pytest.mark.parametrize("name", ["imagenet_v2_threshold", "imagenet_v2_top"])
def test_the_other_variants_of_v2_are_numbered_alike(official, tmp_path, name):
    (tmp_path / name).symlink_to(official / "imagenet_v2" / FOLDER["imagenet_v2"])
    dataset = catalog.load(name, root=tmp_path)
    assert dataset.classes == WNIDS and dataset.baseline == ()
    assert all(
        int(one.split("/")[0]) == label
        for one, label in zip(dataset.splits["test"].ids, dataset.splits["test"].labels, strict=True)
    )


def test_a_folder_outside_the_table_is_named(official, tmp_path):
    shutil.copytree(official / "imagenet_a", tmp_path / "imagenet_a", copy_function=os.link)
    outside = WNIDS[0]
    (tmp_path / "imagenet_a" / "imagenet-a" / outside).mkdir()
    with pytest.raises(
        BobError, match=f"class folder {outside} in .*imagenet-a is none of the 200 classes of imagenet_a"
    ):
        catalog.load("imagenet_a", root=tmp_path)


def test_a_class_without_images_is_named(official, tmp_path):
    shutil.copytree(official / "imagenet_r", tmp_path / "imagenet_r", copy_function=os.link)
    shutil.rmtree(tmp_path / "imagenet_r" / "imagenet-r" / WNIDS[imagenet.table("imagenet_r")[3]])
    with pytest.raises(BobError, match=r"1 of the 200 classes of imagenet_r in .* have no image, first class 6"):
        catalog.load("imagenet_r", root=tmp_path)


def test_a_label_outside_the_table_is_named(stored):
    """ImageNet-R's records under ImageNet-A's name."""
    place = catalog.locate("imagenet_r", stored)
    with pytest.raises(BobError, match=r"label \d+ of image \d+ of imagenet_a is none of its 200 classes \(114 such"):
        imagenet.read(place, catalog.card("imagenet_a"))


def test_what_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BobError, match=r"pip install 'bob_jax\[tfds\]'.*bob data prepare imagenet_a"):
        catalog.load("imagenet_a", root=tmp_path)


# ---- models that effective robustness is measured from


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch"])
def test_the_baseline_is_a_line(name):
    """Published models lie near a line in logits (Taori et al., figure 1): what is beyond it means something."""
    clean, shifted = np.array(imagenet.baseline(name)).T
    assert len(clean) == 27 and (shifted < clean).all()
    logits = [np.log(scores / (1 - scores)) for scores in (clean, shifted)]
    assert np.corrcoef(*logits)[0, 1] > 0.93
    assert np.abs(shifted - expected_accuracy(clean, imagenet.baseline(name))).max() < 0.06


def test_the_baseline_has_the_published_figures():
    """ResNet-101 of torchvision at 224: 77.404 on ImageNet, 65.940 on V2, 26.974 on Sketch, 4.560 on A, 39.297 on R."""
    assert (0.77404, 0.6594) in [tuple(np.round(pair, 6)) for pair in imagenet.baseline("imagenet_v2")]
    assert (0.77404, 0.26974) in [tuple(np.round(pair, 6)) for pair in imagenet.baseline("imagenet_sketch")]
    assert (0.9281, 0.0456) in [tuple(np.round(pair, 6)) for pair in imagenet.baseline("imagenet_a")]
    assert (0.9289, 0.39297) in [tuple(np.round(pair, 6)) for pair in imagenet.baseline("imagenet_r")]
    assert imagenet.baseline("imagenet_c") == ()


# ---- C


@pytest.fixture(scope="module")
def corrupted(tmp_path_factory, pictures) -> Path:
    """ImageNet-C with an image a class. Conditions share one tree, but for fog at severity 3; noise is in `noise`."""
    root = tmp_path_factory.mktemp("corrupted")
    trees = [root / "one", root / "other"]
    for number, tree in enumerate(trees):
        for label, wnid in enumerate(WNIDS):
            (tree / wnid).mkdir(parents=True)
            os.link(pictures[number], tree / wnid / f"ILSVRC2012_val_{50000 - label:08d}.JPEG")
    for corruption in imagenet.CORRUPTIONS:
        top = root / "data" / "imagenet_c" / ("noise" if "noise" in corruption else "") / corruption
        top.mkdir(parents=True)
        for severity in range(1, 6):
            (top / str(severity)).symlink_to(trees[(corruption, severity) == ("fog", 3)])
    return root / "data"


def test_all_95_conditions_share_ids_and_labels(corrupted):
    dataset = catalog.load("imagenet_c", root=corrupted)
    assert len(dataset.splits) == 95 and dataset.splits.keys() == catalog.card("imagenet_c").sizes.keys()
    assert (dataset.source, dataset.clean, dataset.reference_errors) == ("imagenet", True, imagenet.ALEXNET)
    fog, snow = dataset.splits["fog_3"], dataset.splits["snow_5"]
    assert fog.ids is snow.ids and fog.labels[7] == 7 and fog.ids[7] == "ILSVRC2012_val_00049993.JPEG"
    assert len({source.fingerprint for source in dataset.splits.values()}) == 95
    for source, seed in ((fog, 1), (snow, 0)):
        assert np.abs(source[7]["image"].astype(int) - picture(seed, 12, 16)).mean() < 30


def test_alexnets_errors_are_the_means_of_its_published_ones():
    """hendrycks/robustness lists one error for each severity; three of the fifteen, worked out by hand."""
    each = {
        "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
        "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
        "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    }
    for name, errors in each.items():
        assert imagenet.ALEXNET[name] == pytest.approx(np.mean(errors), abs=1e-9)
    assert len(imagenet.ALEXNET) == 15 and len(set(imagenet.CORRUPTIONS)) == 19


def test_a_missing_condition_is_named(corrupted, tmp_path):
    shutil.copytree(corrupted / "imagenet_c", tmp_path / "imagenet_c", symlinks=True)
    shutil.rmtree(tmp_path / "imagenet_c" / "spatter")
    with pytest.raises(BobError, match=r"5 of the 95 conditions of imagenet_c are not in .*, first spatter_1: unpack"):
        catalog.load("imagenet_c", root=tmp_path)


@pytest.mark.parametrize("change", ["another image", "class missing"])
def test_conditions_with_different_images_are_named(corrupted, tmp_path, change):
    shutil.copytree(corrupted / "imagenet_c", tmp_path / "imagenet_c", symlinks=True)
    odd = tmp_path / "imagenet_c" / "snow" / "2"
    tree = odd.resolve()
    odd.unlink()
    shutil.copytree(tree, odd, copy_function=os.link)
    name = "ILSVRC2012_val_00049996.JPEG"
    if change == "another image":
        (odd / WNIDS[4] / name).rename(odd / WNIDS[4] / "ILSVRC2012_val_00000001.JPEG")
        expected = (
            f"image {WNIDS[4]}/ILSVRC2012_val_00000001.JPEG is missing in condition gaussian_noise_1 of imagenet_c"
        )
    else:
        shutil.rmtree(odd / WNIDS[4])
        expected = f"class {WNIDS[4]} of imagenet_c, condition snow_2 has no image"
    with pytest.raises(BobError, match=expected):
        catalog.load("imagenet_c", root=tmp_path)


# ---- ReaL

REAL = [[3, 5], [], [999], [0], [20, 21, 22], [50]]


@pytest.fixture
def real(tmp_path, validation) -> Path:
    """A data folder with `real.json` beside the validation images, as the official tar holds them."""
    place = tmp_path / "imagenet_real"
    (place / "val").mkdir(parents=True)
    (place / "real.json").write_text(json.dumps(REAL))
    with tarfile.open(validation / "val.tar") as archive:
        archive.extractall(place / "val", filter="data")
    return tmp_path


def test_real_labels_are_any_of_and_images_without_one_are_left_out(real):
    dataset = catalog.load("imagenet_real", root=real)
    test = dataset.splits["test"]
    assert (dataset.clean, dataset.source, len(dataset.baseline)) == (True, "imagenet", 27)
    assert list(test.ids) == [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 3, 4, 5, 6)]
    assert test.labels.dtype == bool and test.labels.shape == (5, 1000)
    assert [np.flatnonzero(row).tolist() for row in test.labels] == [labels for labels in REAL if labels]
    example = test[1]
    assert np.abs(example["image"].astype(int) - picture(2, 12, 16)).mean() < 30
    np.testing.assert_array_equal(example["label"], test.labels[1])


def test_class_folders_of_validation_images_will_do(real):
    place = real / "imagenet_real" / "val"
    flat = catalog.load("imagenet_real", root=real).splits["test"]
    (place / WNIDS[3]).mkdir()
    (place / "ILSVRC2012_val_00000001.JPEG").rename(place / WNIDS[3] / "ILSVRC2012_val_00000001.JPEG")
    again = catalog.load("imagenet_real", root=real).splits["test"]
    assert dict(zip(again.ids, map(bytes, again.labels), strict=True)) == dict(
        zip(flat.ids, map(bytes, flat.labels), strict=True)
    )


def test_real_takes_imagenets_images_from_tfds(stored, real, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    (root / "tfds").symlink_to(stored / "tfds")
    (root / "imagenet_real").mkdir()
    shutil.copy(real / "imagenet_real" / "real.json", root / "imagenet_real")
    found, expected = (catalog.load("imagenet_real", root=where).splits["test"] for where in (root, real))
    assert sorted(found.ids) == list(expected.ids)
    for row, name in enumerate(found.ids):
        np.testing.assert_array_equal(found.labels[row], expected.labels[list(expected.ids).index(name)])
        np.testing.assert_array_equal(found[row]["image"], expected[list(expected.ids).index(name)]["image"])


def test_a_limit_takes_some_of_them_and_check_counts_them(real):
    assert len(catalog.load("imagenet_real", root=real, limit=3).splits["test"]) == 3
    report = prepare.check("imagenet_real", real, sample=3).splits["test"]
    assert (report.images, report.decoded, report.smallest_class, report.largest_class) == (5, 3, 0, 1)


def test_the_official_file_is_read_as_timm_reads_it(real):
    """The whole real.json, which comes with timm; labels of the first six images."""
    (text,) = info("timm", "data/_info/imagenet_real_labels.json", whole=True)
    official = json.loads(text)
    assert len(official) == 50000
    assert sum(map(bool, official)) == catalog.card("imagenet_real").sizes["test"]
    assert set().union(*official) == set(range(1000))
    (real / "imagenet_real" / "real.json").write_text(text)
    test = catalog.load("imagenet_real", root=real).splits["test"]
    assert [np.flatnonzero(row).tolist() for row in test.labels] == [
        sorted(labels) for labels in official[:6] if labels
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"ground truth real.json is not in .*imagenet_real: fetch it from https"),
        ("[[1], [2", r"real.json is no whole JSON"),
        (json.dumps([[1000], *REAL[1:]]), r"image 1 has labels \[1000\] in .*real.json, of 1000 classes"),
        (json.dumps(REAL[:4]), r"image ILSVRC2012_val_00000005.JPEG is none of the 4 that real.json has labels for"),
        (json.dumps([[]] * 6), r"real.json has a label for none of the 6 images"),
    ],
)
def test_bad_ground_truth_is_one_line(real, content, message):
    file = real / "imagenet_real" / "real.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(BobError, match=message) as caught:
        catalog.load("imagenet_real", root=real)
    assert "\n" not in str(caught.value)


def test_real_without_images_says_where_to_put_them(real):
    shutil.rmtree(real / "imagenet_real" / "val")
    with pytest.raises(BobError, match=r"put them into .*val, or run `bob data prepare imagenet`"):
        catalog.load("imagenet_real", root=real)
