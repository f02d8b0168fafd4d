"""Little data: the same question with fewer training images.

k-shot takes k images a class for training and as many for validation, or all of a class that has fewer there (selection
on a large validation split would not be little data), by a draw that several seeds repeat. A percentage is one fixed
draw, stratified by class; where an image holds many objects it is a draw of images, and there are no shots. Multi-label
data have variants of their own: their images come in groups (patients) that must not be torn apart.
"""

import dataclasses
import math
import re

import numpy as np

from bob_jax.data.base import Dataset, DetectionDataset
from bob_jax.data.cards.card import DatasetCard
from bob_jax.data.subset import drawn, first_of_each_class, share_of_each_class
from bob_jax.errors import BobError


@dataclasses.dataclass(frozen=True)
class Amount:
    """How little.

    Attributes:
        shots: images a class; None for a percentage.
        percent: of the images of each class, or of the images; None for shots.
    """

    shots: int | None
    percent: int | None


def parse(variant: str, found: DatasetCard) -> Amount:
    """The amount that a variant names: "5shot", "10pct".

    Raises:
        BobError: another word, an amount out of range, or a data set that has no training images.
    """
    match = re.fullmatch(r"(\d+)(shot|pct)", variant)
    offered = {"classification": ("shot", "pct"), "detection": ("pct",)}.get(found.task, ())
    if match is None or match[2] not in offered:
        examples = {"shot": "5shot", "pct": "10pct"}
        known = ", ".join([*found.variants, *(examples[unit] for unit in offered)]) or "none"
        raise BobError(f"data set {found.name} has no variant '{variant}': there is {known}")
    number = int(match[1])
    if match[2] == "shot":
        if number < 1:
            raise BobError(f"{found.name}@{variant}: give at least 1 image a class")
        return Amount(number, None)
    if not 1 <= number < 100:
        raise BobError(f"{found.name}@{variant}: give a percentage from 1 to 99")
    return Amount(None, number)


def take(dataset: Dataset, name: str, amount: Amount, draw: int) -> Dataset:
    """The data set with little to train and to choose on; its test split stays whole.

    Args:
        dataset: the whole.
        name: of the result.
        amount: how little.
        draw: seed that chooses the images of a class, for shots.

    Raises:
        BobError: a class with too few images.
    """
    splits, notes = dict(dataset.splits), dict(dataset.split_notes)
    least = {"train": "", "validation": " at most"}
    if amount.shots is not None:
        _enough(dataset, amount.shots)
    for split in ("train", "validation"):
        source = splits[split]
        if amount.shots is not None:
            splits[split] = first_of_each_class(source, amount.shots, draw)
            notes[split] += f"; of these {amount.shots} a class{least[split]}, draw {draw}"
        elif isinstance(dataset, DetectionDataset):
            assert amount.percent is not None
            splits[split] = drawn(source, math.ceil(amount.percent * len(source) / 100))
            notes[split] += f"; of these {amount.percent} % of the images, by hash of their ids, seed 0"
        else:
            assert amount.percent is not None
            splits[split] = share_of_each_class(source, amount.percent / 100)
            notes[split] += f"; of these {amount.percent} % of each class, at least one image, seed 0"
    return dataclasses.replace(
        dataset, name=name, splits=splits, split_notes=notes, draw=draw if amount.shots is not None else None
    )


def _enough(dataset: Dataset, shots: int) -> None:
    counts = np.bincount(dataset.splits["train"].labels, minlength=len(dataset.classes))
    if counts.min() < shots:
        raise BobError(
            f"{dataset.name}@{shots}shot: class '{dataset.classes[int(counts.argmin())]}' has {counts.min()} training "
            "images; take fewer shots"
        )
