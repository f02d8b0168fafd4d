"""Parts of a source: hold-outs that are stratified by class, and class-balanced beginnings.

Membership is decided by hashing ids, not by a random generator: it is the same on every machine and with every version
of NumPy, and an image that comes or goes leaves nearly all others where they were.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from bob_jax.data.base import Example, Source


class Subset:
    """Some examples of a source, in a given order."""

    def __init__(self, parent: Source, indices: np.ndarray):
        """
        Args:
            parent: where the examples are.
            indices: [N] int, positions in the parent.
        """
        self.parent = parent
        self.indices = np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.parent[int(self.indices[index])]

    @cached_property
    def ids(self) -> Sequence[str]:
        """[N] ids, without decoding."""
        parent = self.parent.ids
        return [parent[index] for index in self.indices]

    @cached_property
    def labels(self) -> np.ndarray:
        """[N] labels, without decoding."""
        return self.parent.labels[self.indices]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the parent's and the positions."""
        return hashlib.sha256(self.parent.fingerprint.encode() + self.indices.astype("<i8").tobytes()).hexdigest()


def hold_out(source: Source, fraction: float, seed: int = 0) -> tuple[Subset, Subset]:
    """Splits a source in two, stratified by class.

    `ceil(fraction * N)` examples are held out, spread over the classes in proportion (largest remainder); every class
    keeps at least one example.

    Args:
        source: examples; of several labels, each combination that occurs counts as a class.
        fraction: of the examples to hold out, in (0, 1).
        seed: which ones.

    Returns:
        The rest and the part held out, each in the source's order.
    """
    labels = _strata(source.labels)
    rank, sizes = _rank_in_class(source.ids, labels, seed)
    share = fraction * sizes
    take = np.minimum(np.floor(share), sizes - 1)
    wanted = math.ceil(round(fraction * len(labels), 6))  # 0.1 / 0.9 of 90 is 10, not a little more
    missing = wanted - int(take.sum())
    room = take < sizes - 1
    order = np.argsort(np.where(room, take - share, np.inf), kind="stable")
    take[order[: min(missing, int(room.sum()))]] += 1
    _, classes = np.unique(labels, return_inverse=True)
    held = rank < take[classes]
    return Subset(source, np.flatnonzero(~held)), Subset(source, np.flatnonzero(held))


def hold_out_groups(source: Source, groups: Sequence[str], fraction: float, seed: int = 0) -> tuple[Subset, Subset]:
    """Splits a source in two along groups: all images of a patient stay together.

    Args:
        source: examples.
        groups: [N] the group of each.
        fraction: of the groups to hold out, rounded up, in (0, 1).
        seed: which ones.

    Returns:
        The rest and the part held out, each in the source's order.
    """
    order = sorted(set(groups), key=lambda group: _hash(group, seed))
    held = set(order[: math.ceil(fraction * len(order))])
    inside = np.array([group in held for group in groups], bool)
    return Subset(source, np.flatnonzero(~inside)), Subset(source, np.flatnonzero(inside))


def share_of_each_class(source: Source, fraction: float, seed: int = 0) -> Subset:
    """A part of each class by hash, at least one example; a smaller fraction's examples are among a larger one's.

    Args:
        source: examples; of several labels, each combination that occurs counts as a class.
        fraction: of each class, to the nearest whole number.
        seed: which ones.

    Returns:
        The examples chosen, in the source's order.
    """
    labels = _strata(source.labels)
    rank, sizes = _rank_in_class(source.ids, labels, seed)
    _, classes = np.unique(labels, return_inverse=True)
    return Subset(source, np.flatnonzero(rank < np.maximum(1, np.rint(fraction * sizes))[classes]))


def balanced(source: Source, limit: int, seed: int = 0) -> Subset:
    """The first `limit` examples of a class-balanced order: one of each class, then a second of each, and so on.

    Args:
        source: examples; of several labels, each combination that occurs counts as a class.
        limit: how many; a shorter source is kept whole.
        seed: which example of a class comes first, and which class.

    Returns:
        The examples chosen, in the source's order, so that files are still read in sequence.
    """
    labels = _strata(source.labels)
    rank, _ = _rank_in_class(source.ids, labels, seed)
    first = [_hash(str(label), seed) for label in labels.tolist()]
    order = sorted(range(len(rank)), key=lambda index: (rank[index], first[index]))
    return Subset(source, np.sort(np.array(order[:limit], np.int64)))


def drawn(source: Source, limit: int, seed: int = 0) -> Subset:
    """`limit` examples by hash, whatever their labels, in the source's order; a smaller number's are among a larger's.

    Args:
        source: examples.
        limit: how many; a shorter source is kept whole.
        seed: which ones.
    """
    order = sorted(range(len(source)), key=lambda index: _hash(source.ids[index], seed))
    return Subset(source, np.sort(np.array(order[:limit], np.int64)))


def first_of_each_class(source: Source, count: int, seed: int) -> Subset:
    """The first `count` examples of each class by hash, in the source's order; all of a smaller class."""
    rank, _ = _rank_in_class(source.ids, source.labels, seed)
    return Subset(source, np.flatnonzero(rank < count))


def _strata(labels: np.ndarray) -> np.ndarray:
    """[N] labels as they are; of labels [N, C] the number of each row among the rows that occur."""
    return labels if labels.ndim == 1 else np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)


def _rank_in_class(ids: Sequence[str], labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """[N] place of each example among those of its class, by hash; [C] examples of each class that occurs."""
    order = sorted(range(len(ids)), key=lambda index: (labels[index], _hash(ids[index], seed), index))
    _, sizes = np.unique(labels, return_counts=True)
    rank = np.empty(len(ids), np.int64)
    rank[order] = np.concatenate([np.arange(size) for size in sizes])
    return rank, sizes


def _hash(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{text}".encode(errors="surrogateescape")).digest()
