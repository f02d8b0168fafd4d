"""Adversarial robustness: how small a change of the pixels breaks a trained head.

    python main.py --config=configs/robustness.py:vit_b16_clip
    python main.py --config=configs/robustness.py:vit_b16_clip,dataset=cifar10+pets,head=linear_probe+finetune
    python main.py --config=configs/robustness.py:all,dataset=imagenet,head=published_head

Needs: the weights and the data (`bob data list`). The head is trained once, in a cell of its own; in the
gauntlet it is the one that another benchmark has trained. 1,000 test images, as many of each class, under an ensemble
of five attacks, in L-infinity and L2, at budgets small enough to tell undefended backbones apart.

Expected: robust accuracy at 4/255 near 0 for every backbone that nobody trained to withstand attacks, as RobustBench's
undefended rows have it; at half a grey level, larger and supervised backbones keep more.
"""

from ml_collections import ConfigDict

from configs.argument import Offer, config
from configs.recipes import BACKBONES, DEFAULT_BACKBONES, PROTOCOLS


def get_config(argument: str | None = None) -> ConfigDict:
    """The grid that the argument asks for; see `configs/argument.py` for its grammar."""
    offer = Offer(
        backbones=BACKBONES,
        datasets=("imagenet", "cifar10", "cifar100", "cub", "flowers", "pets"),
        protocols=("adversarial",),
        default_backbones=DEFAULT_BACKBONES,
        heads=("published_head", "zero_shot", "linear_probe", "augmented_probe", "finetune"),
        default_heads=("linear_probe",),
        default_datasets=("imagenet",),
    )
    return config("robustness", argument, offer, PROTOCOLS)
