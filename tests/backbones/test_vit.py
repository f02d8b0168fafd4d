"""ViT against timm's VisionTransformer on random weights, and what only bob_jax promises."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from from_timm import (
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
    to_torch,
    torch_gradients,
)
from torch_reference import import_timm

from bob_jax.backbones import parameters
from bob_jax.backbones.vit import ViT, sincos_positions
from bob_jax.errors import BobError

timm = import_timm()
from timm.layers import GluMlp  # noqa: E402  (timm is importable only after import_timm)
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

SMALL = {"patch_size": 8, "depth": 2, "num_heads": 3}
LAYER_NORM_5 = functools.partial(torch.nn.LayerNorm, eps=1e-5)
SWIGLU = functools.partial(GluMlp, gate_last=False)
# name: (arguments of ViT, arguments of timm's VisionTransformer)
VARIANTS = {
    "augreg": ({}, {}),
    "clip": ({"pre_norm": True, "epsilon": 1e-5}, {"pre_norm": True, "norm_layer": LAYER_NORM_5}),
    "quickgelu": ({"activation": "quick_gelu", "pre_norm": True}, {"act_layer": "quick_gelu", "pre_norm": True}),
    "deit3": ({"layer_scale": 1e-6, "position": "learned_patches"}, {"init_values": 1e-6, "no_embed_class": True}),
    "dinov2": ({"layer_scale": 1e-5}, {"init_values": 1e-5}),
    "dinov2_reg": (
        {"layer_scale": 1e-5, "registers": 4, "position": "learned_patches"},
        {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
    ),
    "dinov2_giant": (
        {"layer_scale": 1e-5, "activation": "swiglu", "mlp_ratio": 2.66667 * 2},
        {"init_values": 1e-5, "mlp_layer": SWIGLU, "act_layer": torch.nn.SiLU, "mlp_ratio": 2.66667 * 2},
    ),
    "registers_in_table": ({"registers": 2}, {"reg_tokens": 2}),
    "mae_mean": ({"pooling": "mean", "fc_norm": True}, {"global_pool": "avg"}),
    "siglip": (
        {"pooling": "map", "class_token": False, "activation": "gelu_tanh", "mlp_ratio": 3.7362},
        {"global_pool": "map", "class_token": False, "act_layer": "gelu_tanh", "mlp_ratio": 3.7362},
    ),
    "siglip_gap": (
        {"pooling": "mean", "class_token": False},
        {"global_pool": "avg", "class_token": False, "fc_norm": False},
    ),
    "no_qkv_bias": ({"qkv_bias": False}, {"qkv_bias": False}),
}


def pair(variant: str) -> tuple[ViT, VisionTransformer]:
    ours, theirs = VARIANTS[variant]
    reference = VisionTransformer(img_size=48, embed_dim=48, num_classes=0, dynamic_img_size=True, **SMALL, **theirs)
    randomise(reference)
    return filled(lambda: ViT(width=48, input_size=48, **SMALL, **ours, rngs=nnx.Rngs(0)), reference), reference


def reference_outputs(reference: VisionTransformer, inputs: np.ndarray) -> list[torch.Tensor]:
    tokens, maps = reference.forward_intermediates(to_torch(inputs), indices=1, norm=True)
    return [reference.forward_head(tokens, pre_logits=True), *(x.permute(0, 2, 3, 1) for x in maps)]


@pytest.mark.parametrize(
    ("variant", "size"),
    [(variant, (48, 48)) for variant in VARIANTS]
    + [(variant, (64, 40)) for variant in ("augreg", "dinov2_reg", "registers_in_table", "siglip")],
)
def test_outputs_equal_timm(variant, size):
    ours, reference = pair(variant)
    inputs = images(2, *size)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(outputs(ours, inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


@pytest.mark.parametrize("variant", ["augreg", "quickgelu", "dinov2_reg", "dinov2_giant", "mae_mean", "siglip"])
def test_gradients_equal_timm(variant):
    ours, reference = pair(variant)
    inputs = images(2, 64, 40)
    theirs = reference_outputs(reference, inputs)
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    errors = gradient_errors(gradients(ours, inputs, weights, train=True), torch_gradients(reference, theirs, weights))
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


def dinov2_positions(table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """DINOv2's own rule for models without registers (dinov2/models/vision_transformer.py): [1, 1 + n², C] for a grid.

    Bicubic without antialiasing, asked for by a scale factor that is 0.1 of a patch too large.
    """
    side = math.isqrt(table.shape[1] - 1)
    scale = tuple((n + 0.1) / side for n in grid)
    patches = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    patches = torch.nn.functional.interpolate(patches, scale_factor=scale, mode="bicubic", antialias=False)
    assert patches.shape[2:] == grid
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


@pytest.mark.parametrize("size", [(48, 48), (64, 40), (32, 24), (104, 96)])
def test_positions_of_dinov2_are_resampled_as_its_authors_do(size):
    arguments = {"width": 48, "layer_scale": 1e-5, "input_size": 48, "table_size": 104, "resample": "dinov2"}
    reference = randomise(
        VisionTransformer(img_size=104, embed_dim=48, num_classes=0, dynamic_img_size=True, init_values=1e-5, **SMALL)
    )
    ours = filled(lambda: ViT(**SMALL, **arguments, rngs=nnx.Rngs(0)), reference)
    inputs = images(2, *size)
    grid = (size[0] // 8, size[1] // 8)
    table = dinov2_positions(reference.pos_embed, grid)
    # timm adds the table in the patch embedding's own order, so a model built for `size` takes the table as it is.
    native = VisionTransformer(
        img_size=size, embed_dim=48, num_classes=0, dynamic_img_size=True, init_values=1e-5, **SMALL
    ).eval()
    native.load_state_dict(reference.state_dict() | {"pos_embed": table})
    with torch.no_grad():
        theirs = reference_outputs(native, inputs)
        antialiased = reference_outputs(reference, inputs)
    for mine, yours, other in zip(outputs(ours, inputs), theirs, antialiased, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5
        assert relative_error(mine, other.numpy()) > 1e-3  # timm's rule is another function


def test_full_size_equals_timm():
    reference = randomise(timm.create_model("vit_base_patch16_224", num_classes=0))
    inputs = images(1, 224, 224)
    ours = outputs(filled(lambda: ViT(rngs=nnx.Rngs(0)), reference), inputs)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(ours, theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


def test_fixed_positions_are_stored_but_never_trained():
    reference = randomise(VisionTransformer(img_size=48, embed_dim=48, num_classes=0, **SMALL))
    ours = filled(lambda: ViT(width=48, input_size=48, position="sincos", **SMALL, rngs=nnx.Rngs(0)), reference)
    inputs = images(1, 48, 48)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    assert relative_error(outputs(ours, inputs)[0], theirs[0].numpy()) < 1e-5  # the stored table is the one used
    assert "pos_embed" in parameters.flatten(ours)
    assert "pos_embed" not in nnx.to_pure_dict(nnx.state(ours, nnx.Param))
    assert parameters.count(ours) == sum(p.numel() for p in reference.parameters())


def test_fixed_positions_by_hand():
    table = sincos_positions((3, 4), 8)
    assert table.shape == (1, 12, 8)
    # Token 6 stands in row 1, column 2; frequencies are 1 and 10000^(-1/2) = 0.01.
    expected = [f(position * w) for position in (1, 2) for f in (math.sin, math.cos) for w in (1, 0.01)]
    np.testing.assert_allclose(table[0, 6], expected, rtol=1e-6)
    start = initialised(lambda rngs: ViT(width=48, input_size=48, position="sincos", **SMALL, rngs=rngs))
    np.testing.assert_array_equal(start["pos_embed"][0, 0], np.zeros(48))  # the class token has no position
    np.testing.assert_array_equal(start["pos_embed"][0, 1:], sincos_positions((6, 6), 48)[0])


@pytest.mark.parametrize("variant", ["augreg", "clip", "dinov2_reg", "dinov2_giant", "siglip"])
def test_initialisation_is_distributed_as_timms(variant):
    ours, theirs = VARIANTS[variant]
    torch.manual_seed(0)
    reference = VisionTransformer(img_size=48, embed_dim=48, num_classes=0, **SMALL, **theirs)
    mine = initialised(lambda rngs: ViT(width=48, input_size=48, **SMALL, **ours, rngs=rngs))
    for name, expected in renamed(reference.state_dict().items()).items():
        tolerance = 6 * expected.std() / math.sqrt(expected.size)  # six standard errors of a mean
        assert abs(mine[name].mean() - expected.mean()) <= tolerance + 1e-7, name
        assert abs(mine[name].std() - expected.std()) <= tolerance + 1e-7, name
    bound = 1 / math.sqrt(3 * 8 * 8)
    assert 0.95 * bound < jnp.abs(mine["patch_embed.proj.kernel"]).max() <= bound


def test_input_that_the_patch_size_does_not_divide():
    model = nnx.eval_shape(lambda: ViT(width=48, input_size=48, **SMALL, rngs=nnx.Rngs(0)))
    with pytest.raises(BobError, match="input of 32x36 pixels is not divisible by the patch size 8"):
        model(jnp.zeros((1, 32, 36, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "max"}, "unknown pooling 'max': did you mean map"),
        ({"position": "sin-cos"}, "did you mean sincos"),
        ({"activation": "gelo"}, "unknown activation 'gelo': did you mean gelu"),
        ({"input_size": 225}, "input_size 225 is not divisible by patch_size 16"),
        ({"num_heads": 3}, "width 8 is not divisible by num_heads 3"),
        ({"class_token": False}, "pooling='cls' needs class_token=True"),
        ({"width": 6, "num_heads": 1, "position": "sincos"}, "width 6 is not divisible by 4"),
        ({"activation": "swiglu", "mlp_ratio": 1.375}, "hidden width 11 .* must be even"),
    ],
)
def test_contradictory_arguments(arguments, message):
    with pytest.raises(BobError, match=message):
        nnx.eval_shape(lambda: ViT(**{"width": 8, "depth": 1, "num_heads": 1, **arguments}, rngs=nnx.Rngs(0)))
