"""Cards of architectures that run as timm wrote them, through the bridge. Figures are timm's unless told."""

from typing import Any

from bob_jax.backbones.card import HALF, IN1K, Card, Preprocessing
from bob_jax.backbones.cards.pins import on_hub

IN1K_INPUT = Preprocessing()
RSB_INPUT = Preprocessing(crop_pct=0.95)
TV2_INPUT = Preprocessing(crop_pct=0.965)
HALF_90 = Preprocessing(crop_pct=0.9, mean=HALF, std=HALF)
BIT_INPUT = Preprocessing(interpolation="bilinear", mean=HALF, std=HALF)
LARGE_INPUT = Preprocessing(input_size=384, crop_pct=1.0)

NON_COMMERCIAL = ("cc-by-nc-4.0",)


def bridged(
    name: str,
    tag: str,
    parameters: float,
    feature_dim: int,
    *,
    preprocessing: Preprocessing = IN1K_INPUT,
    method: str = "supervised",
    data: str = "ImageNet-1k",
    licence: str = "apache-2.0",
    top1: float | None = None,
    notes: str = "",
) -> Card:
    """One row; `tag` is a repository of timm's on the hub, its first half timm's name of the model."""
    model = tag.partition(".")[0]
    scores = {"imagenet top-1": f"{top1:.2f} (timm results-imagenet.csv)"} if top1 else {}
    return Card(
        name=name,
        architecture="timm",
        arguments={"source": f"timm:{model}", "input_size": preprocessing.input_size},
        table="timm",
        method=method,
        data=data,
        source=on_hub(f"timm/{tag}"),
        licence=licence,
        commercial=licence not in NON_COMMERCIAL,
        preprocessing=preprocessing,
        parameters=parameters,
        feature_dim=feature_dim,
        pooling="mean",
        scores=scores,
        notes=notes,
        classifier=IN1K if top1 else None,
    )


def _efficientnets() -> list[Card]:
    """EfficientNet-B0 (arXiv 1905.11946) and MobileNets (1905.02244, 2404.10518)."""
    tf = "Ported from TensorFlow: padding is asymmetric ('SAME'), batch norm has epsilon 1e-3."
    return [
        bridged("efficientnet_b0_in1k", "efficientnet_b0.ra_in1k", 4.0, 1280, top1=77.70),
        bridged("efficientnet_b0_ra4_in1k", "efficientnet_b0.ra4_e3600_r224_in1k", 4.0, 1280, preprocessing=HALF_90,
                top1=78.57, notes="Mean and standard deviation are 0.5, unlike the other EfficientNets; 79.36 at 256."),
        bridged("efficientnet_b0_tf_in1k", "tf_efficientnet_b0.in1k", 4.0, 1280, top1=76.54, notes=tf),
        bridged("efficientnet_b0_ns_jft_in1k", "tf_efficientnet_b0.ns_jft_in1k", 4.0, 1280, method="noisy student",
                data="ImageNet-1k and unlabelled JFT-300M", top1=78.68, notes=tf),
        bridged("mobilenetv3_l_in1k", "mobilenetv3_large_100.ra_in1k", 4.2, 1280, top1=75.78),
        bridged("mobilenetv4_s_in1k", "mobilenetv4_conv_small.e2400_r224_in1k", 2.5, 1280, top1=73.76,
                notes="74.64 at 256."),
    ]  # fmt: skip


def _regnets() -> list[Card]:
    """RegNet (arXiv 2003.13678); SWAG (2201.08371) is weakly supervised by hashtags of Instagram."""
    swag: dict[str, Any] = {"method": "swag", "licence": "cc-by-nc-4.0"}
    in12k: dict[str, Any] = {"data": "ImageNet-12k", "preprocessing": RSB_INPUT}
    return [
        bridged("regnetx_400m_in1k", "regnetx_004.pycls_in1k", 4.8, 384, licence="mit", top1=72.48),
        bridged("regnety_400m_in1k", "regnety_004.pycls_in1k", 3.9, 440, licence="mit", top1=74.00),
        bridged("regnety_400m_tv2_in1k", "regnety_004.tv2_in1k", 3.9, 440, licence="bsd-3-clause",
                preprocessing=TV2_INPUT, top1=75.59),
        bridged("regnety_3g_in1k", "regnety_032.ra_in1k", 17.9, 1512, preprocessing=RSB_INPUT, top1=81.95,
                notes="82.72 at 288."),
        bridged("regnety_16g_in12k", "regnety_160.sw_in12k", 80.6, 3024, **in12k),
        bridged("regnety_16g_in12k_ft_in1k", "regnety_160.sw_in12k_ft_in1k", 80.6, 3024,
                **in12k | {"data": "ImageNet-12k, then ImageNet-1k"}, top1=85.60, notes="86.03 at 288."),
        bridged("regnety_16g_swag", "regnety_160.swag_lc_in1k", 80.6, 3024, **swag, data="Instagram-3.6B",
                preprocessing=TV2_INPUT, top1=83.81,
                notes="The released classifier was trained on the frozen trunk, the plain pretrained one."),
        bridged("regnety_16g_swag_ft_in1k", "regnety_160.swag_ft_in1k", 80.6, 3024, **swag,
                data="Instagram-3.6B, then ImageNet-1k", preprocessing=LARGE_INPUT, top1=86.02),
    ]  # fmt: skip


def _bit() -> list[Card]:
    """Big Transfer (arXiv 1912.11370): ResNet v2 with group norm and weight standardisation."""
    return [
        bridged("resnetv2_50_bit_in21k", "resnetv2_50x1_bit.goog_in21k", 23.5, 2048, data="ImageNet-21k",
                preprocessing=BIT_INPUT),
    ]  # fmt: skip


BRIDGE_CARDS: tuple[Card, ...] = (*_efficientnets(), *_regnets(), *_bit())
