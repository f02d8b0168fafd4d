"""DomainNet (Peng et al. 2019, arXiv 1812.01754): 345 classes in six domains, each of which can be source or target."""

import itertools
from pathlib import Path

import numpy as np

from bob_jax.data import tfds
from bob_jax.data.base import ShiftDataset
from bob_jax.data.cards.card import DatasetCard

DOMAINS = ("real", "painting", "clipart", "quickdraw", "infograph", "sketch")
PAIRS = tuple(itertools.permutations(DOMAINS, 2))


def source(domain: str) -> str:
    """Name in the catalogue of a domain as an ordinary data set."""
    return f"domainnet_{domain}"


def read(place: Path, card: DatasetCard) -> ShiftDataset:
    """The official test split of the target domain; some domains have no test image of some class."""
    assert card.shifted_from is not None
    test = tfds.TfdsSource(place, "test")
    return ShiftDataset(
        name=card.name,
        version=place.name,
        classes=test.classes,
        splits={"test": test},
        split_notes={"test": "official test of the target domain"},
        metric=card.metric,
        licence=card.licence,
        source=card.shifted_from,
        table=np.arange(len(test.classes)),
    )
