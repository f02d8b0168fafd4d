"""Cards of Swin Transformer V2: Microsoft's supervised weights, and the encoders of the MiDaS v3.1 depth models."""

from collections.abc import Mapping
from typing import Any

from bob_jax.backbones.card import HALF, IN1K, Card, Preprocessing, WeightSource
from bob_jax.backbones.cards.pins import on_hub

T = {"width": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
S = {"width": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)}
B = {"width": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
L = {"width": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)}
# Pretrained at 192 pixels with windows of 12, where the last map has a side of 6; then fine-tuned with larger windows.
FROM_192 = {"pretrained_windows": (12, 12, 12, 6)}

INPUT_192 = Preprocessing(input_size=192, crop_pct=0.9)
INPUT_256 = Preprocessing(input_size=256, crop_pct=0.9)
INPUT_384 = Preprocessing(input_size=384, crop_pct=1.0)
MIDAS_256 = Preprocessing(input_size=256, crop_pct=1.0, crop_mode="squash", mean=HALF, std=HALF)
MIDAS_384 = Preprocessing(input_size=384, crop_pct=1.0, crop_mode="squash", mean=HALF, std=HALF)

MIDAS_URL = "https://github.com/isl-org/MiDaS/releases/download/v3_1/dpt_swin2_{}.pt"


def _card(
    name: str,
    source: WeightSource,
    arguments: Mapping[str, Any],
    preprocessing: Preprocessing,
    parameters: float,
    *,
    table: str,
    method: str,
    data: str,
    scores: Mapping[str, str],
    notes: str,
    classifier: str | None = None,
) -> Card:
    """One row."""
    return Card(
        name=name,
        architecture="swin_v2",
        arguments={"input_size": preprocessing.input_size, **arguments},
        table=table,
        method=method,
        data=data,
        source=source,
        licence="mit",
        commercial=True,
        preprocessing=preprocessing,
        parameters=parameters,
        feature_dim=8 * arguments["width"],
        pooling="mean",
        scores=scores,
        notes=notes,
        classifier=classifier,
    )


def _supervised() -> list[Card]:
    """SwinV2 (arXiv 2111.09883) as Microsoft published it, from timm's repositories."""
    in1k, in22k, both = IN1K, "ImageNet-22k", f"ImageNet-22k at 192 pixels, then {IN1K}"
    base, large = "swinv2_base_window{}", "swinv2_large_window{}"
    to16, to24 = "12to16_192to256.ms_in22k_ft_in1k", "12to24_192to384.ms_in22k_ft_in1k"
    w8, w12, w16, w24 = ({"window": window} for window in (8, 12, 16, 24))
    rows: list[tuple[str, str, dict[str, Any], Preprocessing, float, str, float | None]] = [
        ("swinv2_t_in1k", "swinv2_tiny_window8_256.ms_in1k", T | w8, INPUT_256, 27.6, in1k, 81.82),
        ("swinv2_t_w16_in1k", "swinv2_tiny_window16_256.ms_in1k", T | w16, INPUT_256, 27.6, in1k, 82.83),
        ("swinv2_s_in1k", "swinv2_small_window8_256.ms_in1k", S | w8, INPUT_256, 49.0, in1k, None),
        ("swinv2_s_w16_in1k", "swinv2_small_window16_256.ms_in1k", S | w16, INPUT_256, 49.0, in1k, None),
        ("swinv2_b_in1k", base.format("8_256.ms_in1k"), B | w8, INPUT_256, 86.9, in1k, 84.25),
        ("swinv2_b_w16_in1k", base.format("16_256.ms_in1k"), B | w16, INPUT_256, 86.9, in1k, 84.61),
        ("swinv2_b_in22k", base.format("12_192.ms_in22k"), B | w12, INPUT_192, 86.9, in22k, None),
        ("swinv2_b_in22k_ft_in1k", base.format(to16), B | w16 | FROM_192, INPUT_256, 86.9, both, 86.27),
        ("swinv2_b_384_in22k_ft_in1k", base.format(to24), B | w24 | FROM_192, INPUT_384, 86.9, both, 87.14),
        ("swinv2_l_in22k", large.format("12_192.ms_in22k"), L | w12, INPUT_192, 195.2, in22k, None),
        ("swinv2_l_in22k_ft_in1k", large.format(to16), L | w16 | FROM_192, INPUT_256, 195.2, both, 86.93),
        ("swinv2_l_384_in22k_ft_in1k", large.format(to24), L | w24 | FROM_192, INPUT_384, 195.2, both, 87.47),
    ]
    return [
        _card(
            name,
            on_hub(f"timm/{tag}"),
            arguments,
            preprocessing,
            parameters,
            table="timm_swin_v2",
            method="supervised",
            data=data,
            scores={"imagenet top-1": f"{top1:.2f} (timm results-imagenet.csv)"} if top1 else {},
            notes="Windows are fixed: other input sizes are padded to whole windows. The published score is for the "
            "native size.",
            classifier=IN1K if data.endswith(IN1K) else None,
        )
        for name, tag, arguments, preprocessing, parameters, data, top1 in rows
    ]


def _midas() -> list[Card]:
    """Encoders of DPT-SwinV2 (MiDaS v3.1, arXiv 2307.14460): monocular depth on a mix of data sets."""
    rows: tuple[tuple[str, str, dict[str, Any], Preprocessing, float, str], ...] = (
        ("swinv2_t_midas", "tiny_256", T | {"window": 16}, MIDAS_256, 27.6, "ImageNet-1k"),
        ("swinv2_b_midas", "base_384", B | {"window": 24} | FROM_192, MIDAS_384, 86.9, "ImageNet-22k and -1k"),
    )
    return [
        _card(
            name,
            WeightSource(url=MIDAS_URL.format(file)),
            arguments,
            preprocessing,
            parameters,
            table="midas_swin_v2",
            method="midas",
            data=f"{before}, then the depth data sets of MiDaS v3.1",
            scores={},
            notes="The depth decoder reads the four feature maps; the last norm, through which the descriptor goes, is "
            "not on its way and keeps the values of the supervised start. Battle of the Backbones fed it ImageNet "
            "statistics and centre crops, where MiDaS squashes images to a square and scales pixels to [-1, 1].",
        )
        for name, file, arguments, preprocessing, parameters, before in rows
    ]


SWIN_CARDS: tuple[Card, ...] = (*_supervised(), *_midas())
