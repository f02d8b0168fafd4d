"""Any data set in COCO's format: a JSON file of images and objects, and a folder of image files.

    root/annotations/instances_train2017.json   root/train2017/000000000009.jpg     COCO itself
    root/train/_annotations.coco.json           root/train/a.jpg                    what labelling tools export

Classes are numbered in the order of their ids, without gaps. What no detector can be taught is left out of training
and of scoring alike, and counted by reason in `CocoSource.left_out`: objects of classes not asked for, boxes without
area, boxes wholly outside of their image, and objects whose mask is empty. Boxes that stick out are clipped for
training.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bob_jax.data import masks
from bob_jax.data.base import DetectionDataset, Example, Source
from bob_jax.data.decode import decode_image
from bob_jax.data.folder import HELD_OUT, SPLIT_FOLDERS
from bob_jax.data.subset import Subset, hold_out_groups
from bob_jax.errors import BobError, unknown_name

BESIDE_IMAGES = "_annotations.coco.json"


class Scene(Example):
    """An image with its objects; its label is [C] float32, 1 for the classes that are in it (crowds do not count).

    boxes: [N, 4] float32 left, top, right, bottom in pixels, within the image.
    classes: [N] int32.
    crowd: [N] bool; a region with several objects of the class that nobody told apart.
    shapes: N outlines or pixel masks; the box itself where the file has no segmentation.
    """

    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    shapes: list[masks.Shape]


class CocoSource:
    """The images of one annotation file.

    Attributes:
        classes: names in label order.
        ids: [N] ids of the images as text, in the order of the ids.
        labels: [N, C] float32, 1 for the classes that are in the image.
        left_out: how many objects or images are left out, by reason.
        sizes: [N, 2] int32, height and width of each image by the file, pixels.
        has_masks: whether objects have segmentations. In a file where any has one, those without are left out.
        fingerprint: of the file's content, what was chosen of it, and names and sizes of the image files.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path,
        *,
        classes: Sequence[str] | None = None,
        keep_empty: bool = True,
    ):
        """
        Args:
            annotations: the JSON file.
            images: the folder that its file names are relative to.
            classes: names of the classes wanted; all when None.
            keep_empty: whether images stay that have no object of these classes (crowds do not count).

        Raises:
            BobError: a file that is missing, damaged or contradicts itself, or a class that it does not have.
        """
        content = _read(annotations)
        held = _parse(content, annotations)
        self._where = annotations
        self._folder = images
        categories = _chosen(held["categories"], classes, annotations)
        self.classes = tuple(str(category["name"]) for category in categories)
        number = {category["id"]: label for label, category in enumerate(categories)}
        self.left_out: Counter[str] = Counter()
        self.has_masks = any(isinstance(one, dict) and one.get("segmentation") for one in held["annotations"])
        objects = self._sorted_out(held, number)
        everything = sorted(held["images"], key=lambda image: image["id"])
        found = {row["id"]: objects.get(row["id"], []) for row in everything}
        wanted = [row for row in everything if keep_empty or any(not one["iscrowd"] for one in found[row["id"]])]
        if len(wanted) < len(everything):
            self.left_out["images without objects"] = len(everything) - len(wanted)
        if not wanted:
            raise BobError(f"no image with objects in {annotations}: choose other classes, or keep empty images")
        self._images = wanted
        self._objects = [found[row["id"]] for row in wanted]
        self.ids = [str(row["id"]) for row in wanted]
        self.sizes = np.array([(row["height"], row["width"]) for row in wanted], np.int32)
        self.labels = np.zeros((len(wanted), len(self.classes)), np.float32)
        for row, ones in enumerate(self._objects):
            self.labels[row, [one["category_id"] for one in ones if not one["iscrowd"]]] = 1
        files = _files(images, [row["file_name"] for row in wanted], annotations)
        digest = hashlib.sha256(content + repr((self.classes, keep_empty)).encode())
        digest.update("\n".join(f"{name}\t{size}" for name, size in files).encode(errors="surrogateescape"))
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Scene:
        """Reads and decodes one image and its masks.

        Raises:
            CorruptImage: the file is no whole image, or is gone.
            BobError: the image is of another size than the file says, or a mask is damaged.
        """
        about, objects = self._images[index], self._objects[index]
        path = self._folder / about["file_name"]
        image = decode_image(path, str(path))
        height, width = about["height"], about["width"]
        if image.shape[:2] != (height, width):
            actual = f"{image.shape[1]} x {image.shape[0]}"
            raise BobError(f"{path} is {actual} pixels, but {self._where} says {width} x {height}: correct one of them")
        boxes = np.array([one["bbox"] for one in objects], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return {
            "image": image,
            "boxes": boxes.clip(0, [width, height, width, height]).astype(np.float32),
            "classes": np.array([one["category_id"] for one in objects], np.int32),
            "crowd": np.array([one["iscrowd"] for one in objects], bool),
            "shapes": [self._shape(one, about) for one in objects],
            "label": self.labels[index],
            "id": self.ids[index],
        }

    def truth(self, indices: Sequence[int] | None = None) -> dict[str, Any]:
        """The objects of some images (all when None) in COCO's format, as `metrics.coco.evaluate` takes them.

        Boxes are the file's own, not clipped; image ids are texts, category ids are labels.
        """
        rows = range(len(self)) if indices is None else indices
        return {
            "images": [{**self._images[row], "id": self.ids[row]} for row in rows],
            "categories": [{"id": label, "name": name} for label, name in enumerate(self.classes)],
            "annotations": [{**one, "image_id": self.ids[row]} for row in rows for one in self._objects[row]],
        }

    def _shape(self, one: Mapping[str, Any], about: Mapping[str, Any]) -> masks.Shape:
        outline, what = one["segmentation"], self._named(one)
        if not outline:
            left, top, width, height = one["bbox"]
            right, bottom = left + width, top + height
            return (np.array([[left, top], [right, top], [right, bottom], [left, bottom]]),)
        if isinstance(outline, list):
            return masks.polygons(outline, what)
        pixels = masks.decode(outline, what)
        if pixels.shape != (about["height"], about["width"]):
            size = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise BobError(f"the mask of {what} is {size} pixels, its image {about['width']} x {about['height']}")
        return pixels

    def _named(self, one: Mapping[str, Any]) -> str:
        return f"object {one['id']} in {self._where}"

    def _sorted_out(self, held: Mapping[str, Any], number: Mapping[Any, int]) -> dict[Any, list[dict[str, Any]]]:
        """Objects by image id, checked; `left_out` counts the rest."""
        images = {row["id"]: row for row in held["images"]}
        known = {category["id"] for category in held["categories"]}
        objects: dict[Any, list[dict[str, Any]]] = {}
        for raw in held["annotations"]:
            one = self._checked(raw)
            if one["image_id"] not in images:
                raise BobError(f"{self._named(one)} is of image {one['image_id']}, which is not listed: remove it")
            if one["category_id"] not in known:
                raise BobError(f"{self._named(one)} is of category {one['category_id']}, which is not listed: list it")
            if one["category_id"] not in number:
                reason = "objects of other classes"
            else:
                reason = _useless(one, images[one["image_id"]], self.has_masks, self._named(one))
            if reason:
                self.left_out[reason] += 1
                continue
            one["category_id"] = number[one["category_id"]]
            objects.setdefault(one["image_id"], []).append(one)
        return objects

    def _checked(self, raw: Any) -> dict[str, Any]:
        """An annotation with all that is read later; tools leave out iscrowd, area and segmentation."""
        try:
            box = [float(value) for value in raw["bbox"]]
            if len(box) != 4 or not np.isfinite(box).all():
                raise ValueError("bbox")
            return {
                "id": raw["id"],
                "image_id": raw["image_id"],
                "category_id": raw["category_id"],
                "bbox": box,
                "area": float(raw.get("area", box[2] * box[3])),
                "iscrowd": int(raw.get("iscrowd", 0)),
                "segmentation": raw.get("segmentation"),
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            name = raw.get("id", "without id") if isinstance(raw, dict) else repr(raw)[:40]
            raise BobError(
                f"annotation {name} in {self._where} is damaged: it needs id, image_id, category_id and "
                "bbox [left, top, width, height] of finite numbers"
            ) from error


def load(
    root: Path,
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    keep_empty: bool = False,
    licence: str = "the user's own data",
) -> DetectionDataset:
    """A data set from a folder with a train split and a validation or test split in COCO's format.

    Without both, the images of `val` are the test split and 20 % of the training images are held out for validation:
    the test split is never what choices are made on.

    Args:
        root: the folder.
        name: of the data set; `coco:PATH` when None.
        classes: names of the classes wanted; all when None.
        keep_empty: whether training images without objects stay. Those of validation and test always do.
        licence: terms of the data.

    Raises:
        BobError: no such folder, a split without annotations, or what `CocoSource` says.
    """
    root = root.expanduser().resolve()
    places = {split: place for split in SPLIT_FOLDERS if (place := _place(root, split))}
    if "train" not in places:
        raise BobError(
            f"no training annotations in {root}: want annotations/instances_train*.json with a folder of that name, or "
            f"train/{BESIDE_IMAGES}"
        )
    if "test" not in places and "validation" in places:
        places["test"] = places.pop("validation")
    if "test" not in places:
        raise BobError(f"{root} has training annotations but none of validation or test: add them")
    read = {
        split: CocoSource(file, images, classes=classes, keep_empty=keep_empty or split != "train")
        for split, (file, images) in places.items()
    }
    names = read["train"].classes
    for split, source in read.items():
        if source.classes != names:
            raise BobError(f"{places[split][0]} has other classes than {places['train'][0]}: make them the same")
    splits: dict[str, Source] = dict(read)
    notes = {split: f"{places[split][0].name}{_without(source.left_out)}" for split, source in read.items()}
    if "validation" not in splits:
        train = splits["train"]
        splits["train"], splits["validation"] = hold_out_groups(train, train.ids, HELD_OUT)
        notes["validation"] = f"{HELD_OUT:.0%} of {notes['train']}, by hash of the image's id, seed 0"
        notes["train"] += ", without the images held out for validation"
    order = ("train", "validation", "test")
    version = hashlib.sha256("".join(read[split].fingerprint for split in sorted(read)).encode()).hexdigest()
    return DetectionDataset(
        name=name or f"coco:{root}",
        version=version[:16],
        classes=names,
        splits={split: splits[split] for split in order},
        split_notes={split: notes[split] for split in order},
        metric="mask_ap" if all(source.has_masks for source in read.values()) else "box_ap",
        licence=licence,
    )


def truth(source: Source) -> dict[str, Any]:
    """The objects of a source in COCO's format: of a `CocoSource`, or of a part of one."""
    whole, indices = _whole(source)
    return whole.truth(indices.tolist())


def sizes(source: Source) -> np.ndarray:
    """[N, 2] int32, height and width of each image, without decoding: of a `CocoSource`, or of a part of one."""
    whole, indices = _whole(source)
    return whole.sizes[indices]


def _whole(source: Source) -> tuple[CocoSource, np.ndarray]:
    """What a source is a part of, and which: [N] positions."""
    indices = np.arange(len(source))
    while isinstance(source, Subset):
        indices = source.indices[indices]
        source = source.parent
    assert isinstance(source, CocoSource)
    return source, indices


def _without(left_out: Counter[str]) -> str:
    return "".join(f"; {count} {reason} left out" for reason, count in sorted(left_out.items()))


def _place(root: Path, split: str) -> tuple[Path, Path] | None:
    """Annotation file and image folder of a split; the first by name where several years are there."""
    for folder in SPLIT_FOLDERS[split]:
        for file in sorted((root / "annotations").glob(f"instances_{folder}*.json")):
            images = root / file.stem.removeprefix("instances_")
            if images.is_dir():
                return file, images
            raise BobError(f"{file} is there, but not its images in {images}: put them there")
        if (root / folder / BESIDE_IMAGES).is_file():
            return root / folder / BESIDE_IMAGES, root / folder
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BobError(f"cannot read annotations {path}: {error.strerror}") from error


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    """The file's lists, with what this module reads of images and categories in place."""
    try:
        held = json.loads(content)
    except ValueError as error:
        raise BobError(f"{path} is not JSON ({error}): fetch it again") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(held, dict) or not all(isinstance(held.get(part), list) for part in parts):
        raise BobError(f"{path} is not in COCO's format: it needs the lists {', '.join(parts)}")
    needed = {"images": ("id", "file_name", "height", "width"), "categories": ("id", "name")}
    for part, keys in needed.items():
        for row in held[part]:
            if not isinstance(row, dict) or not all(key in row for key in keys):
                raise BobError(f"{path} has an entry in {part} without {', '.join(keys)}: {json.dumps(row)[:80]}")
            if part == "images" and not all(isinstance(row[side], int) and row[side] > 0 for side in keys[2:]):
                raise BobError(f"{path} says image {row['id']} has no size: height and width are numbers of pixels")
        try:
            ids = Counter(row["id"] for row in held[part])
        except TypeError as error:
            raise BobError(f"{path} has an id in {part} that is neither a number nor a text") from error
        if twice := [one for one, count in ids.items() if count > 1]:
            raise BobError(f"{path} has id {twice[0]} twice in {part}: ids must differ")
        if len({type(one) for one in ids}) > 1:
            raise BobError(f"{path} has numbers and texts as ids in {part}: use one kind")
    return held


def _chosen(categories: Sequence[dict[str, Any]], names: Sequence[str] | None, path: Path) -> list[dict[str, Any]]:
    """Categories in the order of their ids, those wanted."""
    ordered = sorted(categories, key=lambda category: category["id"])
    known = [str(category["name"]) for category in ordered]
    if not known or len(set(known)) < len(known):
        raise BobError(f"{path} needs categories with names that differ, it has {known[:5]}")
    for name in names or ():
        if name not in known:
            raise unknown_name(f"class of {path.name}", name, known)
    return [category for category in ordered if names is None or category["name"] in names]


def _useless(one: Mapping[str, Any], image: Mapping[str, Any], has_masks: bool, what: str) -> str:
    """Why nothing can be learnt from an object; empty where something can."""
    left, top, width, height = one["bbox"]
    if width <= 0 or height <= 0:
        return "boxes without area"
    if left >= image["width"] or top >= image["height"] or left + width <= 0 or top + height <= 0:
        return "boxes outside of their image"
    outline = one["segmentation"]
    if has_masks and (not outline or (isinstance(outline, list) and not masks.polygons(outline, what))):
        return "objects without a mask"
    return ""


def _files(folder: Path, names: Sequence[str], annotations: Path) -> list[tuple[str, int]]:
    """Name and size of each image file; folders are listed once each, which is quick on network disks too."""
    paths = [Path(name) for name in names]
    sizes: dict[Path, int] = {}
    for below in sorted({path.parent for path in paths}):
        if (folder / below).is_dir():
            with os.scandir(folder / below) as entries:
                sizes |= {below / entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    if missing := [name for name, path in zip(names, paths, strict=True) if path not in sizes]:
        raise BobError(
            f"{len(missing)} of {len(names)} images of {annotations} are not in {folder} (first: {missing[0]}): "
            "fetch them, or remove them from the file"
        )
    return [(name, sizes[path]) for name, path in zip(names, paths, strict=True)]
