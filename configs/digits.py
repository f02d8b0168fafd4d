"""The embedded default: real handwritten digits that come with scikit-learn; nothing is downloaded.

    python main.py --config=configs/digits.py
    python main.py --config=configs/digits.py:vit_nano4_random,protocol=finetune

Data: 1,797 images of 8 x 8 pixels (UCI Optical Recognition of Handwritten Digits, test part), 10 classes, split
1077 / 360 / 360 into train, validation and test, stratified; the test images corrupted in 25 ways; printed digits, from
which to read the handwritten ones; and test digits that ask for their like among the training images.
Expected: percent of the six default backbones, seed 0; six minutes on two cores for all of it.

                          knn   linear_probe   augmented_probe   finetune   adversarial   ood      ood         retrieval
                                                                            4/255         digits_c from_print  map
    vit_nano8_glyphs     96.1       97.5            91.7           95.0        68         74.8     64.0         67.3
    vit_nano8_random     46.9       83.6            31.7           30.3         0         17.0     29.6         16.6
    resnet10_nano_glyphs 98.3       98.9            93.9           99.4        94         83.6     76.1         79.5
    resnet10_nano_random 17.2       23.9            14.7           95.0         0         14.7     15.4         14.1
    convnext_nano_glyphs 98.1       98.6            94.2           98.3        94         85.1     78.9         82.2
    convnext_nano_random 95.8       95.3            86.7           90.8         8         63.0     54.3         62.7

`adversarial` and `ood` judge the head of `linear_probe` (`head=finetune` takes another).

The `_glyphs` backbones come with the package and have learned printed characters (`configs/glyphs.py`): from fonts to
handwriting. Their twins, frozen, show how much of the pixels a random function lets through: a random ConvNeXt, whose
blocks start as the identity, nearly all; a random ResNet hides them behind running statistics that were never measured.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.argument import Offer, config
from configs.detection import DESIGN, TRAINING
from configs.expected import Expected

# Each architecture pretrained and as its random twin, which is what it started from.
DEFAULT = (
    *("vit_nano8_glyphs", "vit_nano8_random"),
    *("resnet10_nano_glyphs", "resnet10_nano_random"),
    *("convnext_nano_glyphs", "convnext_nano_random"),
)
BACKBONES = (*DEFAULT, "vit_micro8_random", "vit_nano4_random", "resnet18_nano_random", "resnet26_nano_random")

ASIDE = ("transferability", "detection")  # a guess and no judgement; eight minutes for each backbone

PROTOCOLS: dict[str, dict[str, Any]] = {
    "knn": {"k": (1, 3, 5, 10, 20), "temperature": 0.07, "batch_size": 256},
    "linear_probe": {
        "regularisation": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "tolerance": 1e-5,
        "max_iterations": 500,
        "batch_size": 256,
    },
    "augmented_probe": {
        # LARS moves a head by rate / 1000 of its length a step, and here are few steps: the rates are large.
        "base_learning_rates": (30.0, 100.0, 300.0, 1000.0),
        "batch_size": 64,
        "epochs": 6,
        "warmup_epochs": 1,
        "crop_scale": (0.5, 1.0),
        "horizontal_flip": False,  # a mirrored digit is another sign
    },
    "finetune": {
        "learning_rates": (1e-3, 5e-3),
        "weight_decays": (0.05,),
        "layer_decay": 1.0,  # half of the backbones are random: no layer of theirs deserves to move less
        "batch_size": 64,
        "accumulate": 1,
        "epochs": 5,
        "min_steps": 0,
        "max_steps": 0,
        "warmup_epochs": 1,
        "evaluations": 2,
        "drop_path": 0.0,
        "label_smoothing": 0.1,
        "mixup": 0.0,
        "cutmix": 0.0,
        "crop_scale": (0.6, 1.0),
        "horizontal_flip": False,
        "randaugment": 0,
        "random_erasing": 0.0,
        "clip_norm": 1.0,
        "ema": 0.0,
    },
    "ood": {"batch_size": 256},
    "adversarial": {
        "linf": (2 / 255, 4 / 255, 8 / 255),
        "l2": (0.5, 1.0),
        "main": "linf_4of255",
        "images": 50,
        "batch_size": 50,
        "pgd_steps": 5,
        "pgd_step_size": 0.4,
        "pgd_restarts": 1,
        "apgd_steps": 10,
        "apgd_restarts": 1,
        "apgd_targets": 2,
        "square_queries": 50,
    },
    "retrieval": {
        "descriptor": "pooled",
        "gem_p": 3.0,
        "input_size": 0,
        "scales": (1.0,),
        "whitening": 0,
        "top_k": 20,
        "batch_size": 256,
    },
    "transferability": {"images": 1000, "batch_size": 256},
    # The detector of configs/detection.py, small: a quarter of its width, a sixth of its inputs' side. Its values were
    # chosen on validation: docs/detection.md.
    "detection": DESIGN
    | TRAINING
    | {
        "width": 64,
        # Sides from 12 pixels. Digits are from 12 to 90 pixels tall here, and what no anchor meets is never found.
        "anchor_scale": 3.0,
        "proposals_before": (300, 200),
        "proposals": (300, 100),
        "stage_weights": (1.0, 1.0, 1.0),
        # Three digits a scene: more boxes of each would cost time in which more scenes can be seen.
        "rois": 24,
        "positive_share": 1 / 3,
        "box_hidden": 256,
        "mask_convs": 1,
        "score_threshold": 0.01,
        "detections": 50,
        "size": 160,
        "scale": (0.8, 1.3),
        "flip": 0.0,  # a mirrored digit is another sign
        "slots": 12,
        "mask_side": 56,
        "learning_rates": (3e-3,),
        "stem_rate": 1.0,
        "batch_size": 8,
        "epochs": 8,
        "warmup_steps": 100,
        "evaluations": 2,
        "drop_path": 0.0,
        "window": 0,
    },
}


def get_config(argument: str | None = None) -> ConfigDict:
    """The grid that the argument asks for; see `configs/argument.py` for its grammar."""
    offer = Offer(
        backbones=BACKBONES,
        datasets=("digits", "digits_c", "digits_from_print", "digits_retrieval", "digit_scenes"),
        protocols=tuple(PROTOCOLS),
        default_backbones=DEFAULT,
        default_protocols=tuple(name for name in PROTOCOLS if name not in ASIDE),
        heads=("linear_probe", "augmented_probe", "finetune"),
        default_heads=("linear_probe",),
    )
    return config("digits", argument, offer, PROTOCOLS)


CELLS = (
    *(("digits", "knn", "accuracy"), ("digits", "linear_probe", "accuracy")),
    *(("digits_c", "ood", "accuracy"), ("digits_from_print", "ood", "accuracy")),
    ("digits_retrieval", "retrieval", "map"),
)
# What this grid gave when it was written; the tolerance is for other processors and libraries.
EXPECTED = tuple(
    Expected(
        name=f"{dataset}_{protocol}_{backbone}",
        benchmark="digits",
        argument=f"{backbone},dataset={dataset},protocol={protocol}",
        metric=metric,
        value=percent / 100,
        tolerance=0.01,
        source="bob_jax, the table at the head of configs/digits.py",
    )
    for backbone, row in {
        "vit_nano8_glyphs": (96.1, 97.5, 74.8, 64.0, 67.3),
        "resnet10_nano_glyphs": (98.3, 98.9, 83.6, 76.1, 79.5),
        "convnext_nano_glyphs": (98.1, 98.6, 85.1, 78.9, 82.2),
    }.items()
    for (dataset, protocol, metric), percent in zip(CELLS, row, strict=True)
)
