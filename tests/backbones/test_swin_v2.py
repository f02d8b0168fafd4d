"""Swin V2 against timm's SwinTransformerV2 on random weights, and what only bob_jax promises."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from from_timm import (
    gradient_errors,
    gradients,
    images,
    initialised,
    outputs,
    randomise,
    relative_error,
    renamed,
    scalar_weights,
    to_torch,
    torch_gradients,
)
from torch_reference import import_timm

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.card import HALF, IMAGENET_MEAN
from bob_jax.backbones.swin_v2 import PatchMerging, PositionBias, SwinV2, log_distances, shifted_regions
from bob_jax.errors import BobError

timm = import_timm()
from timm.models.swin_transformer_v2 import SwinTransformerV2  # noqa: E402  (timm is importable only after import_timm)

NAMES = [(r"cpb_mlp\.0", "cpb_mlp.fc1"), (r"cpb_mlp\.2", "cpb_mlp.fc2")]
SMALL = {"depths": (2, 2, 1, 1), "num_heads": (1, 2, 2, 4)}
# name: (window, window of pretraining per stage); at 64 pixels the maps have 16, 8, 4 and 2 tokens on a side
VARIANTS = {"plain": (4, (0, 0, 0, 0)), "pretrained": (4, (3, 3, 3, 2))}


def randomised(reference: SwinTransformerV2) -> SwinTransformerV2:
    """Random weights, with temperatures as in trained models, one of each attention above its bound."""
    randomise(reference)
    generator = torch.Generator().manual_seed(1)
    for module in reference.modules():
        if hasattr(module, "logit_scale"):
            module.logit_scale.data.copy_(2 + torch.randn(module.logit_scale.shape, generator=generator))
            if module.num_heads > 1:
                module.logit_scale.data[0] = 5.0  # e^5 > 100
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()  # `randomise` has drawn these constants too
    return reference


def in_our_layout(tensors) -> dict[str, np.ndarray]:
    arrays = renamed(tensors, NAMES)
    return {name: x.reshape(-1) if name.endswith("logit_scale") else x for name, x in arrays.items()}


def filled(make, reference: SwinTransformerV2) -> SwinV2:
    backbone = nnx.eval_shape(make)
    parameters.assign(backbone, in_our_layout(reference.state_dict().items()), "timm")
    return backbone


def pair(variant: str) -> tuple[SwinV2, SwinTransformerV2]:
    window, pretrained = VARIANTS[variant]
    reference = randomised(
        SwinTransformerV2(
            img_size=64,
            embed_dim=16,
            window_size=window,
            pretrained_window_sizes=pretrained,
            num_classes=0,
            strict_img_size=False,
            **SMALL,
        )
    )
    ours = {"width": 16, "window": window, "pretrained_windows": pretrained, "input_size": 64, **SMALL}
    return filled(lambda: SwinV2(**ours, rngs=nnx.Rngs(0)), reference), reference


def reference_outputs(reference: SwinTransformerV2, inputs: np.ndarray) -> list[torch.Tensor]:
    """timm's model is NHWC inside; `forward_intermediates` gives NCHW."""
    features, maps = reference.forward_intermediates(to_torch(inputs))
    return [reference.forward_head(features, pre_logits=True), *(x.permute(0, 2, 3, 1) for x in maps)]


# 64: whole windows; 72 x 44: maps of 18 x 11, 9 x 6, 5 x 3 and 3 x 2 tokens, all padded, two before merging.
@pytest.mark.parametrize(("variant", "size"), [("plain", (64, 64)), ("plain", (72, 44)), ("pretrained", (72, 44))])
def test_outputs_equal_timm(variant, size):
    ours, reference = pair(variant)
    inputs = images(2, *size)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(outputs(ours, inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


def test_gradients_equal_timm():
    ours, reference = pair("pretrained")
    inputs = images(2, 72, 44)
    theirs = reference_outputs(reference, inputs)
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    expected = {
        name: x.reshape(-1) if name.endswith("logit_scale") else x
        for name, x in torch_gradients(reference, theirs, weights, NAMES).items()
    }
    errors = gradient_errors(gradients(ours, inputs, weights, train=True), expected)
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])
