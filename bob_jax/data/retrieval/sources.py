"""Sources of retrieval data: listed files, boxes cut out of images, images freed of a border."""

import collections
import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from bob_jax.data.base import Example, Source
from bob_jax.data.decode import decode_image
from bob_jax.errors import BobError

RED = np.array([255, 0, 0], np.uint8)


class FileSource:
    """Image files that a list names, in the list's order."""

    def __init__(self, root: Path, paths: Sequence[str], labels: np.ndarray | None = None, *, listed_in: str):
        """
        Args:
            root: the folder the paths start from.
            paths: [N] below the root, with "/"; they are the ids.
            labels: [N] int class indices; -1 for all when None.
            listed_in: where the paths come from, for messages.

        Raises:
            BobError: a path that is listed twice, or a file that is not there.
        """
        self.root = root
        self.ids = list(paths)
        self.labels = np.full(len(self.ids), -1, np.int32) if labels is None else np.asarray(labels, np.int32)
        if len(set(self.ids)) < len(self.ids):
            twice = collections.Counter(self.ids).most_common(1)[0][0]
            raise BobError(f"{listed_in} names the image {twice} twice: fetch the official file again")
        sizes = self._sizes(listed_in)
        held = "\n".join(f"{path}\t{size}" for path, size in zip(self.ids, sizes, strict=True))
        digest = hashlib.sha256(held.encode(errors="surrogateescape"))
        digest.update(self.labels.astype("<i4").tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Example:
        """Reads and decodes one image.

        Raises:
            CorruptImage: the file is no whole image, or is gone.
        """
        path = self.root / self.ids[index]
        return {"image": decode_image(path, str(path)), "label": int(self.labels[index]), "id": self.ids[index]}

    def _sizes(self, listed_in: str) -> list[int]:
        """Size in bytes of each file: one look at each also says whether all are there."""
        sizes, missing, top = [], [], f"{self.root}/"
        for path in self.ids:
            try:
                sizes.append(os.stat(top + path).st_size)  # noqa: PTH116  # a Path for each takes far longer
            except OSError:
                missing.append(path)
        if missing:
            raise BobError(
                f"{len(missing)} of {len(self.ids)} images that {listed_in} names are not in {self.root}, "
                f"first {missing[0]}: fetch and unpack the complete archives"
            )
        return sizes


class CroppedSource:
    """Boxes cut out of the images of a source, one per image."""

    def __init__(self, parent: Source, boxes: np.ndarray):
        """
        Args:
            parent: where the images are.
            boxes: [N, 4] left, top, right, bottom in pixels of the full image, counted from 0; right and bottom lie
                outside. Each is rounded to the nearest integer, halves to the even one, as Pillow's `crop` does. What
                exceeds the image is cut off.

        Raises:
            BobError: a box that holds no pixel.
        """
        self.parent = parent
        boxes = np.asarray(boxes, np.float64).reshape(len(parent), 4)
        finite = np.isfinite(boxes).all(axis=1, keepdims=True)
        self.boxes = np.rint(np.where(finite, boxes, 0)).astype(np.int64)
        empty = (self.boxes[:, 2:] <= self.boxes[:, :2]).any(axis=1)
        if empty.any():
            first = int(np.argmax(empty))
            raise BobError(
                f"the box of {parent.ids[first]} is empty: {boxes[first].tolist()}, "
                "want left < right and top < bottom in pixels; fetch the official ground truth again"
            )

    def __len__(self) -> int:
        return len(self.parent)

    def __getitem__(self, index: int) -> Example:
        """Reads an image and cuts its box out.

        Raises:
            BobError: the box lies outside the image.
        """
        example = self.parent[index]
        height, width = example["image"].shape[:2]
        left, top, right, bottom = self.boxes[index].tolist()
        image = example["image"][max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        if not image.size:
            raise BobError(
                f"the box {[left, top, right, bottom]} of {example['id']} lies outside the image of {width} x {height} "
                "pixels: fetch the official images and ground truth again"
            )
        return {"image": image, "label": example["label"], "id": example["id"]}

    @property
    def ids(self) -> Sequence[str]:
        """[N] ids, without decoding."""
        return self.parent.ids

    @property
    def labels(self) -> np.ndarray:
        """[N] labels, without decoding."""
        return self.parent.labels

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the parent's and the boxes."""
        return hashlib.sha256(self.parent.fingerprint.encode() + self.boxes.astype("<i8").tobytes()).hexdigest()


class BorderlessSource:
    """Images without the red border that ObjectNet draws around each, so that test images are told from others.

    objectnet.dev speaks of one pixel, the authors' loader takes off two, and images with either are about: one ring of
    pixels goes in any case, and as many more as are red all around.
    """

    def __init__(self, parent: Source):
        self.parent = parent

    def __len__(self) -> int:
        return len(self.parent)

    def __getitem__(self, index: int) -> Example:
        """Reads an image and takes its border off.

        Raises:
            BobError: nothing is left of it.
        """
        example = self.parent[index]
        image = example["image"][1:-1, 1:-1]
        while image.size and _red_all_around(image):
            image = image[1:-1, 1:-1]
        if not image.size:
            raise BobError(f"nothing is left of {example['id']} without its border: fetch the image again")
        return {"image": image, "label": example["label"], "id": example["id"]}

    @property
    def ids(self) -> Sequence[str]:
        """[N] ids, without decoding."""
        return self.parent.ids

    @property
    def labels(self) -> np.ndarray:
        """[N] labels, without decoding."""
        return self.parent.labels

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the parent's, and that the border is off."""
        return hashlib.sha256(f"{self.parent.fingerprint} without red border".encode()).hexdigest()


def _red_all_around(image: np.ndarray) -> bool:
    return all(bool((edge == RED).all()) for edge in (image[0], image[-1], image[:, 0], image[:, -1]))
