"""Sim10k and Cityscapes: cars alone, VOC's numbering of pixels, instances that hide each other, groups."""

import shutil
import tarfile
from pathlib import Path

import detection_trees
import numpy as np
import pytest
from PIL import Image

from bob_jax.data import catalog, cityscapes, coco, prepare, sim10k
from bob_jax.errors import BobError

OBJECTS = {
    0: [("car", 1, 1, 64, 32), ("person", 3, 3, 9, 20), ("motorbike", 3, 3, 9, 20)],
    1: [("person", 3, 3, 9, 20)],
    2: [("car", 60, 30, 70, 40)],  # sticks out
    3: [("car", 70, 5, 80, 9), ("car", 5, 9, 24, 8)],  # outside of the picture; without height
}
COUNT = 950


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("streets")
    detection_trees.sim10k(root / "sim10k", COUNT, OBJECTS)
    detection_trees.cityscapes(root / "cityscapes")
    return root


@pytest.fixture
def copy(data, tmp_path) -> Path:
    """A few of the pictures, to be changed."""
    root = tmp_path / "copy"
    detection_trees.sim10k(root / "sim10k", 4, OBJECTS)
    shutil.copytree(data / "cityscapes", root / "cityscapes")
    return root


def whole(root: Path) -> coco.CocoSource:
    source = catalog.load("sim10k", root=root).splits["train"]
    while hasattr(source, "parent"):
        source = source.parent
    return source


def test_only_cars_are_cars(data):
    source = whole(data)
    assert source.classes == ("car",) and len(source) == COUNT
    np.testing.assert_array_equal(source[0]["boxes"], [[0, 0, 64, 32]])  # pixels from 1, the last one is in
    assert source[1]["boxes"].shape == (0, 4)
    np.testing.assert_array_equal(source[2]["boxes"], [[59, 29, 64, 32]])
    np.testing.assert_array_equal(source[9]["boxes"], [[4, 4, 24, 14]])
    assert source.left_out == {
        "objects of other classes": 3,
        "boxes outside of their image": 1,
        "boxes without area": 1,
    }
    assert source.ids[0] == "3384645" and not source.has_masks


def test_neighbours_stay_together(data):
    dataset = catalog.load("sim10k", root=data)
    sizes = {split: len(source) for split, source in dataset.splits.items()}
    assert list(sizes) == ["train", "validation", "test"] and sum(sizes.values()) == COUNT
    # Ten blocks of 100 and a last one of 50; 10 and 5 % of them, at least one each.
    assert sizes["test"] in (50, 100) and sizes["validation"] in (50, 100)
    blocks = [{(int(name) - 3384645) // 100 for name in source.ids} for source in dataset.splits.values()]
    assert len(set.union(*blocks)) == sum(map(len, blocks))
    assert dataset.metric == "box_ap" and dataset.split_notes["test"].startswith("10% of all images, in blocks of 100")
    assert "3 objects of other classes left out" in dataset.split_notes["train"]


def test_the_shifted_images_are_the_cars_of_cityscapes(data):
    dataset = catalog.load("sim10k_to_cityscapes", root=data)
    assert list(dataset.splits) == ["train", "validation", "test", "shifted"]
    plain = catalog.load("sim10k", root=data)
    for split in ("train", "validation", "test"):
        assert dataset.splits[split].fingerprint == plain.splits[split].fingerprint
    assert dataset.version != plain.version and dataset.task == "detection" and dataset.metric == "box_ap"
    shifted = dataset.splits["shifted"]
    assert list(shifted.ids) == ["frankfurt_000000_000294", "munster_000010_000019"]
    scene = shifted[0]
    assert scene["image"].shape == (40, 80, 3)
    np.testing.assert_array_equal(scene["boxes"], [[60, 30, 80, 34], [5, 10, 25, 20], [15, 12, 35, 30]])
    assert scene["crowd"].tolist() == [True, False, False] and set(scene["classes"]) == {0}
    assert shifted[1]["boxes"].shape == (0, 4)
    areas = {tuple(one["bbox"]): one["area"] for one in coco.truth(shifted)["annotations"]}
    assert areas == {(60, 30, 20, 4): 80, (5, 10, 20, 10): 200 - 80, (15, 12, 20, 18): 360}  # what is seen
    few = catalog.load("sim10k_to_cityscapes", root=data, limit=1)
    assert {len(source) for source in few.splits.values()} == {1}


def test_visible_extents_not_whole_outlines(copy):
    """A car of which another hides the right half is as wide as what is seen of it."""
    file = next((copy / "cityscapes").rglob("frankfurt*instanceIds.png"))
    labels = np.asarray(Image.open(file)).copy()
    labels[:, 20:] = 26001
    Image.fromarray(labels).save(file)
    source = cityscapes.validation(copy / "cityscapes", ("car", "person"))
    assert source.classes == ("person", "car")  # by the numbers of Cityscapes
    np.testing.assert_array_equal(source[0]["boxes"], [[5, 10, 20, 20], [15, 0, 80, 40]])


def test_a_check_counts_what_the_card_says(data):
    problems = prepare.check("sim10k_to_cityscapes", data, sample=3).problems
    assert problems == ("train: 950 images, expected 10000", "shifted: 2 images, expected 500")


def test_archives_are_unpacked_from_where_the_user_puts_them(copy, tmp_path):
    root = tmp_path / "root"
    with pytest.raises(BobError, match=r"put both into .*root/downloads/sim10k, then `bob data prepare sim10k`"):
        catalog.load("sim10k", root=root)
    downloads = root / "downloads" / "sim10k"
    downloads.mkdir(parents=True)
    for name, folder in (("repro_10k_images.tgz", "JPEGImages"), ("repro_10k_annotations.tgz", "Annotations")):
        with tarfile.open(downloads / name, "w:gz") as archive:
            archive.add(copy / "sim10k" / "VOC2012" / folder, f"VOC2012/{folder}")
    dataset_folder = catalog.prepare("sim10k", root)
    assert dataset_folder == root / "sim10k" and len(sim10k.voc(dataset_folder / "VOC2012" / "Annotations").images) == 4
    with pytest.raises(BobError, match=r"no instance maps of Cityscapes in .*root/cityscapes/gtFine/val: register at"):
        catalog.load("sim10k_to_cityscapes", root=root)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", r"3384646.xml is damaged \(no element found"),
        ("<width>64</width>", "", r"3384646.xml is damaged \(no size/width\)"),
        ("<xmin>3</xmin>", "<xmin>left</xmin>", r"3384646.xml is damaged \(could not convert"),
        ("<xmin>3</xmin>", "<xmin>nan</xmin>", "annotation 0 of 3384646 in .* is damaged"),
        ("<name>person</name>", "", r"3384646.xml is damaged \(no name\)"),
        ("<height>32</height>", "<height>0</height>", "says image 3384646 has no size"),
    ],
)
def test_damaged_xml_is_one_line(copy, old, new, message):
    file = copy / "sim10k" / "VOC2012" / "Annotations" / "3384646.xml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(BobError, match=message) as caught:
        catalog.load("sim10k", root=copy)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files(copy):
    picture = copy / "sim10k" / "VOC2012" / "JPEGImages" / "3384646.jpg"
    picture.rename(picture.with_suffix(".gone"))
    with pytest.raises(
        BobError, match=r"1 of 4 images of .*Annotations are not in .*JPEGImages \(first: 3384646.jpg\)"
    ):
        whole(copy)
    picture.with_suffix(".gone").rename(picture)
    Image.new("RGB", (9, 9)).save(picture)
    with pytest.raises(BobError, match=r"3384646.jpg is 9 x 9 pixels, but .* says 64 x 32"):
        whole(copy)[1]
    instances = next((copy / "cityscapes").rglob("*instanceIds.png"))
    Image.new("RGB", (80, 40)).save(instances)
    with pytest.raises(BobError, match=r"instanceIds.png has colours"):
        cityscapes.validation(copy / "cityscapes", ("car",))
    instances.write_bytes(instances.read_bytes()[:50])
    with pytest.raises(BobError, match="cannot decode instance map"):
        cityscapes.validation(copy / "cityscapes", ("car",))
    shutil.rmtree(copy / "sim10k" / "VOC2012" / "Annotations")
    with pytest.raises(BobError, match=r"no annotations in .*Annotations: unpack the official archives"):
        whole(copy)
