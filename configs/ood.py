"""Out-of-distribution generalisation: a head trained on the source, judged on shifted images without further training.

    python main.py --config=configs/ood.py:vit_b16_clip
    python main.py --config=configs/ood.py:vit_b16_clip,dataset=imagenet_a+imagenet_r,head=finetune
    python main.py --config=configs/ood.py:all,dataset=imagenet_v2,head=published_head

Needs: the weights, the source's data and the targets' (`bob data list`). The head of a source is trained once, in a
cell of its own, whose weights are kept in the results folder; all targets of the source use it. `zero_shot` and
`published_head` are heads too, for backbones that have them.

The record holds the shifted score and, over the same classes, the clean one on the source's test images, the gap with
its interval, effective robustness where the literature has a baseline, and calibration under the shift with the
source's temperature. Nothing is chosen on target labels.

Expected: `EXPECTED` below; `bob reproduce NAME` runs a row and says whether it matches.
"""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from bob_jax.data.catalog import CARDS
from configs.argument import Offer, config
from configs.expected import Expected
from configs.recipes import BACKBONES, DEFAULT_BACKBONES, PROTOCOLS

EMBEDDED = ("digits_c", "digits_from_print")  # those of configs/digits.py


def get_config(argument: str | None = None) -> ConfigDict:
    """The grid that the argument asks for; see `configs/argument.py` for its grammar."""
    targets = tuple(name for name, card in CARDS.items() if card.task == "shift" and name not in EMBEDDED)
    offer = Offer(
        backbones=BACKBONES,
        datasets=targets,
        protocols=("ood",),
        default_backbones=DEFAULT_BACKBONES,
        heads=("published_head", "zero_shot", "linear_probe", "augmented_probe", "finetune"),
        default_heads=("linear_probe", "finetune"),
    )
    return config("ood", argument, offer, PROTOCOLS)


TARGETS = ("imagenet_real", "imagenet_v2", "imagenet_sketch", "imagenet_a", "imagenet_r")
# Top-1 of the checkpoint's own classifier, at the card's size and crop; A and R over their 200 classes.
PUBLISHED_HEADS = {
    "resnet50_tv_in1k": (82.969, 63.190, 24.064, None, 36.157),
    "resnet50_in1k": (85.712, 68.470, 29.641, 9.973, 40.417),
    "resnet101_tv_in1k": (83.863, 65.940, 26.974, 4.560, 39.297),
    "vit_s16_in21k_ft_in1k": (86.854, 70.630, 32.893, 26.787, 46.033),
    "vit_b16_in21k_ft_in1k": (88.887, 74.100, 43.261, 43.133, 56.860),
    "vit_b16_in1k": (84.388, 66.340, 27.973, 14.907, 38.140),
    "convnext_t_in1k": (87.309, 70.930, 33.825, 24.107, 47.133),
    "convnext_t_in22k_ft_in1k": (88.018, 72.580, 38.458, 36.640, 50.983),
    "convnext_b_in1k": (88.377, 73.780, 38.236, 36.693, 51.250),
    "convnext_b_in22k_ft_in1k": (89.675, 76.160, 48.804, 54.773, 61.783),
    "swinv2_t_in1k": (87.100, 70.450, 28.615, 26.173, 41.280),
    "swinv2_b_in1k": (88.537, 73.670, 35.464, 41.160, 48.290),
    "swinv2_b_w16_in1k": (88.609, 74.180, 37.000, 45.907, 49.603),
    "swinv2_b_in22k_ft_in1k": (89.893, 77.270, 48.783, 63.467, 63.020),
}
ZERO_SHOT = {
    "vit_b32_clip_openai": (None, 55.92, 42.29, 31.55, 69.33),
    "vit_b16_clip_openai": (None, 61.88, 48.24, 49.95, 77.70),
    "vit_l14_clip_openai": (None, 69.83, 59.59, 70.75, 87.84),
    "resnet50_clip": (None, 52.84, 35.44, 23.27, 60.73),
}


def _rows(head: str, scores: Mapping[str, Sequence[float | None]], source: str) -> tuple[Expected, ...]:
    return tuple(
        Expected(
            name=f"{target}_{head}_{backbone}",
            benchmark="ood",
            argument=f"{backbone},dataset={target},head={head}",
            metric="accuracy",
            value=percent / 100,
            tolerance=0.003,
            source=source,
        )
        for backbone, row in scores.items()
        for target, percent in zip(TARGETS, row, strict=True)
        if percent is not None
    )


EXPECTED = (
    *_rows("published_head", PUBLISHED_HEADS, "timm, results/results-*.csv"),
    *_rows("zero_shot", ZERO_SHOT, "mlfoundations/open_clip, docs/openclip_results.csv"),
)
