"""The contract of data: a source gives examples by index; a dataset is named sources plus what is known of them.

There are five kinds of question, and the data say which one they ask (`Dataset.task`): one class per image, several
labels per image, one class per image under a shift from the source of a trained head, retrieval, and where the objects
are.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Protocol, TypedDict

import numpy as np

Task = Literal["classification", "multilabel", "shift", "retrieval", "detection"]


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
        draw: seed of the draw that chose a low-data training split; None where no draw did.
    """

    task: ClassVar[Task] = "classification"
    name: str
    version: str
    classes: tuple[str, ...]
    splits: dict[str, Source]
    split_notes: dict[str, str]
    metric: str
    licence: str
    draw: int | None = None


@dataclasses.dataclass(frozen=True)
class MultilabelDataset(Dataset):
    """Several yes-or-no labels per image: `classes` names them, and sources have labels [N, C] float32 of 0 and 1."""

    task: ClassVar[Task] = "multilabel"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShiftDataset(Dataset):
    """Test images that differ in kind from those a head was trained on; nothing here is for training or selection.

    `splits` has one entry per condition ("test" alone, or corruption and severity: "fog_3"). All conditions hold the
    same images in the same order, under the same ids. Labels are positions in `classes`, or, where several classes are
    right for an image, bool [N, C].

    Attributes:
        source: name of the data set the head is trained on.
        table: [C] int, the class of the source that each of `classes` is. Scores are taken over these classes alone,
            for the shifted and for the source's own test images.
        clean: whether the shifted images are the source's test images, changed or labelled anew, under the same ids
            (some may be left out): then the difference of the two scores is a paired one.
        baseline: accuracies (clean, shifted) of models trained on the source alone, which say what shifted score a
            clean score lets expect (Taori et al., arXiv 2007.00644); empty where none are published.
        reference_errors: AlexNet's error under each corruption, the mean over severities, which the mean corruption
            error divides by (Hendrycks and Dietterich, arXiv 1903.12261); empty where none are published.
    """

    task: ClassVar[Task] = "shift"
    source: str
    table: np.ndarray
    clean: bool = False
    baseline: tuple[tuple[float, float], ...] = ()
    reference_errors: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Relevance:
    """What is to be found: positions in the gallery, per query; ascending, without repetition, disjoint.

    Attributes:
        positives: of each query; empty for a query without any, which no score counts.
        junk: of each query, removed from its ranking before every metric (among them the query itself, where it is
            part of the gallery).
    """

    positives: tuple[np.ndarray, ...]
    junk: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalDataset(Dataset):
    """Queries and a gallery: splits "query" and "gallery" (the same source where every image is a query).

    A third split, "whitening", holds images that are in neither, to learn a whitening from; it may be missing.
    `classes` may be empty; labels of the sources are -1 where there are none.
    """

    task: ClassVar[Task] = "retrieval"
    relevance: Relevance


@dataclasses.dataclass(frozen=True)
class DetectionDataset(Dataset):
    """Objects with boxes and perhaps masks: examples are `coco.Scene`s, labels the classes that are in the image.

    A further split "shifted" may hold test images that differ in kind from all others: the same detector is judged on
    both, and the difference is the cost of the shift.
    """

    task: ClassVar[Task] = "detection"
