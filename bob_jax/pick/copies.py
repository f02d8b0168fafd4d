"""Images that are nearly the same: what one learned from the other is no proof of anything.

A backbone's features propose pairs, small grey pictures confirm them: features bring all images of a class together,
and the features of small or simple images nearly agree (`bob_jax.protocols.duplicates`), while a copy that was resized
or saved again keeps its coarse pixels.
"""

import dataclasses

import numpy as np
from PIL import Image

from bob_jax.data.base import Example, Source
from bob_jax.data.decode import CorruptImage
from bob_jax.protocols.duplicates import SIMILARITY
from bob_jax.protocols.search import nearest

NEIGHBOURS = 4  # of an image that are looked at
SIDE = 16  # pixels of the small picture
ALIKE = 0.99  # correlation of the small pictures
MOST = 500  # pairs whose pixels are read


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images that are nearly the same.

    Attributes:
        first, second: their ids.
        places: positions in the source.
        similarity: cosine of their features.
        pixels: correlation of their small grey pictures; 1 for equal ones.
        apart: whether one may be judged by a head that learned from the other: they are in different folds or splits.
        labels_differ: whether they have different labels: one of the two is wrong.
    """

    first: str
    second: str
    places: tuple[int, int]
    similarity: float
    pixels: float
    apart: bool
    labels_differ: bool


class Both:
    """Two sources, one after the other."""

    def __init__(self, first: Source, second: Source):
        self.first, self.second = first, second
        self.ids = [*first.ids, *second.ids]
        self.labels = np.concatenate([first.labels, second.labels])
        self.fingerprint = first.fingerprint + second.fingerprint

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Example:
        """An image of the first, or behind these of the second."""
        return self.first[index] if index < len(self.first) else self.second[index - len(self.first)]


def find(features: np.ndarray, source: Source, index: np.ndarray, fold: np.ndarray) -> list[Pair]:
    """Pairs of near copies, most alike first.

    Args:
        features: [N, D] float32.
        source: the images.
        index: [N] their positions in the source.
        fold: [N] int; those of unequal numbers are apart.
    """
    if len(features) < 2:
        return []
    k = min(NEIGHBOURS + 1, len(features))
    cosine, neighbour = nearest(features, features, k)
    rows = np.repeat(np.arange(len(features)), k)
    proposed = {
        (min(a, b), max(a, b)): float(c)
        for a, b, c in zip(rows.tolist(), neighbour.ravel().tolist(), cosine.ravel().tolist(), strict=True)
        if a != b and c >= SIMILARITY
    }
    found = []
    small: dict[int, np.ndarray | None] = {}
    for (a, b), c in sorted(proposed.items(), key=lambda item: -item[1])[:MOST]:
        for place in (a, b):
            if place not in small:
                small[place] = _small(source, int(index[place]))
        pixels = _correlation(small[a], small[b])
        if pixels >= ALIKE:
            ids = source.ids[index[a]], source.ids[index[b]]
            labels = source.labels[index[a]], source.labels[index[b]]
            places = int(index[a]), int(index[b])
            apart, differ = bool(fold[a] != fold[b]), bool(labels[0] != labels[1])
            found.append(Pair(*ids, places, min(c, 1.0), pixels, apart, differ))
    return sorted(found, key=lambda pair: (-pair.pixels, -pair.similarity, pair.first))


def _small(source: Source, index: int) -> np.ndarray | None:
    """A grey picture of 16 x 16, of mean 0 and length 1; None of an image that cannot be read."""
    try:
        image = Image.fromarray(source[index]["image"]).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    except CorruptImage:
        return None
    pixels = np.asarray(image, np.float64).ravel()
    pixels -= pixels.mean()
    length = np.linalg.norm(pixels)
    return pixels / length if length > 1e-9 else None


def _correlation(first: np.ndarray | None, second: np.ndarray | None) -> float:
    return 0.0 if first is None or second is None else min(1.0, float(first @ second))
