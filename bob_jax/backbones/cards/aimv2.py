"""Cards of AIMv2 (arXiv 2411.14402)."""

from bob_jax.backbones.card import CLIP_MEAN, CLIP_STD, Card, Preprocessing
from bob_jax.backbones.cards.pins import on_hub

NOTES = (
    "The mean of the patches is timm's descriptor; the authors probe with a learned attention pool. The licence is "
    "Apple's own: read it before any commercial use."
)


def _card(name: str, tag: str, notes: str) -> Card:
    return Card(
        name=name,
        architecture="aimv2",
        arguments={"input_size": 224, "width": 1024, "depth": 24, "num_heads": 8},
        table="timm_aimv2",
        method="aimv2",
        data="DFN-2B, COYO and HQITP, image-text pairs",
        source=on_hub(f"timm/{tag}"),
        licence="apple-ascl",
        commercial=False,
        preprocessing=Preprocessing(crop_pct=1.0, mean=CLIP_MEAN, std=CLIP_STD),
        parameters=309.2,
        feature_dim=1024,
        pooling="mean",
        notes=notes,
    )


AIMV2_CARDS: tuple[Card, ...] = (
    _card("vit_l14_aimv2", "aimv2_large_patch14_224.apple_pt", NOTES),
    _card("vit_l14_aimv2_dist", "aimv2_large_patch14_224.apple_pt_dist", f"Distilled from a larger AIMv2. {NOTES}"),
)
