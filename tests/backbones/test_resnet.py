"""ResNet against timm's on random weights: evaluation, training, running statistics."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from from_timm import (
    RESNET_NAMES,
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
    trained,
)
from torch_reference import import_timm

from bob_jax.backbones import parameters
from bob_jax.backbones.layers import BatchNorm
from bob_jax.backbones.resnet import BLOCKS, ResNet
from bob_jax.errors import BobError

timm = import_timm()
from timm.models import resnet as timm_resnet  # noqa: E402  (timm is importable only after import_timm)

VARIANTS = {"basic": timm_resnet.BasicBlock, "bottleneck": timm_resnet.Bottleneck}
STAGES = (2, 1, 1, 1)


def pair(block: str) -> tuple[ResNet, timm_resnet.ResNet]:
    reference = randomise(timm_resnet.ResNet(VARIANTS[block], STAGES, num_classes=0))
    return filled(lambda: ResNet(stages=STAGES, block=block, rngs=nnx.Rngs(0)), reference, RESNET_NAMES), reference


def reference_outputs(reference: timm_resnet.ResNet, inputs: np.ndarray) -> list[torch.Tensor]:
    last, maps = reference.forward_intermediates(to_torch(inputs), indices=[1, 2, 3, 4])
    return [reference.forward_head(last, pre_logits=True), *(x.permute(0, 2, 3, 1) for x in maps)]


@pytest.mark.parametrize("block", VARIANTS)
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (75, 50)])
def test_outputs_equal_timm(block, size):
    ours, reference = pair(block)
    inputs = images(2, *size)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(outputs(ours, inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


def test_full_size_equals_timm():
    reference = randomise(timm.create_model("resnet50", num_classes=0))
    inputs = images(1, 224, 224)
    ours = outputs(filled(lambda: ResNet(rngs=nnx.Rngs(0)), reference, RESNET_NAMES), inputs)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    assert [x.shape[1:3] for x in ours[1:]] == [(56, 56), (28, 28), (14, 14), (7, 7)]
    for mine, yours in zip(ours, theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


@pytest.mark.parametrize(("block", "train"), [("basic", True), ("bottleneck", True), ("bottleneck", False)])
def test_gradients_equal_timm(block, train, monkeypatch):
    smooth_relu(monkeypatch)
    reference = timm_resnet.ResNet(VARIANTS[block], STAGES, num_classes=0, act_layer=torch.nn.SiLU)
    randomise(reference).train(train)
    ours = filled(lambda: ResNet(stages=STAGES, block=block, rngs=nnx.Rngs(0)), reference, RESNET_NAMES)
    inputs = images(4, 64, 64)
    theirs = reference_outputs(reference, inputs)
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    errors = gradient_errors(
        gradients(ours, inputs, weights, train), torch_gradients(reference, theirs, weights, RESNET_NAMES)
    )
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


@pytest.mark.parametrize("block", VARIANTS)
def test_running_statistics_equal_timms_after_two_steps(block):
    ours, reference = pair(block)
    reference.train()
    for seed in range(2):
        inputs = images(3, 64, 64, seed)
        trained(ours, inputs)
        with torch.no_grad():
            reference(to_torch(inputs))
    statistics = {k: v for k, v in parameters.flatten(ours).items() if k.endswith((".mean", ".var"))}
    theirs = renamed(reference.state_dict().items(), RESNET_NAMES)
    assert "layer4.0.downsample.bn.var" in statistics
    for name, mine in statistics.items():
        assert relative_error(np.asarray(mine), theirs[name]) < 1e-5, name


def test_single_value_per_channel_has_no_batch_statistics():
    with pytest.raises(BobError, match=r"shape \(1, 1, 1, 4\) has one value per channel"):
        BatchNorm(4, dtype=jnp.float32)(jnp.ones((1, 1, 1, 4)), train=True)


@pytest.mark.parametrize("block", VARIANTS)
def test_initialisation_is_distributed_as_timms(block):
    torch.manual_seed(0)
    reference = timm_resnet.ResNet(VARIANTS[block], STAGES, num_classes=0).layer2[0]
    make = functools.partial(BLOCKS[block], stride=2, drop_path=0.0, dtype=jnp.float32)
    mine = initialised(lambda rngs: make(64 * BLOCKS[block].expansion, 128, rngs=rngs))
    for name, expected in renamed(reference.state_dict().items(), RESNET_NAMES).items():
        tolerance = 6 * expected.std() / np.sqrt(expected.size)  # six standard errors of a mean
        assert abs(mine[name].mean() - expected.mean()) <= tolerance, name
        assert abs(mine[name].std() - expected.std()) <= tolerance, name
    np.testing.assert_array_equal(mine["bn2.scale" if block == "basic" else "bn3.scale"], 0)


def test_wrong_arguments():
    with pytest.raises(BobError, match="unknown block 'bottlenek': did you mean bottleneck"):
        ResNet(block="bottlenek", rngs=nnx.Rngs(0))
    with pytest.raises(BobError, match=r"stages \(3, 4, 6\) must be four positive numbers"):
        ResNet(stages=(3, 4, 6), rngs=nnx.Rngs(0))
