"""Necks: the FPN against torchvision's, the simple pyramid against a PyTorch twin, and every architecture has one."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from from_timm import FAST_COMPILE, images, initialised, randomise, relative_error, renamed, to_torch
from tiny_backbones import TINY
from torch import nn

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.pytorch import import_library
from bob_jax.backbones.resnet import ResNet
from bob_jax.detection.fpn import FPN, ROI_LEVELS, STRIDES, SimplePyramid, neck, resize_nearest
from bob_jax.errors import BobError

torchvision_fpn = import_library("torchvision.ops.feature_pyramid_network")


def run(module: nnx.Module, maps: list[np.ndarray]) -> list[np.ndarray]:
    graph, state = nnx.split(module)
    levels = jax.jit(lambda state, maps: nnx.merge(graph, state)(maps), compiler_options=FAST_COMPILE)(state, maps)
    return [np.asarray(x) for x in levels]


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("sides", [[(24, 32), (12, 16), (6, 8), (3, 4)], [(25, 33), (13, 17), (7, 9), (4, 5)]])
def test_fpn_is_torchvisions(norm, sides):
    widths = (8, 12, 16, 24)
    theirs = torchvision_fpn.FeaturePyramidNetwork(
        list(widths),
        64,
        extra_blocks=torchvision_fpn.LastLevelMaxPool(),
        norm_layer=functools.partial(nn.GroupNorm, 32) if norm == "group" else None,
    )
    randomise(theirs)
    ours = nnx.eval_shape(lambda: FPN((4, 8, 16, 32), widths, width=64, norm=norm, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    names = [(r"blocks\.(\d)\.0\.", r"blocks.\1.conv."), (r"blocks\.(\d)\.1\.", r"blocks.\1.norm.")]
    parameters.assign(ours, renamed(theirs.state_dict().items(), names), "torchvision")
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((2, *side, w), np.float32) for side, w in zip(sides, widths, strict=True)]
    with torch.no_grad():
        wanted = list(theirs({str(i): to_torch(x) for i, x in enumerate(maps)}).values())
    found = run(ours, maps)
    assert len(found) == len(wanted) == 5 and ours.strides == STRIDES
    for mine, reference in zip(found, wanted, strict=True):
        assert relative_error(mine, reference.permute(0, 2, 3, 1).numpy()) < 1e-5


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def twin(features: int, width: int, doublings: list[int]) -> nn.ModuleList:
    """ViTDet's pyramid as arXiv 2203.16527 and detectron2's documentation describe it, an `nn.Sequential` a level."""
    stages = []
    for number in doublings:
        layers: list[nn.Module] = []
        channels = features
        for i in range(number):
            layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, 2))
            channels //= 2
            if i < number - 1:
                layers += [LayerNorm2d(channels, eps=1e-6), nn.GELU()]
        layers += [nn.MaxPool2d(2, 2, ceil_mode=True) for _ in range(-number)]
        layers += [nn.Conv2d(channels, width, 1, bias=False), LayerNorm2d(width, eps=1e-6)]
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), LayerNorm2d(width, eps=1e-6)]
        stages.append(nn.Sequential(*layers))
    return nn.ModuleList(stages)


def weights_of(stages: nn.ModuleList) -> dict[str, np.ndarray]:
    """The twin's weights under our names: by kind and order of the layers, not by their numbers."""
    arrays = {}
    for level, stage in enumerate(stages):
        ups = [x for x in stage if isinstance(x, nn.ConvTranspose2d)]
        norms = [x for x in stage if isinstance(x, nn.LayerNorm)]
        convs = [x for x in stage if isinstance(x, nn.Conv2d)]
        named = {f"ups.{i}": up for i, up in enumerate(ups)}
        named |= {f"up_norms.{i}": norm for i, norm in enumerate(norms[:-2])}
        named |= {"conv1": convs[0], "norm1": norms[-2], "conv2": convs[1], "norm2": norms[-1]}
        for name, layer in named.items():
            for leaf, array in renamed(layer.state_dict().items()).items():
                if isinstance(layer, nn.ConvTranspose2d) and leaf == "kernel":
                    array = layer.weight.detach().numpy().transpose(2, 3, 0, 1)
                arrays[f"stages.{level}.{name}.{leaf}"] = array
    return arrays


@pytest.mark.parametrize(
    "patch, doublings, strides",
    [
        (16, [2, 1, 0, -1], (4, 8, 16, 32, 64)),
        (14, [2, 1, 0, -1], (3.5, 7, 14, 28, 56)),
        (8, [1, 0, -1, -2], (4, 8, 16, 32, 64)),
        (32, [3, 2, 1, 0], (4, 8, 16, 32, 64)),
    ],
)
def test_simple_pyramid_is_its_pytorch_twin(patch, doublings, strides):
    theirs = randomise(twin(32, 64, doublings))
    ours = nnx.eval_shape(lambda: SimplePyramid(patch, 32, width=64, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    parameters.assign(ours, weights_of(theirs), "twin")
    x = np.random.default_rng(0).standard_normal((2, 7, 10, 32), np.float32)  # an odd side too
    found = run(ours, [x])
    assert ours.strides == strides
    with torch.no_grad():
        wanted = [stage(to_torch(x)).permute(0, 2, 3, 1).numpy() for stage in theirs]
    for mine, reference in zip(found, wanted, strict=False):
        assert relative_error(mine, reference) < 1e-5
    np.testing.assert_array_equal(found[ROI_LEVELS], found[ROI_LEVELS - 1][:, ::2, ::2])


@pytest.mark.parametrize("name", TINY)
def test_every_architecture_is_read_by_one_of_the_necks(name):
    pixels = jax.ShapeDtypeStruct((2, 64, 128, 3), jnp.float32)
    model = nnx.eval_shape(lambda: TINY[name]())
    pyramid = nnx.eval_shape(lambda: neck(model, width=32, rngs=nnx.Rngs(0)))
    plain = len(model.strides) == 1
    assert isinstance(pyramid, SimplePyramid if plain else FPN)
    levels = nnx.eval_shape(lambda model, pyramid, x: pyramid(model(x).maps), model, pyramid, pixels)
    assert pyramid.strides == STRIDES
    assert [x.shape for x in levels] == [(2, -(-64 // s), -(-128 // s), 32) for s in STRIDES]
    assert {x.dtype for x in levels} == {jnp.dtype(jnp.float32)}
    hash(nnx.graphdef(pyramid))  # a static argument of jit


def test_every_card_of_the_zoo_has_a_neck():
    """Each architecture with each set of arguments once; depth changes no map."""
    cards = {}
    for card in map(zoo.card, zoo.names()):
        arguments = sorted((key, repr(value)) for key, value in card.arguments.items() if key != "depth")
        cards.setdefault((card.architecture, str(arguments)), card.name)
    assert len(cards) > 100
    for name in cards.values():
        backbone = zoo.skeleton(name)
        pyramid = nnx.eval_shape(lambda backbone=backbone: neck(backbone, rngs=nnx.Rngs(0)))
        assert len(pyramid.strides) == len(STRIDES), name
        nearest = [2 ** round(np.log2(stride)) for stride in pyramid.strides]
        assert tuple(nearest) == STRIDES, name


def test_maps_finer_than_stride_4_are_not_read():
    pyramid = nnx.eval_shape(lambda: FPN((2, 4, 8, 16, 32), (4, 8, 8, 8, 8), width=32, rngs=nnx.Rngs(0)))
    maps = [jnp.zeros((1, 64 // s, 64 // s, 4 if s == 2 else 8)) for s in (2, 4, 8, 16, 32)]
    levels = nnx.eval_shape(lambda pyramid, maps: pyramid(maps), pyramid, maps)
    assert pyramid.strides == STRIDES and [x.shape[1] for x in levels] == [16, 8, 4, 2, 1]
    assert len(pyramid.inner_blocks) == 4


def test_missing_coarse_levels_are_pooled():
    pyramid = nnx.eval_shape(lambda: FPN((4, 8, 16), (8, 8, 8), width=32, rngs=nnx.Rngs(0)))
    assert pyramid.strides == STRIDES and pyramid.pools == 2


def test_bfloat16_is_close_to_float32():
    maps = [np.random.default_rng(s).standard_normal((1, 64 // s, 64 // s, 8), np.float32) for s in (4, 8, 16, 32)]
    plain = maps[2].repeat(4, -1)
    for make, inputs in (
        (lambda dtype: FPN((4, 8, 16, 32), (8,) * 4, width=64, dtype=dtype, rngs=nnx.Rngs(0)), maps),
        (lambda dtype: SimplePyramid(16, 32, width=64, dtype=dtype, rngs=nnx.Rngs(0)), [plain]),
    ):
        full, half = run(make(jnp.float32), inputs), run(make(jnp.bfloat16), inputs)
        for low, high in zip(half, full, strict=True):
            assert low.dtype == jnp.bfloat16
            assert 0 < relative_error(low.astype(np.float32), high) < 0.03


def test_start_is_torchvisions():
    ours = initialised(lambda rngs: FPN((4, 8), (64, 128), width=256, rngs=rngs))
    theirs = torchvision_fpn.FeaturePyramidNetwork([64, 128], 256, norm_layer=functools.partial(nn.GroupNorm, 32))
    names = [(r"blocks\.(\d)\.0\.", r"blocks.\1.conv."), (r"blocks\.(\d)\.1\.", r"blocks.\1.norm.")]
    wanted = renamed(theirs.state_dict().items(), names)
    assert ours.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(ours[name].std(), array.std(), rtol=0.03)
        np.testing.assert_allclose(np.abs(ours[name]).max(), np.abs(array).max(), rtol=0.01)


def test_start_of_transposed_convolutions_is_pytorchs():
    ours = initialised(lambda rngs: SimplePyramid(16, 256, width=64, rngs=rngs))
    theirs = nn.ConvTranspose2d(256, 128, 2, 2)
    for leaf, array in (("kernel", theirs.weight), ("bias", theirs.bias)):
        np.testing.assert_allclose(np.abs(ours[f"stages.1.ups.0.{leaf}"]).max(), array.detach().abs().max(), rtol=0.03)


@pytest.mark.parametrize("old, new", [((4, 5), (8, 10)), ((4, 5), (7, 9)), ((3, 4), (3, 8)), ((7, 5), (11, 13))])
def test_nearest_is_pytorchs(old, new):
    x = images(1, *old)
    wanted = torch.nn.functional.interpolate(to_torch(x), size=new, mode="nearest").permute(0, 2, 3, 1)
    np.testing.assert_array_equal(resize_nearest(jnp.asarray(x), new), wanted)


def test_what_no_neck_reads():
    with pytest.raises(BobError, match=re.escape("strides (4, 8, 32): from 4 to 64 each must be twice")):
        FPN((4, 8, 32), (8, 8, 8), width=32, rngs=nnx.Rngs(0))
    with pytest.raises(BobError, match="30 channels cannot be halved 2 times"):
        SimplePyramid(16, 30, width=32, rngs=nnx.Rngs(0))
    backbone = nnx.eval_shape(lambda: ResNet(stages=(1, 1, 1, 1), width=8, rngs=nnx.Rngs(0)))
    backbone.strides, backbone.widths = (), ()
    with pytest.raises(BobError, match="ResNet gives no feature maps"):
        neck(backbone, rngs=nnx.Rngs(0))
