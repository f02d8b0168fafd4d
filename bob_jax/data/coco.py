"""Any data set in COCO's format: a JSON file of images and objects, and a folder of image files.

    root/annotations/instances_train2017.json   root/train2017/000000000009.jpg     COCO itself
    root/train/_annotations.coco.json           root/train/a.jpg                    what labelling tools export

Classes are numbered in the order of their ids, without gaps. What no detector can be taught is left out, and counted by
reason in `CocoSource.left_out` (`annotations`). Boxes that stick out of their image are clipped for training.
"""

import functools
import hashlib
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bob_jax.data import annotations, masks
from bob_jax.data.annotations import Annotations
from bob_jax.data.base import DetectionDataset, Example, Source
from bob_jax.data.decode import decode_image
from bob_jax.data.folder import HELD_OUT, SPLIT_FOLDERS
from bob_jax.data.subset import Subset, hold_out_groups
from bob_jax.errors import BobError

OWN = "coco:"  # before the path of a user's own data
BESIDE_IMAGES = "_annotations.coco.json"
EMPTY = "images without objects"


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

    Objects are kept packed, an image's together: as Python's own lists and numbers those of COCO would take 2 GB in
    each worker process.

    Attributes:
        where: file or folder of the annotations, as errors name it.
        classes: names in label order.
        ids: [N] ids of the images as text, in the order of the ids.
        sizes: [N, 2] int32, height and width of each image by the file, pixels.
        categories: their ids (labels) and names, and LVIS's frequency where the file has it.
        left_out: how many objects or images are left out, by reason.
        has_masks: whether objects have segmentations.
        fingerprint: of the file's content, what was chosen of it, and names and sizes of the image files.
    """

    def __init__(
        self,
        annotated: Annotations | Path,
        images: Path,
        *,
        classes: Sequence[str] | None = None,
        keep_empty: bool = True,
    ):
        """
        Args:
            annotated: the JSON file, or what was read of another format.
            images: the folder that file names are relative to.
            classes: names of the classes wanted; all when None.
            keep_empty: whether images stay that have no object of these classes (crowds do not count).

        Raises:
            BobError: a file that is missing, damaged or contradicts itself, or a class that it does not have.
        """
        held = annotations.read(annotated) if isinstance(annotated, Path) else annotated
        held.check()
        self.where = held.where
        self._folder = images
        chosen = held.chosen(classes)
        self.classes = tuple(str(category["name"]) for category in chosen)
        self.categories = [_category(one, label) for label, one in enumerate(chosen)]
        number = {category["id"]: label for label, category in enumerate(chosen)}
        self.has_masks = held.has_masks
        objects, self.left_out = held.sorted_out(number)
        everything = sorted(held.images, key=lambda image: image["id"])
        found = [objects.pop(row["id"], []) for row in everything]
        kept = [n for n, ones in enumerate(found) if keep_empty or any(not one["iscrowd"] for one in ones)]
        if len(kept) < len(everything):
            self.left_out[EMPTY] = len(everything) - len(kept)
        if not kept:
            raise BobError(f"no image with objects in {held.where}: choose other classes, or keep empty images")
        self._images = [_about(everything[n], number) for n in kept]
        self._packed = [pickle.dumps(found[n]) for n in kept]
        labels = [_labels(found[n]) for n in kept]
        self._present = np.repeat(np.arange(len(kept)), [len(ones) for ones in labels]), np.concatenate(labels)
        self.ids = [str(row["id"]) for row in self._images]
        self.sizes = np.array([(row["height"], row["width"]) for row in self._images], np.int32)
        files = _files(images, [row["file_name"] for row in self._images], held.where)
        digest = hashlib.sha256(held.digest + repr((self.classes, keep_empty)).encode())
        digest.update("\n".join(f"{name}\t{size}" for name, size in files).encode(errors="surrogateescape"))
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """[N, C] float32, 1 for the classes that are in the image."""
        labels = np.zeros((len(self), len(self.classes)), np.float32)
        labels[self._present] = 1
        return labels

    def __getitem__(self, index: int) -> Scene:
        """Reads and decodes one image and its masks; turned as EXIF asks where only so it has the size the file says.

        Raises:
            CorruptImage: the file is no whole image, or is gone.
            BobError: the image is of another size than the file says, or a mask is damaged.
        """
        about, objects = self._images[index], self._objects(index)
        path = self._folder / about["file_name"]
        image = decode_image(path, str(path))
        height, width = about["height"], about["width"]
        if image.shape[:2] != (height, width):  # labelled as it is shown: a camera lying on its side says so in EXIF
            image = decode_image(path, str(path), upright=True)
        if image.shape[:2] != (height, width):
            actual = f"{image.shape[1]} x {image.shape[0]}"
            raise BobError(f"{path} is {actual} pixels, but {self.where} says {width} x {height}: correct one of them")
        boxes = np.array([one["bbox"] for one in objects], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        label = np.zeros(len(self.classes), np.float32)
        label[_labels(objects)] = 1
        return {
            "image": image,
            "boxes": boxes.clip(0, [width, height, width, height]).astype(np.float32),
            "classes": np.array([one["category_id"] for one in objects], np.int32),
            "crowd": np.array([one["iscrowd"] for one in objects], bool),
            "shapes": [self._shape(one, about) for one in objects],
            "label": label,
            "id": self.ids[index],
        }

    def truth(self, indices: Sequence[int] | None = None) -> dict[str, Any]:
        """The objects of some images (all when None) in COCO's format, as `metrics.coco.evaluate` takes them.

        Boxes are the file's own, not clipped; image ids are texts, category ids (and neg_category_ids) are labels.
        """
        rows = range(len(self)) if indices is None else indices
        return {
            "images": [{**self._images[row], "id": self.ids[row]} for row in rows],
            "categories": self.categories,
            "annotations": [{**one, "image_id": self.ids[row]} for row in rows for one in self._objects(row)],
        }

    def holding(self, labels: Sequence[int]) -> np.ndarray:
        """[M] positions of the images in which any of these classes is (crowds do not count)."""
        row, label = self._present
        return np.unique(row[np.isin(label, list(labels))])

    def __getstate__(self) -> dict[str, Any]:
        """Without the table of labels, which can be made again: of LVIS it would take 0.5 GB in each worker process."""
        return {name: value for name, value in vars(self).items() if name != "labels"}

    def _objects(self, index: int) -> list[dict[str, Any]]:
        objects: list[dict[str, Any]] = pickle.loads(self._packed[index])
        return objects

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
        return f"object {one['id']} in {self.where}"


def load(
    root: Path,
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    keep_empty: bool = False,
    licence: str = "the user's own data",
    validation_fraction: float = HELD_OUT,
) -> DetectionDataset:
    """A data set from a folder with a train split and a validation or test split in COCO's format.

    Without both, the images of `val` are the test split and some of the training images are held out for validation:
    the test split is never what choices are made on.

    Args:
        root: the folder.
        name: of the data set; `coco:PATH` when None.
        classes: names of the classes wanted; all when None.
        keep_empty: whether training images without objects stay. Those of validation and test always do.
        licence: terms of the data.
        validation_fraction: of the training images with objects, held out where there is no validation split.

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
    splits: dict[str, Source] = dict(read)
    notes = {split: places[split][0].name + without(source) for split, source in read.items()}
    if "validation" not in splits:
        splits["train"], splits["validation"] = hold_out_groups(read["train"], read["train"].ids, validation_fraction)
        notes["validation"] = f"{validation_fraction:.0%} of {notes['train']}, by hash of the image's id, seed 0"
        notes["train"] += ", without the images held out for validation"
    return as_dataset(splits, notes, name=name or f"{OWN}{root}", licence=licence)


def as_dataset(splits: Mapping[str, Source], notes: Mapping[str, str], *, name: str, licence: str) -> DetectionDataset:
    """A data set of sources that have the same classes.

    Args:
        splits: "train", "validation" and "test", and "shifted" where there is one: `CocoSource`s or parts of them.
        notes: how each of them came to be.
        name: of the data set.
        licence: terms of the data.

    Raises:
        BobError: sources with different classes.
    """
    whole = {split: _whole(source)[0] for split, source in splits.items()}
    for source in whole.values():
        if source.classes != whole["train"].classes:
            raise BobError(f"{source.where} has other classes than {whole['train'].where}: make them the same")
    version = hashlib.sha256("".join(dict.fromkeys(whole[split].fingerprint for split in sorted(whole))).encode())
    order = [split for split in ("train", "validation", "test", "shifted") if split in splits]
    return DetectionDataset(
        name=name,
        version=version.hexdigest()[:16],
        classes=whole["train"].classes,
        splits={split: splits[split] for split in order},
        split_notes={split: notes[split] for split in order},
        metric="mask_ap" if all(source.has_masks for source in whole.values()) else "box_ap",
        licence=licence,
    )


def without(source: CocoSource) -> str:
    """What a note on a split says of what is left out."""
    return "".join(f"; {count} {reason} left out" for reason, count in sorted(source.left_out.items()))


def empty_images(source: Source) -> int:
    """How many images of its file a source, or what it is a part of, leaves out because nothing is in them."""
    return _whole(source)[0].left_out[EMPTY]


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


def _category(one: Mapping[str, Any], label: int) -> dict[str, Any]:
    """What scoring needs of a category's entry."""
    frequency = {"frequency": one["frequency"]} if "frequency" in one else {}
    return {"id": label, "name": str(one["name"]), **frequency}


def _about(image: Mapping[str, Any], number: Mapping[Any, int]) -> dict[str, Any]:
    """What is kept of an image's entry: official files hold addresses and dates too."""
    about = {key: image[key] for key in ("id", "file_name", "height", "width")}
    if "neg_category_ids" in image:
        about["neg_category_ids"] = [number[one] for one in image["neg_category_ids"] if one in number]
    return about


def _labels(objects: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """[N] int of the objects that are no crowds."""
    return np.array([one["category_id"] for one in objects if not one["iscrowd"]], np.int64)


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
