"""Cards of the image encoders of Segment Anything."""

from bob_jax.backbones.card import Card, Preprocessing
from bob_jax.backbones.cards.pins import on_hub

SAM_CARDS: tuple[Card, ...] = (
    Card(
        name="vit_b16_sam",
        architecture="sam_vit",
        arguments={"input_size": 1024, "width": 768, "depth": 12, "num_heads": 12, "global_blocks": (2, 5, 8, 11)},
        table="timm_sam_vit",
        method="sam",
        data="SA-1B",
        source=on_hub("timm/samvit_base_patch16.sa1b"),
        licence="apache-2.0",
        commercial=True,
        preprocessing=Preprocessing(input_size=1024, crop_pct=1.0),
        parameters=89.7,
        feature_dim=256,
        pooling="mean",
        notes="Trained to segment: nothing has taught the mean of its map to describe an image. The authors resize the "
        "long side to 1024 and pad the short one with zeros; timm crops the centre. Layer norms have the authors' "
        "epsilon of 1e-6, where timm's blocks have 1e-5.",
    ),
)
