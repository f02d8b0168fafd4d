"""Descriptors of a split: what is left out is told by every process, and what is no number is never kept."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bob_jax.backbones import zoo
from bob_jax.data.arrays import ArraySource
from bob_jax.data.decode import CorruptImage
from bob_jax.data.loader import Loader
from bob_jax.errors import BobError
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.features import extract
from bob_jax.training.mesh import make_mesh, place

NAME = "vit_nano8_glyphs"


class Damaged(ArraySource):
    """Two of its images cannot be decoded."""

    def __getitem__(self, index):
        if index in (2, 9):
            raise CorruptImage(f"image{index}", "damaged on purpose")
        return super().__getitem__(index)


def competitor() -> Competitor:
    mesh = make_mesh()
    loaded = zoo.load(NAME, place=lambda leaf: place(leaf, mesh))
    return Competitor(zoo.card(NAME), loaded.module, loaded.weights_sha256)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))


def source(kind) -> ArraySource:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    return kind(pixels, np.arange(12, dtype=np.int32) % 3, [f"image{i}" for i in range(12)])


def test_images_that_other_processes_skipped_are_told_too(tmp_path, monkeypatch):
    # As on a host whose own rows were all sound: what it knows by itself is not what the record should say.
    monkeypatch.setattr(Loader, "skipped", property(lambda self: ()))
    context = Context(make_mesh(), tmp_path, num_workers=0, skip_corrupt=True)
    for _ in range(2):  # the second time from the cache
        rows = extract(competitor(), source(Damaged), "test", context, 8)
        assert rows.skipped == ("image2", "image9")
        np.testing.assert_array_equal(rows.index, [0, 1, 3, 4, 5, 6, 7, 8, 10, 11])


def test_features_that_are_not_finite_are_one_clear_line_and_not_kept(tmp_path):
    broken = competitor()
    state = nnx.state(broken.module, nnx.Param)
    leaves = nnx.to_pure_dict(state)
    leaves["norm"]["bias"] = jnp.full_like(leaves["norm"]["bias"], jnp.nan)
    nnx.replace_by_pure_dict(state, leaves)
    nnx.update(broken.module, state)
    context = Context(make_mesh(), tmp_path, num_workers=0)
    with pytest.raises(BobError, match=rf"{NAME}: features of 12 of 12 images of test are NaN or infinite"):
        extract(broken, source(ArraySource), "test", context, 8)
    assert not list((tmp_path / "cache").rglob("*.npz"))
