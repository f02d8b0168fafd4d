"""Shifted test sets of ImageNet-1k: V2, A, R, Sketch, C, and the validation images under their reassessed labels.

Labels are places in the set's own classes; the table says which of the 1000 each of them is. ImageNet-A and ImageNet-R
hold 200 classes each, of which 86 are in both.

V2, A, R and Sketch are read as TFDS stores them, where labels are ids of the 1000 classes, or from the official
archives, where folders are named by WordNet id; in ImageNet-V2 by number, so that their order as text, in which "10"
comes before "2", is not that of the labels.
"""

import functools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bob_jax.data import tfds
from bob_jax.data.base import ShiftDataset, Source
from bob_jax.data.cards.card import DatasetCard
from bob_jax.data.folder import images_below
from bob_jax.data.shifts.sources import Listed, Relabelled, positions, version
from bob_jax.errors import BobError

SOURCE = "imagenet"  # in the catalogue
BUILDER = "imagenet2012"  # of TFDS
NUMBERED = ("imagenet_v2", "imagenet_v2_threshold", "imagenet_v2_top")  # folders "0" to "999"
REAL = "real.json"

# Error of AlexNet on ImageNet-C, the mean over the five severities: hendrycks/robustness, as google-research/augmix
# (Apache-2.0, imagenet.py) repeats them. The four "extra" corruptions have none and do not count in the mean.
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
CORRUPTIONS = (*ALEXNET, "gaussian_blur", "saturate", "spatter", "speckle_noise")
SEVERITIES = range(1, 6)


@functools.cache
def wordnet_ids() -> tuple[str, ...]:
    """The 1000 classes in label order."""
    return tuple(json.loads((Path(__file__).parents[1] / "imagenet.json").read_text())["names"])


@functools.cache
def table(name: str) -> np.ndarray:
    """[C] the classes of ImageNet-1k that a set holds, ascending."""
    subsets = json.loads(Path(__file__).with_name("subsets.json").read_text())
    return np.array(subsets.get(name, range(len(wordnet_ids()))))


def baseline(name: str) -> tuple[tuple[float, float], ...]:
    """(clean, shifted) accuracies, on the classes of the set, of models trained on ImageNet-1k alone."""
    published = json.loads(Path(__file__).with_name("baseline.json").read_text())
    columns = published["columns"]
    if name not in columns:
        return ()
    clean = columns.index({"imagenet_a": "clean_a", "imagenet_r": "clean_r"}.get(name, "clean"))
    shifted = columns.index(name)
    return tuple((row[clean] / 100, row[shifted] / 100) for row in published["models"])


def read(place: Path, card: DatasetCard) -> ShiftDataset:
    """ImageNet-V2 (three variants), ImageNet-A, ImageNet-R or ImageNet-Sketch.

    Args:
        place: a prepared TFDS version, or the folder that the official archive was unpacked into.
        card: which of them.

    Raises:
        BobError: a class folder or label outside the table, or a class without an image.
    """
    held = table(card.name)
    source: Source
    if (place / "dataset_info.json").exists():
        stored = tfds.TfdsSource(place, "test", "file_name")
        source = Relabelled(stored, positions(stored.labels, held, card.name))
    else:
        source = _class_folders(place, card.name, held)
    return _dataset(card, {"test": source}, held, {"test": "all images"})


def read_corrupted(place: Path, card: DatasetCard) -> ShiftDataset:
    """ImageNet-C: `corruption/severity/wnid/image`, or the same below `noise`, `blur`, `weather`, `digital`, `extra`.

    An image is named by its file, as TFDS names those of the validation split that it was made of.

    Raises:
        BobError: conditions that are missing or hold other images than the first, class folders that are missing.
    """
    conditions = [f"{corruption}_{severity}" for corruption in CORRUPTIONS for severity in SEVERITIES]
    folders = [_condition(place, corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES]
    if missing := [name for name, folder in zip(conditions, folders, strict=True) if folder is None]:
        raise BobError(
            f"{len(missing)} of the {len(conditions)} conditions of {card.name} are not in {place}, "
            f"first {missing[0]}: unpack noise.tar, blur.tar, weather.tar, digital.tar and extra.tar there"
        )
    names, first = wordnet_ids(), ""
    labels, paths, ids = np.empty(0), list[str](), list[str]()  # one list for all conditions
    splits: dict[str, Source] = {}
    for condition, folder in zip(conditions, folders, strict=True):
        assert folder is not None
        found, sizes = _names_below(folder, names, f"{card.name}, condition {condition}")
        if not first:
            first, paths, ids = condition, found, [path.split("/")[1] for path in found]
            labels = _label_of(found, names)
        elif found != paths:
            odd = min(set(found) ^ set(paths))
            lacking = first if odd in found else condition
            raise BobError(
                f"image {odd} is missing in condition {lacking} of {card.name} in {place}: "
                "all conditions hold the same images, fetch the incomplete archive again"
            )
        splits[condition] = Listed(folder, paths, labels, ids, f"{condition} {sizes}")
    notes = dict.fromkeys(splits, "the images of ImageNet's validation split")
    return _dataset(card, splits, table(card.name), notes, clean=True, reference_errors=ALEXNET)


def read_real(place: Path, card: DatasetCard) -> ShiftDataset:
    """ImageNet's validation images under the labels of "Are we done with ImageNet?" (arXiv 2006.07159).

    `real.json` lists the classes that are right for each image, by number of its file. Images for which none is are
    left out: 46,837 of 50,000 remain. The images are those in the folder `val` beside it, if there is one, and else
    those of ImageNet as TFDS stores it.

    Raises:
        BobError: no labels or no images, or a class outside the 1000.
    """
    try:
        real = json.loads((place / REAL).read_text())
    except FileNotFoundError as error:
        raise BobError(
            f"the ground truth {REAL} is not in {place}: fetch it from {card.url} and put it there"
        ) from error
    except ValueError as error:
        raise BobError(f"{place / REAL} is no whole JSON ({error}): fetch it again from {card.url}") from error
    images = _validation(place, card)
    numbers = [_number(name, len(real), images) for name in images.ids]
    kept = np.array([row for row, number in enumerate(numbers) if real[number]], np.int64)
    labels = np.zeros((len(kept), len(wordnet_ids())), bool)  # one byte an entry: 47 MB
    for row, image in enumerate(kept):
        right = real[numbers[image]]
        if min(right) < 0 or max(right) >= labels.shape[1]:
            raise BobError(
                f"image {numbers[image] + 1} has labels {right} in {place / REAL}, of 1000 classes: fetch it again"
            )
        labels[row, right] = True
    if not len(kept):
        raise BobError(f"{place / REAL} has a label for none of the {len(images)} images: fetch it again")
    return _dataset(
        card, {"test": Relabelled(images, labels, kept)}, table(card.name), {"test": "images with a label"}, clean=True
    )


def _dataset(
    card: DatasetCard,
    splits: dict[str, Source],
    held: np.ndarray,
    notes: dict[str, str],
    *,
    clean: bool = False,
    reference_errors: dict[str, float] | None = None,
) -> ShiftDataset:
    return ShiftDataset(
        name=card.name,
        version=version(list(splits.values())),
        classes=tuple(wordnet_ids()[label] for label in held),
        splits=splits,
        split_notes=notes,
        metric=card.metric,
        licence=card.licence,
        source=SOURCE,
        table=held,
        clean=clean,
        baseline=baseline(card.name),
        reference_errors=reference_errors or {},
    )


def _class_folders(place: Path, name: str, held: np.ndarray) -> Listed:
    """The images of an unpacked archive, whose class folders may lie in one that wraps them all."""
    names = [str(label) if name in NUMBERED else wordnet_ids()[label] for label in held]
    folders = _folders(place)
    while len(folders) == 1 and folders[0] not in names:
        place = place / folders[0]
        folders = _folders(place)
    if unknown := sorted(set(folders) - set(names)):
        raise BobError(
            f"class folder {unknown[0]} in {place} is none of the {len(names)} classes of {name}: "
            "move what does not belong there"
        )
    files = [(path, size) for folder in names if folder in folders for path, size in images_below(place, folder)]
    paths = [path for path, _ in files]
    labels = positions(held[_label_of(paths, names)], held, f"{name} in {place}")
    return Listed(place, paths, labels, paths, str([size for _, size in files]))


def _folders(place: Path) -> list[str]:
    return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _label_of(paths: Sequence[str], names: Sequence[str]) -> np.ndarray:
    number = {name: label for label, name in enumerate(names)}
    return np.array([number[path.split("/")[0]] for path in paths], np.int64)


def _condition(place: Path, corruption: str, severity: int) -> Path | None:
    below = f"{corruption}/{severity}"
    found = [place / below, *sorted(place.glob(f"*/{below}"))]
    return next((folder for folder in found if folder.is_dir()), None)


def _names_below(folder: Path, names: Sequence[str], where: str) -> tuple[list[str], list[int]]:
    """Paths of all images in class folders, and the size of the first of each class.

    There are 4.75 million files under 95 conditions: looking at each would take minutes at every start.
    """
    paths, sizes = [], []
    for name in names:
        try:
            inside = sorted(file for file in os.listdir(folder / name) if not file.startswith("."))  # noqa: PTH208
        except FileNotFoundError:
            inside = []
        if not inside:
            raise BobError(f"class {name} of {where} has no image in {folder}: the copy is incomplete, fetch it again")
        paths += [f"{name}/{file}" for file in inside]
        sizes.append((folder / name / inside[0]).stat().st_size)
    return paths, sizes


def _validation(place: Path, card: DatasetCard) -> Source:
    """ImageNet's validation images, whoever keeps them."""
    folder = place / "val"
    if folder.is_dir():
        files = [file for name in ["", *_folders(folder)] for file in _images(folder, name)]
        paths = [path for path, _ in files]
        names = [path.rpartition("/")[2] for path in paths]
        return Listed(folder, paths, np.zeros(len(paths)), names, str([size for _, size in files]))
    stored = tfds.find(BUILDER, tfds.default_dir(place.parent))
    if stored is None:
        raise BobError(
            f"the images of {card.name} are those of ImageNet's validation split: put them into {folder}, or run "
            f"`bob data prepare {SOURCE}`"
        )
    return tfds.TfdsSource(stored, "validation", "file_name")


def _images(folder: Path, name: str) -> list[tuple[str, int]]:
    """Images of a class folder, or, without a name, those that lie in no class folder."""
    if name:
        return images_below(folder, name)
    return sorted((file.name, file.stat().st_size) for file in folder.iterdir() if file.suffix.lower() == ".jpeg")


def _number(name: str, listed: int, images: Source) -> int:
    """Place in `real.json` of an image named like "ILSVRC2012_val_00000001.JPEG"."""
    found = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", name)
    if not found or not 1 <= int(found[1]) <= listed:
        raise BobError(
            f"image {name} is none of the {listed} that {REAL} has labels for: it takes ImageNet's validation images "
            "(ILSVRC2012_val_00000001.JPEG, ...)"
        )
    return int(found[1]) - 1
