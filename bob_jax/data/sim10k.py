"""Sim10k (Johnson-Roberson et al. 2017, arXiv 1610.01983): 10,000 pictures of a driving game, with boxes around cars.

Official archives unpack to `VOC2012/JPEGImages/3384645.jpg` and `VOC2012/Annotations/3384645.xml`, in Pascal VOC's
format: pixels are numbered from 1, and a box holds its last row and column. Motorbikes and persons are marked too; only
what is named "car" is one. There is no official split.

`shifted` is Cityscapes: the same detector looks for the cars of real streets.
"""

import hashlib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from bob_jax.data import cityscapes, coco
from bob_jax.data.annotations import Annotations
from bob_jax.data.base import DetectionDataset, Source
from bob_jax.data.cards.card import DatasetCard
from bob_jax.data.coco import CocoSource
from bob_jax.data.subset import Subset, hold_out_groups
from bob_jax.errors import BobError

CLASSES = ("car",)
BLOCK = 100  # pictures, in the order of their numbers: neighbours show the same street and stay together
VALIDATION, TEST = 0.05, 0.1  # of the blocks


def read(place: Path, card: DatasetCard) -> DetectionDataset:
    """The pictures, with validation and test held out in blocks.

    Args:
        place: the folder that `VOC2012` is unpacked in.
        card: the data set's.

    Raises:
        BobError: files that are missing or damaged, or what `CocoSource` says.
    """
    return coco.as_dataset(*_in_domain(place), name=card.name, licence=card.licence)


def read_shifted(place: Path, card: DatasetCard) -> DetectionDataset:
    """The same, and Cityscapes' validation images, in the folder `cityscapes` beside it, as the split "shifted".

    Raises:
        BobError: as `read`, or Cityscapes is not there.
    """
    splits, notes = _in_domain(place)
    streets = cityscapes.validation(place.parent / cityscapes.FOLDER, CLASSES)
    splits["shifted"] = streets
    notes["shifted"] = "official validation images of Cityscapes" + coco.without(streets)
    return coco.as_dataset(splits, notes, name=card.name, licence=card.licence)


def _in_domain(place: Path) -> tuple[dict[str, Source], dict[str, str]]:
    root = place / "VOC2012"
    everything = CocoSource(voc(root / "Annotations"), root / "JPEGImages", classes=CLASSES)
    blocks = [str(row // BLOCK) for row in range(len(everything))]
    rest, test = hold_out_groups(everything, blocks, TEST)
    left = [blocks[row] for row in rest.indices]
    train, validation = hold_out_groups(rest, left, VALIDATION / (1 - TEST))
    splits: dict[str, Source] = {
        "train": Subset(everything, rest.indices[train.indices]),
        "validation": Subset(everything, rest.indices[validation.indices]),
        "test": test,
    }
    share = f"{{:.0%}} of all images, in blocks of {BLOCK} neighbours, seed 0"
    notes = {
        "train": "all images but those held out" + coco.without(everything),
        "validation": share.format(VALIDATION),
        "test": share.format(TEST),
    }
    return splits, notes


def voc(folder: Path) -> Annotations:
    """The XML files of a folder in COCO's terms; objects that are marked as difficult count as crowds.

    Raises:
        BobError: there are none, or one is damaged.
    """
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise BobError(f"no annotations in {folder}: unpack the official archives, images and annotations")
    digest = hashlib.sha256()
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for file in files:
        content = file.read_bytes()
        digest.update(content)
        try:
            root = ElementTree.fromstring(content)
            height, width = (int(_text(root, f"size/{side}")) for side in ("height", "width"))
            marked = [_object(one) for one in root.iter("object")]
        except (ElementTree.ParseError, ValueError) as error:
            raise BobError(f"{file} is damaged ({error}): fetch it again") from error
        images.append({"id": file.stem, "file_name": f"{file.stem}.jpg", "height": height, "width": width})
        objects += [{"id": f"{n} of {file.stem}", "image_id": file.stem, **one} for n, one in enumerate(marked)]
    names = sorted({one["category_id"] for one in objects} | set(CLASSES))
    return Annotations(folder, images, objects, [{"id": name, "name": name} for name in names], digest.digest())


def _object(one: ElementTree.Element) -> dict[str, Any]:
    left, top, right, bottom = (float(_text(one, f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax"))
    return {
        "category_id": _text(one, "name").strip(),
        "bbox": [left - 1, top - 1, right - left + 1, bottom - top + 1],
        "iscrowd": int(one.findtext("difficult") or 0),
    }


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if not text:
        raise ValueError(f"no {path}")
    return text
