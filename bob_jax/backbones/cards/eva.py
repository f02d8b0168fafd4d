"""Cards of the Vision Transformers with rotary positions: EVA-02, EVA-02-CLIP, DINOv3, EUPE, Perception Encoder."""

from collections.abc import Mapping
from typing import Any

from bob_jax.backbones.card import CLIP_MEAN, CLIP_STD, HALF, IN1K, Card, Preprocessing
from bob_jax.backbones.cards.pins import on_hub
from bob_jax.backbones.cards.vit import B, L, S

TI = {"width": 192, "depth": 12, "num_heads": 3}
H_PLUS = {"width": 1280, "depth": 32, "num_heads": 20}

EVA02 = {"activation": "swiglu", "mlp_ratio": 8 / 3, "pooling": "mean", "final_norm": "fc_norm"}
EVA02_LARGE = EVA02 | {"mlp_norm": True}  # B and L
EVA02_CLIP = EVA02_LARGE | {"attention_norm": True, "pooling": "cls", "final_norm": "norm"}
DINOV3 = {
    "patch_size": 16,
    "registers": 4,
    "layer_scale": 1e-5,
    "rotary": "dinov3",
    "position_table": False,
    "qkv_bias": "none",
    "epsilon": 1e-5,
    "pooling": "cls",
    "final_norm": "norm",
}
EUPE = DINOV3 | {"qkv_bias": "qv"}
PE = {"patch_size": 16, "pre_norm": True, "rotary": "pe", "qkv_bias": "qkv", "epsilon": 1e-5}

# The authors' transforms of DINOv3 and of the Perception Encoder resize to a square, bilinearly; timm's cards crop.
DINOV3_INPUT = Preprocessing(input_size=256, crop_pct=1.0, interpolation="bilinear", crop_mode="squash")
EUPE_INPUT = Preprocessing(input_size=256, crop_pct=1.0)
DINOV3_NOTES = (
    "The descriptor is the class token behind the final norm, as the authors define it; timm takes the mean. "
)
PE_DATA = "Meta, 5.4 B image-text pairs and 22 M videos"


def _card(
    name: str,
    tag: str,
    arguments: Mapping[str, Any],
    preprocessing: Preprocessing,
    parameters: float,
    *,
    method: str,
    data: str,
    licence: str,
    commercial: bool = True,
    gated: bool = False,
    table: str = "timm_eva",
    scores: Mapping[str, str] | None = None,
    notes: str = "",
    classifier: str | None = None,
) -> Card:
    """One row; `tag` is a repository of timm's on the hub."""
    arguments = {"input_size": preprocessing.input_size, **arguments}
    return Card(
        name=name,
        architecture="eva",
        arguments=arguments,
        table=table,
        method=method,
        data=data,
        source=on_hub(f"timm/{tag}"),
        licence=licence,
        commercial=commercial,
        preprocessing=preprocessing,
        parameters=parameters,
        feature_dim=arguments["width"],
        pooling=arguments["pooling"],
        scores=scores or {},
        notes=notes,
        gated=gated,
        classifier=classifier,
    )


def _eva02_input(size: int, **more: Any) -> Preprocessing:
    return Preprocessing(input_size=size, mean=CLIP_MEAN, std=CLIP_STD, **more)


def _eva02() -> list[Card]:
    """Masked image modelling (arXiv 2303.11331) with EVA-CLIP as the target, then fine-tuned, or not."""
    in22k, pretrained = "ImageNet-22k", _eva02_input(224, crop_pct=0.9)
    rows: list[tuple[str, str, dict[str, Any], float]] = [
        ("eva02_ti14_mim", "eva02_tiny_patch14_224.mim_in22k", TI | EVA02, 5.5),
        ("eva02_s14_mim", "eva02_small_patch14_224.mim_in22k", S | EVA02, 21.6),
        ("eva02_b14_mim", "eva02_base_patch14_224.mim_in22k", B | EVA02_LARGE, 85.8),
        ("eva02_l14_mim", "eva02_large_patch14_224.mim_in22k", L | EVA02_LARGE, 303.3),
    ]
    plain = [
        _card(
            name,
            tag,
            arguments,
            pretrained,
            parameters,
            method="eva02",
            data=in22k,
            licence="mit",
            table="timm_eva_mim",
            notes="The norm that followed the blocks in pretraining stands behind the mean of the patches, as timm has "
            "it for fine-tuning.",
        )
        for name, tag, arguments, parameters in rows
    ]
    base, large = B | EVA02_LARGE, L | EVA02_LARGE
    return [
        *plain,
        _card(
            "eva02_b14_mim_ft_in1k", "eva02_base_patch14_448.mim_in22k_ft_in1k", base,
            _eva02_input(448, crop_pct=1.0), 86.3, method="eva02", data="ImageNet-22k, then ImageNet-1k",
            licence="mit", scores={"imagenet top-1": "88.26 (timm results-imagenet.csv)"}, classifier=IN1K,
        ),
        _card(
            "eva02_b14_mim_ft_in22k", "eva02_base_patch14_448.mim_in22k_ft_in22k", base,
            _eva02_input(448, crop_pct=1.0, crop_mode="squash"), 86.3, method="eva02",
            data="ImageNet-22k, then its labels", licence="mit",
        ),
        _card(
            "eva02_l14_mim_ft_in22k_in1k", "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", large,
            _eva02_input(448, crop_pct=1.0, crop_mode="squash"), 304.1, method="eva02",
            data="Merged-38M, then ImageNet-22k, then ImageNet-1k", licence="mit",
            scores={"imagenet top-1": "90.06 (timm results-imagenet.csv)"}, classifier=IN1K,
        ),
    ]  # fmt: skip


def _eva02_clip() -> list[Card]:
    """EVA-02-CLIP (arXiv 2303.15389)."""
    clip: dict[str, Any] = {
        "method": "clip",
        "data": "Merged-2B",
        "licence": "mit",
        "notes": "The descriptor is the class token before the projection to the joint space.",
    }
    size = _eva02_input(224, crop_pct=0.9)
    b16 = B | EVA02_CLIP | {"patch_size": 16}
    return [
        _card("eva02_b16_clip", "eva02_base_patch16_clip_224.merged2b", b16, size, 85.9, **clip),
        _card("eva02_l14_clip", "eva02_large_patch14_clip_224.merged2b", L | EVA02_CLIP, size, 303.3, **clip),
    ]


def _dinov3() -> list[Card]:
    """DINOv3 (arXiv 2508.10104), distilled from its 7 B model, and EUPE (2603.22387), which shares its code."""
    swiglu = DINOV3 | {"activation": "swiglu"}
    rows: list[tuple[str, str, dict[str, Any], float]] = [
        ("vit_s16_dinov3", "vit_small_patch16_dinov3", S | DINOV3, 21.6),
        ("vit_s16plus_dinov3", "vit_small_plus_patch16_dinov3", S | swiglu, 28.7),
        ("vit_b16_dinov3", "vit_base_patch16_dinov3", B | DINOV3, 85.6),
        ("vit_l16_dinov3", "vit_large_patch16_dinov3", L | DINOV3, 303.1),
        ("vit_h16plus_dinov3", "vit_huge_plus_patch16_dinov3", H_PLUS | swiglu, 840.5),
    ]
    dinov3 = [
        _card(
            name,
            f"{tag}.lvd1689m",
            arguments,
            DINOV3_INPUT,
            parameters,
            method="dinov3",
            data="LVD-1689M",
            licence="dinov3-license",
            gated=True,
            notes=DINOV3_NOTES + "Meta's own licence: it must be accepted, it goes along with any copy of the weights, "
            "and publications acknowledge their use. The authors' files have biases of query, key and value, all zero, "
            "and the rotary periods rounded to bfloat16; here, as in timm, there are none and they are exact.",
        )
        for name, tag, arguments, parameters in rows
    ]
    eupe = [
        _card(
            f"vit_{size}16_eupe",
            f"vit_{word}_patch16_dinov3_qkvb.eupe_lvd1689m",
            arguments | EUPE,
            EUPE_INPUT,
            parameters,
            method="eupe",
            data="LVD-1689M",
            licence="fair-noncommercial-research-license",
            commercial=False,
            notes=DINOV3_NOTES,
        )
        for size, word, arguments, parameters in (("s", "small", S, 21.6), ("b", "base", B, 85.7))
    ]
    return dinov3 + eupe


def _perception_encoder() -> list[Card]:
    """Perception Encoder (arXiv 2504.13181)."""
    core = B | PE | {"pooling": "map", "pool_heads": 8, "final_norm": "norm"}
    spatial = B | PE | {"pooling": "mean", "final_norm": "none"}
    square: dict[str, Any] = {"crop_pct": 1.0, "interpolation": "bilinear", "crop_mode": "squash"}
    square |= {"mean": HALF, "std": HALF}
    return [
        _card(
            "vit_b16_pe_core",
            "vit_pe_core_base_patch16_224.fb",
            core,
            Preprocessing(input_size=224, **square),
            92.9,
            method="pe",
            data=PE_DATA,
            licence="apache-2.0",
            notes="The descriptor is the attention pool before the projection to the joint space.",
        ),
        _card(
            "vit_b16_pe_spatial",
            "vit_pe_spatial_base_patch16_512.fb",
            spatial,
            Preprocessing(input_size=512, **square),
            86.4,
            method="pe",
            data=PE_DATA,
            licence="apache-2.0",
            notes="Made for dense prediction: no norm follows the blocks, and the mean of the patches is timm's choice "
            "of a descriptor, not the authors', who define none.",
        ),
    ]


EVA_CARDS: tuple[Card, ...] = (*_eva02(), *_eva02_clip(), *_dinov3(), *_perception_encoder())
