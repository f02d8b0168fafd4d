"""Metric-learning sets: text files list the images with their classes, and no class is in both halves."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bob_jax.data.retrieval.class_folders import divided_in_two_levels
from bob_jax.data.retrieval.found import Found, folder_with, rows
from bob_jax.data.retrieval.rules import all_against_all, same_label
from bob_jax.data.retrieval.sources import FileSource
from bob_jax.errors import BobError

CUB_TRAIN_CLASSES = 100
EVERY_IMAGE = "{}, every image a query against all the others"


def cub(place: Path) -> Found:
    """CUB-200-2011 by the protocol of metric learning (Song et al., arXiv 1511.06452): the last 100 classes.

    `images.txt` ("id path"), `image_class_labels.txt` ("id class") and `classes.txt` ("class name"). The first 100
    classes are for whitening; the official split of classification plays no part.
    """
    root = folder_with(place, "image_class_labels.txt")
    classes = tuple(name for _, name in rows(root / "classes.txt", r"(\d+)\s+(.+)"))
    label = {image: int(number) - 1 for image, number in rows(root / "image_class_labels.txt", r"(\d+)\s+(\d+)")}
    try:
        listed = [(f"images/{path}", label[image]) for image, path in rows(root / "images.txt", r"(\d+)\s+(.+)")]
    except KeyError as error:
        raise BobError(f"{root}/image_class_labels.txt has no class for image {error}: fetch it again") from None
    test = _files(root, (entry for entry in listed if entry[1] >= CUB_TRAIN_CLASSES), "images.txt")
    train = _files(root, (entry for entry in listed if entry[1] < CUB_TRAIN_CLASSES), "images.txt")
    note = EVERY_IMAGE.format("images of the last 100 classes")
    notes = {"query": note, "gallery": note, "whitening": "images of the first 100 classes"}
    return Found(test, test, all_against_all(test.labels), notes, classes, train)


def cub_2023(place: Path) -> Found:
    """CUB-200-2011 by the original benchmark's rule: all 200 class folders, a fifth of each the queries."""
    return divided_in_two_levels(folder_with(place, "image_class_labels.txt") / "images")


def products(place: Path) -> Found:
    """Stanford Online Products: `Ebay_test.txt` and `Ebay_train.txt`, "image_id class_id super_class_id path"."""
    root = folder_with(place, "Ebay_test.txt")
    test, train = (
        _files(root, ((path, int(product)) for product, path in rows(root / name, line, skip=1)), name)
        for name, line in ((f"Ebay_{part}.txt", r"\d+\s+(\d+)\s+\d+\s+(.+)") for part in ("test", "train"))
    )
    note = EVERY_IMAGE.format("official test")
    notes = {"query": note, "gallery": note, "whitening": "official train"}
    return Found(test, test, all_against_all(test.labels), notes, whitening=train)


def in_shop(place: Path) -> Found:
    """In-Shop Clothes Retrieval (DeepFashion): `list_eval_partition.txt`, "image item part", two lines of heading."""
    name = "list_eval_partition.txt"
    listed = list(rows(folder_with(place, name) / name, r"(.+?)\s+id_(\d+)\s+(train|query|gallery)", skip=2))
    root = folder_with(place, "img")
    query, gallery, train = (
        _files(root, ((image, int(item)) for image, item, found in listed if found == part), name)
        for part in ("query", "gallery", "train")
    )
    notes = {"query": "official query", "gallery": "official gallery", "whitening": "official train"}
    return Found(query, gallery, same_label(query.labels, gallery.labels), notes, whitening=train)


def _files(root: Path, listed: Iterable[tuple[str, int]], name: str) -> FileSource:
    paths, labels = tuple(zip(*listed, strict=True)) or ((), ())
    return FileSource(root, paths, np.array(labels, np.int32), listed_in=name)
