"""Near copies are found by features: the same pictures with a little noise."""

import dataclasses

import numpy as np
import pytest

from bob_jax.backbones import zoo
from bob_jax.data import catalog
from bob_jax.data import duplicates as kept
from bob_jax.data.arrays import ArraySource
from bob_jax.errors import BobError
from bob_jax.protocols import duplicates
from bob_jax.protocols.base import Competitor
from bob_jax.training.mesh import make_mesh


@pytest.fixture
def competitor():
    loaded = zoo.load("vit_nano8_glyphs")
    return Competitor(zoo.card("vit_nano8_glyphs"), loaded.module, loaded.weights_sha256)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Glyphs in the typefaces of their splits, but for two test images that are training images, slightly changed."""
    monkeypatch.setenv("BOB_CACHE", str(tmp_path))
    whole = catalog.load("glyphs", limit=94)
    images = {split: np.stack([source[i]["image"] for i in range(94)]) for split, source in whole.splits.items()}
    copies = images["train"][[7, 60]].astype(int)
    images["test"][[3, 50]] = (copies + np.random.default_rng(0).integers(-2, 3, copies.shape)).clip(0, 255)
    splits = {
        split: ArraySource(images[split], source.labels, [f"{split}{i}" for i in range(94)])
        for split, source in whole.splits.items()
    }
    return dataclasses.replace(whole, splits=splits)


def test_changed_copies_are_found_and_kept(competitor, dataset):
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert kept.known(train, test) is None
    twins = duplicates.find(competitor, dataset, make_mesh(), similarity=0.9995)
    assert {(twin.test, twin.train) for twin in twins} == {("test3", "train7"), ("test50", "train60")}
    assert [twin.similarity for twin in twins] == sorted((twin.similarity for twin in twins), reverse=True)
    assert kept.known(train, test) == {"test3", "test50"}


def test_a_lower_number_calls_more_images_copies(competitor, dataset):
    twins = duplicates.find(competitor, dataset, make_mesh(), similarity=0.9)
    assert len(twins) > 2 and all(0.9 <= twin.similarity <= 1.000001 for twin in twins)


def test_a_set_without_training_images_is_one_line(competitor, dataset):
    retrieval = catalog.load("digits_retrieval")
    with pytest.raises(BobError, match="digits_retrieval has no training images"):
        duplicates.find(competitor, retrieval, make_mesh())
