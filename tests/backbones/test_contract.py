"""What every architecture promises: no hidden mode, layers, sizes, dtypes, sharding, parameter counts."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from from_timm import FAST_COMPILE, drawn, images, outputs, relative_error, trained
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tiny_backbones import TINY
from torch_reference import import_timm

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.base import Backbone
from bob_jax.backbones.clip_resnet import CLIPResNet
from bob_jax.backbones.convnext import ConvNeXt
from bob_jax.backbones.layers import drop_path, drop_path_ramp
from bob_jax.backbones.resnet import ResNet
from bob_jax.backbones.swin_v2 import SwinV2
from bob_jax.backbones.vit import ViT
from bob_jax.detection.fpn import neck
from bob_jax.errors import BobError

timm = import_timm()
from timm.layers.drop import calculate_drop_path_rates  # noqa: E402  (timm is importable only after import_timm)

CANVAS = 157  # pixels; prime
EVERY = pytest.mark.parametrize("name", TINY)
ONE_OF_EACH = pytest.mark.parametrize(
    "name",
    [
        "vit",
        "resnet",
        "clip_resnet",
        "convnextv2",
        "swin_v2",
        "eva02",
        "beit",
    ],
)


def abstract(name: str, **more) -> Backbone:
    return nnx.eval_shape(lambda: TINY[name](**more))


@EVERY
def test_static_attributes_describe_the_output(name):
    model = abstract(name)
    features = nnx.eval_shape(lambda model, x: model(x), model, jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32))
    assert features.pooled.shape == (2, model.feature_dim)
    expected = [(2, 64 // s, 96 // s, c) for s, c in zip(model.strides, model.widths, strict=True)]
    assert [x.shape for x in features.maps] == expected


@EVERY
def test_a_detector_can_choose_its_canvas(name):
    """`side_multiple` tells which sides work, and what comes out fits the neck."""
    model = abstract(name)
    side = CANVAS // model.side_multiple * model.side_multiple

    def levels(model, x):
        features = model(x)
        return features.maps, neck(model, width=32, rngs=nnx.Rngs(0))(features.maps)

    maps, pyramid = nnx.eval_shape(levels, model, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    for x, stride in zip(maps, model.strides, strict=True):
        assert x.shape[1:3] in {(side // stride,) * 2, (-(-side // stride),) * 2}
    assert pyramid[0].shape[1] >= side // 8
    if model.side_multiple > 1:
        with pytest.raises(BobError, match=f"input of {side + 1}x{side + 1} pixels is not divisible by"):
            nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros((1, side + 1, side + 1, 3)))


@EVERY
def test_every_parameter_has_a_layer(name):
    model = abstract(name)
    layers = {path: model.layer_of(path) for path in parameters.flatten(model)}
    assert set(layers.values()) == set(range(model.num_layers))  # each layer is used, none lies outside
    assert model.num_layers >= 3
    with pytest.raises(KeyError):
        model.layer_of("head.kernel")


@EVERY
def test_layers_grow_in_the_order_of_computation(name):
    model = abstract(name)
    stem = (
        "patch_embed.proj.kernel",
        "cls_token",
        "reg_token",
        "pos_embed",
        "norm_pre.scale",
        "conv1.kernel",
        "bn3.var",
        "stem.1.scale",
        "vae.conv_in.kernel",
    )
    blocks = [f"blocks.{i}.attn.qkv.kernel" for i in range(4)]
    blocks += ["layer1.0.conv1.kernel", "layer1.1.bn2.var"]
    blocks += [f"layer{i}.0.downsample.bn.scale" for i in (2, 3, 4)]
    blocks += ["stages.0.blocks.0.conv_dw.kernel", "stages.0.blocks.1.mlp.fc2.bias"]
    blocks += [f"stages.{i}.downsample.1.kernel" for i in (1, 2, 3)]
    blocks += ["layers.0.blocks.0.attn.qkv.kernel", "layers.0.blocks.1.norm2.bias"]
    blocks += [f"layers.{i}.downsample.norm.scale" for i in (1, 2, 3)]
    blocks += [f"vae.down_blocks.{i}.resnets.0.conv1.kernel" for i in range(4)] + ["vae.quant_conv.kernel"]
    blocks += [f"unet.down_blocks.{i}.resnets.0.conv1.kernel" for i in range(2)]
    blocks += ["unet.mid_block.attention.proj_in.kernel"]
    after = ("norm.scale", "fc_norm.scale", "attn_pool.latent", "attn_pool.pos_embed")
    known = parameters.flatten(model)
    assert {model.layer_of(path) for path in stem if path in known} == {0}
    layers = [model.layer_of(path) for path in blocks if path in known]
    assert layers == list(range(1, model.num_layers))
    assert {model.layer_of(path) for path in after if path in known} <= {model.num_layers - 1}


@ONE_OF_EACH
def test_evaluation_leaves_the_module_as_it_was(name):
    model = drawn(lambda: TINY[name](drop_path=0.5))
    before = {path: np.array(leaf) for path, leaf in parameters.flatten(model).items()}
    first, second = model(images(2, 64, 64)), model(images(2, 64, 64))
    np.testing.assert_array_equal(first.pooled, second.pooled)
    for path, leaf in parameters.flatten(model).items():
        np.testing.assert_array_equal(leaf, before[path])


@EVERY
def test_state_is_parameters_and_statistics_only(name):
    other = nnx.state(abstract(name, drop_path=0.5), nnx.Not(nnx.Any(nnx.Param, nnx.BatchStat)))
    assert not jax.tree.leaves(other)


@EVERY
def test_graph_definition_is_a_static_argument(name):
    first, second = nnx.graphdef(abstract(name)), nnx.graphdef(abstract(name))
    assert hash(first) == hash(second) and first == second  # else jit would compile again for every instance


@ONE_OF_EACH
def test_training_draws_drop_path_from_the_rngs(name):
    model = drawn(lambda: TINY[name](drop_path=0.9))
    a, b, again = (trained(model, images(4, 64, 64), seed)[0] for seed in (1, 2, 1))
    np.testing.assert_array_equal(a, again)
    assert np.abs(a - b).max() > 1e-3


def test_drop_path_keeps_the_mean_and_drops_whole_images():
    x = jnp.ones((4000, 2, 3))
    out = np.asarray(drop_path(x, 0.3, nnx.Rngs(0)))
    per_image = out.reshape(4000, -1)
    assert (per_image == per_image[:, :1]).all()
    dropped = (per_image[:, 0] == 0).mean()
    assert abs(dropped - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 4000)
    np.testing.assert_allclose(per_image[per_image > 0], 1 / 0.7, rtol=1e-6)
    assert drop_path(x, 0.3, None) is x


def test_drop_path_ramp_equals_timms():
    for depth in (1, 2, 12, 16):
        np.testing.assert_allclose(drop_path_ramp(0.3, depth), calculate_drop_path_rates(0.3, depth), rtol=1e-6)
    model = abstract("resnet", drop_path=0.4)
    rates = [block.drop_path for stage in range(1, 5) for block in getattr(model, f"layer{stage}")]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4], rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "siglip",
        "resnet_basic",
        "clip_resnet",
        "convnextv2",
        "swin_v2",
        "eva02",
        "beit",
    ],
)
def test_bfloat16_computes_close_to_float32(name):
    full, half = (drawn(functools.partial(TINY[name], dtype=dtype)) for dtype in (jnp.float32, jnp.bfloat16))
    assert {leaf.dtype for leaf in parameters.flatten(half).values()} == {jnp.dtype(jnp.float32)}
    low, high = outputs(half, images(2, 64, 64)), outputs(full, images(2, 64, 64))
    assert low[0].dtype == jnp.float32 and {x.dtype for x in low[1:]} == {jnp.dtype(jnp.bfloat16)}
    for mine, exact in zip(low, high, strict=True):
        assert 0 < relative_error(mine.astype(np.float32), exact) < 0.03  # bfloat16 has 8 bits


@ONE_OF_EACH
def test_sharded_training_step_equals_one_device(name):
    graph, state = nnx.split(drawn(TINY[name]))
    x = images(16, 64, 64)

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    def step(state: nnx.State, x: jax.Array) -> tuple:
        model = nnx.merge(graph, state)
        features = model(x, rngs=nnx.Rngs(0))
        return features, nnx.to_pure_dict(nnx.state(model))

    alone = step(state, x)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        whole, parts = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
        spread = step(jax.device_put(state, whole), jax.device_put(x, parts))
    assert len(spread[0].pooled.sharding.device_set) == 8
    for one, eight in zip(jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True):
        np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-5 * np.abs(one).max())


GIANT = {"width": 1536, "depth": 40, "num_heads": 24, "activation": "swiglu", "mlp_ratio": 2.66667 * 2}
SO400M = {"width": 1152, "depth": 27, "num_heads": 16, "mlp_ratio": 3.7362, "class_token": False, "pooling": "map"}
REGISTERS = {"registers": 4, "position": "learned_patches"}
DINOV2 = {"patch_size": 14, "input_size": 518, "layer_scale": 1e-5}
# timm's name: (builder, millions of parameters without head as the reference table gives them, where it does)
FULL_SIZE: dict[str, tuple[Callable[[], Backbone], float | None]] = {
    "vit_small_patch16_224": (lambda: ViT(width=384, num_heads=6, rngs=nnx.Rngs(0)), 21.7),
    "vit_huge_patch14_224": (
        lambda: ViT(patch_size=14, width=1280, depth=32, num_heads=16, rngs=nnx.Rngs(0)),
        None,
    ),
    "vit_base_patch14_reg4_dinov2": (lambda: ViT(**DINOV2, **REGISTERS, rngs=nnx.Rngs(0)), 86.6),
    "vit_base_patch14_reg1_tipsv2": (lambda: ViT(**zoo.card("vit_b14_tipsv2").arguments, rngs=nnx.Rngs(0)), 86.3),
    "vit_giant_patch14_dinov2": (lambda: ViT(**DINOV2, **GIANT, rngs=nnx.Rngs(0)), 1136.5),
    "vit_so400m_patch14_siglip_224": (lambda: ViT(patch_size=14, **SO400M, rngs=nnx.Rngs(0)), 427.7),
    "resnet18": (lambda: ResNet(stages=(2, 2, 2, 2), block="basic", rngs=nnx.Rngs(0)), 11.2),
    "resnet152": (lambda: ResNet(stages=(3, 8, 36, 3), rngs=nnx.Rngs(0)), None),
    "resnet50_clip": (lambda: CLIPResNet(projection_dim=None, rngs=nnx.Rngs(0)), 36.2),
    "convnext_xlarge": (
        lambda: ConvNeXt(depths=(3, 3, 27, 3), widths=(256, 512, 1024, 2048), rngs=nnx.Rngs(0)),
        348.1,
    ),
    "convnextv2_nano": (
        lambda: ConvNeXt(depths=(2, 2, 8, 2), widths=(80, 160, 320, 640), grn=True, layer_scale=None, rngs=nnx.Rngs(0)),
        15.0,
    ),
    "resnet50x4_clip": (
        lambda: CLIPResNet(stages=(4, 6, 10, 6), width=80, input_size=288, projection_dim=None, rngs=nnx.Rngs(0)),
        None,
    ),
    "resnet50x16_clip": (
        lambda: CLIPResNet(stages=(6, 8, 18, 8), width=96, input_size=384, projection_dim=None, rngs=nnx.Rngs(0)),
        None,
    ),
    "resnet50x64_clip": (
        lambda: CLIPResNet(stages=(3, 15, 36, 10), width=128, input_size=448, projection_dim=None, rngs=nnx.Rngs(0)),
        None,
    ),
    "swinv2_small_window8_256": (lambda: SwinV2(depths=(2, 2, 18, 2), rngs=nnx.Rngs(0)), None),
    "swinv2_large_window12to24_192to384": (
        lambda: SwinV2(width=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), rngs=nnx.Rngs(0)),
        195.2,
    ),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_parameter_counts_of_full_size_models(name):
    make, millions = FULL_SIZE[name]
    ours = parameters.count(nnx.eval_shape(make))
    with torch.device("meta"):
        reference = timm.create_model(name, num_classes=0)
    assert ours == sum(p.numel() for p in reference.parameters())
    assert millions is None or round(ours / 1e6, 1) == millions
