"""LVIS v1 (Gupta et al. 2019, arXiv 1908.03195): 1,203 classes on COCO's images, with annotations that are federated.

Not every class was looked for in every image. An image lists the classes it was searched for in vain
(`neg_category_ids`), and those of which there may be more objects than are marked (`not_exhaustive_category_ids`). What
is found in an image of other classes than those and the marked ones is neither right nor wrong; nor is, of a class that
is not marked exhaustively, what fits none of its objects. For the latter the truth has a crowd of the class over the
whole image, which is the same to every scorer that knows COCO's crowds; the former `metrics.coco` reads from the list.

The files name images by an address on COCO's server alone, whose last two parts are the folder and the file.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from bob_jax.data import annotations, coco
from bob_jax.data.annotations import Annotations
from bob_jax.data.base import DetectionDataset, Source
from bob_jax.data.cards.card import DatasetCard
from bob_jax.data.coco import CocoSource
from bob_jax.data.subset import Subset, hold_out_groups
from bob_jax.errors import BobError

FILES = {"train": "lvis_v1_train.json", "test": "lvis_v1_val.json"}
IMAGES = "coco"  # the folder beside LVIS's own
RARE = "r"  # in at most 10 training images


def read(place: Path, card: DatasetCard) -> DetectionDataset:
    """Official train, some of it held out for validation, and official validation as test.

    Images with objects of rare classes all train: held out, a class could lose the only one it has.

    Args:
        place: the folder of the two files; the images are in the folder `coco` beside it.
        card: LVIS's.

    Raises:
        BobError: COCO's images are not there, or what `CocoSource` says.
    """
    images = place.parent / IMAGES
    if not images.is_dir():
        raise BobError(
            f"{card.name} is on COCO's images, which are not in {images}: `bob data prepare coco` fetches them"
        )
    train, test = (
        CocoSource(federated(place / FILES[split]), images, keep_empty=split == "test") for split in ("train", "test")
    )
    assert card.validation_fraction is not None
    rare = [label for label, category in enumerate(train.categories) if category.get("frequency") == RARE]
    free = Subset(train, np.setdiff1d(np.arange(len(train)), train.holding(rare)))
    _, validation = hold_out_groups(free, free.ids, card.validation_fraction)
    kept = np.setdiff1d(np.arange(len(train)), free.indices[validation.indices])
    splits: dict[str, Source] = {
        "train": Subset(train, kept),
        "validation": Subset(train, free.indices[validation.indices]),
        "test": test,
    }
    official = FILES["train"] + coco.without(train)
    notes = {
        "train": f"{official}, without the images held out for validation",
        "validation": f"{card.validation_fraction:.0%} of {official}, of images without rare classes, by hash of the "
        "image's id, seed 0",
        "test": FILES["test"] + coco.without(test),
    }
    return coco.as_dataset(splits, notes, name=card.name, licence=card.licence)


def federated(path: Path) -> Annotations:
    """An annotation file of LVIS in COCO's terms.

    Raises:
        BobError: it is missing, or not in LVIS's format.
    """
    content = annotations.content(path)
    held = annotations.parse(content, path)
    regions: list[dict[str, Any]] = []
    for image in held["images"]:
        try:
            image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
            height, width = image["height"], image["width"]
            searched, many = list(image["neg_category_ids"]), list(image["not_exhaustive_category_ids"])
            assert isinstance(searched, list)
        except (KeyError, TypeError, AttributeError) as error:
            raise BobError(
                f"{path} is not in LVIS's format: an image needs coco_url, height, width, neg_category_ids and "
                "not_exhaustive_category_ids"
            ) from error
        regions += [
            {
                "id": f"all of {category} in {image.get('id')}",
                "image_id": image.get("id"),
                "category_id": category,
                "bbox": [-width, -height, 3 * width, 3 * height],  # what sticks out of the image is in it too
                "area": 9 * width * height,
                "iscrowd": 1,
                "segmentation": [[0, 0, width, 0, width, height, 0, height]],
            }
            for category in many
        ]
    return Annotations(
        path,
        held["images"],
        [*held["annotations"], *regions],
        held["categories"],
        hashlib.sha256(content).digest(),
    )
