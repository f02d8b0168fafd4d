"""Shifted test sets of CIFAR-10: CIFAR-10.1 (Recht et al. 2018, arXiv 1806.00451) and CIFAR-10-C."""

import hashlib
from pathlib import Path

import numpy as np

from bob_jax.data import tfds
from bob_jax.data.base import Example, ShiftDataset, Source
from bob_jax.data.cards.card import DatasetCard
from bob_jax.data.shifts.imagenet import CORRUPTIONS, SEVERITIES
from bob_jax.data.shifts.sources import version
from bob_jax.errors import BobError

SOURCE = "cifar10"  # in the catalogue
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LABELS = "labels.npy"


class Slice:
    """Consecutive images of a `.npy` file, which is read an image at a time."""

    def __init__(self, file: Path, start: int, labels: np.ndarray, ids: list[str]):
        """
        Args:
            file: [M, H, W, 3] uint8.
            start: row of the first image.
            labels: [N] int32.
            ids: [N] names.
        """
        self.file = file
        self.start = start
        self.labels = labels
        self.ids = ids
        held = f"{file.name} {file.stat().st_size} {start} {len(ids)}"
        self.fingerprint = hashlib.sha256(held.encode() + labels.astype("<i4").tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Example:
        image = np.array(np.load(self.file, mmap_mode="r")[self.start + index])
        return {"image": image, "label": int(self.labels[index]), "id": self.ids[index]}


def read_again(place: Path, card: DatasetCard) -> ShiftDataset:
    """CIFAR-10.1 v6: 2,000 new images, as TFDS stores them."""
    return _dataset(card, {"test": tfds.TfdsSource(place, "test")}, clean=False)


def read_corrupted(place: Path, card: DatasetCard) -> ShiftDataset:
    """CIFAR-10-C: a file `corruption.npy` for each corruption, the test images at five severities one after the other.

    An image is named as TFDS names that of CIFAR-10's test split which it was made of.

    Raises:
        BobError: a file that is missing, or of another size than the labels say.
    """
    folder = next((file.parent for file in [place / LABELS, *sorted(place.glob(f"*/{LABELS}"))] if file.exists()), None)
    if folder is None:
        raise BobError(f"the ground truth {LABELS} of {card.name} is not in {place}: unpack CIFAR-10-C.tar there")
    everything = np.load(folder / LABELS)
    count = len(everything) // len(SEVERITIES)
    labels, ids = everything[:count].astype(np.int32), [f"test_{row:05d}" for row in range(count)]
    splits: dict[str, Source] = {}
    for corruption in CORRUPTIONS:
        file = folder / f"{corruption}.npy"
        if not file.exists():
            raise BobError(f"{file.name} of {card.name} is not in {folder}: unpack CIFAR-10-C.tar there again")
        if (held := len(np.load(file, mmap_mode="r"))) != len(everything):
            raise BobError(
                f"{file} has {held} images, but {LABELS} has {len(everything)} labels: all conditions hold the same "
                "images, unpack CIFAR-10-C.tar again"
            )
        for severity in SEVERITIES:
            splits[f"{corruption}_{severity}"] = Slice(file, (severity - 1) * count, labels, ids)
    return _dataset(card, splits, clean=True)


def _dataset(card: DatasetCard, splits: dict[str, Source], *, clean: bool) -> ShiftDataset:
    return ShiftDataset(
        name=card.name,
        version=version(list(splits.values())),
        classes=CLASSES,
        splits=splits,
        split_notes=dict.fromkeys(splits, "CIFAR-10's test images" if clean else "all images"),
        metric=card.metric,
        licence=card.licence,
        source=SOURCE,
        table=np.arange(len(CLASSES)),
        clean=clean,
    )
