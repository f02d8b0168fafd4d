"""Sizes of the pretraining data: by hand, and known for every card but those whose publishers do not say."""

import pytest

from bob_jax.backbones import zoo
from bob_jax.backbones.pretraining import images, rounded


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("ImageNet-1k", 1_281_167),
        ("ImageNet-21k, then ImageNet-1k", 14_197_122),  # a part of it adds nothing
        ("LAION-2B, then ImageNet-12k and ImageNet-1k", 2_320_000_000 + 12_129_687),
        ("LAION-2B-en, then LAION-Aesthetics v2 5+", 2_320_000_000),
        ("LAION-Aesthetic", 900_000_000),
        ("OpenAI, 400 M pairs", 400_000_000),
        ("Meta, 5.4 B image-text pairs and 22 M videos", 5_400_000_000),
        ("ImageNet-1k, then the depth data sets of MiDaS v3.1", None),
        ("glyphs: 18,800 printed characters", 18_800),
        ("none", None),
    ],
)
def test_images(data, expected):
    assert images(data) == expected


def test_rounded():
    assert [rounded(n) for n in (None, 20_000, 1_281_167, 14_197_122, 2_320_000_000)] == [
        None,
        "20,000",
        "1.28 M",
        "14.2 M",
        "2.32 B",
    ]


def test_every_pretrained_card_says_how_much_it_has_seen():
    unknown = {card.name for card in zoo.CARDS.values() if card.source is not None and images(card.data) is None}
    assert unknown == {"swinv2_t_midas", "swinv2_b_midas", "vit_l14_aimv2", "vit_l14_aimv2_dist"}
