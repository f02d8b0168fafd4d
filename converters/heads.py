"""The classifier that was published with a backbone: the linear layer that a table of key names leaves out."""

import numpy as np

from bob_jax.backbones.card import Card
from bob_jax.backbones.pytorch import import_library
from bob_jax.backbones.torch_program import TIMM
from bob_jax.errors import BobError
from converters import cache, formats, sources

CLASSES = {"ImageNet-1k": 1000}  # outputs, by `Card.classifier`
# What a file calls the layer, by the table for its other names. Where there are two, older files have the second.
LAYERS: dict[str, tuple[str, ...]] = {
    "timm_vit": ("head",),
    "timm_resnet": ("fc",),
    "timm_convnext": ("head.fc",),
    "timm_swin_v2": ("head.fc", "head"),
    "timm_hiera": ("head.fc", "head.projection"),
    "timm_eva": ("head",),
    "timm_beit": ("head",),
}
LINEAR_PROBE = "state_dict.module.linear"  # what DINO's training of linear probes leaves, in a file of its own


def read(card: Card) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [D, C] and bias [C] of the published classifier, float32.

    Raises:
        BobError: the backbone has none, the file cannot be fetched or read, or holds none that fits.
    """
    if card.classifier is None or card.table is None:
        raise BobError(
            f"{card.name} has no published classifier: choose a backbone that was trained with labels, e.g. "
            "vit_b16_in21k_ft_in1k, or train one on its features with linear_probe"
        )
    names: tuple[str, ...]
    if card.classifier_source:
        what, names = sources.address(card.classifier_source), (LINEAR_PROBE,)
        arrays = formats.read(sources.fetch(card.classifier_source).path)
    else:
        original = cache.original_of(card)
        what, arrays = original.source, original.read()
        names = LAYERS[card.table] if card.table in LAYERS else (_timm_name(card),)
    shape = (CLASSES[card.classifier], card.feature_dim)
    for name in names:
        kernel, bias = arrays.get(f"{name}.weight"), arrays.get(f"{name}.bias")
        if kernel is not None and bias is not None and (kernel.shape, bias.shape) == (shape, shape[:1]):
            return kernel.T.astype(np.float32), bias.astype(np.float32)
    raise BobError(f"{what} for {card.name} has no classifier {' or '.join(names)} {shape} with bias")


def _timm_name(card: Card) -> str:
    """What timm calls the classifier of a bridged model."""
    model = card.arguments["source"].removeprefix(TIMM)
    return str(import_library("timm").get_pretrained_cfg(model).classifier)
