"""What is said of images and their objects in COCO's format, read from its JSON and checked.

What no detector can be taught is sorted out, of training and of scoring alike, and counted by reason: objects of
classes not asked for, boxes without area, boxes wholly outside of their image, and objects whose mask is empty.
Everything else that is wrong is one line that names the file.
"""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bob_jax.data import masks
from bob_jax.errors import BobError, unknown_name

SHORT = 8  # runs, or characters of a compressed code


@dataclasses.dataclass(frozen=True)
class Annotations:
    """An annotation file, or what a reader has made of another format.

    Attributes:
        where: file or folder, as errors name it.
        images: each with id, file_name, height and width in pixels; and neg_category_ids where not every class was
            looked for in every image: those looked for in vain.
        objects: each with id, image_id, category_id and bbox [left, top, width, height]; area, iscrowd and segmentation
            may be missing: the area is then that of the mask, or of the box where there is none.
        categories: each with id and name.
        digest: hash of the content.
    """

    where: Path
    images: Sequence[dict[str, Any]]
    objects: Sequence[Any]
    categories: Sequence[dict[str, Any]]
    digest: bytes

    @property
    def has_masks(self) -> bool:
        """Whether objects have segmentations. In a file where any has one, those without are sorted out."""
        return any(isinstance(one, dict) and one.get("segmentation") for one in self.objects)

    def check(self) -> None:
        """Looks whether images and categories have what is read of them.

        Raises:
            BobError: an entry that lacks something, an image without a size, or ids that are not all different.
        """
        parts: dict[str, tuple[Sequence[Any], tuple[str, ...]]] = {
            "images": (self.images, ("id", "file_name", "height", "width")),
            "categories": (self.categories, ("id", "name")),
        }
        where = self.where
        for part, (rows, keys) in parts.items():
            for row in rows:
                if not isinstance(row, dict) or not all(key in row for key in keys):
                    raise BobError(f"{where} has an entry in {part} without {', '.join(keys)}: {json.dumps(row)[:80]}")
                if part == "images" and not isinstance(row["file_name"], str):
                    raise BobError(f"{where} says the file of image {row['id']} is {row['file_name']}: want its name")
                if part == "images" and not all(isinstance(row[side], int) and row[side] > 0 for side in keys[2:]):
                    raise BobError(
                        f"{where} says image {row['id']} has no size: height and width are numbers of pixels"
                    )
            try:
                ids = Counter(row["id"] for row in rows)
            except TypeError as error:
                raise BobError(f"{where} has an id in {part} that is neither a number nor a text") from error
            if twice := [one for one, count in ids.items() if count > 1]:
                raise BobError(f"{where} has id {twice[0]} twice in {part}: ids must differ")
            if len({type(one) for one in ids}) > 1:
                raise BobError(f"{where} has numbers and texts as ids in {part}: use one kind")

        searched = [isinstance(row.get("neg_category_ids"), list) for row in self.images]
        if any("neg_category_ids" in row for row in self.images) and not all(searched):
            raise BobError(
                f"{where} has neg_category_ids, but no list of them for every image: complete or remove them"
            )

    def chosen(self, names: Sequence[str] | None) -> list[dict[str, Any]]:
        """The categories wanted (all when None), in the order of their ids.

        Raises:
            BobError: a name that there is not, or names that are not all different.
        """
        ordered = sorted(self.categories, key=lambda category: category["id"])
        known = [str(category["name"]) for category in ordered]
        if not known or len(set(known)) < len(known):
            raise BobError(f"{self.where} needs categories with names that differ, it has {known[:5]}")
        for name in names or ():
            if name not in known:
                raise unknown_name(f"class of {self.where.name}", name, known)
        return [category for category in ordered if names is None or category["name"] in names]

    def sorted_out(self, number: Mapping[Any, int]) -> tuple[dict[Any, list[dict[str, Any]]], Counter[str]]:
        """The objects by image id, category ids replaced by labels; and how many are left out, by reason.

        Args:
            number: label of each category wanted, by its id.

        Raises:
            BobError: an object that is damaged, or of an image or a category that is not listed.
        """
        images = {row["id"]: row for row in self.images}
        known = {category["id"] for category in self.categories}
        has_masks = self.has_masks
        left_out: Counter[str] = Counter()
        objects: dict[Any, list[dict[str, Any]]] = {}
        for raw in self.objects:
            one = self._checked(raw)
            if one["image_id"] not in images:
                raise BobError(f"{self.named(one)} is of image {one['image_id']}, which is not listed: remove it")
            if one["category_id"] not in known:
                raise BobError(f"{self.named(one)} is of category {one['category_id']}, which is not listed: list it")
            if one["category_id"] not in number:
                reason = "objects of other classes"
            else:
                reason = _useless(one, images[one["image_id"]], has_masks, self.named(one))
            if reason:
                left_out[reason] += 1
                continue
            one["category_id"] = number[one["category_id"]]
            if one["area"] is None:
                one["area"] = _area(one, images[one["image_id"]], self.named(one))
            objects.setdefault(one["image_id"], []).append(one)
        return objects, left_out

    def named(self, one: Mapping[str, Any]) -> str:
        """How an error names an object."""
        return f"object {one['id']} in {self.where}"

    def _checked(self, raw: Any) -> dict[str, Any]:
        """An annotation with all that is read later; tools leave out iscrowd, area and segmentation, or write null."""
        try:
            box = [float(value) for value in raw["bbox"]]
            area = None if raw.get("area") is None else float(raw["area"])
            if len(box) != 4 or not all(map(math.isfinite, box if area is None else [*box, area])):
                raise ValueError("bbox or area")
            hash((raw["image_id"], raw["category_id"]))
            return {
                "id": raw["id"],
                "image_id": raw["image_id"],
                "category_id": raw["category_id"],
                "bbox": box,
                "area": area,
                "iscrowd": int(raw.get("iscrowd") or 0),
                "segmentation": raw.get("segmentation"),
            }
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            name = raw.get("id", "without id") if isinstance(raw, dict) else repr(raw)[:40]
            raise BobError(
                f"annotation {name} in {self.where} is damaged: it needs id, image_id and category_id (numbers or "
                "texts), bbox [left, top, width, height] and, if any, area of finite numbers"
            ) from error


def read(path: Path) -> Annotations:
    """An annotation file in COCO's format.

    Raises:
        BobError: it is missing, no JSON, or lacks the lists of images, annotations and categories.
    """
    stored = content(path)
    held = parse(stored, path)
    return Annotations(path, held["images"], held["annotations"], held["categories"], hashlib.sha256(stored).digest())


def content(path: Path) -> bytes:
    """What a file holds.

    Raises:
        BobError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BobError(f"cannot read annotations {path}: {error.strerror}") from error


def parse(content: bytes, path: Path) -> dict[str, Any]:
    """The lists of a file.

    Raises:
        BobError: it is no JSON, or has no lists of images, annotations and categories.
    """
    try:
        held = json.loads(content)
    except ValueError as error:
        raise BobError(f"{path} is not JSON ({error}): fetch it again") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(held, dict) or not all(isinstance(held.get(part), list) for part in parts):
        raise BobError(f"{path} is not in COCO's format: it needs the lists {', '.join(parts)}")
    return held


def _area(one: Mapping[str, Any], image: Mapping[str, Any], what: str) -> float:
    """Pixels of an object whose file does not say how many: those of its mask, as COCO counts, or else of its box."""
    outline = one["segmentation"]
    if not outline:
        return float(one["bbox"][2] * one["bbox"][3])
    if not isinstance(outline, list):
        return float(masks.decode(outline, what).sum())
    shape = masks.polygons(outline, what)
    points = np.concatenate(shape).clip(0, [image["width"], image["height"]])
    low, high = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    x, y = (np.arange(start, end) + 0.5 for start, end in zip(low, high, strict=True))
    return float(masks.sample(shape, x, y).sum())


def _useless(one: Mapping[str, Any], image: Mapping[str, Any], has_masks: bool, what: str) -> str:
    """Why nothing can be learnt from an object; empty where something can."""
    left, top, width, height = one["bbox"]
    if width <= 0 or height <= 0:
        return "boxes without area"
    if left >= image["width"] or top >= image["height"] or left + width <= 0 or top + height <= 0:
        return "boxes outside of their image"
    outline = one["segmentation"]
    if has_masks and (not outline or _encloses_nothing(outline, what)):
        return "objects without a mask"
    return ""


def _encloses_nothing(outline: Any, what: str) -> bool:
    if isinstance(outline, list):
        return not masks.polygons(outline, what)
    # The code of an empty mask is one run, of pixels outside: short. Longer ones are read when their image is.
    counts = outline.get("counts") if isinstance(outline, dict) else None
    return isinstance(counts, list | str) and len(counts) < SHORT and not masks.decode(outline, what).any()
