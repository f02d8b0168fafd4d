"""Box heads against PyTorch: every shape of head, any leading axes, and the numbers they start from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from from_timm import initialised, randomise, relative_error, renamed, to_torch
from tiny_detector import FAST
from torch import nn

from bob_jax.backbones import parameters
from bob_jax.detection.box_head import BoxHead

WIDTH, HIDDEN, CLASSES = 32, 24, 5


class Twin(nn.Module):
    """mmdetection's `Shared4Conv1FCBBoxHead` and `Shared2FCBBoxHead`, which reads its cells channels last."""

    def __init__(self, convs: int, fcs: int, norm: str, outputs: int):
        super().__init__()
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for _ in range(convs):
            self.convs.append(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=norm == "none"))
            self.norms.append(nn.GroupNorm(32, WIDTH) if norm == "group" else nn.Identity())
        widths = [7 * 7 * WIDTH] + [HIDDEN] * fcs
        self.fcs = nn.ModuleList(nn.Linear(widths[i], HIDDEN) for i in range(fcs))
        self.cls_score, self.bbox_pred = nn.Linear(widths[-1], CLASSES + 1), nn.Linear(widths[-1], outputs)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        x = x.permute(0, 2, 3, 1).flatten(1)
        for layer in self.fcs:
            x = torch.relu(layer(x))
        return self.cls_score(x), self.bbox_pred(x)


@pytest.mark.parametrize("class_agnostic", [True, False])
@pytest.mark.parametrize("convs, fcs, norm", [(0, 2, "none"), (2, 1, "group"), (1, 0, "none")])
def test_head_is_its_pytorch_twin(convs, fcs, norm, class_agnostic):
    boxes = 1 if class_agnostic else CLASSES
    theirs = randomise(Twin(convs, fcs, norm, 4 * boxes))
    ours = nnx.eval_shape(
        lambda: BoxHead(
            WIDTH,
            CLASSES,
            convs=convs,
            fcs=fcs,
            hidden=HIDDEN,
            norm=norm,
            class_agnostic=class_agnostic,
            dtype=jnp.float32,
            rngs=nnx.Rngs(0),
        )
    )
    names = [(r"^convs\.(\d)", r"convs.\1.conv"), (r"^norms\.(\d)", r"convs.\1.norm")]
    parameters.assign(ours, renamed(theirs.state_dict().items(), names), "twin")
    features = np.random.default_rng(0).standard_normal((2, 3, 7, 7, WIDTH), np.float32)
    with torch.no_grad():
        wanted = theirs(to_torch(features.reshape(6, 7, 7, WIDTH)))
    scores, deltas = jax.jit(lambda head, x: head(x), compiler_options=FAST)(ours, features)
    assert scores.shape == (2, 3, CLASSES + 1) and deltas.shape == (2, 3, boxes, 4)
    assert scores.dtype == deltas.dtype == jnp.float32
    assert relative_error(np.asarray(scores), wanted[0].reshape(scores.shape).numpy()) < 1e-5
    # A class's four deltas stand together, as in mmdetection and torchvision.
    assert relative_error(np.asarray(deltas), wanted[1].reshape(deltas.shape).numpy()) < 1e-5


def test_start_says_little():
    ours = initialised(
        lambda rngs: BoxHead(
            WIDTH, 200, convs=1, fcs=1, hidden=256, norm="none", class_agnostic=False, dtype=jnp.float32, rngs=rngs
        )
    )
    # Deviations of n draws are known to 1 / sqrt(2 n): to 0.3 and 0.2 percent here, to 0.7 of the convolution.
    for name, std in (("cls_score", 0.01), ("bbox_pred", 0.001)):  # detectron2's FastRCNNOutputLayers
        np.testing.assert_allclose(np.std(ours[f"{name}.kernel"]), std, rtol=0.02)
        assert not ours[f"{name}.bias"].any()
    np.testing.assert_allclose(np.std(ours["convs.0.conv.kernel"]), (2 / (9 * WIDTH)) ** 0.5, rtol=0.05)
    np.testing.assert_allclose(np.abs(ours["fcs.0.kernel"]).max(), (3 / (49 * WIDTH)) ** 0.5, rtol=0.01)
    assert not ours["fcs.0.bias"].any()


def test_bfloat16_heads_say_float32():
    def outputs() -> tuple[jax.Array, jax.Array]:
        arguments = {"convs": 1, "fcs": 1, "hidden": HIDDEN, "norm": "group", "class_agnostic": True}
        head = BoxHead(WIDTH, CLASSES, **arguments, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        return head(jnp.zeros((4, 7, 7, WIDTH), jnp.bfloat16))

    scores, deltas = nnx.eval_shape(outputs)
    assert scores.dtype == deltas.dtype == jnp.float32
