"""Sets whose class folders are their ground truth, and class folders of one's own."""

import os
from pathlib import Path

from bob_jax.data.base import Source
from bob_jax.data.folder import FolderSource, class_names, images_below
from bob_jax.data.retrieval.found import Found, folder_with
from bob_jax.data.retrieval.rules import all_against_all, same_label, two_levels
from bob_jax.data.retrieval.sources import BorderlessSource
from bob_jax.data.subset import Subset
from bob_jax.errors import BobError

EXTENSIONS_2023 = (".JPG", ".JPEG", ".jpg", ".png", ".PNG")  # the original passes over .jpeg
EVERY_IMAGE = "every image a query against all the others"


def inaturalist(place: Path) -> Found:
    """iNaturalist 2021: the official validation, 10 images of each of 10,000 species."""
    return _all_against_all(place / "val" if (place / "val").is_dir() else place)


def inaturalist_2023(place: Path) -> Found:
    """iNaturalist 2021 validation by the original benchmark's rule: of 5 images per species 1 is a query."""
    return divided_in_two_levels(place / "val" if (place / "val").is_dir() else place, cap=5)


def objectnet(place: Path) -> Found:
    """ObjectNet: 313 class folders below `images`, the red border taken off."""
    return _all_against_all(folder_with(place, "images") / "images", bordered=True)


def objectnet_2023(place: Path) -> Found:
    """ObjectNet by the original benchmark's rule: of 50 images per class 10 are queries; red border and all."""
    return divided_in_two_levels(folder_with(place, "images") / "images", cap=50)


def instre_s1(place: Path) -> Found:
    """INSTRE-S1: 100 class folders of images with one object each."""
    return _all_against_all(folder_with(place, "INSTRE-S1") / "INSTRE-S1")


def instre_s1_2023(place: Path) -> Found:
    """INSTRE-S1 by the original benchmark's rule: of 50 images per class 10 are queries."""
    return divided_in_two_levels(folder_with(place, "INSTRE-S1") / "INSTRE-S1", cap=50)


def own(place: Path) -> Found:
    """Class folders of one's own: `CLASS/*.jpg`, or `query/CLASS/*.jpg` and `gallery/CLASS/*.jpg`.

    Without the folders `query` and `gallery`, every image is a query against all the others. With them, a query whose
    class the gallery lacks has no positives, and a class that only the gallery has is a distraction. Class folders in
    a folder `whitening` are for whitening.

    Raises:
        BobError: no such folder, no class folders, no images, or one of the two folders without the other.
    """
    place = place.expanduser().resolve()
    if not place.is_dir():
        raise BobError(f"no folder {place}: give the folder that holds CLASS/*.jpg, or query/ and gallery/ with them")
    parts = [part for part in ("query", "gallery", "whitening") if (place / part).is_dir()]
    if not {"query", "gallery"} & set(parts):
        return _all_against_all(place)
    if not {"query", "gallery"} <= set(parts):
        raise BobError(f"{place} has {parts[0]} but not both of query and gallery: add the other, or leave both out")
    classes = tuple(sorted({name for part in parts for name in class_names(place / part)}))
    sources = {part: _class_folders(place, classes, below=part) for part in parts}
    relevance = same_label(sources["query"].labels, sources["gallery"].labels)
    notes = {part: f"folder {part}" for part in parts}
    return Found(sources["query"], sources["gallery"], relevance, notes, classes, sources.get("whitening"))


def divided_in_two_levels(root: Path, cap: int | None = None) -> Found:
    """Class folders by the original benchmark's rule (`rules.two_levels`).

    Only files directly in a class folder count, and only those of the extensions the original knows.

    Args:
        root: the folder that holds the class folders.
        cap: files per class that are kept; all when None.
    """
    classes = class_names(root)
    files = [
        (f"{name}/{entry.name}", entry.stat().st_size)
        for name in classes
        for entry in sorted(os.scandir(root / name), key=lambda entry: entry.name)
        if entry.name.endswith(EXTENSIONS_2023)
    ]
    images = FolderSource(root, files, classes, depth=0)
    chosen = two_levels(images.labels, cap)
    query, gallery = (Subset(images, positions) for positions in chosen)
    of = "all" if cap is None else f"the first {cap}"
    notes = {
        "query": f"the first fifth of {of} files of each class, by name: the original benchmark's rule",
        "gallery": f"the others of {of} files of each class",
    }
    return Found(query, gallery, same_label(query.labels, gallery.labels), notes, classes)


def _all_against_all(root: Path, *, bordered: bool = False) -> Found:
    classes = class_names(root)
    images: Source = _class_folders(root, classes)
    notes = {"query": EVERY_IMAGE, "gallery": EVERY_IMAGE}
    relevance = all_against_all(images.labels)
    if bordered:
        images = BorderlessSource(images)
    return Found(images, images, relevance, notes, classes)


def _class_folders(root: Path, classes: tuple[str, ...], below: str = "") -> FolderSource:
    top = root / below
    files = [
        (f"{below}/{path}" if below else path, size)
        for name in classes
        if (top / name).is_dir()
        for path, size in images_below(top, name)
    ]
    if not files:
        raise BobError(f"no images in the class folders of {top}: add some, or give another folder")
    return FolderSource(root, files, classes, depth=1 if below else 0)
