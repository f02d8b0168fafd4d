"""The FLOPs that cards show: counted by the compiler, kept in a file, near what is published."""

import pytest

from bob_jax.backbones import flops, zoo


def test_every_card_has_a_figure():
    assert flops.known().keys() == zoo.CARDS.keys(), "run `python -m bob_jax.backbones.flops`"


@pytest.mark.parametrize("name", ["vit_nano8_random", "resnet18_in1k", "vit_s16_dino"])
def test_the_file_says_what_the_compiler_counts(name):
    # A percent for elementwise work, whose count depends on how JAX writes a GELU.
    assert flops.count(name) == pytest.approx(flops.known()[name], rel=0.01)


@pytest.mark.parametrize(
    ("name", "gmacs", "least", "most"),
    [
        # GMACs of timm's benchmark tables; a multiply-add is two operations. Transformers: matrix products and up to
        # 3 % of elementwise work. Convolutional networks: less what falls on padding, the more the smaller the maps.
        ("vit_s16_dino", 4.61, 1.0, 1.03),
        ("vit_b16_clip", 17.58, 1.0, 1.03),
        ("vit_l16_mae", 61.60, 1.0, 1.03),
        ("resnet18_in1k", 1.82, 0.92, 1.0),
        ("resnet50_in1k", 4.11, 0.96, 1.0),
        ("resnet101_in1k", 7.83, 0.95, 1.0),
    ],
)
def test_figures_are_near_the_published_ones(name, gmacs, least, most):
    assert least < flops.known()[name] / (2 * gmacs) < most
