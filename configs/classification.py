"""Classification: natural, satellite, medical and structured images, with many labels and with few.

    python main.py --config=configs/classification.py:vit_b16_clip
    python main.py --config=configs/classification.py:vit_b16_dino,dataset=imagenet,protocol=knn+augmented_probe
    python main.py --config=configs/classification.py:all,dataset=imagenet@5shot,protocol=linear_probe,seed=0+1+2+3+4
    python main.py --config=configs/classification.py:vit_b16_clip_openai,dataset=imagenet,protocol=zero_shot
    python main.py --config=configs/classification.py:resnet50_in1k,dataset=chexpert@10pct,protocol=finetune

Needs: the weights (fetched at first use) and the data (`bob data list` says what each set asks for). `NAME@5shot` and
`NAME@10pct` are low-data versions of any of them; several seeds are several draws of the shots, and the table shows
their spread. ImageNet's 1 % and 10 % are SimCLR's lists. `zero_shot` judges backbones with a text tower and
`published_head` those that come with a classifier of ImageNet; they are left out for the others.

Expected: `EXPECTED` below; `bob reproduce NAME` runs a row and says whether it matches.
"""

from ml_collections import ConfigDict

from configs.argument import Offer, config
from configs.expected import Expected
from configs.recipes import BACKBONES, DEFAULT_BACKBONES, PROTOCOLS

NATURAL = (
    *("imagenet", "imagenet_10pct", "imagenet_1pct", "cifar10", "cifar100"),
    *("caltech101", "dtd", "food101", "svhn", "sun397"),
)
SATELLITE = ("eurosat", "resisc45")
MEDICAL = ("patch_camelyon", "diabetic_retinopathy", "chexpert")
STRUCTURED = (
    *("clevr_count", "clevr_distance", "dmlab", "kitti_distance", "dsprites_location", "dsprites_orientation"),
    *("smallnorb_azimuth", "smallnorb_elevation"),
)


def get_config(argument: str | None = None) -> ConfigDict:
    """The grid that the argument asks for; see `configs/argument.py` for its grammar."""
    offer = Offer(
        backbones=BACKBONES,
        datasets=(*NATURAL, *SATELLITE, *MEDICAL, *STRUCTURED),
        protocols=(
            *("published_head", "zero_shot", "knn", "linear_probe", "augmented_probe", "finetune", "transferability"),
        ),
        default_backbones=DEFAULT_BACKBONES,
        default_protocols=("knn", "linear_probe", "augmented_probe", "finetune"),
    )
    return config("classification", argument, offer, PROTOCOLS)


def _imagenet(backbone: str, protocol: str, percent: float, source: str, tolerance: float) -> Expected:
    return Expected(
        name=f"imagenet_{protocol}_{backbone}",
        benchmark="classification",
        argument=f"{backbone},dataset=imagenet,protocol={protocol}",
        metric="accuracy",
        value=percent / 100,
        tolerance=tolerance,
        source=source,
        changes={"protocols.knn.k": (20,)} if protocol == "knn" else {},
    )


TIMM = "timm, results/results-imagenet.csv"
# Top-1 of the checkpoint's own classifier at the card's size and crop: what needs no training must agree closely.
PUBLISHED_HEADS = {
    "resnet50_tv_in1k": 76.156,
    "resnet50_in1k": 80.382,
    "resnet101_tv_in1k": 77.404,
    "vit_s16_in21k_ft_in1k": 81.402,
    "vit_b16_in21k_ft_in1k": 84.534,
    "vit_b16_in1k": 79.154,
    "convnext_t_in1k": 82.066,
    "convnext_t_in22k_ft_in1k": 82.900,
    "convnext_b_in1k": 83.838,
    "convnext_b_in22k_ft_in1k": 85.814,
    "swinv2_t_in1k": 81.824,
    "swinv2_b_in1k": 84.246,
    "swinv2_b_w16_in1k": 84.608,
    "swinv2_b_in22k_ft_in1k": 86.270,
}
ZERO_SHOT = {
    "vit_b32_clip_openai": 63.32,
    "vit_b16_clip_openai": 68.34,
    "vit_l14_clip_openai": 75.54,
    "resnet50_clip": 59.82,
}
KNN = {
    "vit_s16_dino": (74.5, "facebookresearch/dino, README"),
    "vit_b16_dino": (76.1, "facebookresearch/dino, README"),
    "resnet50_dino": (67.5, "facebookresearch/dino, README"),
    "vit_s14_dinov2": (79.0, "facebookresearch/dinov2, README"),
    "vit_b14_dinov2": (82.1, "facebookresearch/dinov2, README"),
    "vit_l14_dinov2": (83.5, "facebookresearch/dinov2, README"),
}
AUGMENTED_PROBES = {
    "vit_b16_mae": (68.0, "arXiv 2111.06377, table 1"),
    "vit_l16_mae": (75.8, "arXiv 2111.06377"),
    "vit_h14_mae": (76.6, "arXiv 2111.06377"),
    "vit_s16_mocov3": (73.2, "facebookresearch/moco-v3, README"),
    "vit_b16_mocov3": (76.7, "facebookresearch/moco-v3, README"),
    "resnet50_mocov3": (74.6, "facebookresearch/moco-v3, README"),
    "resnet50_vicreg": (73.2, "facebookresearch/vicreg, README"),
    "resnet50_dino": (75.3, "facebookresearch/dino, README"),
}
# CLIP ViT-L/14's linear probe: L-BFGS on frozen features, as here.
CLIP_PROBES = {"dtd": 82.1, "food101": 95.2, "cifar100": 87.5, "cifar10": 98.0}

EXPECTED = (
    *(_imagenet(name, "published_head", value, TIMM, 0.002) for name, value in PUBLISHED_HEADS.items()),
    *(
        _imagenet(name, "zero_shot", value, "mlfoundations/open_clip, docs/openclip_results.csv", 0.003)
        for name, value in ZERO_SHOT.items()
    ),
    *(_imagenet(name, "knn", value, source, 0.005) for name, (value, source) in KNN.items()),
    *(_imagenet(name, "augmented_probe", value, source, 0.01) for name, (value, source) in AUGMENTED_PROBES.items()),
    *(
        Expected(
            name=f"{dataset}_linear_probe_vit_l14_clip_openai",
            benchmark="classification",
            argument=f"vit_l14_clip_openai,dataset={dataset},protocol=linear_probe",
            metric="accuracy",
            value=value / 100,
            tolerance=0.02,
            source="LAION-AI/CLIP_benchmark, pull request 107",
        )
        for dataset, value in CLIP_PROBES.items()
    ),
)
