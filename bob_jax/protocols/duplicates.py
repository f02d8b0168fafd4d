"""Test images whose features nearly agree with a training image's: the same picture, resized, cropped or saved again.

What counts as nearly depends on the backbone. SSCD (Pizzi et al. 2022, arXiv 2202.10261) is trained to tell copies, and
a cosine of 0.75 is its authors' advice; the features of other backbones bring all images of a class together, so that
the default here is higher, and on small or simple images no number tells a copy from a brother.
"""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from bob_jax.data import duplicates
from bob_jax.data.base import Dataset
from bob_jax.data.duplicates import Twin
from bob_jax.errors import BobError
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.features import extract
from bob_jax.protocols.search import nearest

SIMILARITY = 0.95  # cosine
BATCH = 64  # images through the backbone at a time


def find(competitor: Competitor, dataset: Dataset, mesh: Mesh, similarity: float = SIMILARITY) -> list[Twin]:
    """Compares every test image with every training image, and keeps what is found for later runs.

    Args:
        competitor: whose features are compared.
        dataset: with the splits "train" and "test".
        mesh: devices.
        similarity: smallest cosine of a copy, in (0, 1].

    Returns:
        Each test image that has a copy, with the nearest training image; most alike first.

    Raises:
        BobError: the data set has no such splits.
    """
    if not {"train", "test"} <= dataset.splits.keys():
        raise BobError(f"data set {dataset.name} has no training images that test images could be copies of")
    context = Context(mesh, Path(), skip_corrupt=True)  # nothing is written to the folder of a cell
    sources = dataset.splits["train"], dataset.splits["test"]
    train, test = (
        extract(competitor, source, f"{dataset.name}/{split}", context, BATCH)
        for split, source in zip(("train", "test"), sources, strict=True)
    )
    cosine, neighbour = nearest(test.values, train.values, 1)
    train_ids, test_ids = (source.ids for source in sources)
    twins = [
        Twin(test_ids[test.index[row]], train_ids[train.index[neighbour[row, 0]]], float(cosine[row, 0]))
        for row in (cosine[:, 0] >= similarity).nonzero()[0]
    ]
    twins.sort(key=lambda twin: -twin.similarity)
    how: dict[str, Any] = {"backbone": competitor.card.name, "similarity": similarity}
    duplicates.keep(*sources, "nearest", twins, weights=competitor.weights_sha256, **how)
    return twins
