"""AP against pycocotools, its intervals against the evaluator on images that are really there twice, and merging."""

import contextlib
import io

import numpy as np
import pytest

from bob_jax.errors import BobError
from bob_jax.metrics import coco
from bob_jax.metrics.coco import Detections, evaluate, merge

SIDE = 200
CLASSES = ("cat", "dog", "yak", "zebu")  # nobody has a zebu


def _box_polygon(box):
    left, top, width, height = box
    return [[left, top, left + width, top, left + width, top + height, left, top + height]]


def _scene(seed: int, images: int = 12):
    """Random objects of all sizes, crowds among them, and detections near them and elsewhere; scores have ties."""
    from pycocotools import mask as run_length

    rng = np.random.default_rng(seed)
    truth = {
        "images": [{"id": 7 * row + 3, "height": SIDE, "width": SIDE} for row in range(images)],
        "categories": [{"id": row, "name": name} for row, name in enumerate(CLASSES)],
        "annotations": [],
    }
    found = []
    for row, image in enumerate(truth["images"]):
        for _ in range(rng.integers(0, 7)):
            size = rng.choice([15, 60, 110]) * rng.uniform(0.8, 1.2, 2)
            box = [*rng.uniform(0, SIDE - size), *size]
            label = int(rng.integers(0, 3))
            crowd = int(rng.random() < 0.15)
            outline = _box_polygon(box)
            if crowd:
                outline = run_length.merge(run_length.frPyObjects(outline, SIDE, SIDE))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]),  # from 0, as users' files have it
                    "image_id": image["id"],
                    "category_id": label,
                    "bbox": box,
                    "area": float(size[0] * size[1]),
                    "iscrowd": crowd,
                    "segmentation": outline,
                }
            )
            for _ in range(rng.integers(0, 4)):
                near = np.array(box) + rng.normal(0, 0.06, 4) * size[[0, 1, 0, 1]]
                found.append((row, label if rng.random() < 0.9 else 1, round(rng.random(), 2), near))
        for _ in range(rng.integers(0, 3)):
            found.append((row, int(rng.integers(0, 4)), round(rng.random(), 2), rng.uniform(20, 90, 4)))
    boxes = np.array([box for *_, box in found])
    outlines = [run_length.frPyObjects(_box_polygon(box.tolist()), SIDE, SIDE)[0] for box in boxes]
    boxes[:, 2:] += boxes[:, :2]
    image, label, score = (np.array([row[column] for row in found]) for column in range(3))
    ids = tuple(str(image["id"]) for image in truth["images"])
    return truth, Detections(ids, image, label, score, boxes, outlines)


def _pycocotools(truth, found: Detections, kind: str) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO()
        numbered = [{**one, "id": one["id"] + 1} for one in truth["annotations"]]
        objects.dataset = {**truth, "annotations": numbered}
        objects.createIndex()
        answers = []
        for row, (image, label, score) in enumerate(zip(found.image, found.label, found.score, strict=True)):
            left, top, right, bottom = found.boxes[row].tolist()
            one = {"image_id": int(found.images[image]), "category_id": int(label), "score": float(score)}
            shape = {"bbox": [left, top, right - left, bottom - top]}
            answers.append(one | (shape if kind == "box" else {"segmentation": dict(found.masks[row])}))
        run = COCOeval(objects, objects.loadRes(answers), {"box": "bbox", "mask": "segm"}[kind])
        run.evaluate()
        run.accumulate()
        run.summarize()
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    scores = {f"{kind}_{name}": float(value) for name, value in zip(names, run.stats, strict=False)}
    for row, name in enumerate(CLASSES[:3]):
        precision = run.eval["precision"][:, :, row, 0, 2]
        scores[f"{kind}_ap/{name}"] = float(precision[precision > -1].mean())
    return scores


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_pycocotools(kind, seed):
    truth, found = _scene(seed)
    scores = evaluate(truth, found, kind, resamples=10)
    expected = _pycocotools(truth, found, kind)
    assert scores.keys() == expected.keys()  # the class without objects has no score
    for name, value in expected.items():
        assert abs(scores[name].value - value) < 1e-9, name
    assert 0.1 < scores[f"{kind}_ap"].value < 0.95


def _drawn(truth, found: Detections, times: np.ndarray):
    """The data set in which image i is there times[i] times, under ids of its own."""
    copies = np.repeat(np.arange(len(times)), times)
    images, annotations, rows, image = [], [], [], []
    for new, old in enumerate(copies):
        images.append({**truth["images"][old], "id": new})
        for one in truth["annotations"]:
            if one["image_id"] == truth["images"][old]["id"]:
                annotations.append({**one, "image_id": new, "id": len(annotations)})
        mine = np.flatnonzero(found.image == old)
        rows.extend(mine)
        image.extend([new] * len(mine))
    ids = tuple(str(new) for new in range(len(copies)))
    masks = [found.masks[row] for row in rows]
    many = Detections(ids, np.array(image), found.label[rows], found.score[rows], found.boxes[rows], masks)
    return {**truth, "images": images, "annotations": annotations}, many


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_a_draw_scores_as_a_data_set_with_images_repeated(kind):
    truth, found = _scene(5)
    rng = np.random.default_rng(0)
    ties = Detections(found.images, found.image, found.label, rng.permutation(len(found.score)) / 1e3, found.boxes)
    found = Detections(ties.images, ties.image, ties.label, ties.score, ties.boxes, found.masks)  # no equal scores
    n = len(found.images)
    times = np.stack([rng.multinomial(n, np.full(n, 1 / n)) for _ in range(6)])
    matches, _ = coco._match(truth, found, kind)
    scores = matches.scores(times.astype(np.float64))
    for row, counts in enumerate(times):
        _, reference = coco._match(*_drawn(truth, found, counts), kind)
        np.testing.assert_allclose(scores[row], reference, rtol=0, atol=1e-9)
    assert len(np.unique(scores[:, 0])) == len(times)


def test_intervals_hold_the_score_and_do_not_depend_on_blocks(monkeypatch):
    truth, found = _scene(6)
    whole = evaluate(truth, found, "box", resamples=200)
    for estimate in whole.values():
        assert estimate.low <= estimate.high
        assert estimate.n == 12
    assert whole["box_ap"].low < whole["box_ap"].value < whole["box_ap"].high
    monkeypatch.setattr("bob_jax.metrics.bootstrap.BLOCK", 12 * 7)
    assert evaluate(truth, found, "box", resamples=200) == whole


def test_nothing_found_is_zero():
    truth, found = _scene(1)
    none = np.zeros(0, np.int64)
    nothing = Detections(found.images, none, none, np.zeros(0), np.zeros((0, 4)), [])
    for kind in ("box", "mask"):
        scores = evaluate(truth, nothing, kind, resamples=5)
        assert {estimate.value for estimate in scores.values()} == {0.0}


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_where_there_is_no_object_there_is_no_score(kind):
    truth, found = _scene(1)
    for annotations in ([], [one for one in truth["annotations"] if one["iscrowd"]]):
        assert evaluate({**truth, "annotations": annotations}, found, kind, resamples=5) == {}


def test_what_is_perfect_is_one():
    truth, _ = _scene(2)
    alone = {**truth, "annotations": [one for one in truth["annotations"] if not one["iscrowd"]]}
    position = {image["id"]: row for row, image in enumerate(truth["images"])}
    boxes = np.array([one["bbox"] for one in alone["annotations"]])
    boxes[:, 2:] += boxes[:, :2]
    perfect = Detections(
        tuple(str(image["id"]) for image in truth["images"]),
        np.array([position[one["image_id"]] for one in alone["annotations"]]),
        np.array([one["category_id"] for one in alone["annotations"]]),
        np.full(len(boxes), 0.9),
        boxes,
    )
    scores = evaluate(alone, perfect, "box", resamples=20)
    assert scores["box_ap"].low == scores["box_ap"].high == 1


def _part(found: Detections, images: list[int]) -> Detections:
    rows = np.flatnonzero(np.isin(found.image, images))
    image = np.array([images.index(row) for row in found.image[rows]])
    names = tuple(found.images[row] for row in images)
    masks = [found.masks[row] for row in rows]
    return Detections(names, image, found.label[rows], found.score[rows], found.boxes[rows], masks)


def test_parts_of_several_processes_merge_to_the_whole():
    truth, found = _scene(3)
    parts = [_part(found, [10, 0, 5, 6, 7]), _part(found, [1, 2, 3, 4, 8, 9, 11])]
    merged = merge(parts, found.images)
    assert merged.images == found.images
    np.testing.assert_array_equal(merged.boxes, found.boxes)
    assert list(merged.masks) == list(found.masks)
    assert evaluate(truth, merged, "mask", resamples=5) == evaluate(truth, found, "mask", resamples=5)


def test_every_image_exactly_once():
    truth, found = _scene(3)
    some, rest = _part(found, list(range(5))), _part(found, list(range(5, 12)))
    with pytest.raises(BobError, match=r"no detections from 7 images \(first: 38\)"):
        merge([some], found.images)
    with pytest.raises(BobError, match="image '3' was looked at twice"):
        merge([some, rest, some], found.images)
    with pytest.raises(BobError, match="image '73', which is not in the split"):
        merge([some, rest], found.images[:10])
    with pytest.raises(BobError, match="no detections from 7 images"):
        evaluate(truth, some, "box")
    with pytest.raises(BobError, match="no masks"):
        evaluate(truth, Detections(found.images, found.image, found.label, found.score, found.boxes), "mask")


def _federated(seed: int):
    """What a data set is in which a few classes were looked for in each image, LVIS's way and ours."""
    rng = np.random.default_rng(seed)
    truth, found = _scene(seed, images=30)
    kept = [one for one in truth["annotations"] if not one["iscrowd"]]  # LVIS has no crowds
    images, regions = [], []
    listed = {one["image_id"] for one in kept}  # an image without objects trips the evaluator's LVIS mode
    taken = [row for row, image in enumerate(truth["images"]) if image["id"] in listed]
    found = _part(found, taken)
    for image in (truth["images"][row] for row in taken):
        there = {one["category_id"] for one in kept if one["image_id"] == image["id"]}
        vain = [label for label in range(4) if label not in there and rng.random() < 0.4]
        many = [label for label in there if rng.random() < 0.4]
        images.append({**image, "neg_category_ids": vain, "not_exhaustive_category_ids": many})
        for label in many:
            regions.append(
                {"id": 10**6 + len(regions), "image_id": image["id"], "category_id": label, "iscrowd": 1}
                | {"bbox": [-SIDE, -SIDE, 3 * SIDE, 3 * SIDE], "area": 9.0 * SIDE**2}  # what sticks out is in it too
                | {"segmentation": _box_polygon([0, 0, SIDE, SIDE])}
            )
    categories = [{**one, "frequency": "rcfc"[one["id"]]} for one in truth["categories"]]
    theirs = {"images": images, "categories": categories, "annotations": kept}
    return theirs, {**theirs, "annotations": kept + regions}, found


def _lvis(truth, found: Detections, kind: str) -> dict[str, float]:
    from faster_coco_eval import COCO, COCOeval_faster
    from pycocotools import mask

    answers = []
    for row in range(len(found.image)):
        left, top, right, bottom = found.boxes[row].tolist()
        answers.append(
            {"id": row + 1, "image_id": int(found.images[found.image[row]]), "category_id": int(found.label[row]) + 1}
            | {"score": float(found.score[row]), "bbox": [left, top, right - left, bottom - top], "iscrowd": 0}
            | {"segmentation": found.masks[row]}
            | {"area": (right - left) * (bottom - top) if kind == "box" else float(mask.area(found.masks[row]))}
        )
    later = [{**one, "id": one["id"] + 1, "category_id": one["category_id"] + 1} for one in truth["annotations"]]
    categories = [{**one, "id": one["id"] + 1} for one in truth["categories"]]
    images = [
        image | {name: [label + 1 for label in image[name]] for name in image if name.endswith("category_ids")}
        for image in truth["images"]
    ]
    objects = COCO({"images": images, "categories": categories, "annotations": later})
    found_ones = COCO({"images": images, "categories": categories, "annotations": answers})
    iou_type = {"box": "bbox", "mask": "segm"}[kind]
    run = COCOeval_faster(objects, found_ones, iouType=iou_type, lvis_style=True, print_function=lambda *_: None)
    run.params.maxDets = [300]
    run.evaluate()
    run.accumulate()
    run.summarize()
    names = {"ap": "AP_all", "ap50": "AP_50", "ap75": "AP_75", "ap_rare": "APr", "ap_common": "APc"}
    names |= {f"ap_{area}": f"AP_{area}" for area in ("small", "medium", "large")} | {"ap_frequent": "APf"}
    return {f"{kind}_{name}": float(run.stats_as_dict[theirs]) for name, theirs in names.items()}


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(3))
def test_federated_scores_are_those_of_the_evaluators_lvis_mode(kind, seed):
    """A region over the whole image says that not all objects of a class are marked there."""
    theirs, ours, found = _federated(seed)
    scores = evaluate(ours, found, kind, resamples=10)
    expected = _lvis(theirs, found, kind)
    for name, value in expected.items():
        assert abs(scores[name].value - value) < 1e-9, name
    every = [{name: image[name] for name in ("id", "height", "width")} for image in ours["images"]]
    plain = evaluate({**ours, "images": every}, found, kind, resamples=5)
    assert abs(plain[f"{kind}_ap"].value - scores[f"{kind}_ap"].value) > 1e-3  # it makes a difference
    assert scores[f"{kind}_ap"].low < scores[f"{kind}_ap"].value < scores[f"{kind}_ap"].high
    assert not any(name.endswith("zebu") for name in scores)


def test_a_class_that_nobody_looked_for_has_no_score():
    _, truth, found = _federated(4)
    for image in truth["images"]:
        image["neg_category_ids"] = [label for label in image["neg_category_ids"] if label != 3]
    assert (found.label == 3).any()
    scores = evaluate(truth, found, "box", resamples=5)
    assert "box_ap/zebu" not in scores and "box_ap/cat" in scores
