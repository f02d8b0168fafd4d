"""Cards of the random twins: the architectures of other cards, and small ones for 32-pixel images, with fresh weights.

A twin says how much of a score is the architecture's and how much the pretraining's.
"""

from collections.abc import Mapping
from typing import Any

from bob_jax.backbones.card import HALF, Card, Preprocessing
from bob_jax.backbones.cards import convnext as cards_convnext
from bob_jax.backbones.cards import swin as cards_swin
from bob_jax.backbones.cards.eva import EVA02_LARGE
from bob_jax.backbones.cards.generative import DIFFUSION_INPUT_SIZE, SD_V14
from bob_jax.backbones.cards.resnet import R50, R101
from bob_jax.backbones.cards.vit import DINOV2, B, L, S

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
        pooling=arguments.get("pooling", "cls") if architecture in ("vit", "eva") else "mean",
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
        ("convnext_t_random", "convnext", cards_convnext.TINY, 27.8, 768),
        ("convnext_s_random", "convnext", cards_convnext.SMALL, 49.5, 768),
        ("convnext_b_random", "convnext", cards_convnext.BASE, 87.6, 1024),
        ("convnext_xl_random", "convnext", cards_convnext.XLARGE, 348.1, 2048),
        ("convnextv2_t_random", "convnext", cards_convnext.TINY | cards_convnext.V2, 27.9, 768),
        ("eva02_b14_random", "eva", B | EVA02_LARGE, 85.8, 768),
    )
    dinov2 = _twin("vit_s14_dinov2_random", "vit", S | DINOV2, 22.1, 384, Preprocessing())
    diffusion = Preprocessing(input_size=DIFFUSION_INPUT_SIZE)
    sd_v14 = _twin("sd_v14_encoder_random", "stable_diffusion", SD_V14, 382.9, 1280, diffusion)
    return [*(_twin(*row, Preprocessing()) for row in rows), dinov2, sd_v14]


def _swin_twins() -> list[Card]:
    grown = cards_swin.B | {"window": 24} | cards_swin.FROM_192
    return [
        _twin("swinv2_t_random", "swin_v2", cards_swin.T, 27.6, 768, cards_swin.INPUT_256),
        _twin("swinv2_b_random", "swin_v2", cards_swin.B, 86.9, 1024, cards_swin.INPUT_256),
        _twin("swinv2_b_384_random", "swin_v2", grown, 86.9, 1024, cards_swin.INPUT_384),
    ]


def _tiny_twins() -> list[Card]:
    # Without pretraining nothing has taught the class token to gather: the mean of the patches is fairer.
    nano = {"width": 64, "depth": 4, "num_heads": 4, "pooling": "mean"}
    basic = {"block": "basic", "width": 16}
    convnext = {"depths": (1, 1, 2, 1), "widths": (16, 32, 64, 128)}
    rows: tuple[tuple[str, str, dict[str, Any], float, int], ...] = (
        ("vit_nano4_random", "vit", nano | {"patch_size": 4}, 0.207, 64),
        ("vit_nano8_random", "vit", nano | {"patch_size": 8}, 0.213, 64),
        ("vit_micro8_random", "vit", nano | {"patch_size": 8, "width": 96, "depth": 6, "num_heads": 3}, 0.692, 96),
        ("resnet10_nano_random", "resnet", basic | {"stages": (1, 1, 1, 1)}, 0.309, 128),
        ("resnet18_nano_random", "resnet", basic | {"stages": (2, 2, 2, 2)}, 0.701, 128),
        ("resnet26_nano_random", "resnet", {"stages": (2, 2, 2, 2), "width": 16}, 0.88, 512),
        ("convnext_nano_random", "convnext", convnext, 0.269, 128),
    )
    return [_twin(*row, TINY_INPUT) for row in rows]


RANDOM_CARDS: tuple[Card, ...] = (*_twins(), *_swin_twins(), *_tiny_twins())
