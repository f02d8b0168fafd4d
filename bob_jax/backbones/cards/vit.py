"""Cards of the Vision Transformers. Architecture constants and preprocessing are the publishers', else timm's."""

from collections.abc import Mapping
from typing import Any

from bob_jax.backbones.card import CLIP_MEAN, CLIP_STD, HALF, IN1K, Card, Preprocessing, WeightSource
from bob_jax.backbones.cards.pins import on_hub

S = {"width": 384, "depth": 12, "num_heads": 6}
B = {"width": 768, "depth": 12, "num_heads": 12}
L = {"width": 1024, "depth": 24, "num_heads": 16}
H = {"width": 1280, "depth": 32, "num_heads": 16}
G = {"width": 1536, "depth": 40, "num_heads": 24}
SO400M = {"width": 1152, "depth": 27, "num_heads": 16, "mlp_ratio": 3.7362}

DEIT3 = {"layer_scale": 1e-6, "position": "learned_patches"}
DINOV2 = {"patch_size": 14, "layer_scale": 1e-5, "table_size": 518, "resample": "dinov2"}
DINOV2_REGISTERS = {**DINOV2, "registers": 4, "position": "learned_patches", "resample": "antialiased"}
MOCOV3 = {"position": "sincos"}
CLIP = {"pre_norm": True, "epsilon": 1e-5}
CLIP_QUICK = {**CLIP, "activation": "quick_gelu"}
SIGLIP = {"class_token": False, "pooling": "map"}

AUGREG_INPUT = Preprocessing(crop_pct=0.9, mean=HALF, std=HALF)
DEIT_INPUT = Preprocessing(crop_pct=0.9)
PUBLISHER_INPUT = Preprocessing(crop_pct=0.875)  # DINO, MAE; timm's cards say 0.9
MOCO_INPUT = Preprocessing(crop_pct=0.875, interpolation="bilinear")
CLIP_INPUT = Preprocessing(crop_pct=1.0, mean=CLIP_MEAN, std=CLIP_STD)


def _card(
    name: str,
    tag: str,
    arguments: Mapping[str, Any],
    preprocessing: Preprocessing,
    parameters: float,
    *,
    method: str,
    data: str,
    licence: str = "apache-2.0",
    commercial: bool = True,
    table: str = "timm_vit",
    scores: Mapping[str, str] | None = None,
    notes: str = "",
    classifier: str | None = None,
) -> Card:
    """One row; `tag` is a repository of timm's on the hub, or a URL."""
    source = WeightSource(url=tag) if "://" in tag else on_hub(f"timm/{tag}")
    arguments = {"input_size": preprocessing.input_size, **arguments}
    return Card(
        name=name,
        architecture="vit",
        arguments=arguments,
        table=table,
        method=method,
        data=data,
        source=source,
        licence=licence,
        commercial=commercial,
        preprocessing=preprocessing,
        parameters=parameters,
        feature_dim=arguments["width"],
        pooling=arguments.get("pooling", "cls"),
        scores=scores or {},
        notes=notes,
        classifier=classifier,
    )


def _top1(figure: float) -> dict[str, str]:
    return {"imagenet top-1": f"{figure:.2f} (timm results-imagenet.csv)"}


def _supervised() -> list[Card]:
    """AugReg (arXiv 2106.10270), the first ViT, DeiT (2012.12877) and DeiT III (2204.07118)."""
    in1k, in21k, both = IN1K, "ImageNet-21k", f"ImageNet-21k, then {IN1K}"
    augreg = "vit_{}_patch16_224.augreg_{}".format
    rows: list[tuple[str, str, dict[str, Any], Preprocessing, float, str, float | None]] = [
        ("vit_s16_in1k", augreg("small", "in1k"), S, AUGREG_INPUT, 21.7, in1k, 78.84),
        ("vit_s16_in21k", augreg("small", "in21k"), S, AUGREG_INPUT, 21.7, in21k, None),
        ("vit_s16_in21k_ft_in1k", augreg("small", "in21k_ft_in1k"), S, AUGREG_INPUT, 21.7, both, 81.40),
        ("vit_b16_in1k", augreg("base", "in1k"), B, AUGREG_INPUT, 85.8, in1k, 79.15),
        ("vit_b16_in21k", augreg("base", "in21k"), B, AUGREG_INPUT, 85.8, in21k, None),
        ("vit_b16_in21k_ft_in1k", augreg("base", "in21k_ft_in1k"), B, AUGREG_INPUT, 85.8, both, 84.53),
        (
            "vit_b16_augreg2_in21k_ft_in1k", "vit_base_patch16_224.augreg2_in21k_ft_in1k",
            B, AUGREG_INPUT, 85.8, both, 85.11,
        ),
        ("vit_b16_orig_in21k", "vit_base_patch16_224.orig_in21k", B, AUGREG_INPUT, 85.8, in21k, None),
        ("vit_l16_in21k", augreg("large", "in21k"), L, AUGREG_INPUT, 303.3, in21k, None),
        ("vit_l16_in21k_ft_in1k", augreg("large", "in21k_ft_in1k"), L, AUGREG_INPUT, 303.3, both, 85.86),
        ("vit_s16_deit", "deit_small_patch16_224.fb_in1k", S, DEIT_INPUT, 21.7, in1k, 79.86),
        ("vit_b16_deit", "deit_base_patch16_224.fb_in1k", B, DEIT_INPUT, 85.8, in1k, 81.98),
        (
            "vit_b16_384_deit", "deit_base_patch16_384.fb_in1k",
            B, Preprocessing(input_size=384, crop_pct=1.0), 86.1, in1k, 83.11,
        ),
        ("vit_s16_deit3", "deit3_small_patch16_224.fb_in1k", S | DEIT3, DEIT_INPUT, 21.7, in1k, 81.38),
        (
            "vit_s16_deit3_in22k_ft_in1k", "deit3_small_patch16_224.fb_in22k_ft_in1k",
            S | DEIT3, Preprocessing(crop_pct=1.0), 21.7, f"ImageNet-22k, then {IN1K}", 83.08,
        ),
        ("vit_b16_deit3", "deit3_base_patch16_224.fb_in1k", B | DEIT3, DEIT_INPUT, 85.8, in1k, 83.80),
    ]  # fmt: skip
    return [
        _card(
            name,
            tag,
            arguments,
            preprocessing,
            parameters,
            method="supervised",
            data=data,
            scores=_top1(top1) if top1 else None,
            classifier=IN1K if data.endswith(IN1K) else None,
        )
        for name, tag, arguments, preprocessing, parameters, data, top1 in rows
    ]


def _self_supervised() -> list[Card]:
    """DINO (arXiv 2104.14294), MAE (2111.06377), MoCo v3 (2104.02057)."""
    dino: dict[str, Any] = {"method": "dino", "data": "ImageNet-1k"}
    mae: dict[str, Any] = {
        "method": "mae",
        "data": "ImageNet-1k",
        "licence": "cc-by-nc-4.0",
        "commercial": False,
        "notes": "CLS is what the authors probe; their fine-tuning pools the mean of patches (the feature map's mean). "
        "k-NN is low (about 11 % on ImageNet for a 100-epoch ViT-B): a property of MAE.",
    }
    moco: dict[str, Any] = {
        "method": "mocov3",
        "data": "ImageNet-1k",
        "licence": "cc-by-nc-4.0",
        "commercial": False,
        "table": "mocov3_vit",
    }
    moco_url = "https://dl.fbaipublicfiles.com/moco-v3/vit-{0}-300ep/vit-{0}-300ep.pth.tar".format
    readme = "(facebookresearch/{} README)".format
    dino_notes = "The published linear figure uses {}, not the last CLS alone."
    return [
        _card(
            "vit_s16_dino",
            "vit_small_patch16_224.dino",
            S,
            PUBLISHER_INPUT,
            21.7,
            **dino,
            scores={"imagenet knn": f"74.5 {readme('dino')}", "imagenet linear": f"77.0 {readme('dino')}"},
            notes=dino_notes.format("the CLS tokens of the last 4 blocks"),
        ),
        _card(
            "vit_b16_dino",
            "vit_base_patch16_224.dino",
            B,
            PUBLISHER_INPUT,
            85.8,
            **dino,
            scores={"imagenet knn": f"76.1 {readme('dino')}", "imagenet linear": f"78.2 {readme('dino')}"},
            notes=dino_notes.format("the last CLS and the mean of patches"),
        ),
        *(
            _card(
                name,
                tag,
                arguments,
                PUBLISHER_INPUT,
                parameters,
                **mae,
                scores={
                    "imagenet linear": f"{linear} (facebookresearch/mae FINETUNE.md)",
                    "imagenet fine-tune": f"{finetune} (facebookresearch/mae FINETUNE.md)",
                },
            )
            for name, tag, arguments, parameters, linear, finetune in (
                ("vit_b16_mae", "vit_base_patch16_224.mae", B, 85.8, 67.8, 83.664),
                ("vit_l16_mae", "vit_large_patch16_224.mae", L, 303.3, 76.0, 85.952),
                ("vit_h14_mae", "vit_huge_patch14_224.mae", H | {"patch_size": 14}, 630.8, 77.2, 86.928),
            )
        ),
        _card(
            "vit_s16_mocov3",
            moco_url("s"),
            S | MOCOV3 | {"num_heads": 12},
            MOCO_INPUT,
            21.7,
            **moco,
            scores={"imagenet linear": f"73.2 {readme('moco-v3')}", "imagenet fine-tune": f"81.4 {readme('moco-v3')}"},
            notes="12 heads of width 32, not 6 of 64: the shapes are equal and 6 heads compute another function.",
        ),
        _card(
            "vit_b16_mocov3",
            moco_url("b"),
            B | MOCOV3,
            MOCO_INPUT,
            85.8,
            **moco,
            scores={"imagenet linear": f"76.7 {readme('moco-v3')}", "imagenet fine-tune": f"83.2 {readme('moco-v3')}"},
        ),
    ]


def _dinov2() -> list[Card]:
    """DINOv2 (arXiv 2304.07193), without and with registers (2309.16588)."""
    rows = (
        ("s14", "small", S, 22.1, (79.0, 81.1), (79.1, 80.9)),
        ("b14", "base", B, 86.6, (82.1, 84.5), (82.0, 84.6)),
        ("l14", "large", L, 304.4, (83.5, 86.3), (83.8, 86.7)),
        ("g14", "giant", G | {"activation": "swiglu", "mlp_ratio": 2.66667 * 2}, 1136.5, (83.5, 86.5), (83.7, 87.1)),
    )
    return [
        _card(
            f"vit_{size}_dinov2{'_reg' * registers}",
            f"vit_{word}_patch14_{'reg4_' * registers}dinov2.lvd142m",
            arguments | (DINOV2_REGISTERS if registers else DINOV2),
            PUBLISHER_INPUT,
            parameters,
            method="dinov2",
            data="LVD-142M",
            scores={
                "imagenet knn": f"{scores[registers][0]} (facebookresearch/dinov2 README)",
                "imagenet linear": f"{scores[registers][1]} (facebookresearch/dinov2 README)",
            },
            notes="The positions are for 518 pixels, where training ended; the authors evaluate at 224 and resample "
            f"them {'with' if registers else 'without'} antialiasing. The published linear figure uses the class "
            "token and the mean of patches.",
        )
        for registers in (False, True)
        for size, word, arguments, parameters, *scores in rows
    ]


def _clip() -> list[Card]:
    """CLIP (arXiv 2103.00020) and its open successors. The descriptor is the class token before the projection."""
    b16, l14 = B | CLIP, L | {"patch_size": 14} | CLIP
    b16_quick, l14_quick = B | CLIP_QUICK, L | {"patch_size": 14} | CLIP_QUICK
    half = Preprocessing(crop_pct=1.0, mean=HALF, std=HALF)
    quick = "Trained with QuickGELU, x * sigmoid(1.702 x): exact GELU loads and computes another function."
    openai: dict[str, Any] = {"method": "clip", "data": "OpenAI, 400 M pairs", "notes": quick}
    metaclip: dict[str, Any] = {"method": "clip", "licence": "cc-by-nc-4.0", "commercial": False, "notes": quick}
    base = "vit_base_patch16_clip_224"
    return [
        _card("vit_b16_clip", f"{base}.laion2b", b16, CLIP_INPUT, 85.8, method="clip", data="LAION-2B"),
        _card(
            "vit_l14_clip",
            "vit_large_patch14_clip_224.laion2b",
            l14,
            half,
            303.2,
            method="clip",
            data="LAION-2B",
            notes="Mean and standard deviation are 0.5, unlike every other CLIP model.",
        ),
        _card(
            "vit_b32_clip_openai",
            "vit_base_patch32_clip_224.openai",
            b16_quick | {"patch_size": 32},
            CLIP_INPUT,
            87.5,
            **openai,
        ),
        _card(
            "vit_b16_clip_openai",
            f"{base}.openai",
            b16_quick,
            CLIP_INPUT,
            85.8,
            **openai,
        ),
        _card(
            "vit_l14_clip_openai",
            "vit_large_patch14_clip_224.openai",
            l14_quick,
            CLIP_INPUT,
            303.2,
            **openai,
        ),
        _card("vit_b16_clip_datacomp", f"{base}.datacompxl", b16, CLIP_INPUT, 85.8, method="clip", data="DataComp-1B"),
        _card(
            "vit_b16_clip_dfn",
            f"{base}.dfn2b",
            b16_quick,
            CLIP_INPUT,
            85.8,
            method="clip",
            data="DFN-2B",
            licence="apple-ascl",
            commercial=False,
            notes="Unsettled activation: QuickGELU as open_clip marks this checkpoint; timm builds it with exact GELU. "
            "The licence is Apple's own: read it before any commercial use.",
        ),
        _card("vit_b16_clip_metaclip400m", f"{base}.metaclip_400m", b16_quick, CLIP_INPUT, 85.8,
              data="MetaCLIP, 400 M pairs", **metaclip),
        _card("vit_b16_clip_metaclip", f"{base}.metaclip_2pt5b", b16_quick, CLIP_INPUT, 85.8,
              data="MetaCLIP, 2.5 B pairs", **metaclip),
    ]  # fmt: skip


def _siglip() -> list[Card]:
    """SigLIP (arXiv 2303.15343) and SigLIP 2 (2502.14786); timm's choice of GELU by size, see the notes."""
    exact, tanh = SIGLIP, SIGLIP | {"activation": "gelu_tanh"}
    mean = SIGLIP | {"pooling": "mean"}
    so400m14, so400m16 = SO400M | {"patch_size": 14}, SO400M | {"patch_size": 16}
    rows: list[tuple[str, str, dict[str, Any], int, float]] = [
        ("vit_b16_siglip2", "vit_base_patch16_siglip_224.v2_webli", B | exact, 224, 92.9),
        ("vit_b16_256_siglip2", "vit_base_patch16_siglip_256.v2_webli", B | exact, 256, 92.9),
        ("vit_b16_512_siglip2", "vit_base_patch16_siglip_512.v2_webli", B | exact, 512, 93.5),
        ("vit_b32_siglip2", "vit_base_patch32_siglip_256.v2_webli", B | tanh | {"patch_size": 32}, 256, 94.5),
        ("vit_l16_siglip2", "vit_large_patch16_siglip_256.v2_webli", L | exact, 256, 316.0),
        ("vit_so400m14_siglip2", "vit_so400m_patch14_siglip_224.v2_webli", so400m14 | exact, 224, 427.7),
        ("vit_so400m14_378_siglip2", "vit_so400m_patch14_siglip_378.v2_webli", so400m14 | exact, 378, 428.2),
        ("vit_so400m16_siglip2", "vit_so400m_patch16_siglip_256.v2_webli", so400m16 | tanh, 256, 427.9),
        ("vit_b16_siglip2_gap", "vit_base_patch16_siglip_gap_224.v2_webli", B | mean, 224, 85.8),
        ("vit_b16_siglip", "vit_base_patch16_siglip_224.webli", B | exact, 224, 92.9),
    ]
    return [
        _card(
            name,
            tag,
            arguments,
            Preprocessing(input_size=size, crop_pct=1.0, crop_mode="squash", mean=HALF, std=HALF),
            parameters,
            method="siglip2" if "v2_" in tag else "siglip",
            data="WebLI",
            table="timm_vit_without_pool" if arguments["pooling"] == "mean" else "timm_vit",
            notes="GELU is timm's choice for this size (tanh for B/32 and so400m/16, exact otherwise); the authors' "
            "code uses tanh everywhere. The authors squash the image to a square; timm's cards mostly crop it.",
        )
        for name, tag, arguments, size, parameters in rows
    ]


def _tips() -> list[Card]:
    """TIPSv2 (arXiv 2604.12012): image-text pairs, with self-distillation and masked patches."""
    pixels = Preprocessing(input_size=448, crop_pct=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    arguments = {"patch_size": 14, "layer_scale": 1.0, "registers": 1, "position": "learned_patches"}
    return [
        _card(
            "vit_b14_tipsv2",
            "vit_base_patch14_reg1_tipsv2.webli",
            B | arguments,
            pixels,
            86.3,
            method="tipsv2",
            data="WebLI",
            notes="Takes pixels in [0, 1] as they are, without mean and standard deviation.",
        )
    ]


VIT_CARDS: tuple[Card, ...] = (
    *_supervised(),
    *_self_supervised(),
    *_dinov2(),
    *_clip(),
    *_siglip(),
    *_tips(),
)
