"""The data sets that are known by name, and how to load them.

NAME              in the catalogue
NAME@5shot        five training images a class, and as many for validation; the draw is the seed's
NAME@10pct        ten percent of the training and of the validation images, stratified where there is one class to an
                  image, always the same
NAME@VARIANT      another way to read it, where its card has one
folder:PATH       class folders of one's own
retrieval:PATH    the same, every image a query
coco:PATH         images with objects of one's own, in COCO's format
"""

import dataclasses
from pathlib import Path

from bob_jax.cache import cache_dir
from bob_jax.data import archives, coco, folder, low_data, tfds
from bob_jax.data.base import Dataset, DetectionDataset, RetrievalDataset, ShiftDataset, Source, Task
from bob_jax.data.cards import (
    detection,
    embedded,
    fine_grained,
    medical,
    natural,
    retrieval,
    satellite,
    shifts,
    structured,
)
from bob_jax.data.cards.card import Archives, DatasetCard, Embedded, Kind, Official, Tfds
from bob_jax.data.retrieval.class_folders import own
from bob_jax.data.retrieval.found import as_dataset
from bob_jax.data.retrieval.limit import limited
from bob_jax.data.subset import Subset, balanced, drawn, hold_out
from bob_jax.errors import BobError, unknown_name

FOLDER, RETRIEVAL = "folder:", "retrieval:"  # before the path of a user's own data
OWN: dict[str, Task] = {FOLDER: "classification", RETRIEVAL: "retrieval", coco.OWN: "detection"}

FAMILIES = (embedded, fine_grained, natural, satellite, medical, structured, shifts, retrieval, detection)
CARDS: dict[str, DatasetCard] = {card.name: card for family in FAMILIES for card in family.CARDS}


def card(name: str) -> DatasetCard:
    """The card of a data set, or of the one that a variant is of.

    Raises:
        BobError: nobody knows it; the nearest names are given.
    """
    base, _, variant = name.partition("@")
    if base not in CARDS:
        raise unknown_name("data set", base, [*CARDS, *(f"{prefix}PATH" for prefix in OWN)])
    found = CARDS[base]
    if variant and variant not in found.variants:
        low_data.parse(variant, found)
    return found


def task(name: str) -> Task:
    """What kind of question a data set asks, without loading it.

    Raises:
        BobError: nobody knows it.
    """
    own = next((asked for prefix, asked in OWN.items() if name.startswith(prefix)), None)
    return own or card(name).task


def source_of(name: str) -> str:
    """Name of the data set that the heads are trained on which this one judges: its own, or that it is shifted from.

    Raises:
        BobError: nobody knows it.
    """
    return name if name.startswith(tuple(OWN)) else card(name).shifted_from or name


def load(name: str, *, root: Path | None = None, limit: int | None = None, draw: int = 0) -> Dataset:
    """A data set, fetched and prepared first where that is needed and can be done.

    Args:
        name: in the catalogue, with a variant after "@"; or `folder:PATH`, `retrieval:PATH`, `coco:PATH`.
        root: where data sets are kept; `$BOB_CACHE/data` when None.
        limit: keeps the first `limit` images of a class-balanced order of each split, or, where an image has many
            objects, so many of each split by hash; all when None.
        draw: seed that chooses the images of `NAME@5shot`; nothing else depends on it.

    Raises:
        BobError: an unknown name, or data that are not there and cannot be had; says how to get them.
    """
    if limit is not None and limit < 1:
        raise BobError(f"limit is {limit}: give at least 1 image per split, or none for all images")
    dataset = _load(name, root, draw)
    if limit is None:
        return dataset
    if isinstance(dataset, RetrievalDataset):
        return limited(dataset, limit)
    note = f"; of these {limit} at most, class-balanced, seed 0"
    if isinstance(dataset, ShiftDataset):  # the same images under all conditions
        chosen = balanced(next(iter(dataset.splits.values())), limit).indices
        splits: dict[str, Source] = {split: Subset(source, chosen) for split, source in dataset.splits.items()}
    elif isinstance(dataset, DetectionDataset):
        note = f"; of these {limit} at most, by hash of the image's id, seed 0"
        splits = {split: drawn(source, limit) for split, source in dataset.splits.items()}
    else:
        splits = {split: balanced(source, limit) for split, source in dataset.splits.items()}
    return dataclasses.replace(
        dataset,
        splits=splits,
        split_notes={split: text + note for split, text in dataset.split_notes.items()},
    )


def prepare(name: str, root: Path | None = None) -> Path | None:
    """Fetches a data set and makes it ready to load, unless it is.

    Args:
        name: in the catalogue.
        root: where data sets are kept; `$BOB_CACHE/data` when None.

    Returns:
        Its folder; None for one that comes with a package.

    Raises:
        BobError: it cannot be had here; says how to get it.
    """
    found, place = card(name), root or cache_dir("data")
    ready = locate(name, root)
    if ready is not None or isinstance(found.source, Embedded):
        return ready
    target = place / (found.folder or found.name)
    downloads = place / "downloads" / target.name
    match found.source:
        case Tfds(builder=builder, manual=manual):
            downloads = tfds.by_hand(tfds.default_dir(place))
            if all((downloads / part).exists() for part in manual):
                return tfds.prepare(builder, found.name, tfds.default_dir(place))
        case Archives(read, urls):
            for url, md5 in urls:
                archives.download(url, downloads / url.rsplit("/", 1)[1], md5)
            if parts := _brought(downloads):
                archives.lay_out(parts, read, target)
                return target
        case Official(parts=official):
            fetched = [
                (archives.download(part.url, downloads / part.url.rsplit("/", 1)[1], part.md5), part.folder)
                for part in official
            ]
            if fetched := fetched or [(part, "") for part in _brought(downloads)]:
                archives.unpack(fetched, target)
                return target
    how = found.get.format(downloads=downloads, folder=target)
    raise BobError(f"data set {found.name} is not in {place}: {how}")


def locate(name: str, root: Path | None = None) -> Path | None:
    """The folder of a data set that is ready to load; None when it is not there, or comes with a package."""
    found, place = card(name), root or cache_dir("data")
    match found.source:
        case Embedded():
            return None
        case Tfds(builder=builder, read=read):
            stored = tfds.find(builder, tfds.default_dir(place))
            if stored is not None or read is None:
                return stored
    folder = place / (found.folder or found.name)
    return folder if folder.is_dir() else None


def destination(name: str, root: Path | None = None) -> Path | None:
    """The folder that a data set is kept in, whether it is there or not; None for one that comes with a package."""
    found, place = card(name), root or cache_dir("data")
    match found.source:
        case Embedded():
            return None
        case Tfds(builder=builder):
            return tfds.default_dir(place) / builder
    return place / (found.folder or found.name)


def _brought(downloads: Path) -> list[Path]:
    """What the user has put where downloads go."""
    return sorted(part for part in downloads.glob("*") if not part.name.startswith("."))


def _load(name: str, root: Path | None, draw: int) -> Dataset:
    if name.startswith(FOLDER):
        return folder.load(Path(name.removeprefix(FOLDER)))
    if name.startswith(RETRIEVAL):
        return as_dataset(own(Path(name.removeprefix(RETRIEVAL)).expanduser()), name, "map", "the user's own data")
    if name.startswith(coco.OWN):
        return coco.load(Path(name.removeprefix(coco.OWN)))
    found, variant = card(name), name.partition("@")[2]
    if variant in found.variants:
        return dataclasses.replace(_read(found, found.variants[variant], root), name=name)
    dataset = _read(found, found.source, root)
    return low_data.take(dataset, name, low_data.parse(variant, found), draw) if variant else dataset


def _read(found: DatasetCard, source: Kind, root: Path | None) -> Dataset:
    place = prepare(found.name, root)
    if isinstance(source, Embedded):
        return source.load()
    assert place is not None
    match source:
        case Tfds(read=None):
            return _from_tfds(found, source, place)
        case Tfds(read=read) | Official(read=read) if read is not None:
            return read(place, found)
    return folder.load(
        place,
        name=found.name,
        metric=found.metric,
        licence=found.licence,
        validation_fraction=found.validation_fraction or folder.HELD_OUT,
    )


def _from_tfds(found: DatasetCard, source: Tfds, place: Path) -> Dataset:
    official = {
        split: tfds.TfdsSource(
            place, source.splits.get(split, split), source.id_feature, source.label, source.classes, source.pixels
        )
        for split in found.sizes
    }
    splits: dict[str, Source] = dict(official)
    notes = {split: f"official {source.splits.get(split, split)}" for split in official}
    if found.test_fraction is not None:
        (only,) = official
        rest, splits["test"] = hold_out(official[only], found.test_fraction)
        splits["train"], splits["validation"] = hold_out(
            rest, (found.validation_fraction or 0) / (1 - found.test_fraction)
        )
        share = "{:.0%} of all images, stratified by class, seed 0"
        notes = {"train": "all images but those held out", "test": share.format(found.test_fraction)}
        notes["validation"] = share.format(found.validation_fraction)
    elif found.validation_fraction is not None:
        splits["train"], splits["validation"] = hold_out(official["train"], found.validation_fraction)
        notes["train"] = "official train without the images held out for validation"
        notes["validation"] = found.validation
    order = ("train", "validation", "test")
    return Dataset(
        name=found.name,
        version=place.name,
        classes=next(iter(official.values())).classes,
        splits={split: splits[split] for split in order},
        split_notes={split: notes[split] for split in order},
        metric=found.metric,
        licence=found.licence,
    )
