"""Robustness of a linear probe on handwritten digits, under every condition, and what may not change it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bob_jax.backbones import parameters, zoo
from bob_jax.data import catalog
from bob_jax.data.arrays import ArraySource
from bob_jax.data.base import Dataset
from bob_jax.data.decode import CorruptImage
from bob_jax.data.subset import Subset, balanced
from bob_jax.errors import BobError
from bob_jax.metrics.catalog import METRICS
from bob_jax.protocols import attacks
from bob_jax.protocols.adversarial import Adversarial
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.linear_probe import LinearProbe
from bob_jax.protocols.square import square
from bob_jax.protocols.trained import restore
from bob_jax.protocols.victim import Victim
from bob_jax.training.mesh import make_mesh, place

NAME = "vit_nano8_glyphs"
SECTION = {
    "linf": (1 / 255, 4 / 255, 16 / 255),
    "l2": (0.25, 1.0),
    "main": "linf_4of255",
    "images": 40,
    "batch_size": 40,
    "pgd_steps": 5,
    "pgd_step_size": 0.4,
    "pgd_restarts": 1,
    "apgd_steps": 10,
    "apgd_restarts": 1,
    "apgd_targets": 2,
    "square_queries": 50,
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return catalog.load("digits", root=None, limit=None, draw=0)


def competitor(mesh, dtype=None) -> Competitor:
    loaded = zoo.load(NAME, dtype=dtype, place=lambda leaf: place(leaf, mesh))
    return Competitor(zoo.card(NAME), loaded.module, loaded.weights_sha256)


@pytest.fixture(scope="module")
def probe(digits, tmp_path_factory):
    mesh = make_mesh()
    protocol = LinearProbe(regularisation=(1e-2,), tolerance=1e-4, max_iterations=200, batch_size=256)
    return protocol.run(competitor(mesh), digits, Context(mesh, tmp_path_factory.mktemp("probe")))


def context(tmp_path, digits, probe, mesh=None, dtype=None, **fields) -> Context:
    mesh = mesh or make_mesh()
    trained = restore(competitor(mesh, dtype), probe.weights, digits, 1.0, "cell", mesh)
    return Context(mesh, tmp_path, trained=trained, **fields)


def test_every_condition_on_digits(digits, probe, tmp_path):
    protocol = Adversarial.from_config(SECTION)
    given = context(tmp_path, digits, probe)
    before = {name: np.array(leaf) for name, leaf in parameters.flatten(given.trained.competitor.module).items()}
    result = protocol.run(given.trained.competitor, digits, given)

    after = parameters.flatten(given.trained.competitor.module)
    assert all(np.array_equal(before[name], after[name]) for name in before) and len(before) == len(after)
    outputs, names = result.outputs, ["linf_1of255", "linf_4of255", "linf_16of255", "l2_0.25", "l2_1"]
    assert np.bincount(outputs["label"]).tolist() == [4] * 10
    right = dict(zip(probe.outputs["id"].tolist(), probe.outputs["correct"].tolist(), strict=True))
    assert outputs["clean_correct"].tolist() == [right[name] for name in outputs["id"].tolist()]

    survived, single = outputs["survived"], [outputs["survived_fgsm"], outputs["survived_pgd"]]
    assert survived.shape == (40, 5) and not survived[~outputs["clean_correct"]].any()
    for one in single:
        assert not (survived & ~one).any()  # the ensemble is no weaker than any of its attacks
    for columns in (survived[:, :3], survived[:, 3:]):
        assert not (columns[:, 1:] & ~columns[:, :-1]).any()  # nor a larger budget than a smaller one
    share = survived.mean(0)
    assert outputs["clean_correct"].mean() > 0.9 and share[0] > 0.5 and share[2] < 0.3 and share[1] > share[2]

    np.testing.assert_array_equal(outputs["robust"], survived[:, 1])
    assert METRICS[result.main_metric](outputs) == share[1]
    assert result.scores["clean_accuracy"].value == outputs["clean_correct"].mean()
    for k, name in enumerate(names):
        scores = [result.scores[f"{kind}_accuracy_{name}"] for kind in ("robust", "fgsm", "pgd")]
        assert [score.value for score in scores] == pytest.approx([share[k], *(one[:, k].mean() for one in single)])
        assert scores[0].low <= scores[0].value <= scores[0].high and scores[0].n == 40
    assert result.higher_is_better.keys() == result.scores.keys()
    left = result.notes["images_left_after"]
    assert [left[name]["square"] for name in names] == survived.sum(0).tolist()
    assert result.notes["conditions"] == names and result.cost.device_seconds > 0 and result.weights is None


def found(given, images, batch_size, rows=slice(None)):
    """Whom APGD and the Square attack fool."""
    victim = Victim(given.trained, images, given, batch_size)
    chosen = np.arange(len(victim.labels))[rows]
    apgd = victim.attacker(lambda *args: attacks.apgd(*args, steps=5), 0)
    squares = victim.attacker(lambda *args: square(*args, queries=20), 1)
    return apgd(chosen, "linf", 4 / 255), squares(chosen, "l2", 1.5)


def test_neither_devices_nor_batches_change_who_is_fooled(digits, probe, tmp_path):
    images = balanced(digits.splits["test"], 30)
    one = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
    assert jax.device_count() == 8
    many = found(context(tmp_path, digits, probe), images, 16)
    alone = found(context(tmp_path, digits, probe, one), images, 30)
    part = found(context(tmp_path, digits, probe, one), images, 7, slice(5, 19))
    for fooled, same, some in zip(many, alone, part, strict=True):
        assert 0 < fooled.sum() < 30
        np.testing.assert_array_equal(fooled, same)
        np.testing.assert_array_equal(fooled[5:19], some)


def test_a_bfloat16_backbone_is_attacked_in_float32(digits, probe, tmp_path):
    images = balanced(digits.splits["test"], 16)
    given = context(tmp_path, digits, probe, dtype=jnp.bfloat16)
    assert given.trained.competitor.module.dtype == jnp.bfloat16
    exact = context(tmp_path, digits, probe, dtype=jnp.float32)
    scores, expected = (Victim(each.trained, images, each, 16).logits() for each in (given, exact))
    np.testing.assert_array_equal(scores, expected)


class Torn(ArraySource):
    """A source whose second image cannot be decoded."""

    def __getitem__(self, index):
        if index == 1:
            raise CorruptImage("000001 is torn")
        return super().__getitem__(index)


def test_an_undecodable_image_is_left_out_and_named(digits, probe, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    images = Subset(Torn(pixels, np.arange(4)), np.array([0, 1, 3]))
    given = context(tmp_path, digits, probe, skip_corrupt=True)
    victim = Victim(given.trained, images, given, 8)
    assert victim.skipped == ("000001",) and victim.ids.tolist() == ["000000", "000003"]
    assert victim.labels.tolist() == [0, 3] and victim.logits().shape == (2, 10)
    with pytest.raises(BobError, match="none of the 2 images to attack can be decoded"):
        Victim(given.trained, Subset(images.parent, np.array([1, 1])), given, 8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"linf": (4 / 255, 1 / 255)}, "in ascending order"),
        ({"l2": (0.0, 0.5)}, "give budgets above 0"),
        ({"linf": (4.0,)}, "write 4/255 for 4"),
        ({"main": "linf_8of255"}, "choose one of linf_1of255, linf_4of255, linf_16of255, l2_0.25, l2_1"),
        ({"apgd_steps": 0}, "apgd_steps is 0: it must be above 0"),
    ],
)
def test_a_bad_section_says_what_is_wrong(changed, message):
    with pytest.raises(BobError, match=message):
        Adversarial.from_config(SECTION | changed)


def test_one_class_cannot_be_attacked(digits, probe, tmp_path):
    given = context(tmp_path, digits, probe)
    with pytest.raises(BobError, match="digits has one class"):
        Adversarial.from_config(SECTION).run(
            given.trained.competitor, dataclasses.replace(digits, classes=("0",)), given
        )
