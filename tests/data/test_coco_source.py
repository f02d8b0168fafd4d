"""COCO folders: the official format, tools' formats, and everything that is wrong with them."""

import json
import pickle

import numpy as np
import pytest
from coco_folder import annotations, square, write
from PIL import Image

from bob_jax.data import coco
from bob_jax.data.coco import CocoSource
from bob_jax.data.decode import CorruptImage
from bob_jax.errors import BobError


def _source(tmp_path, objects=None, **options) -> CocoSource:
    return CocoSource(write(tmp_path, objects), tmp_path / "train2017", **options)


def test_the_official_format(tmp_path):
    source = _source(tmp_path)
    assert source.classes == ("person", "car", "dog")  # in the order of ids 1, 3, 18
    assert source.ids == ["7", "42", "139"]
    np.testing.assert_array_equal(source.labels, [[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    scene = source[1]
    assert scene["image"].shape == (40, 60, 3)
    assert scene["id"] == "42"
    np.testing.assert_array_equal(scene["boxes"], [[10, 5, 30, 25], [50, 30, 60, 35]])  # the second is clipped
    assert scene["boxes"].dtype == np.float32
    np.testing.assert_array_equal(scene["classes"], [1, 2])
    assert not scene["crowd"].any()
    np.testing.assert_array_equal(scene["shapes"][0][0], [[10, 5], [30, 5], [30, 25], [10, 25]])
    empty = source[2]
    assert empty["boxes"].shape == (0, 4)
    assert empty["classes"].shape == (0,)


def test_run_length_codes_and_crowds(tmp_path):
    from pycocotools import mask as oracle

    objects = annotations()
    objects[3]["segmentation"] = oracle.frPyObjects(objects[3]["segmentation"], 50, 50)
    objects[3]["segmentation"]["counts"] = objects[3]["segmentation"]["counts"].decode()
    scene = _source(tmp_path, objects)[0]
    expected = np.zeros((50, 50), bool)
    expected[10:30, 5:8] = True
    for shape in scene["shapes"]:
        np.testing.assert_array_equal(shape, expected)
    np.testing.assert_array_equal(scene["crowd"], [False, True])


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # its own code
def test_images_and_masks_are_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    source = _source(tmp_path)
    oracle = COCO(write(tmp_path))
    for index, image in enumerate(source.ids):
        ours = source[index]["shapes"]
        theirs = oracle.loadAnns(oracle.getAnnIds(int(image)))
        assert len(ours) == len(theirs)
        for shape, one in zip(ours, theirs, strict=True):
            expected = oracle.annToMask(one).astype(bool)
            pixels = shape if isinstance(shape, np.ndarray) else coco.masks.pixels(shape, *expected.shape)
            np.testing.assert_array_equal(pixels, expected)


def test_classes_by_name(tmp_path):
    source = _source(tmp_path, classes=("car",), keep_empty=False)
    assert source.classes == ("car",)
    assert source.ids == ["42"]
    np.testing.assert_array_equal(source[0]["classes"], [0])
    assert source.left_out == {"objects of other classes": 3, "images without objects": 2}
    with pytest.raises(BobError, match=r"unknown class of instances_train2017.json 'cat': did you mean car"):
        _source(tmp_path, classes=("cat",))


def test_empty_images_stay_or_go(tmp_path):
    assert _source(tmp_path).ids == ["7", "42", "139"]
    assert _source(tmp_path, keep_empty=False).ids == ["7", "42"]
    only_crowd = [one for one in annotations() if one["image_id"] != 7 or one["iscrowd"]]
    assert _source(tmp_path, only_crowd, keep_empty=False).ids == ["42"]
    with pytest.raises(BobError, match="no image with objects"):
        _source(tmp_path, [], keep_empty=False)


def test_what_teaches_nothing_is_counted(tmp_path):
    more = [
        {"id": 10, "image_id": 42, "category_id": 1, "bbox": [3, 3, 0, 5], "segmentation": square(3, 3, 5)},
        {"id": 11, "image_id": 42, "category_id": 1, "bbox": [60, 3, 5, 5], "segmentation": square(60, 3, 5)},
        {"id": 12, "image_id": 42, "category_id": 1, "bbox": [3, -9, 5, 9], "segmentation": square(3, -9, 5)},
        {"id": 13, "image_id": 42, "category_id": 1, "bbox": [3, 3, 5, 5], "segmentation": []},
        {"id": 14, "image_id": 42, "category_id": 1, "bbox": [3, 3, 5, 5], "segmentation": [[1, 1, 2, 2]]},
    ]
    nothing = np.zeros((40, 60), bool)
    for number, code in enumerate((coco.masks.encode(nothing), {"size": [40, 60], "counts": [2400]}), 15):
        more.append({**more[3], "id": number, "segmentation": code})
    source = _source(tmp_path, annotations() + more)
    assert len(source[1]["boxes"]) == 2
    assert source.left_out == {"boxes without area": 1, "boxes outside of their image": 2, "objects without a mask": 4}
    assert len(source.truth()["annotations"]) == 4


def test_boxes_without_masks_are_their_own_shape(tmp_path):
    bare = [{name: one[name] for name in ("id", "image_id", "category_id", "bbox")} for one in annotations()]
    source = _source(tmp_path, bare)
    assert not source.has_masks
    np.testing.assert_array_equal(source[1]["shapes"][0][0], [[10, 5], [30, 5], [30, 25], [10, 25]])
    assert source.truth()["annotations"][0]["area"] == 60


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # its own code
def test_an_area_that_is_missing_is_the_masks_and_not_the_boxes(tmp_path):
    """Small, medium and large are by the mask's pixels: a thin diagonal in a large box is a small object."""
    from pycocotools.coco import COCO

    objects = annotations()
    objects[0]["segmentation"] = [[10, 5, 30, 20, 28, 24.5], [50, 30, 90, 30, 90, 35, 50, 35], [12, 5, 30, 20, 28, 25]]
    oracle = COCO(write(tmp_path, objects))
    expected = {number: int(oracle.annToMask(one).sum()) for number, one in oracle.anns.items()}
    for one in objects:
        del one["area"]
    objects[1]["area"] = objects[1]["iscrowd"] = None  # as some tools write them
    truth = _source(tmp_path, objects).truth()["annotations"]
    assert {one["id"]: one["area"] for one in truth} == pytest.approx(expected, abs=2)
    assert expected[0] < 200 < 20 * 20 and not truth[3]["iscrowd"]


def test_truth_is_what_the_metric_reads(tmp_path):
    from bob_jax.metrics.coco import Detections, evaluate

    source = _source(tmp_path)
    objects = [(row, n) for row in range(3) for n in range(len(source[row]["boxes"])) if not source[row]["crowd"][n]]
    scenes = [source[row] for row in range(3)]
    found = Detections(
        tuple(source.ids),
        np.array([row for row, _ in objects]),
        np.array([scenes[row]["classes"][n] for row, n in objects]),
        np.ones(len(objects)),
        np.array([scenes[row]["boxes"][n] for row, n in objects]),
        [coco.masks.encode(_pixels(scenes[row], n)) for row, n in objects],
    )
    assert evaluate(source.truth(), found, "mask", resamples=5)["mask_ap/person"].value == pytest.approx(1)
    boxes = evaluate(coco.truth(source), found, "box", resamples=5)
    assert boxes["box_ap/car"].value == pytest.approx(1)
    assert boxes["box_ap/dog"].value == pytest.approx(0.1)  # clipped to half of the file's own box: IoU 0.5


def _pixels(scene, n):
    shape = scene["shapes"][n]
    return shape if isinstance(shape, np.ndarray) else coco.masks.pixels(shape, *scene["image"].shape[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 8}, "object 0 in .*json is of image 8, which is not listed"),
        ({"category_id": 2}, "object 0 in .*json is of category 2, which is not listed"),
        ({"image_id": [8]}, "annotation 0 in .*json is damaged: it needs"),
        ({"category_id": {}}, "annotation 0 in .*json is damaged: it needs"),
        ({"area": float("nan")}, "annotation 0 in .*json is damaged: it needs"),
        ({"bbox": [1, 2, 3]}, "annotation 0 in .*json is damaged: it needs"),
        ({"bbox": [10**400, 2, 3, 4]}, "annotation 0 in .*json is damaged"),
        ({"bbox": [1, 2, 3, float("nan")]}, "annotation 0 in .*json is damaged"),
        ({"segmentation": [[1, 2, 3, 4, 5, "x"]]}, "bad polygon of object 0"),
    ],
)
def test_damaged_annotations_are_one_line(tmp_path, change, message):
    with pytest.raises(BobError, match=message) as error:
        _source(tmp_path, [{**annotations()[0], **change}])
    assert "\n" not in str(error.value)


def test_a_packed_copy_is_the_same_source(tmp_path):
    """What a worker process gets."""
    source = _source(tmp_path)
    again = pickle.loads(pickle.dumps(source))
    assert again.truth() == source.truth() and again.fingerprint == source.fingerprint
    for index in range(3):
        ours, theirs = source[index], again[index]
        for name in ("image", "boxes", "classes", "crowd", "label"):
            np.testing.assert_array_equal(ours[name], theirs[name])
        np.testing.assert_array_equal(ours["label"], source.labels[index])
    np.testing.assert_array_equal(again.labels, source.labels)


def test_a_corrupt_mask_names_its_object(tmp_path):
    objects = annotations()
    objects[2]["segmentation"] = {"size": [50, 50], "counts": [5, 6]}
    with pytest.raises(BobError, match=r"corrupt run-length mask of object 2 in .*json: its runs cover 11 pixels"):
        _source(tmp_path, objects)[0]
    objects[2]["segmentation"] = {"size": [1, 11], "counts": [5, 6]}
    with pytest.raises(BobError, match=r"mask of object 2 in .* is 11 x 1 pixels, its image 50 x 50"):
        _source(tmp_path, objects)[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not in COCO's format"),
        ('{"images": [], "annotations": {}, "categories": []}', "is not in COCO's format"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "entry in images without id, file_name"),
        ('{"images": [], "annotations": [], "categories": []}', "needs categories"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "id 1 twice in categories",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": "2", "name": "b"}]}',
            "numbers and texts as ids",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a", "height": 0, "width": 4}], "annotations": [], "categories": []}',
            "image 1 has no size",
        ),
        (
            '{"images": [{"id": 1, "file_name": 7, "height": 3, "width": 4}], "annotations": [], "categories": []}',
            "the file of image 1 is 7: want its name",
        ),
    ],
)
def test_damaged_files_are_one_line(tmp_path, content, message):
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(BobError, match=message):
        CocoSource(file, tmp_path)


@pytest.mark.parametrize("other", [{}, {"neg_category_ids": 5}])
def test_either_all_images_say_what_they_were_searched_for_or_none(tmp_path, other):
    image = {"id": 1, "file_name": "a", "height": 3, "width": 4}
    images = [{**image, **other}, {**image, "id": 2, "neg_category_ids": [3]}]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    with pytest.raises(BobError, match="has neg_category_ids, but no list of them for every image"):
        CocoSource(tmp_path / "a.json", tmp_path)


def test_missing_and_corrupt_files(tmp_path):
    with pytest.raises(BobError, match=r"cannot read annotations .*none.json"):
        CocoSource(tmp_path / "none.json", tmp_path)
    source = _source(tmp_path)
    path = tmp_path / "train2017" / "000000000007.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CorruptImage, match=r"000000000007.png"):
        source[0]
    Image.new("RGB", (9, 9)).save(path)
    with pytest.raises(BobError, match=r"000000000007.png is 9 x 9 pixels, but .* says 50 x 50"):
        source[0]
    path.unlink()
    with pytest.raises(BobError, match=r"1 of 3 images of .* are not in .*train2017 \(first: 000000000007.png\)"):
        CocoSource(tmp_path / "annotations" / "instances_train2017.json", tmp_path / "train2017")


def test_a_picture_labelled_as_it_is_shown_is_turned_as_its_size_says(tmp_path):
    source = _source(tmp_path)
    path = tmp_path / "train2017" / "000000000042.png"
    with Image.open(path) as image:
        upright = np.asarray(image)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(upright)).save(path, exif=turned)
    np.testing.assert_array_equal(source[1]["image"], upright)
    Image.fromarray(upright).save(path, exif=turned)  # labelled as it is stored
    np.testing.assert_array_equal(source[1]["image"], upright)


def test_fingerprints_tell_what_was_chosen(tmp_path):
    same = {_source(tmp_path).fingerprint for _ in range(2)}
    others = {
        _source(tmp_path, classes=("car",)).fingerprint,
        _source(tmp_path, keep_empty=False).fingerprint,
        _source(tmp_path, annotations()[:3]).fingerprint,
    }
    assert len(same) == 1
    assert len(same | others) == 4


def test_a_folder_holds_out_validation(tmp_path):
    write(tmp_path)
    write(tmp_path, split="val2017")
    dataset = coco.load(tmp_path)
    assert dataset.task == "detection"
    assert dataset.metric == "mask_ap"
    assert dataset.classes == ("person", "car", "dog")
    train, validation, test = (dataset.splits[split] for split in ("train", "validation", "test"))
    assert sorted([*train.ids, *validation.ids]) == ["42", "7"]  # the empty image does not train
    assert list(test.ids) == ["7", "42", "139"]
    assert dataset.split_notes["train"].startswith("instances_train2017.json; 1 images without objects left out")
    part = coco.truth(validation)
    assert [image["id"] for image in part["images"]] == list(validation.ids)
    assert {one["image_id"] for one in part["annotations"]} == set(validation.ids)


def test_a_folder_of_a_labelling_tool(tmp_path):
    for split in ("train", "valid", "test"):
        file = write(tmp_path, split=split)
        file.rename(tmp_path / split / "_annotations.coco.json")
    (tmp_path / "annotations").rmdir()
    dataset = coco.load(tmp_path, classes=("car", "dog"))
    assert {split: len(source) for split, source in dataset.splits.items()} == {"train": 1, "validation": 3, "test": 3}


def test_folders_that_lack_something(tmp_path):
    with pytest.raises(BobError, match="no training annotations in"):
        coco.load(tmp_path)
    file = write(tmp_path)
    with pytest.raises(BobError, match="none of validation or test"):
        coco.load(tmp_path)
    write(tmp_path, split="val2017", images="elsewhere")
    with pytest.raises(BobError, match=r"but not its images in .*val2017"):
        coco.load(tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / "val2017")
    other = json.loads(file.read_text())
    other["categories"][0]["name"] = "cat"
    file.write_text(json.dumps(other))
    with pytest.raises(BobError, match="has other classes than"):
        coco.load(tmp_path)
