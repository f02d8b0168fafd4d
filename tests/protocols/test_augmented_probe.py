"""The probe on augmented views: heads of one grid share a pass of the backbone, and nothing else."""

import numpy as np
import pytest

from bob_jax.backbones import zoo
from bob_jax.data import digits
from bob_jax.data.base import Dataset
from bob_jax.data.subset import balanced
from bob_jax.protocols.augmented_probe import AugmentedProbe
from bob_jax.protocols.base import Competitor, Context
from bob_jax.training.checkpoint import Diverged
from bob_jax.training.mesh import make_mesh, place
from configs.digits import PROTOCOLS


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    whole = digits.load()
    splits = {name: balanced(source, 64) for name, source in whole.splits.items()}
    return Dataset("few_digits", "1", whole.classes, splits, dict.fromkeys(splits, ""), "accuracy", "none")


def probe(dataset, tmp_path, rates):
    mesh = make_mesh()
    loaded = zoo.load("vit_nano8_glyphs", place=lambda leaf: place(leaf, mesh))
    competitor = Competitor(zoo.card("vit_nano8_glyphs"), loaded.module, loaded.weights_sha256)
    section = PROTOCOLS["augmented_probe"] | {"base_learning_rates": rates, "epochs": 4, "batch_size": 32}
    return AugmentedProbe.from_config(section).run(competitor, dataset, Context(mesh, tmp_path, num_workers=0))


def test_a_head_that_diverges_leaves_the_others_as_they_would_be_alone(dataset, tmp_path):
    alone = probe(dataset, tmp_path / "alone", (10.0,))
    beside = probe(dataset, tmp_path / "beside", (10.0, 1e30))
    assert beside.grid[1]["validation"] is None and beside.chosen == 0
    assert beside.grid[0] == alone.grid[0]
    np.testing.assert_allclose(beside.weights["head.kernel"], alone.weights["head.kernel"], rtol=1e-4, atol=1e-6)


def test_nothing_but_heads_that_diverge_is_one_clear_line(dataset, tmp_path):
    with pytest.raises(Diverged, match=r"all heads of protocols\.augmented_probe diverged: lower its base_learning"):
        probe(dataset, tmp_path, (1e30,))
