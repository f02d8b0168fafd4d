"""Flat names of weights, and the strict way back."""

import jax
import numpy as np
import pytest
from flax import nnx
from from_timm import drawn, images, outputs

from bob_jax.backbones import parameters
from bob_jax.backbones.base import Backbone
from bob_jax.backbones.resnet import ResNet
from bob_jax.backbones.vit import ViT
from bob_jax.errors import BobError


def small_vit() -> Backbone:
    return drawn(lambda: ViT(width=8, depth=1, num_heads=1, patch_size=8, input_size=16, rngs=nnx.Rngs(0)))


def test_round_trip_through_an_abstract_module():
    source = drawn(lambda: ResNet(stages=(1, 1, 1, 1), width=4, rngs=nnx.Rngs(0)))
    arrays = {name: np.asarray(leaf) for name, leaf in parameters.flatten(source).items()}
    assert "layer1.0.conv1.kernel" in arrays and "bn1.var" in arrays
    target = nnx.eval_shape(lambda: ResNet(stages=(1, 1, 1, 1), width=4, rngs=nnx.Rngs(1)))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in parameters.flatten(target).values())
    parameters.assign(target, arrays, "test")
    np.testing.assert_array_equal(outputs(target, images(2, 32, 32))[0], outputs(source, images(2, 32, 32))[0])


def test_assigned_arrays_are_float32_copies():
    model = small_vit()
    arrays = {name: np.asarray(leaf, np.float16) for name, leaf in parameters.flatten(model).items()}
    arrays["norm.scale"] = np.full(8, 2, np.float32)
    parameters.assign(model, arrays, "test")
    arrays["norm.scale"][:] = 3
    np.testing.assert_array_equal(model.norm.scale[...], 2)
    assert {leaf.dtype for leaf in parameters.flatten(model).values()} == {np.dtype(np.float32)}


def test_one_error_names_everything_wrong_and_changes_nothing():
    model = small_vit()
    before = parameters.flatten(model)
    arrays = {name: np.asarray(leaf) + 1 for name, leaf in before.items()}
    del arrays["cls_token"], arrays["norm.bias"]
    arrays["head.weight"] = np.zeros(3)
    arrays["pos_embed"] = np.zeros((1, 7, 8), np.float32)
    with pytest.raises(BobError) as caught:
        parameters.assign(model, arrays, "some.safetensors")
    assert str(caught.value) == (
        "some.safetensors: the weights do not fit the architecture: 2 missing: cls_token, norm.bias; "
        "1 unused: head.weight; 1 mis-shaped: pos_embed (1, 7, 8) instead of (1, 5, 8)"
    )
    for name, leaf in parameters.flatten(model).items():
        np.testing.assert_array_equal(leaf, before[name])


def test_a_long_list_is_cut():
    with pytest.raises(BobError, match=r"18 missing: (\S+, ){7}\S+ \.\.\. and 10 more$"):
        parameters.assign(small_vit(), {}, "empty")


def test_count_is_of_parameters_only():
    # By hand: a batch norm has scale and bias, and its two statistics do not count.
    model = nnx.eval_shape(lambda: ResNet(stages=(1, 1, 1, 1), block="basic", width=1, rngs=nnx.Rngs(0)))
    stem = 7 * 7 * 3 + 2
    first = 9 + 2 + 9 + 2
    others = [9 * a * b + 2 * b + 9 * b * b + 2 * b + a * b + 2 * b for a, b in ((1, 2), (2, 4), (4, 8))]
    assert parameters.count(model) == stem + first + sum(others)


@pytest.mark.parametrize("path", ["blocks.1.norm1.scale", "blocks.0", "blocks.-1.norm1.scale", "nothing", "", "width"])
def test_unknown_path(path):
    with pytest.raises(KeyError):
        parameters.variable(small_vit(), path)
