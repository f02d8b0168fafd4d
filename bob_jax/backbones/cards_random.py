"""Cards of the random twins: the architectures of other cards, and small ones for 32-pixel images, with fresh weights.

A twin says how much of a score is the architecture's and how much the pretraining's.
"""

from collections.abc import Mapping
from typing import Any

from bob_jax.backbones.card import HALF, Card, Preprocessing
from bob_jax.backbones.cards_resnet import R50, R101
from bob_jax.backbones.cards_vit import DINOV2, B, L, S

TINY_INPUT = Preprocessing(input_size=32, crop_pct=1.0, mean=HALF, std=HALF)


def _twin(
    name: str,
    architecture: str,
    arguments: Mapping[str, Any],
    parameters: float,
    feature_dim: int,
    preprocessing: Preprocessing,
) -> Card:
    return Card(
        name=name,
        architecture=architecture,
        arguments={"input_size": preprocessing.input_size, **arguments},
        table=None,
        method="random",
        data="none",
        source=None,
        licence="none: no weights",
        commercial=True,
        preprocessing=preprocessing,
        parameters=parameters,
        feature_dim=feature_dim,
        pooling=arguments.get("pooling", "cls") if architecture == "vit" else "mean",
        notes="Fresh weights from the seed, distributed as the original implementation's."
        + (" Its running statistics are 0 and 1 until it is trained." if architecture in ("resnet", "timm") else ""),
    )


def _twins() -> list[Card]:
    rows: tuple[tuple[str, str, dict[str, Any], float, int], ...] = (
        ("resnet50_random", "resnet", R50, 23.5, 2048),
        ("resnet101_random", "resnet", R101, 42.5, 2048),
        ("efficientnet_b0_random", "timm", {"source": "timm:efficientnet_b0"}, 4.0, 1280),
        ("regnety_400m_random", "timm", {"source": "timm:regnety_004"}, 3.9, 440),
        ("vit_s16_random", "vit", S, 21.7, 384),
        ("vit_b16_random", "vit", B, 85.8, 768),
        ("vit_l16_random", "vit", L, 303.3, 1024),
    )
    dinov2 = _twin("vit_s14_dinov2_random", "vit", S | DINOV2, 22.1, 384, Preprocessing(input_size=518, crop_pct=1.0))
    return [*(_twin(*row, Preprocessing()) for row in rows), dinov2]


def _tiny_twins() -> list[Card]:
    # Without pretraining nothing has taught the class token to gather: the mean of the patches is fairer.
    nano = {"width": 64, "depth": 4, "num_heads": 4, "pooling": "mean"}
    basic = {"block": "basic", "width": 16}
    rows: tuple[tuple[str, str, dict[str, Any], float, int], ...] = (
        ("vit_nano4_random", "vit", nano | {"patch_size": 4}, 0.207, 64),
        ("vit_nano8_random", "vit", nano | {"patch_size": 8}, 0.213, 64),
        ("vit_micro8_random", "vit", nano | {"patch_size": 8, "width": 96, "depth": 6, "num_heads": 3}, 0.692, 96),
        ("resnet10_nano_random", "resnet", basic | {"stages": (1, 1, 1, 1)}, 0.309, 128),
        ("resnet18_nano_random", "resnet", basic | {"stages": (2, 2, 2, 2)}, 0.701, 128),
        ("resnet26_nano_random", "resnet", {"stages": (2, 2, 2, 2), "width": 16}, 0.88, 512),
    )
    return [_twin(*row, TINY_INPUT) for row in rows]


RANDOM_CARDS: tuple[Card, ...] = (*_twins(), *_tiny_twins())
