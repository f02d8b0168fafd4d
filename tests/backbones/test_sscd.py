"""SSCD and ResNeXt against torchvision's ResNet with the authors' head (sscd/models/model.py) around it."""

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
    outputs,
    randomise,
    relative_error,
    scalar_weights,
    smooth_relu,
    to_torch,
    torch_gradients,
)
from torch_reference import import_timm

from bob_jax.backbones.sscd import SSCD
from bob_jax.errors import BobError

import_timm()
from torchvision.models import resnet  # noqa: E402  (torchvision is importable only after import_timm)

STAGES = [2, 1, 1, 1]
GROUPS = {"resnet": {}, "resnext": {"groups": 4, "group_width": 8}}


class Reference(torch.nn.Module):
    """The published model; forward gives the descriptor, then the four maps in [B, H, W, C]."""

    def __init__(self, kind: str):
        super().__init__()
        groups = GROUPS[kind]
        self.trunk = resnet.ResNet(
            resnet.Bottleneck,
            STAGES,
            num_classes=24,
            groups=groups.get("groups", 1),
            width_per_group=groups.get("group_width", 64),
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        trunk, maps = self.trunk, []
        x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x))))
        for layer in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            x = layer(x)
            maps.append(x.permute(0, 2, 3, 1))
        pooled = x.flatten(2).clamp(min=1e-6).pow(3.0).mean(dim=2).pow(1 / 3.0)
        return [torch.nn.functional.normalize(trunk.fc(pooled)), *maps]


NAMES = [(r"^trunk\.", ""), *RESNET_NAMES]


def make(kind: str) -> SSCD:
    return SSCD(stages=STAGES, descriptor_dim=24, rngs=nnx.Rngs(0), **GROUPS[kind])


@pytest.mark.parametrize(("kind", "size"), [("resnet", (64, 64)), ("resnext", (64, 64)), ("resnext", (96, 75))])
def test_outputs_equal_the_authors(kind, size):
    reference = randomise(Reference(kind))
    inputs = images(2, *size)
    with torch.no_grad():
        theirs = reference(to_torch(inputs))
    ours = outputs(filled(lambda: make(kind), reference, NAMES), inputs)
    np.testing.assert_allclose(np.linalg.norm(ours[0], axis=1), 1, rtol=1e-6)
    for mine, yours in zip(ours, theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


def test_gradients_equal_the_authors(monkeypatch):
    smooth_relu(monkeypatch)
    reference = randomise(Reference("resnext"))
    for module in reference.modules():
        if hasattr(module, "relu"):
            module.relu = torch.nn.SiLU()
    inputs = images(2, 64, 64)
    theirs = reference(to_torch(inputs))
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    errors = gradient_errors(
        gradients(filled(lambda: make("resnext"), reference, NAMES), inputs, weights, train=False),
        torch_gradients(reference, theirs, weights, NAMES),
    )
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


def test_groups_belong_to_bottlenecks():
    with pytest.raises(BobError, match="groups are a bottleneck's"):
        SSCD(block="basic", groups=4, rngs=nnx.Rngs(0))
