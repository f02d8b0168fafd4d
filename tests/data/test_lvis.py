"""LVIS: images by their address, rare classes that all train, and scores of what somebody looked for."""

import json
import zipfile
from pathlib import Path

import detection_trees
import numpy as np
import pytest

from bob_jax.data import catalog, coco, prepare
from bob_jax.data.cards.card import Official, Part
from bob_jax.errors import BobError
from bob_jax.metrics.coco import Detections, evaluate


def objects_of(image: int, *categories: int) -> list[dict]:
    return [
        {"image_id": image, "category_id": category, "bbox": [4.0 + 25 * n, 6.0 + n, 20.0, 30.0]}
        for n, category in enumerate(categories)
    ]


@pytest.fixture
def root(tmp_path) -> Path:
    train = [{"id": number, "folder": "train2017"} for number in range(1, 41)]
    objects = [one for number in range(1, 40) for one in objects_of(number, 2, 5 if number in (7, 21) else 3)]
    detection_trees.lvis(tmp_path, "train", train, objects)  # image 40 holds nothing
    detection_trees.lvis(
        tmp_path,
        "val",
        [
            {"id": 50, "folder": "val2017", "neg_category_ids": [3], "not_exhaustive_category_ids": [2]},
            {"id": 51, "folder": "train2017", "neg_category_ids": [5]},
            {"id": 52, "folder": "val2017", "neg_category_ids": [2, 3]},
        ],
        [*objects_of(50, 2, 2), *objects_of(51, 3)],
    )
    return tmp_path


def test_images_are_found_by_their_address(root):
    dataset = catalog.load("lvis", root=root)
    assert dataset.classes == ("bow_(weapon)", "cup", "yak") and dataset.metric == "mask_ap"
    train, validation, test = (dataset.splits[split] for split in ("train", "validation", "test"))
    assert len(train) + len(validation) == 39 and len(validation) == 2  # 4 % of the 37 without a rare class
    assert not set(train.ids) & set(validation.ids) and {"7", "21"} <= set(train.ids)
    assert train.labels[:, 2].sum() == 2 and not validation.labels[:, 2].any()
    assert list(test.ids) == ["50", "51", "52"]
    scene = test[1]
    assert scene["image"].shape == (60, 80, 3)
    np.testing.assert_array_equal(scene["boxes"], [[4, 6, 24, 36]])
    assert "; 1 images without objects left out" in dataset.split_notes["train"]
    assert "without rare classes" in dataset.split_notes["validation"]


def test_the_truth_says_what_was_looked_for(root):
    truth = coco.truth(catalog.load("lvis", root=root).splits["test"])
    assert [image["neg_category_ids"] for image in truth["images"]] == [[1], [2], [0, 1]]  # as labels
    assert [category["frequency"] for category in truth["categories"]] == ["f", "c", "r"]
    (region,) = (one for one in truth["annotations"] if one["iscrowd"])
    assert (region["image_id"], region["category_id"]) == ("50", 0)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_scores_count_what_was_looked_for(root, kind):
    """Image 50 is not marked exhaustively for bows; nobody looked for cups in 52, nor for yaks in 50."""
    test = catalog.load("lvis", root=root).splits["test"]
    right = [(0, 0, 0.9, [4, 6, 24, 36]), (0, 0, 0.8, [29, 7, 49, 37]), (1, 1, 0.9, [4, 6, 24, 36])]
    nothing = [50.0, 40.0, 70.0, 55.0]

    def score(*more):
        found = [*right, *more]
        outlines = [_mask(box) for *_, box in found]
        columns = [np.array([row[column] for row in found]) for column in range(4)]
        estimates = evaluate(coco.truth(test), Detections(("50", "51", "52"), *columns, outlines), kind, resamples=5)
        return {name: estimate.value for name, estimate in estimates.items()}

    perfect = score()
    assert perfect[f"{kind}_ap"] == pytest.approx(1) and f"{kind}_ap/yak" not in perfect
    assert perfect[f"{kind}_ap_frequent"] == perfect[f"{kind}_ap_common"] == pytest.approx(1)
    assert score((0, 0, 1.0, nothing)) == pytest.approx(perfect)  # there may be more bows
    assert score((0, 2, 1.0, nothing), (1, 0, 1.0, nothing)) == pytest.approx(perfect)  # nobody looked
    assert score((2, 0, 1.0, nothing))[f"{kind}_ap/bow_(weapon)"] < 0.7  # somebody looked, in vain
    assert score((0, 1, 1.0, nothing))[f"{kind}_ap/cup"] == pytest.approx(0.5)


def _mask(box):
    pixels = np.zeros((60, 80), bool)
    left, top, right, bottom = (int(edge) for edge in box)
    pixels[top:bottom, left:right] = True
    return coco.masks.encode(pixels)


def test_a_check_counts_images_and_lets_rare_classes_be(root):
    problems = prepare.check("lvis", root).problems
    assert "train: 40 images, expected 100170" in problems and "test: 3 images, expected 19809" in problems
    assert "3 classes, expected 1203" in problems and len(problems) == 3


def test_annotations_are_fetched_and_images_are_cocos(root, tmp_path, monkeypatch):
    parts = []
    for part in ("train", "val"):
        with zipfile.ZipFile(tmp_path / f"lvis_v1_{part}.json.zip", "w") as archive:
            archive.write(root / "lvis" / f"lvis_v1_{part}.json", f"lvis_v1_{part}.json")
        parts.append(Part((tmp_path / f"lvis_v1_{part}.json.zip").as_uri()))
    card = catalog.CARDS["lvis"]
    served = catalog.dataclasses.replace(card, source=Official(card.source.read, tuple(parts)))
    monkeypatch.setitem(catalog.CARDS, "lvis", served)
    other = tmp_path / "other"
    with pytest.raises(BobError, match=r"lvis is on COCO's images, which are not in .*other/coco"):
        catalog.load("lvis", root=other)
    (other / "coco").symlink_to(root / "coco")
    assert len(catalog.load("lvis", root=other).splits["test"]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held["images"][0].pop("coco_url"), "is not in LVIS's format: an image needs coco_url"),
        (lambda held: held["images"][0].update(neg_category_ids=None), "is not in LVIS's format"),
        (lambda held: held["images"][0].update(not_exhaustive_category_ids=[77]), "is of category 77, which is not"),
        (lambda held: held["images"].append(held["images"][0]), "id 50 twice in images"),
        (lambda held: held["annotations"][0].update(image_id=4), "is of image 4, which is not listed"),
        (
            lambda held: held["images"][0].update(coco_url="http://images.cocodataset.org/val2017/9.jpg"),
            r"1 of 3 images of .*lvis_v1_val.json are not in .*coco \(first: val2017/9.jpg\)",
        ),
    ],
)
def test_damaged_files_are_one_line(root, change, message):
    file = root / "lvis" / "lvis_v1_val.json"
    held = json.loads(file.read_text())
    change(held)
    file.write_text(json.dumps(held))
    with pytest.raises(BobError, match=message) as caught:
        catalog.load("lvis", root=root)
    assert "\n" not in str(caught.value)
