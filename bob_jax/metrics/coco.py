"""Average precision of detections as COCO defines it, with bootstrap intervals over images.

The scores of the test set are faster-coco-eval's, a compiled twin of pycocotools. Its matches of detections with
objects do not depend on which other images are there, so they are found once; a bootstrap draw then only counts each
image's matches as often as it was drawn. The area under the precision-recall curve follows from the true positives
alone: with the detections in the order of their scores, precision at true positive j is (j + 1) / (detections so far),
its envelope is the running maximum from the right, and AP is the mean of the envelope over the 101 recalls 0, 0.01, ...
For a thousand draws at once this is one sparse product (detections between true positives, by image) and three
accumulations. On the undrawn test set it must give the evaluator's own value: `evaluate` checks that every time.

Where not every class was looked for in every image (LVIS, arXiv 1908.03195), a class is scored on the images in which
somebody looked for it: those that hold it, and those whose `neg_category_ids` name it. Each class is then evaluated by
itself, for of a thousand classes few concern an image.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy import sparse

from bob_jax.errors import BobError
from bob_jax.metrics.bootstrap import LEVEL, RESAMPLES, Estimate, replicates

Kind = Literal["box", "mask"]

IOUS = 10  # thresholds 0.5, 0.55, ..., 0.95
AREAS = ("all", "small", "medium", "large")  # in pixels: below 32^2, between, above 96^2
RECALLS = np.linspace(0, 1, 101)
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}  # LVIS's groups of classes
MOST = 300  # detections of a class in an image where classes are scored by themselves, as LVIS allows; 100 otherwise
AGREEMENT = 1e-9


@dataclasses.dataclass(frozen=True)
class Detections:
    """What a detector found, on all images or on one process's part of them.

    Attributes:
        images: ids of the images looked at, also of those where nothing was found.
        image: [N] int, position in `images` of each detection.
        label: [N] int, class.
        score: [N] float, higher is surer. A class keeps the 100 surest of an image.
        boxes: [N, 4] float, left, top, right, bottom in pixels of the image file.
        masks: [N] COCO run-length codes {"size": [height, width], "counts": bytes or str}; None for boxes alone.
    """

    images: tuple[str, ...]
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    masks: Sequence[Mapping[str, Any]] | None = None


def merge(parts: Sequence[Detections], images: Sequence[str]) -> Detections:
    """The detections of several processes as one, images in the order wanted.

    Args:
        parts: one or more, with masks or all without.
        images: ids that must have been looked at, each once.

    Raises:
        BobError: an image in no part, in two, or in none of `images`.
    """
    position = {name: row for row, name in enumerate(images)}
    seen: set[str] = set()
    for name in (name for part in parts for name in part.images):
        if name in seen:
            raise BobError(f"image '{name}' was looked at twice: give each process its own part of the images")
        if name not in position:
            raise BobError(f"detections on image '{name}', which is not in the split: evaluate the split itself")
        seen.add(name)
    if missing := [name for name in images if name not in seen]:
        raise BobError(f"no detections from {len(missing)} images (first: {missing[0]}): every image must be looked at")
    image = [np.array([position[name] for name in part.images], np.int64)[part.image] for part in parts]
    order = np.argsort(np.concatenate(image), kind="stable")
    masks = [mask for part in parts for mask in part.masks or ()]
    if masks and len(masks) != len(order):
        raise BobError("some processes sent masks and others did not: evaluate all with the same settings")
    label, score, boxes = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("label", "score", "boxes")
    )
    return Detections(
        images=tuple(images),
        image=np.concatenate(image)[order],
        label=label[order],
        score=score[order],
        boxes=boxes[order],
        masks=[masks[row] for row in order] if all(part.masks is not None for part in parts) else None,
    )


def evaluate(
    truth: Mapping[str, Any], found: Detections, kind: Kind, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Average precision with its 95 % intervals over test images: `scored(...).estimates()`."""
    return scored(truth, found, kind, resamples=resamples, seed=seed).estimates()


def scored(
    truth: Mapping[str, Any], found: Detections, kind: Kind, *, resamples: int = RESAMPLES, seed: int = 0
) -> "Scored":
    """Average precision of a test set and of bootstrap draws of its images.

    Args:
        truth: the objects in COCO's format: "images" (id, height, width), "annotations" (image_id, category_id, bbox
            [left, top, width, height], area, iscrowd; segmentation for masks) and "categories" (id, name). Category ids
            are class numbers. Images with neg_category_ids are judged for these and for the classes they hold alone;
            categories may have LVIS's frequency, "r", "c" or "f".
        found: on each of these images, once.
        kind: whether overlap is of boxes or of masks.
        resamples: bootstrap draws.
        seed: of the draws.

    Returns:
        `{kind}_ap` over IoU 0.5 to 0.95, `{kind}_ap50`, `{kind}_ap75`, `{kind}_ap_small`, `_medium` and `_large`,
        `{kind}_ap_rare`, `_common` and `_frequent` where classes have frequencies, and `{kind}_ap/NAME` of each class.

    Raises:
        BobError: images that do not fit, masks missing, or faster-coco-eval is not installed.
    """
    matches, reference = _match(truth, merge([found], [str(image["id"]) for image in truth["images"]]), kind)
    names = [f"{kind}_{name}" for name in ("ap", "ap50", "ap75", *(f"ap_{area}" for area in AREAS[1:]))]
    names += [f"{kind}_ap_{FREQUENCIES[frequency]}" for frequency in _groups(truth)]
    names += [f"{kind}_ap/{category['name']}" for category in _categories(truth)]
    n = len(truth["images"])
    value = matches.scores(np.ones((1, n)))[0]
    if not np.allclose(value, reference, rtol=0, atol=AGREEMENT, equal_nan=True):
        raise BobError("the intervals do not agree with faster-coco-eval: report its version as an error of bob_jax")
    return Scored(names, reference, replicates(matches.scores, n, resamples, seed), n)


def lost(clean: "Scored", shifted: "Scored") -> Estimate | None:
    """What average precision loses on images of another kind than those of training: clean less shifted.

    Args:
        clean: scores of images like those of training.
        shifted: of the others, drawn with another seed, so that the interval draws both test sets independently.

    Returns:
        None where one of them holds no object.
    """
    difference = clean.drawn[:, 0] - shifted.drawn[:, 0]
    if np.isnan(difference).all():
        return None
    low, high = np.nanquantile(difference, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = float(clean.reference[0] - shifted.reference[0])
    return Estimate(value, float(low), float(high), clean.images + shifted.images)


@dataclasses.dataclass(frozen=True)
class Scored:
    """All scores of a test set.

    Attributes:
        names: of the scores; `{kind}_ap` first.
        reference: [S], the evaluator's values; nan where there is no object.
        drawn: [R, S], on bootstrap draws: of equal seeds and numbers of images the same draws for every detector.
        images: number of images.
    """

    names: Sequence[str]
    reference: np.ndarray
    drawn: np.ndarray
    images: int

    def estimates(self) -> dict[str, Estimate]:
        """Those that there are objects for, with their 95 % intervals over test images, by name."""
        there = np.flatnonzero(~np.isnan(self.reference))
        if not len(there):
            return {}
        low, high = np.nanquantile(self.drawn[:, there], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        names, values = [self.names[column] for column in there.tolist()], self.reference[there].tolist()
        return {
            name: Estimate(value, float(low[row]), float(high[row]), self.images)
            for row, (name, value) in enumerate(zip(names, values, strict=True))
        }


def score(truth: Mapping[str, Any], found: Detections, kind: Kind) -> float:
    """`{kind}_ap` alone, as `evaluate` gives it, without its interval; nan where there is no object."""
    _, reference = _match(truth, merge([found], [str(image["id"]) for image in truth["images"]]), kind)
    return float(reference[0])


@dataclasses.dataclass(frozen=True)
class _Curve:
    """One precision-recall curve, by images.

    Attributes:
        hits: [J] int, the image of each true positive, the surest first.
        between: [J, N] counts of detections of each image since the true positive before, this one included;
            those that are ignored (they match a crowd, or an object of another size) are not counted.
        objects: [N] int, objects to be found in each image.
    """

    hits: np.ndarray
    between: sparse.csr_array
    objects: np.ndarray

    @classmethod
    def empty(cls) -> "_Curve":
        """That of no images."""
        return cls(np.zeros(0, np.int64), sparse.csr_array((0, 0)), np.zeros(0))

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Weights [N, R] -> [R]; nan where there is no object.

        An image drawn twice has its detections twice, next to each other. A true positive of weight 0 repeats the
        recall before it, so that no recall level is read there.
        """
        objects = self.objects @ weights
        there = objects > 0
        if not len(self.hits):
            return np.where(there, 0.0, np.nan)
        found = np.cumsum(weights[self.hits], axis=0)
        precision = found / np.maximum(np.cumsum(self.between @ weights, axis=0), 1)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        reached = np.searchsorted(RECALLS, found / np.where(there, objects, 1), side="right")
        levels = np.diff(reached, axis=0, prepend=0)
        return np.where(there, (levels * envelope).sum(axis=0) / len(RECALLS), np.nan)


@dataclasses.dataclass(frozen=True)
class _Matches:
    """All curves of a test set.

    Attributes:
        curves: [class][area][IoU threshold].
        images: [class] positions in the test set of the images that its curves count, all when None.
        groups: positions of the classes of each frequency.
    """

    curves: Sequence[Sequence[Sequence[_Curve]]]
    images: Sequence[np.ndarray | None]
    groups: Sequence[Sequence[int]]

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """Weights [R, N] -> [R, 6 + G + K] in the order of `evaluate`."""
        by_image = np.ascontiguousarray(weights.T)
        table = []
        for one_class, images in zip(self.curves, self.images, strict=True):
            mine = by_image if images is None else by_image[images]
            table.append([[curve.average_precision(mine) for curve in area] for area in one_class])
        return _summary(np.array(table), self.groups).T


def _summary(table: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """AP by class, area, IoU threshold and draw [K, A, T, R] -> the scores [6 + G + K, R]."""
    over_ious = table.mean(axis=2)
    columns = [over_ious[:, 0], table[:, 0, 0], table[:, 0, 5], *(over_ious[:, area] for area in range(1, len(AREAS)))]
    columns += [over_ious[list(group), 0] for group in groups]
    return np.concatenate([np.stack([_nanmean(column) for column in columns]), over_ious[:, 0]])


def _nanmean(values: np.ndarray) -> np.ndarray:
    """[K, R] -> [R]: the mean over the classes that have objects; nan where none has."""
    count = (~np.isnan(values)).sum(axis=0)
    return np.where(count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan)


def _match(truth: Mapping[str, Any], found: Detections, kind: Kind) -> tuple[_Matches, np.ndarray]:
    """The curves, and the scores [6 + K] of the evaluator itself."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise BobError("scores of detections need faster-coco-eval: pip install 'bob_jax[detection]'") from error
    sizes = [{"id": row, "height": im["height"], "width": im["width"]} for row, im in enumerate(truth["images"], 1)]
    categories = [{"id": row, "name": str(category["name"])} for row, category in enumerate(_categories(truth), 1)]
    objects = COCO({"images": sizes, "categories": categories, "annotations": list(_objects(truth, kind))})
    answers = COCO({"images": sizes, "categories": categories, "annotations": list(_answers(truth, found, kind))})
    judged = _judged(truth)
    curves: list[list[list[_Curve]]] = []
    precisions = []
    for part in [None] if judged is None else range(len(categories)):
        run = COCOeval_faster(objects, answers, iouType={"box": "bbox", "mask": "segm"}[kind], separate_eval=True)
        if judged is not None and part is not None:
            if not len(judged[part]):  # nobody looked for it
                curves.append([[_Curve.empty()] * IOUS] * len(AREAS))
                precisions.append(np.full((IOUS, len(RECALLS), 1, len(AREAS)), np.nan))
                continue
            run.params.catIds, run.params.imgIds = [part + 1], (judged[part] + 1).tolist()
            run.params.maxDets = [MOST]
        run.evaluate()
        states = [image.__getstate__() for image in run._evalImgs_cpp]
        run.accumulate()
        precisions.append(np.where(run.eval["precision"] < 0, np.nan, run.eval["precision"])[..., -1])  # [T, 101, K, A]
        n = len(run.params.imgIds)
        found_curves = [_curves(states[start : start + n]) for start in range(0, len(states), n)]  # by class, then area
        curves += [found_curves[row : row + len(AREAS)] for row in range(0, len(found_curves), len(AREAS))]
    groups = list(_groups(truth).values())
    precision = np.concatenate(precisions, axis=2)
    reference = _summary(precision.mean(axis=1).transpose(1, 2, 0)[..., None], groups)[:, 0]
    return _Matches(curves, [None] * len(curves) if judged is None else judged, groups), reference


def _judged(truth: Mapping[str, Any]) -> list[np.ndarray] | None:
    """[class] positions of the images in which it was looked for; None where every class was, in every image."""
    if not any("neg_category_ids" in image for image in truth["images"]):
        return None
    labels = {category["id"]: row for row, category in enumerate(_categories(truth))}
    position = {image["id"]: row for row, image in enumerate(truth["images"])}
    images: list[set[int]] = [set() for _ in labels]
    for row, image in enumerate(truth["images"]):
        for category in image["neg_category_ids"]:
            images[labels[category]].add(row)
    for one in truth["annotations"]:
        images[labels[one["category_id"]]].add(position[one["image_id"]])
    return [np.array(sorted(rows), np.int64) for rows in images]


def _groups(truth: Mapping[str, Any]) -> dict[str, list[int]]:
    """Positions of the classes of each frequency, where they have any."""
    ordered = _categories(truth)
    frequencies = [category.get("frequency") for category in ordered]
    return {
        name: [row for row, frequency in enumerate(frequencies) if frequency == name]
        for name in FREQUENCIES
        if name in frequencies
    }


def _curves(states: Sequence[tuple]) -> list[_Curve]:
    """The curves of one class and area at each IoU threshold, from the evaluator's state of each image."""
    matched = [np.array(state[0], np.int64).reshape(IOUS, -1) for state in states]
    score = np.concatenate([np.array(state[2]) for state in states])
    ignored = np.concatenate([np.array(state[4], bool).reshape(IOUS, -1) for state in states], axis=1)
    objects = np.array([len(state[3]) - sum(state[3]) for state in states], np.float64)
    image = np.repeat(np.arange(len(states)), [row.shape[1] for row in matched])
    order = np.argsort(-score, kind="stable")
    image = image[order]
    curves = []
    for match, ignore in zip(np.concatenate(matched, axis=1)[:, order], ignored[:, order], strict=True):
        hit = (match > 0) & ~ignore
        since = np.cumsum(hit) - hit  # true positives before each detection
        hits = image[hit]
        counted = ~ignore & (since < len(hits))
        cells = (np.ones(counted.sum()), (since[counted], image[counted]))
        curves.append(_Curve(hits, sparse.coo_array(cells, (len(hits), len(states))).tocsr(), objects))
    return curves


def _categories(truth: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(truth["categories"], key=lambda category: category["id"])


def _objects(truth: Mapping[str, Any], kind: Kind) -> Iterator[dict[str, Any]]:
    """The objects, numbered from 1: the evaluators take a match with object 0 for none."""
    images = {image["id"]: row for row, image in enumerate(truth["images"], 1)}
    labels = {category["id"]: row for row, category in enumerate(_categories(truth), 1)}
    for row, one in enumerate(truth["annotations"], 1):
        kept = {name: one[name] for name in ("bbox", "area", "iscrowd")}
        if kind == "mask":
            if not one.get("segmentation"):
                raise BobError(f"object {one.get('id', row)} has no mask: score boxes alone, or add its segmentation")
            kept["segmentation"] = one["segmentation"]
        yield kept | {"id": row, "image_id": images[one["image_id"]], "category_id": labels[one["category_id"]]}


def _answers(truth: Mapping[str, Any], found: Detections, kind: Kind) -> Iterator[dict[str, Any]]:
    labels = {category["id"]: row for row, category in enumerate(_categories(truth), 1)}
    if kind == "mask":
        from faster_coco_eval.core import mask as run_length

        if found.masks is None:
            raise BobError("the detections have no masks: score boxes alone")
        areas = np.asarray(run_length.area(list(found.masks)), np.float64) if len(found.masks) else np.zeros(0)
    else:
        areas = np.prod(found.boxes[:, 2:].astype(np.float64) - found.boxes[:, :2], axis=1)
    corner = found.boxes[:, :2].astype(np.float64)
    boxes = np.concatenate([corner, found.boxes[:, 2:].astype(np.float64) - corner], axis=1)
    for row in range(len(found.image)):
        answer = {
            "id": row + 1,
            "image_id": int(found.image[row]) + 1,
            "category_id": labels[int(found.label[row])],
            "score": float(found.score[row]),
            "bbox": boxes[row].tolist(),
            "area": float(areas[row]),
            "iscrowd": 0,
        }
        if kind == "mask":
            assert found.masks is not None
            answer["segmentation"] = found.masks[row]
        yield answer
