"""The contract of data: a source gives examples by index; a dataset is named sources plus what is known of them."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, TypedDict

import numpy as np


class Example(TypedDict):
    """One image with its label.

    image: [H, W, 3] uint8; any H and W.
    label: class index, or a float vector [C] for multi-label data.
    id: stable name of the image inside its dataset (file path, TFDS key, row number).
    """

    image: np.ndarray
    label: int | np.ndarray
    id: str


class Source(Protocol):
    """Random access to examples. Everything (arrays, folders, TFDS, ...) is adapted to this."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    @property
    def ids(self) -> Sequence[str]:
        """[N] ids of all examples, without decoding an image."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """[N] int32 class indices of all examples (or [N, C] float32), without decoding an image."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of what the source holds and in which order; equal fingerprints mean equal examples."""
        ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Named splits of one data set.

    Attributes:
        name: as in the catalogue, e.g. "digits".
        version: version of the data, e.g. TFDS's, or the hash of a folder's listing.
        classes: class names, in label order (sorted names, never a set's order).
        splits: "train", "validation" and "test". Selection uses validation; the test split is read once.
        split_notes: how each split came to be, e.g. "20 % of official train, stratified, seed 0".
        metric: name of the score that ranks backbones on it: "accuracy", "mean_per_class_accuracy".
        licence: terms of the data.
    """

    name: str
    version: str
    classes: tuple[str, ...]
    splits: dict[str, Source]
    split_notes: dict[str, str]
    metric: str
    licence: str
