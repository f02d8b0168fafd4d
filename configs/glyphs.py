"""Printed characters"""

from ml_collections import ConfigDict

from configs.argument import parse

DEFAULT = ("vit_nano8_random", "resnet10_nano_random", "convnext_nano_random")
BACKBONES = (*DEFAULT, "vit_micro8_random", "vit_nano4_random", "resnet18_nano_random", "resnet26_nano_random")


def get_config(argument: str | None = None) -> ConfigDict:
    """The grid that the argument asks for; see `configs/argument.py` for its grammar."""
    protocols = {
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
    choice = parse(
        argument,
        backbones=BACKBONES,
        datasets=("glyphs",),
        protocols=tuple(protocols),
        default_backbones=DEFAULT,
        default_protocols=("finetune",),
    )
    return ConfigDict(
        {
            "benchmark": "glyphs",
            "backbones": choice.backbones,
            "datasets": choice.datasets,
            "seeds": choice.seeds,
            "protocols": {name: protocols[name] for name in choice.protocols},
            "data": {"root": "", "limit": 0, "num_workers": -1, "skip_corrupt": False},
            "mesh": {"fsdp": 1},
            "results": "results/glyphs",
            "keep_weights": False,
        }
    )
