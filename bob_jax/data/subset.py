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
        source: single-label examples.
        fraction: of the examples to hold out, in (0, 1).
        seed: which ones.

    Returns:
        The rest and the part held out, each in the source's order.
    """
    labels = source.labels
    rank, sizes = _rank_in_class(source.ids, labels, seed)
    share = fraction * sizes
    take = np.minimum(np.floor(share), sizes - 1)
    missing = math.ceil(fraction * len(labels)) - int(take.sum())
    room = take < sizes - 1
    order = np.argsort(np.where(room, take - share, np.inf), kind="stable")
    take[order[: min(missing, int(room.sum()))]] += 1
    _, classes = np.unique(labels, return_inverse=True)
    held = rank < take[classes]
    return Subset(source, np.flatnonzero(~held)), Subset(source, np.flatnonzero(held))


def balanced(source: Source, limit: int, seed: int = 0) -> Subset:
    """The first `limit` examples of a class-balanced order: one of each class, then a second of each, and so on.

    Args:
        source: single-label examples.
        limit: how many; a shorter source is kept whole.
        seed: which example of a class comes first, and which class.

    Returns:
        The examples chosen, in the source's order, so that files are still read in sequence.
    """
    rank, _ = _rank_in_class(source.ids, source.labels, seed)
    first = [_hash(str(label), seed) for label in source.labels.tolist()]
    order = sorted(range(len(rank)), key=lambda index: (rank[index], first[index]))
    return Subset(source, np.sort(np.array(order[:limit], np.int64)))


def first_of_each_class(source: Source, count: int, seed: int) -> Subset:
    """The first `count` examples of each class by hash, in the source's order; all of a smaller class."""
    rank, _ = _rank_in_class(source.ids, source.labels, seed)
    return Subset(source, np.flatnonzero(rank < count))


def _rank_in_class(ids: Sequence[str], labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """[N] place of each example among those of its class, by hash; [C] examples of each class that occurs."""
    order = sorted(range(len(ids)), key=lambda index: (labels[index], _hash(ids[index], seed), index))
    _, sizes = np.unique(labels, return_counts=True)
    rank = np.empty(len(ids), np.int64)
    rank[order] = np.concatenate([np.arange(size) for size in sizes])
    return rank, sizes


def _hash(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{text}".encode(errors="surrogateescape")).digest()
