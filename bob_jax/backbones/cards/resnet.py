"""Cards of the ResNets and of CLIP's ResNets. Preprocessing is the publishers', else timm's."""

from collections.abc import Mapping
from typing import Any

from bob_jax.backbones.card import CLIP_MEAN, CLIP_STD, IN1K, Card, Preprocessing, WeightSource
from bob_jax.backbones.cards.pins import on_hub

R18 = {"stages": (2, 2, 2, 2), "block": "basic"}
R50 = {"stages": (3, 4, 6, 3)}
R101 = {"stages": (3, 4, 23, 3)}
X4 = {"stages": (4, 6, 10, 6), "width": 80, "input_size": 288}
X16 = {"stages": (6, 8, 18, 8), "width": 96, "input_size": 384}
X64 = {"stages": (3, 15, 36, 10), "width": 128, "input_size": 448}

RSB_INPUT = Preprocessing(crop_pct=0.95)
RSB_176_INPUT = Preprocessing(input_size=176, crop_pct=0.9)
TORCHVISION_INPUT = Preprocessing(crop_pct=0.875, interpolation="bilinear")
TORCHVISION_176_INPUT = Preprocessing(input_size=176, crop_pct=0.875, interpolation="bilinear")
DINO_INPUT = Preprocessing(crop_pct=0.875)

FACEBOOK = "https://dl.fbaipublicfiles.com"


def _resnet(
    name: str,
    source: WeightSource,
    arguments: Mapping[str, Any],
    preprocessing: Preprocessing,
    parameters: float,
    *,
    method: str,
    licence: str,
    scores: Mapping[str, str],
    commercial: bool = True,
    table: str = "timm_resnet",
    notes: str = "",
    classifier: str | None = None,
    classifier_source: WeightSource | None = None,
) -> Card:
    return Card(
        name=name,
        architecture="resnet",
        arguments={"input_size": preprocessing.input_size, **arguments},
        table=table,
        method=method,
        data=IN1K,
        source=source,
        licence=licence,
        commercial=commercial,
        preprocessing=preprocessing,
        parameters=parameters,
        feature_dim=512 if arguments.get("block") == "basic" else 2048,
        pooling="mean",
        scores=scores,
        notes=notes,
        classifier=classifier,
        classifier_source=classifier_source,
    )


def _supervised() -> list[Card]:
    """ResNet strikes back (arXiv 2110.00476; a1, a2, a1h) and torchvision's first (tv) and second (tv2) weights."""
    rsb, torchvision = "apache-2.0", "bsd-3-clause"
    rows = (
        ("resnet18_in1k", "resnet18.a1_in1k", R18, RSB_INPUT, 11.2, rsb, "71.50"),
        ("resnet18_tv_in1k", "resnet18.tv_in1k", R18, TORCHVISION_INPUT, 11.2, torchvision, "69.75"),
        ("resnet50_in1k", "resnet50.a1_in1k", R50, RSB_INPUT, 23.5, rsb, "80.38"),
        ("resnet50_a1h_in1k", "resnet50.a1h_in1k", R50, RSB_176_INPUT, 23.5, rsb, "79.26"),
        ("resnet50_a2_in1k", "resnet50.a2_in1k", R50, RSB_INPUT, 23.5, rsb, "79.83"),
        ("resnet50_tv_in1k", "resnet50.tv_in1k", R50, TORCHVISION_INPUT, 23.5, torchvision, "76.16"),
        ("resnet50_tv2_in1k", "resnet50.tv2_in1k", R50, TORCHVISION_176_INPUT, 23.5, torchvision, "79.43"),
        ("resnet101_a1_in1k", "resnet101.a1_in1k", R101, RSB_INPUT, 42.5, rsb, "81.49"),
        ("resnet101_in1k", "resnet101.a1h_in1k", R101, RSB_INPUT, 42.5, rsb, "81.95"),
        ("resnet101_tv_in1k", "resnet101.tv_in1k", R101, TORCHVISION_INPUT, 42.5, torchvision, "77.40"),
        ("resnet101_tv2_in1k", "resnet101.tv2_in1k", R101, TORCHVISION_176_INPUT, 42.5, torchvision, "79.91"),
    )
    return [
        _resnet(
            name,
            on_hub(f"timm/{tag}"),
            arguments,
            preprocessing,
            parameters,
            method="supervised",
            licence=licence,
            scores={"imagenet top-1": f"{top1} (timm results-imagenet.csv)"},
            notes="Trained at 176 pixels, which is also its evaluation size."
            if preprocessing.input_size == 176
            else "",
            classifier=IN1K,
        )
        for name, tag, arguments, preprocessing, parameters, licence, top1 in rows
    ]


def _self_supervised() -> list[Card]:
    """DINO (arXiv 2104.14294), VICReg (2105.04906), MoCo v3 (2104.02057, 1000 epochs)."""
    return [
        _resnet(
            "resnet50_dino",
            WeightSource(url=f"{FACEBOOK}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth"),
            R50,
            DINO_INPUT,
            23.5,
            method="dino",
            licence="apache-2.0",
            scores={
                "imagenet knn": "67.5 (facebookresearch/dino README)",
                "imagenet linear": "75.3 (facebookresearch/dino README)",
            },
            classifier=IN1K,
            classifier_source=WeightSource(
                url=f"{FACEBOOK}/dino/dino_resnet50_pretrain/dino_resnet50_linearweights.pth"
            ),
        ),
        _resnet(
            "resnet50_vicreg",
            # One public project records the digest, with the size 94 345 885; another its first ten digits.
            WeightSource(
                url=f"{FACEBOOK}/vicreg/resnet50.pth",
                sha256="c843e7652491ff2f712734619fd74d85e5e92ac902615665ad3fd50dc6ada591",
            ),
            R50,
            TORCHVISION_INPUT,
            23.5,
            method="vicreg",
            licence="mit",
            scores={"imagenet linear": "73.2 (facebookresearch/vicreg README)"},
        ),
        _resnet(
            "resnet50_mocov3",
            WeightSource(url=f"{FACEBOOK}/moco-v3/r-50-1000ep/r-50-1000ep.pth.tar"),
            R50,
            TORCHVISION_INPUT,
            23.5,
            method="mocov3",
            licence="cc-by-nc-4.0",
            commercial=False,
            table="mocov3_resnet",
            scores={"imagenet linear": "74.6 (facebookresearch/moco-v3 README)"},
        ),
    ]


def _copy_detection() -> list[Card]:
    """SSCD (arXiv 2202.10261): descriptors of length 1, made to find copies and not classes."""
    large = {"stages": R101["stages"], "groups": 32, "group_width": 4, "descriptor_dim": 1024}
    rows: tuple[tuple[str, str, dict[str, Any], float, int, str], ...] = (
        ("resnet50_sscd", "sscd_imagenet_mixup.torchvision.pt", R50, 24.6, 512, "ImageNet-1k"),
        ("resnet50_sscd_disc", "sscd_disc_mixup.torchvision.pt", R50, 24.6, 512, "DISC 2021"),
        ("resnext101_sscd_disc", "sscd_disc_large.classy.pt", large, 44.2, 1024, "DISC 2021"),
    )
    return [
        Card(
            name=name,
            architecture="sscd",
            arguments={"input_size": 320, **arguments},
            table="sscd_torchvision" if "torchvision" in file else "sscd_classy",
            method="sscd",
            data=data,
            source=WeightSource(url=f"{FACEBOOK}/sscd-copy-detection/{file}"),
            licence="cc-by-nc-4.0",
            commercial=False,
            preprocessing=Preprocessing(input_size=320, crop_pct=1.0, interpolation="bilinear", crop_mode="squash"),
            parameters=parameters,
            feature_dim=feature_dim,
            pooling="gem",
            notes="Pooled by a generalised mean, projected, of length 1. The authors' README says 'CC-NC 4.0', and "
            "offers two inputs: squashed to 320 (here), or the short side at 288 uncropped.",
        )
        for name, file, arguments, parameters, feature_dim, data in rows
    ]


def _clip() -> list[Card]:
    """CLIP (arXiv 2103.00020); the descriptor is the attention pool's output in the joint space of image and text.

    The cards `..._gap` have the same trunks and the mean over the last map in place of the pool.
    """
    openai = "OpenAI, 400 M pairs"
    rows: tuple[tuple[str, str, dict[str, Any], int, float, str], ...] = (
        ("resnet50_clip", "resnet50_clip.openai", R50, 1024, 38.3, openai),
        ("resnet50_clip_cc12m", "resnet50_clip.cc12m", R50, 1024, 38.3, "CC12M"),
        ("resnet50_clip_yfcc15m", "resnet50_clip.yfcc15m", R50, 1024, 38.3, "YFCC15M"),
        ("resnet101_clip", "resnet101_clip.openai", R101, 512, 56.3, openai),
        ("resnet50x4_clip", "resnet50x4_clip.openai", X4, 640, 87.1, openai),
        ("resnet50x16_clip", "resnet50x16_clip.openai", X16, 768, 167.3, openai),
        ("resnet50x64_clip", "resnet50x64_clip.openai", X64, 1024, 420.4, openai),
    )
    return [
        Card(
            name=name,
            architecture="clip_resnet",
            arguments={"input_size": 224, **arguments, "projection_dim": projection},
            table="timm_clip_resnet",
            method="clip",
            data=data,
            source=on_hub(f"timm/{tag}"),
            licence="mit",
            commercial=True,
            preprocessing=Preprocessing(
                input_size=arguments.get("input_size", 224), crop_pct=1.0, mean=CLIP_MEAN, std=CLIP_STD
            ),
            parameters=parameters,
            feature_dim=projection,
            pooling="attention",
            notes="The attention pool's positions belong to the native size and are resampled for others.",
        )
        for name, tag, arguments, projection, parameters, data in rows
    ] + [
        Card(
            name=name,
            architecture="clip_resnet",
            arguments={"input_size": 224, **arguments, "pooling": "mean"},
            table="timm_clip_resnet_without_pool",
            method="clip",
            data=data,
            source=on_hub(f"timm/{tag}"),
            licence="mit",
            commercial=True,
            preprocessing=Preprocessing(crop_pct=1.0, mean=CLIP_MEAN, std=CLIP_STD),
            parameters=parameters,
            feature_dim=2048,
            pooling="mean",
            notes="The mean of positions in place of CLIP's attention pool: not what CLIP compared with its texts.",
        )
        for name, tag, arguments, parameters, data in (
            ("resnet50_clip_gap", "resnet50_clip_gap.openai", R50, 23.5, openai),
            ("resnet50_clip_gap_cc12m", "resnet50_clip_gap.cc12m", R50, 23.5, "CC12M"),
            ("resnet50_clip_gap_yfcc15m", "resnet50_clip_gap.yfcc15m", R50, 23.5, "YFCC15M"),
            ("resnet101_clip_gap", "resnet101_clip_gap.openai", R101, 42.5, openai),
        )
    ]


RESNET_CARDS: tuple[Card, ...] = (*_supervised(), *_self_supervised(), *_copy_detection(), *_clip())
