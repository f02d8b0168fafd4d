"""Swin V2 against timm's SwinTransformerV2 on random weights, and what only bob_jax promises."""

import math
from collections.abc import Callable, Iterable
from typing import Any

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

from bob_jax.backbones import parameters, swin_v2, zoo
from bob_jax.backbones.card import HALF, IMAGENET_MEAN
from bob_jax.backbones.swin_v2 import PatchMerging, PositionBias, SwinV2, log_distances, shifted_regions
from bob_jax.errors import BobError

timm = import_timm()
from timm.models.swin_transformer_v2 import SwinTransformerV2, WindowAttention  # noqa: E402  (after import_timm)

NAMES = [(r"cpb_mlp\.0", "cpb_mlp.fc1"), (r"cpb_mlp\.2", "cpb_mlp.fc2")]
SMALL = {"depths": (2, 1, 1, 1), "num_heads": (2, 2, 4, 4)}
# name: (window, window of pretraining per stage); at 64 pixels the maps have 16, 8, 4 and 2 tokens on a side
VARIANTS = {"plain": (4, (0, 0, 0, 0)), "pretrained": (4, (3, 3, 3, 2))}


def randomised(reference: torch.nn.Module) -> Any:
    """Random weights, with temperatures near 10, where training starts.

    At the bound of 100 float32 is too coarse to compare whole networks: there PyTorch's gradients differ from its own
    in float64 by 1e-4, here by 4e-6 (measured). The bound has a test of its own.
    """
    randomise(reference)
    generator = torch.Generator().manual_seed(1)
    for module in reference.modules():
        if isinstance(module, WindowAttention):
            noise = torch.randn(module.logit_scale.shape, generator=generator)
            module.logit_scale.data.copy_(math.log(10) + 0.2 * noise)
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()  # `randomise` has drawn these constants too
    return reference


def flat_scales(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Temperatures [heads], where timm has [heads, 1, 1]."""
    return {name: x.reshape(-1) if name.endswith("logit_scale") else x for name, x in arrays.items()}


def in_our_layout(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    return flat_scales(renamed(tensors, NAMES))


def filled(make: Callable[[], nnx.Module], reference: torch.nn.Module) -> Any:
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


# 64: whole windows; 72 x 44: maps of 18 x 11, 9 x 6, 5 x 3 and 3 x 2 tokens, padded to windows and before merging.
@pytest.mark.parametrize(("variant", "size"), [("plain", (64, 64)), ("pretrained", (72, 44))])
def test_outputs_equal_timm(variant, size):
    ours, reference = pair(variant)
    inputs = images(2, *size)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(outputs(ours, inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


def test_gradients_equal_timm():
    """Against timm in float64: its own float32 gradient of a temperature, a sum that nearly cancels, is off by 8e-6."""
    ours, reference = pair("pretrained")
    inputs = images(2, 72, 44)
    theirs = reference_outputs(reference.double(), inputs.astype(np.float64))
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    exact = flat_scales(torch_gradients(reference, theirs, [x.astype(np.float64) for x in weights], NAMES))
    errors = gradient_errors(gradients(ours, inputs, weights, train=True), exact)
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


@pytest.mark.parametrize("size", [(256, 256), (224, 288)])
def test_full_size_equals_timm(size):
    reference = randomised(timm.create_model("swinv2_tiny_window8_256", num_classes=0, strict_img_size=False))
    inputs = images(1, *size)
    ours = outputs(filled(lambda: SwinV2(rngs=nnx.Rngs(0)), reference), inputs)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(ours, theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


def test_initialisation_is_distributed_as_timms():
    torch.manual_seed(0)
    flat = SMALL | {"depths": (1, 1, 1, 1)}
    reference = SwinTransformerV2(img_size=64, embed_dim=16, window_size=4, num_classes=0, **flat)
    mine = initialised(lambda rngs: SwinV2(width=16, window=4, input_size=64, **flat, rngs=rngs))
    expected = in_our_layout(reference.state_dict().items())
    assert mine.keys() == expected.keys()
    for name, x in expected.items():
        tolerance = 6 * x.std() / math.sqrt(x.size)  # six standard errors of a mean
        assert abs(mine[name].mean() - x.mean()) <= tolerance + 1e-7, name
        assert abs(mine[name].std() - x.std()) <= tolerance + 1e-7, name
    # Each block starts as the identity: scale and bias behind both of its branches are 0.
    norms = [leaf for name, leaf in mine.items() if ".blocks." in name and ".norm" in name]
    assert len(norms) == 4 * 2 * 2 and not any(leaf.any() for leaf in norms)
    bound = 1 / math.sqrt(3 * 4 * 4)
    assert 0.95 * bound < jnp.abs(mine["patch_embed.proj.kernel"]).max() <= bound


def test_temperature_is_bounded_as_timms():
    reference = randomised(torch.nn.Sequential(WindowAttention(16, (4, 4), 2)))[0]
    reference.logit_scale.data.copy_(torch.tensor([2.0, 5.0]).reshape(2, 1, 1))  # e^5 > 100
    make = lambda: swin_v2.WindowAttention(16, 2, 4, 0, dtype=jnp.float32, rngs=nnx.Rngs(0))  # noqa: E731
    ours = filled(make, reference)
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)
    with torch.no_grad():
        theirs = reference(torch.from_numpy(x[0])).numpy()
    first = np.asarray(ours(x, None))
    assert relative_error(first[0], theirs) < 1e-5
    ours.logit_scale[...] = jnp.array([2.0, 9.0])
    np.testing.assert_array_equal(ours(x, None), first)


def test_distances_by_hand():
    table = log_distances(8, 0).reshape(15, 15, 2)
    assert table[7, 7].tolist() == [0, 0]
    # The largest distance, 7 of 7, is 8 before the logarithm: log2(9) / log2(8); rows come before columns.
    np.testing.assert_allclose(table[14, 0], [math.log2(9) / 3, -math.log2(9) / 3], rtol=1e-6)
    np.testing.assert_allclose(table[8, 10], [math.log2(1 + 8 / 7) / 3, math.log2(1 + 24 / 7) / 3], rtol=1e-6)
    # A window of 16 with weights of a window of 12: 11 is the largest distance they have seen, 15 lies beyond it.
    grown = log_distances(16, 12).reshape(31, 31, 2)
    np.testing.assert_allclose(grown[15 + 11, 15 + 15, :], [math.log2(9) / 3, math.log2(1 + 120 / 11) / 3], rtol=1e-6)
    assert log_distances(1, 0).tolist() == [[0, 0]]


def test_bias_depends_on_the_distance_alone_and_lies_between_0_and_16():
    module = PositionBias(2, rngs=nnx.Rngs(0))
    module.fc2.kernel[...] = 100 * module.fc2.kernel[...]
    bias = np.asarray(module(3, 0)).reshape(2, 3, 3, 3, 3)  # head, then row and column of either token
    np.testing.assert_array_equal(bias[:, 0, 0, 1, 1], bias[:, 1, 1, 2, 2])
    assert np.abs(bias[:, 0, 0, 1, 1] - bias[:, 1, 1, 0, 0]).min() > 0.1  # up and down differ
    assert 0 < bias.min() < 6 and 10 < bias.max() < 16


def test_merging_joins_columns_of_two_rows_then_reduces_then_normalises():
    module = nnx.eval_shape(lambda: PatchMerging(1, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    assert {name: leaf.shape for name, leaf in parameters.flatten(module).items()} == {
        "reduction.kernel": (4, 2),
        "norm.scale": (2,),  # of the 2C behind the reduction, not of the 4C before it
        "norm.bias": (2,),
    }
    kernel = np.array([[1, 0], [10, 0], [100, 0], [1000, 0]])
    arrays = {"reduction.kernel": kernel, "norm.scale": np.ones(2), "norm.bias": np.zeros(2)}
    parameters.assign(module, arrays, "test")
    module.norm = lambda x: x
    x = jnp.arange(1.0, 7.0).reshape(1, 2, 3, 1)  # rows 1 2 3 and 4 5 6; a column of zeros is added
    assert module(x)[0, 0, :, 0].tolist() == [1 + 40 + 200 + 5000, 3 + 60]


def test_shifted_regions_by_hand():
    regions = shifted_regions(4, 4, 2, 1)  # windows row by row, the tokens of each row by row
    assert regions.tolist() == [[0, 0, 0, 0], [1, 2, 1, 2], [3, 3, 6, 6], [4, 5, 7, 8]]


WINDOWS = {
    "swinv2_t_in1k": [(8, 4), (8, 4), (8, 4), (8, 0)],
    "swinv2_t_w16_in1k": [(16, 8), (16, 8), (16, 0), (8, 0)],
    "swinv2_t_midas": [(16, 8), (16, 8), (16, 0), (8, 0)],
    "swinv2_b_384_in22k_ft_in1k": [(24, 12), (24, 12), (24, 0), (12, 0)],
}


@pytest.mark.parametrize("name", WINDOWS)
def test_trap_where_the_map_equals_the_window_there_is_no_shift(name):
    model = zoo.skeleton(name)
    assert [(stage.blocks[1].window, stage.blocks[1].shift) for stage in model.layers] == WINDOWS[name]
    assert {stage.blocks[0].shift for stage in model.layers} == {0}


def test_trap_pretrained_windows_belong_to_single_stages():
    model = zoo.skeleton("swinv2_b_384_in22k_ft_in1k")
    assert [stage.blocks[0].attn.pretrained_window for stage in model.layers] == [12, 12, 12, 6]
    grown = {card.name for card in zoo.CARDS.values() if "pretrained_windows" in card.arguments}
    assert grown == {
        f"swinv2_{rest}"
        for rest in (
            "b_in22k_ft_in1k", "b_384_in22k_ft_in1k", "l_in22k_ft_in1k", "l_384_in22k_ft_in1k", "b_midas",
            "b_384_random",
        )
    }  # fmt: skip


def test_trap_keys_have_no_bias():
    names = [name for name in parameters.flatten(zoo.skeleton("swinv2_t_in1k")) if name.endswith("_bias")]
    assert {name.rpartition(".")[2] for name in names} == {"q_bias", "v_bias"}


def test_trap_midas_preprocessing_and_window():
    tiny, base = zoo.card("swinv2_t_midas"), zoo.card("swinv2_b_midas")
    assert (tiny.preprocessing.input_size, base.preprocessing.input_size) == (256, 384)
    assert (tiny.arguments["window"], base.arguments["window"]) == (16, 24)
    for card in (tiny, base):
        assert card.preprocessing.mean == HALF and card.preprocessing.crop_mode == "squash"
    assert zoo.card("swinv2_b_384_in22k_ft_in1k").preprocessing.mean == IMAGENET_MEAN


def test_input_that_the_patch_size_does_not_divide():
    model = nnx.eval_shape(lambda: SwinV2(width=16, window=4, input_size=64, **SMALL, rngs=nnx.Rngs(0)))
    with pytest.raises(BobError, match="input of 64x66 pixels is not divisible by the patch size 4"):
        model(jnp.zeros((1, 64, 66, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": (2, 2, 6)}, r"depths \(2, 2, 6\) must be four positive numbers"),
        ({"num_heads": (1, 2)}, r"num_heads \(1, 2\) must be four numbers"),
        ({"pretrained_windows": (12,)}, r"pretrained_windows \(12,\) must be four numbers"),
        ({"input_size": 66}, "input_size 66 is not divisible by the patch size 4"),
        ({"num_heads": (1, 1, 3, 1)}, "width 64 of a stage is not divisible by its 3 heads"),
    ],
)
def test_contradictory_arguments(arguments, message):
    with pytest.raises(BobError, match=message):
        nnx.eval_shape(lambda: SwinV2(**{"width": 16, "input_size": 64, **SMALL, **arguments}, rngs=nnx.Rngs(0)))
