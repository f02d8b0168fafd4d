"""Cards of Hiera: MAE on ImageNet, as pretrained and as fine-tuned."""

from typing import Any

from bob_jax.backbones.card import IN1K, Card, Preprocessing
from bob_jax.backbones.cards.pins import on_hub

B = {"width": 96, "num_heads": 1, "stages": (2, 3, 16, 3)}
SHARED: dict[str, Any] = {
    "architecture": "hiera",
    "arguments": {"input_size": 224, **B},
    "table": "timm_hiera",
    "method": "mae",
    "licence": "cc-by-nc-4.0",
    "commercial": False,
    "preprocessing": Preprocessing(crop_pct=0.9),
    "parameters": 50.8,
    "feature_dim": 768,
    "pooling": "mean",
}

HIERA_CARDS: tuple[Card, ...] = (
    Card(
        name="hiera_b_mae",
        data="ImageNet-1k",
        source=on_hub("timm/hiera_base_224.mae"),
        notes="As timm builds it, for fine-tuning. In pretraining the last stage did not pool (its stride was 16, "
        "here it is 32), and the norm behind the pooling stood before the decoder, on single tokens.",
        **SHARED,
    ),
    Card(
        name="hiera_b_mae_ft_in1k",
        data="ImageNet-1k, then its labels",
        source=on_hub("timm/hiera_base_224.mae_in1k_ft_in1k"),
        scores={"imagenet top-1": "84.53 (timm results-imagenet.csv)"},
        classifier=IN1K,
        **SHARED,
    ),
)
