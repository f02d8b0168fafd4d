"""What is there of the data sets, and whether it is whole: what `bob data list` and `bob data check` show."""

import collections
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bob_jax.data import catalog, coco, duplicates
from bob_jax.data.base import Dataset, Source
from bob_jax.data.catalog import prepare
from bob_jax.data.decode import CorruptImage
from bob_jax.data.duplicates import Twin
from bob_jax.data.subset import balanced, drawn
from bob_jax.errors import BobError

__all__ = ["available", "check", "prepare"]


@dataclasses.dataclass(frozen=True)
class Availability:
    """One line of the list of data sets.

    Attributes:
        card: what the catalogue knows of it.
        ready: it can be loaded now, without fetching anything.
        place: the folder where it is, or will be; None for one that comes with a package.
    """

    card: catalog.DatasetCard
    ready: bool
    place: Path | None


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """What a split holds.

    Attributes:
        images: how many there are.
        expected: how many the card says, together with the splits that were cut from it; None where it says nothing.
        smallest_class, largest_class: images of the smallest and the largest class.
        decoded: how many were read and decoded.
        corrupt: ids of those that could not be.
    """

    images: int
    expected: int | None
    smallest_class: int
    largest_class: int
    decoded: int
    corrupt: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check of a data set found.

    Attributes:
        name: of the data set.
        classes: how many it has.
        splits: each split's report.
        duplicates: ids of images with equal pixels in different splits: (split, id, other split, its id).
        problems: one line each; none when all is well.
    """

    name: str
    classes: int
    splits: dict[str, SplitReport]
    duplicates: tuple[tuple[str, str, str, str], ...]
    problems: tuple[str, ...]


def available(root: Path | None = None) -> list[Availability]:
    """Every data set of the catalogue, and whether it is there."""
    lines = []
    for name, card in catalog.CARDS.items():
        place = catalog.locate(name, root)
        ready = place is not None or card.access == "embedded"
        lines.append(Availability(card, ready, place or catalog.destination(name, root)))
    return lines


def check(name: str, root: Path | None = None, sample: int | None = None) -> Report:
    """Reads a data set as a run would, and compares it with its card.

    Args:
        name: in the catalogue, or `folder:PATH`, `coco:PATH`.
        root: where data sets are kept.
        sample: decodes at most so many images of each split, class-balanced or, with objects, by hash; all when None.
            Duplicates are only found among decoded images.

    Raises:
        BobError: the data set is not there, or a sample of nothing.
    """
    if sample is not None and sample < 1:
        raise BobError(f"a sample of {sample} images would check nothing: give at least 1, or none for all images")
    dataset = catalog.load(name, root=root)
    card = catalog.CARDS.get(name)
    reports: dict[str, SplitReport] = {}
    pixels: dict[str, dict[str, str]] = {}
    for split, source in dataset.splits.items():
        expected = _expected(card, split)
        twin = next((other for other in reports if dataset.splits[other] is source), None)
        if twin is not None:  # every image a query, against all the others
            reports[split] = dataclasses.replace(reports[twin], expected=expected)
        else:
            take = drawn if dataset.task == "detection" else balanced
            some = source if sample is None else take(source, sample)
            reports[split], pixels[split] = _read(source, expected, len(dataset.classes), some)
    found = _duplicates(pixels) if dataset.task != "shift" else ()
    if sample is None and {"train", "test"} <= pixels.keys():
        twins = [Twin(twin, name, 1.0) for split, name, other, twin in found if (split, other) == ("train", "test")]
        duplicates.keep(dataset.splits["train"], dataset.splits["test"], "pixels", twins)
    return Report(name, len(dataset.classes), reports, found, tuple(_problems(dataset, card, reports, found)))


def _expected(card: catalog.DatasetCard | None, split: str) -> int | None:
    """Size of a split by the card; of hold-outs and their rest only the sum is known, and stands at train."""
    if card is None:
        return None
    return card.sizes.get(split, card.sizes.get("all") if split == "train" else None)


def _read(source: Source, expected: int | None, classes: int, some: Source) -> tuple[SplitReport, dict[str, str]]:
    """The report of a split, and the hash of the pixels of each image of `some` of it, decoded, by id."""
    hashes: dict[str, str] = {}
    corrupt = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for index, digest in enumerate(pool.map(lambda index: _pixels(some, index), range(len(some)))):
            if digest is None:
                corrupt.append(some.ids[index])
            else:
                hashes[some.ids[index]] = digest
    counts = _per_class(source.labels, classes)
    report = SplitReport(
        len(source), expected, int(counts.min()), int(counts.max()), len(some) - len(corrupt), tuple(corrupt)
    )
    return report, hashes


def _per_class(labels: np.ndarray, classes: int) -> np.ndarray:
    """[C] images of each class, or that have each label."""
    if labels.ndim == 2:
        return (labels > 0).sum(axis=0)
    return np.bincount(labels[labels >= 0], minlength=max(classes, 1))


def _pixels(source: Source, index: int) -> str | None:
    try:
        image = source[index]["image"]
    except CorruptImage:
        return None
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def _duplicates(pixels: dict[str, dict[str, str]]) -> tuple[tuple[str, str, str, str], ...]:
    seen: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    for split, hashes in pixels.items():
        for name, digest in hashes.items():
            seen[digest].append((split, name))
    pairs = (pair for found in seen.values() for pair in itertools.combinations(found, 2))
    return tuple((*one, *other) for one, other in pairs if one[0] != other[0])


def _problems(
    dataset: Dataset,
    card: catalog.DatasetCard | None,
    reports: dict[str, SplitReport],
    duplicates: tuple[tuple[str, str, str, str], ...],
) -> Iterable[str]:
    if card is not None and len(dataset.classes) != card.classes:
        yield f"{len(dataset.classes)} classes, expected {card.classes}"
    for split, report in reports.items():
        held_out = [other for other in reports if card and split == "train" != other and other not in card.sizes]
        images = report.images + sum(reports[other].images for other in held_out)
        if dataset.task == "detection":
            images += coco.empty_images(dataset.splits[split])
        if report.expected is not None and images != report.expected:
            yield f"{split}: {images} images, expected {report.expected}"
        lacking = report.smallest_class == 0 and dataset.task != "retrieval"
        if lacking and (split == "train" or dataset.task != "detection"):  # rare objects need not be in every split
            yield f"{split}: a class without images"
        if report.corrupt:
            yield f"{split}: {len(report.corrupt)} images cannot be decoded, first {report.corrupt[0]}"
    if duplicates:
        split, name, other, twin = duplicates[0]
        yield f"{len(duplicates)} images are also in another split, first {name} ({split}) as {twin} ({other})"
