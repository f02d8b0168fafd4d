"""Images that are already in memory."""

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from bob_jax.data.base import Example


class ArraySource:
    """Examples from arrays."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, ids: Sequence[str] | None = None):
        """
        Args:
            images: [N, H, W, 3] uint8.
            labels: [N] integer class indices, or [N, C] float.
            ids: [N] names; row numbers when None.

        Raises:
            ValueError: shapes or types do not fit.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or len(images) != len(labels):
            raise ValueError(f"images {images.dtype}{images.shape} with {len(labels)} labels: want uint8 [N, H, W, 3]")
        self.images = images
        self.labels = labels.astype(np.float32 if labels.ndim == 2 else np.int32)
        self.ids = [f"{row:06d}" for row in range(len(images))] if ids is None else list(ids)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        label = self.labels[index]
        return {"image": self.images[index], "label": label if label.ndim else int(label), "id": self.ids[index]}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of pixels, labels and ids."""
        digest = hashlib.sha256(repr((self.images.shape, self.labels.shape, self.ids)).encode())
        digest.update(self.images.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()
