"""Sources of shifted data: listed files, and examples of another source under other labels."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from bob_jax.data.base import Example, Source
from bob_jax.data.decode import decode_image
from bob_jax.errors import BobError


class Listed:
    """Image files below a folder; several sources may share one list."""

    def __init__(self, root: Path, paths: Sequence[str], labels: np.ndarray, ids: Sequence[str], held: str):
        """
        Args:
            root: the folder.
            paths: [N] below the root, with "/".
            labels: [N] int class indices.
            ids: [N] names.
            held: says what the files hold, for the fingerprint; paths, labels and ids are in it anyway.
        """
        self.root = root
        self.paths = paths
        self.labels = np.asarray(labels, np.int32)
        self.ids = ids
        digest = hashlib.sha256("\n".join((held, *paths, *ids)).encode(errors="surrogateescape"))
        digest.update(self.labels.astype("<i4").tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        """Reads and decodes one image.

        Raises:
            CorruptImage: the file is no whole image, or is gone.
        """
        path = self.root / self.paths[index]
        return {"image": decode_image(path, str(path)), "label": int(self.labels[index]), "id": self.ids[index]}


class Relabelled:
    """Some examples of a source, under other labels."""

    def __init__(self, parent: Source, labels: np.ndarray, indices: np.ndarray | None = None):
        """
        Args:
            parent: where the images are.
            labels: [N] int class indices, or [N, C] bool where several classes are right for an image.
            indices: [N] positions in the parent; all, in its order, when None.
        """
        self.parent = parent
        self.indices = np.arange(len(parent)) if indices is None else np.asarray(indices, np.int64)
        self.labels = labels if labels.ndim == 2 else labels.astype(np.int32)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        example = self.parent[int(self.indices[index])]
        label = self.labels[index]
        return {"image": example["image"], "label": label if label.ndim else int(label), "id": example["id"]}

    @cached_property
    def ids(self) -> Sequence[str]:
        """[N] ids, without decoding."""
        parent = self.parent.ids
        return [parent[index] for index in self.indices]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the parent's, the positions and the labels."""
        digest = hashlib.sha256(self.parent.fingerprint.encode() + self.indices.astype("<i8").tobytes())
        digest.update((np.packbits(self.labels) if self.labels.ndim == 2 else self.labels.astype("<i4")).tobytes())
        return digest.hexdigest()


def positions(labels: np.ndarray, table: np.ndarray, where: str) -> np.ndarray:
    """From classes of the source to places in the table: [N] int -> [N] int32.

    Args:
        labels: class of the source of each image.
        table: [C] ascending, the classes that the set holds.
        where: the set, for messages.

    Raises:
        BobError: a label outside the table, or a class of it without an image.
    """
    found = np.searchsorted(table, labels).clip(max=len(table) - 1).astype(np.int32)
    outside = np.flatnonzero(table[found] != labels)
    if len(outside):
        raise BobError(
            f"label {labels[outside[0]]} of image {outside[0]} of {where} is none of its {len(table)} classes "
            f"({len(outside)} such images): these are other data, or were prepared by another version"
        )
    missing = np.flatnonzero(np.bincount(found, minlength=len(table)) == 0)
    if len(missing):
        raise BobError(
            f"{len(missing)} of the {len(table)} classes of {where} have no image, first class {table[missing[0]]}: "
            "the copy is incomplete, fetch it again"
        )
    return found


def version(sources: Sequence[Source]) -> str:
    """Version of data that are made of these sources."""
    return hashlib.sha256("".join(source.fingerprint for source in sources).encode()).hexdigest()[:16]
