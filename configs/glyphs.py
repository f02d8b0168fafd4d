"""Printed characters drawn from matplotlib's fonts; from these the small backbones of the package have learned.

    python main.py --config=configs/glyphs.py
    python main.py --config=configs/glyphs.py:vit_nano8_random,protocol=knn+linear_probe

Data: 18,800 / 1,880 / 1,880 images of 32 x 32 pixels, 47 classes (EMNIST's merge of letter cases); train, validation
and test have typefaces of their own. Needs nothing but the installed packages.
Expected: accuracy in percent after fine-tuning of the default backbones, seed 0, in about 9 minutes on 2 CPU cores.

    vit_nano8_random      76.8
    resnet10_nano_random  87.8
    convnext_nano_random  84.1

What these three have learned is `vit_nano8_glyphs`, `resnet10_nano_glyphs` and `convnext_nano_glyphs`, which
`configs/digits.py` puts against their beginnings: from fonts to handwriting. Their files in
`bob_jax/backbones/weights` are made anew by

    python main.py --config=configs/glyphs.py --config.keep_weights=True
    python -m converters export NAME_glyphs --weights results/glyphs/*NAME*.safetensors --to NAME_glyphs.safetensors

with the record `results/glyphs/*NAME*.json` as `NAME_glyphs.json` beside it; the sha256 of the first file goes into
`bob_jax/backbones/cards/glyphs.py`. (The second command needs timm and torch, for the reference's names.)
Another processor or another version of Pillow, FreeType or JAX rounds otherwise: the files will be as good, but not the
same to the last bit.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.argument import Offer, config

DEFAULT = ("vit_nano8_random", "resnet10_nano_random", "convnext_nano_random")
BACKBONES = (*DEFAULT, "vit_micro8_random", "vit_nano4_random", "resnet18_nano_random", "resnet26_nano_random")


PROTOCOLS: dict[str, dict[str, Any]] = {
    "knn": {"k": (1, 3, 5, 10, 20), "temperature": 0.07, "batch_size": 256},
    "linear_probe": {
        "regularisation": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "tolerance": 1e-5,
        "max_iterations": 500,
        "batch_size": 256,
    },
    "augmented_probe": {
        "base_learning_rates": (10.0, 30.0, 100.0, 300.0),
        "batch_size": 256,
        "epochs": 8,
        "warmup_epochs": 1,
        "crop_scale": (0.5, 1.0),
        "horizontal_flip": False,  # a mirrored letter is another sign
    },
    "finetune": {
        "learning_rates": (2e-3,),
        "weight_decays": (0.05,),
        "layer_decay": 1.0,  # nothing is pretrained: no layer deserves to move less
        "batch_size": 32,  # a small transformer learns from the number of steps
        "accumulate": 1,
        "epochs": 10,
        "min_steps": 0,
        "max_steps": 0,
        "warmup_epochs": 1,
        "evaluations": 5,
        "drop_path": 0.0,
        "label_smoothing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "crop_scale": (0.8, 1.0),
        "horizontal_flip": False,
        "randaugment": 0,
        "random_erasing": 0.0,
        "clip_norm": 1.0,
        "ema": 0.0,
    },
}


def get_config(argument: str | None = None) -> ConfigDict:
    """The grid that the argument asks for; see `configs/argument.py` for its grammar."""
    offer = Offer(
        backbones=BACKBONES,
        datasets=("glyphs",),
        protocols=tuple(PROTOCOLS),
        default_backbones=DEFAULT,
        default_protocols=("finetune",),
    )
    return config("glyphs", argument, offer, PROTOCOLS)
