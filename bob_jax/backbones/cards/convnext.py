"""Cards of the ConvNeXts. Preprocessing is the publishers', else timm's."""

from collections.abc import Mapping
from typing import Any

from bob_jax.backbones.card import CLIP_MEAN, CLIP_STD, IN1K, Card, Preprocessing, WeightSource
from bob_jax.backbones.cards.pins import on_hub

ATTO = {"depths": (2, 2, 6, 2), "widths": (40, 80, 160, 320)}
FEMTO = {"depths": (2, 2, 6, 2), "widths": (48, 96, 192, 384)}
PICO = {"depths": (2, 2, 6, 2), "widths": (64, 128, 256, 512)}
NANO = {"depths": (2, 2, 8, 2), "widths": (80, 160, 320, 640)}
TINY = {"depths": (3, 3, 9, 3), "widths": (96, 192, 384, 768)}
SMALL = {"depths": (3, 3, 27, 3), "widths": (96, 192, 384, 768)}
BASE = {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)}
LARGE = {"depths": (3, 3, 27, 3), "widths": (192, 384, 768, 1536)}
XLARGE = {"depths": (3, 3, 27, 3), "widths": (256, 512, 1024, 2048)}
HUGE = {"depths": (3, 3, 27, 3), "widths": (352, 704, 1408, 2816)}

V2 = {"grn": True, "layer_scale": None}
FCMAE = {**V2, "final_norm": "plain"}
VICREGL = {"layer_scale": None, "final_norm": "before_pool"}

INPUT = Preprocessing(crop_pct=0.875)
VICREGL_INPUT = Preprocessing(crop_pct=0.875, interpolation="bilinear")
CLIP_INPUT = Preprocessing(input_size=256, crop_pct=1.0, mean=CLIP_MEAN, std=CLIP_STD)
CLIP_320_INPUT = Preprocessing(input_size=320, crop_pct=1.0, mean=CLIP_MEAN, std=CLIP_STD)
# DINOv3's README: squashed to 256x256, torchvision's default interpolation. timm crops the centre of 224, bicubic.
DINOV3_INPUT = Preprocessing(input_size=256, crop_pct=1.0, interpolation="bilinear", crop_mode="squash")
EUPE_INPUT = Preprocessing(input_size=256, crop_pct=1.0)

# Millions of parameters without head, by size: V1, and V2 with its final norm.
MILLIONS = {"t": 27.8, "s": 49.5, "b": 87.6, "l": 196.2, "xl": 348.1}
MILLIONS_V2 = {"a": 3.39, "f": 4.85, "p": 8.55, "n": 15.0, "t": 27.9, "b": 87.7, "l": 196.4, "h": 657.5}


def _card(
    name: str,
    tag: str,
    arguments: Mapping[str, Any],
    parameters: float,
    *,
    method: str,
    data: str,
    preprocessing: Preprocessing = INPUT,
    licence: str = "apache-2.0",
    commercial: bool = True,
    table: str = "timm_convnext",
    scores: Mapping[str, str] | None = None,
    notes: str = "",
    gated: bool = False,
    classifier: str | None = None,
) -> Card:
    """One row; `tag` is a repository of timm's on the hub, or a URL."""
    return Card(
        name=name,
        architecture="convnext",
        arguments={"input_size": preprocessing.input_size, **arguments},
        table=table,
        method=method,
        data=data,
        source=WeightSource(url=tag) if "://" in tag else on_hub(f"timm/{tag}"),
        licence=licence,
        commercial=commercial,
        preprocessing=preprocessing,
        parameters=parameters,
        feature_dim=arguments["widths"][-1],
        pooling="mean",
        scores=scores or {},
        notes=notes,
        gated=gated,
        classifier=classifier,
    )


def _top1(figure: float | None, source: str = "timm results-imagenet.csv, at 224") -> dict[str, str]:
    return {} if figure is None else {"imagenet top-1": f"{figure} ({source})"}


def _supervised() -> list[Card]:
    """ConvNeXt (arXiv 2201.03545), the authors' weights."""
    sizes = (
        ("t", "tiny", TINY, 82.07, 82.90),
        ("s", "small", SMALL, 83.14, 84.58),
        ("b", "base", BASE, 83.84, 85.81),
        ("l", "large", LARGE, 84.3, 86.6),
        ("xl", "xlarge", XLARGE, None, 86.97),
    )
    in1k, in22k = IN1K, "ImageNet-22k"
    rows = []
    for size, word, arguments, top1, finetuned in sizes:
        source = {"source": "facebookresearch/ConvNeXt README, at 224"} if size == "l" else {}
        trap = "Worse at 288 (78.95) than at 224, in spite of timm's test size." if size == "t" else ""
        rows += [(f"convnext_{size}_in1k", f"{word}.fb_in1k", size, arguments, in1k, _top1(top1, **source), "")]
        rows += [(f"convnext_{size}_in22k", f"{word}.fb_in22k", size, arguments, in22k, {}, "")]
        rows += [
            (
                f"convnext_{size}_in22k_ft_in1k", f"{word}.fb_in22k_ft_in1k",
                size, arguments, f"{in22k}, then {in1k}", _top1(finetuned, **source), trap,
            )
        ]  # fmt: skip
    return [
        _card(
            name, f"convnext_{tag}", arguments, MILLIONS[size],
            method="supervised", data=data, scores=scores, notes=notes,
            classifier=IN1K if data.endswith(IN1K) else None,
        )
        for name, tag, size, arguments, data, scores, notes in rows
        if name != "convnext_xl_in1k"  # there is none
    ]  # fmt: skip


def _vicregl() -> list[Card]:
    """VICRegL (arXiv 2210.01571); BoB's competitor is the largest."""
    return [
        _card(
            "convnext_xl_vicregl",
            "https://dl.fbaipublicfiles.com/vicregl/convnext_xlarge_alpha0.75.pth",
            XLARGE | VICREGL,
            348.1,
            method="vicregl",
            data="ImageNet-22k",
            preprocessing=VICREGL_INPUT,
            licence="cc-by-nc-4.0",
            commercial=False,
            table="vicregl_convnext",
            scores={"imagenet linear": "79.4 (facebookresearch/VICRegL README)"},
            notes="The final norm stands before the mean over positions, and there is no layer scale: a common "
            "ConvNeXt takes the same shapes and computes another function.",
        )
    ]


def _fcmae() -> list[Card]:
    """ConvNeXt V2 (arXiv 2301.00808): FCMAE encoders as pretrained, and fine-tuned."""
    readme = "facebookresearch/ConvNeXt-V2 README, at 224"
    table = "timm results-imagenet.csv, at 224"
    sizes: tuple[tuple[str, str, dict[str, Any], dict[str, str], dict[str, str] | None], ...] = (
        ("a", "atto", ATTO, _top1(76.7, readme), None),
        ("f", "femto", FEMTO, _top1(78.5, readme), None),
        ("p", "pico", PICO, _top1(80.3, readme), None),
        ("n", "nano", NANO, _top1(81.86, table), _top1(82.1, readme)),
        ("t", "tiny", TINY, _top1(82.95, table), _top1(83.90, table)),
        ("b", "base", BASE, _top1(84.89, table), _top1(86.75, table)),
        ("l", "large", LARGE, _top1(85.8, readme), _top1(87.3, readme)),
        ("h", "huge", HUGE, _top1(86.3, readme), None),
    )
    licence: dict[str, Any] = {"licence": "cc-by-nc-4.0", "commercial": False}
    in1k, in22k = "ImageNet-1k", "ImageNet-1k, then ImageNet-22k and ImageNet-1k with labels"
    cards = []
    for size, word, arguments, top1, top1_in22k in sizes:
        name, tag, millions = f"convnextv2_{size}_fcmae", f"convnextv2_{word}.fcmae", MILLIONS_V2[size]
        cards.append(
            _card(
                name, tag, arguments | FCMAE, millions,
                method="fcmae", data=in1k, table="timm_convnext_fcmae", **licence,
                notes="The published encoder has no final norm: the descriptor is the mean over positions, normalised "
                "without learned scale or bias, as timm computes it. Self-supervised, never fine-tuned.",
            )
        )  # fmt: skip
        tuned = [("ft_in1k", f"{in1k}, then with labels", top1)]
        tuned += [("ft_in22k_in1k", in22k, top1_in22k)] if top1_in22k else []
        cards += [
            _card(
                f"{name}_{suffix}", f"{tag}_{suffix}", arguments | V2, millions,
                method="fcmae+supervised", data=data, scores=scores, classifier=IN1K, **licence,
            )
            for suffix, data, scores in tuned
        ]  # fmt: skip
    return cards


def _clip() -> list[Card]:
    """OpenCLIP's ConvNeXt-B (arXiv 2212.07143); the descriptor stands before the projection to the joint space."""
    rows = (
        ("convnext_b_clip", "clip_laion2b", "LAION-2B", CLIP_INPUT),
        ("convnext_b_clip_augreg", "clip_laion2b_augreg", "LAION-2B", CLIP_INPUT),
        ("convnext_b_clip_laiona", "clip_laiona", "LAION-Aesthetic", CLIP_INPUT),
        ("convnext_b_320_clip_laiona", "clip_laiona_320", "LAION-Aesthetic", CLIP_320_INPUT),
        ("convnext_b_320_clip_laiona_augreg", "clip_laiona_augreg_320", "LAION-Aesthetic", CLIP_320_INPUT),
    )
    augreg, table = "convnext_base.clip_laion2b_augreg_", "timm results-imagenet.csv, at 256"
    return [
        *(
            _card(name, f"convnext_base.{tag}", BASE, 87.6, method="clip", data=data, preprocessing=preprocessing)
            for name, tag, data, preprocessing in rows
        ),
        *(
            _card(
                f"convnext_b_clip_{suffix}", augreg + suffix, BASE, 87.6,
                method="clip+supervised", data=data, preprocessing=CLIP_INPUT, scores=_top1(top1, table),
                classifier=IN1K,
            )
            for suffix, data, top1 in (
                ("ft_in1k", "LAION-2B, then ImageNet-1k", 86.18),
                ("ft_in12k_in1k", "LAION-2B, then ImageNet-12k and ImageNet-1k", 86.38),
            )
        ),
    ]  # fmt: skip


def _distilled() -> list[Card]:
    """DINOv3 (arXiv 2508.10104) and EUPE (2603.22387). Their authors pool as timm does: the mean, then the norm."""
    sizes = (("t", "tiny", TINY), ("s", "small", SMALL), ("b", "base", BASE), ("l", "large", LARGE))
    dinov3 = [
        _card(
            f"convnext_{size}_dinov3",
            f"convnext_{word}.dinov3_lvd1689m",
            arguments,
            MILLIONS[size],
            method="dinov3",
            data="LVD-1689M",
            preprocessing=DINOV3_INPUT,
            licence="dinov3-license",
            notes="Distilled from the 7 B model. The authors squash images to 256x256; timm's card says 224 and crops. "
            "The authors' own repository is gated, and their licence binds for timm's copy too.",
            gated=True,
        )
        for size, word, arguments in sizes
    ]
    eupe = [
        _card(
            f"convnext_{size}_eupe",
            f"convnext_{word}.eupe_lvd1689m",
            arguments,
            MILLIONS[size],
            method="eupe",
            data="LVD-1689M",
            preprocessing=EUPE_INPUT,
            licence="fair-noncommercial-research-license",
            commercial=False,
        )
        for size, word, arguments in sizes[:3]
    ]
    return dinov3 + eupe


CONVNEXT_CARDS: tuple[Card, ...] = (*_supervised(), *_vicregl(), *_fcmae(), *_clip(), *_distilled())
