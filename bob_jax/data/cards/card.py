"""The card of a data set, and the ways in which data sets are had and read."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bob_jax.data.archives import Listing
from bob_jax.data.base import Dataset, Task

Access = Literal["embedded", "automatic", "manual"]


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Comes with an installed package."""

    load: Callable[[], Dataset]


@dataclasses.dataclass(frozen=True)
class Tfds:
    """Fetched and stored by TensorFlow Datasets.

    Attributes:
        builder: TFDS's name, with its config: "eurosat/rgb".
        id_feature: feature that names the image; None where there is none: then its place in the split does.
        splits: TFDS's name of each of our splits, where it is another.
        label: class index from an example's features, where they have none named "label".
        classes: names in label order, where TFDS has none of its own.
        pixels: what is made of a decoded image, where it is not stored as it should be seen.
        manual: files and folders that TFDS cannot fetch and the user must put into its folder of manual downloads.
        read: from the prepared folder and the card to the data, where they are no ordinary data set. It also reads the
            official archive, unpacked into the data set's folder.
    """

    builder: str
    id_feature: str | None = None
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label: Callable[[Any], int] | None = None
    classes: tuple[str, ...] = ()
    pixels: Callable[[np.ndarray], np.ndarray] | None = None
    manual: tuple[str, ...] = ()
    read: "Callable[[Path, DatasetCard], Dataset] | None" = None


@dataclasses.dataclass(frozen=True)
class Archives:
    """Official archives, laid out as class folders.

    Attributes:
        read: reader of their annotations.
        urls: address and md5 of each archive; empty where no public address is left.
    """

    read: Callable[[Path], Listing]
    urls: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class ClassFolders:
    """Class folders that the user unpacks."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One file of an official release.

    Attributes:
        url: its address.
        md5: as published; None where it is not.
        folder: what it is unpacked into, below the data set's folder; "" for that folder itself.
    """

    url: str
    md5: str | None = None
    folder: str = ""


@dataclasses.dataclass(frozen=True)
class Official:
    """The official layout, read as it is.

    Attributes:
        read: from the folder and the card to the data.
        parts: what is fetched; empty where the user must.
    """

    read: "Callable[[Path, DatasetCard], Dataset]"
    parts: tuple[Part, ...] = ()


Kind = Embedded | Tfds | Archives | ClassFolders | Official


@dataclasses.dataclass(frozen=True)
class DatasetCard:
    """What is known of a data set before it is there.

    Attributes:
        name: key in the catalogue.
        title: full name.
        classes: number of classes or labels; 0 where retrieval knows none.
        sizes: images in each official split; in "all" where there are none.
        validation: how the validation split comes to be.
        validation_fraction: of official train that is held out for it; None where it is official, or `source` makes it.
        metric: score that ranks backbones, the habit of the papers that use the set.
        licence: terms of the images, as the publisher states them.
        url: home page.
        get: how to have it, one line; `{downloads}` and `{folder}` stand for places.
        source: how it is read.
        task: kind of question it asks.
        shifted_from: the data set that heads are trained on, where the task is "shift".
        test_fraction: of the images that are held out for test, where nothing is official but the images; the
            validation fraction is then also of all images.
        download_size: bytes to fetch, about; None where nothing is.
        folder: its place below the data folder, where several data sets share one; the name when None.
        variants: other ways to read it, by what stands after "@" in the name.
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
    source: Kind
    task: Task = "classification"
    shifted_from: str | None = None
    test_fraction: float | None = None
    download_size: int | None = None
    folder: str | None = None
    variants: Mapping[str, Kind] = dataclasses.field(default_factory=dict)

    @property
    def access(self) -> Access:
        """Whether it is there with the package, is fetched by `bob data prepare`, or must be brought by the user."""
        match self.source:
            case Embedded():
                return "embedded"
            case Tfds(manual=manual):
                return "manual" if manual else "automatic"
            case Archives(urls=parts) | Official(parts=parts):
                return "automatic" if parts else "manual"
        return "manual"

    @property
    def download(self) -> str | None:
        """How much is fetched, in decimal units: "94 MB", "8.0 GB"; None where nothing is."""
        if self.download_size is None:
            return None
        billions = self.download_size / 1e9
        return f"{1000 * billions:.0f} MB" if billions < 1 else f"{billions:.{1 if billions < 10 else 0}f} GB"


FETCHED = "`bob data prepare {}` fetches it"
BY_TFDS = "`pip install 'bob_jax[tfds]'`, then `bob data prepare {}` fetches it through TFDS"
