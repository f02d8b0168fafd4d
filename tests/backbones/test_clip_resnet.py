"""CLIPResNet against timm's `resnet50_clip` family on random weights."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from from_timm import (
    CLIP_NAMES,
    drawn,
    filled,
    gradient_errors,
    gradients,
    images,
    initialised,
    outputs,
    randomise,
    relative_error,
    renamed,
    scalar_weights,
    smooth_relu,
    to_torch,
    torch_gradients,
)
from torch_reference import import_timm

from bob_jax.backbones.clip_resnet import AttentionPool, CLIPResNet
from bob_jax.errors import BobError

import_timm()
from timm.models.byobnet import ByobNet, model_cfgs  # noqa: E402  (timm is importable only after import_timm)

STAGES = (2, 1, 1, 1)
PROJECTIONS = pytest.mark.parametrize("projection_dim", [24, None], ids=["projected", "plain"])


def timm_model(projection_dim: int | None, activation: str = "relu") -> ByobNet:
    """A quarter of RN50's width and few blocks, with a position table for 96 pixels."""
    cfg = model_cfgs["resnet50_clip"]
    blocks = tuple(dataclasses.replace(block, d=d) for block, d in zip(cfg.blocks, STAGES, strict=True))
    cfg = dataclasses.replace(cfg, width_factor=0.25, blocks=blocks, act_layer=activation)
    return ByobNet(cfg, num_classes=projection_dim or 0, img_size=96)


def make(projection_dim: int | None) -> CLIPResNet:
    return CLIPResNet(stages=STAGES, width=16, input_size=96, projection_dim=projection_dim, rngs=nnx.Rngs(0))


def reference_outputs(reference: ByobNet, inputs: np.ndarray) -> list[torch.Tensor]:
    last, maps = reference.forward_intermediates(to_torch(inputs), indices=[1, 2, 3, 4])
    return [reference.forward_head(last), *(x.permute(0, 2, 3, 1) for x in maps)]


@PROJECTIONS
@pytest.mark.parametrize("size", [(96, 96), (128, 64)], ids=["native", "resampled"])
def test_outputs_equal_timm(projection_dim, size):
    reference = randomise(timm_model(projection_dim))
    ours = filled(lambda: make(projection_dim), reference, CLIP_NAMES)
    inputs = images(2, *size)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(outputs(ours, inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_gradients_equal_timm(train, monkeypatch):
    smooth_relu(monkeypatch)
    reference = randomise(timm_model(24, activation="silu")).train(train)
    ours = filled(lambda: make(24), reference, CLIP_NAMES)
    inputs = images(4, 128, 64)
    theirs = reference_outputs(reference, inputs)
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    mine = gradients(ours, inputs, weights, train)
    yours = torch_gradients(reference, theirs, weights, CLIP_NAMES)
    # A bias on all keys shifts all logits alike: softmax does not see it, and its gradient is rounding error only.
    for found in (mine, yours):
        assert np.linalg.norm(found.pop("attn_pool.k.bias")) < 1e-5 * np.linalg.norm(found["attn_pool.k.kernel"])
    errors = gradient_errors(mine, yours)
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


def test_initialisation_of_the_pool_is_distributed_as_timms():
    torch.manual_seed(0)  # the rest is initialised as ResNet's, which has its own test
    mine = initialised(lambda rngs: AttentionPool(512, 3, 24, dtype=jnp.float32, rngs=rngs))
    for name, expected in renamed(timm_model(24).head.state_dict().items()).items():
        tolerance = 6 * expected.std() / np.sqrt(expected.size)  # six standard errors of a mean
        assert abs(mine[name].mean() - expected.mean()) <= tolerance, name
        assert abs(mine[name].std() - expected.std()) <= tolerance, name


def test_odd_sizes_lose_the_rest_at_the_border():
    model = drawn(lambda: make(24))
    inputs = images(1, 70, 64)
    full = outputs(model, inputs)
    assert [x.shape[1:3] for x in full[1:]] == [(17, 16), (8, 8), (4, 4), (2, 2)]


def test_wrong_arguments():
    with pytest.raises(BobError, match="width 15 must be even"):
        CLIPResNet(width=15, rngs=nnx.Rngs(0))
    with pytest.raises(BobError, match="input_size 250 a multiple of 32"):
        CLIPResNet(input_size=250, rngs=nnx.Rngs(0))
    with pytest.raises(BobError, match="input of 16x64 pixels is too small"):
        nnx.eval_shape(lambda: make(None))(images(1, 16, 64))
