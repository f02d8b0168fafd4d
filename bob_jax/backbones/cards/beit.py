"""Cards of BEiT and BEiT v2. Only fine-tuned weights are published by timm: none is purely self-supervised."""

from typing import Any

from bob_jax.backbones.card import HALF, IN1K, Card, Preprocessing
from bob_jax.backbones.cards.pins import on_hub
from bob_jax.backbones.cards.vit import B, L

V1_INPUT = Preprocessing(crop_pct=0.9, mean=HALF, std=HALF)
V2_INPUT = Preprocessing(crop_pct=0.9)
IN22K = "ImageNet-22k, then its labels"
V2_IN22K = "ImageNet-1k, then ImageNet-22k with labels"


def _cards() -> list[Card]:
    """BEiT (arXiv 2106.08254) and BEiT v2 (2208.06366)."""
    v1, v2, v2_large = B | {"layer_scale": 0.1}, B | {"layer_scale": 1e-5}, L | {"layer_scale": 1e-5}
    rows: list[tuple[str, str, dict[str, Any], Preprocessing, float, str, float | None]] = [
        ("vit_b16_beitv2_ft_in22k", "beitv2_base_patch16_224.in1k_ft_in22k", v2, V2_INPUT, 85.8, V2_IN22K, None),
        (
            "vit_b16_beitv2_ft_in1k", "beitv2_base_patch16_224.in1k_ft_in1k",
            v2, V2_INPUT, 85.8, "ImageNet-1k, then its labels", 85.60,
        ),
        (
            "vit_b16_beitv2_ft_in22k_in1k", "beitv2_base_patch16_224.in1k_ft_in22k_in1k",
            v2, V2_INPUT, 85.8, f"{V2_IN22K}, then ImageNet-1k", 86.49,
        ),
        (
            "vit_l16_beitv2_ft_in22k", "beitv2_large_patch16_224.in1k_ft_in22k",
            v2_large, V2_INPUT, 303.4, V2_IN22K, None,
        ),
        ("vit_b16_beit_ft_in22k", "beit_base_patch16_224.in22k_ft_in22k", v1, V1_INPUT, 85.8, IN22K, None),
        (
            "vit_b16_beit_ft_in22k_in1k", "beit_base_patch16_224.in22k_ft_in22k_in1k",
            v1, V1_INPUT, 85.8, f"{IN22K}, then ImageNet-1k", 85.24,
        ),
    ]  # fmt: skip
    return [
        Card(
            name=name,
            architecture="beit",
            arguments={"input_size": 224, **arguments},
            table="timm_beit",
            method="beitv2" if "beitv2" in name else "beit",
            data=data,
            source=on_hub(f"timm/{tag}"),
            licence="apache-2.0",
            commercial=True,
            preprocessing=preprocessing,
            parameters=parameters,
            feature_dim=arguments["width"],
            pooling="mean",
            scores={"imagenet top-1": f"{top1:.2f} (timm results-imagenet.csv)"} if top1 else {},
            notes="Fine-tuned with labels: not a self-supervised descriptor.",
            classifier=IN1K if name.endswith("in1k") else None,
        )
        for name, tag, arguments, preprocessing, parameters, data, top1 in rows
    ]


BEIT_CARDS: tuple[Card, ...] = tuple(_cards())
