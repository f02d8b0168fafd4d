"""AIMv2 against timm's on random weights."""

import math
import re

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
from bob_jax.backbones.aimv2 import AIMv2
from bob_jax.errors import BobError
from converters import rules
from converters.tables import table_of

timm = import_timm()

SMALL = {"depth": 2, "num_heads": 3}


def timm_aimv2(**more) -> torch.nn.Module:
    return timm.create_model("aimv2_large_patch14_224", num_classes=0, img_size=56, embed_dim=48, **SMALL, **more)


def our_aimv2(rngs: nnx.Rngs | None = None) -> AIMv2:
    return AIMv2(width=48, input_size=56, **SMALL, rngs=rngs or nnx.Rngs(0))


def joined(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, gate and value in one matrix."""
    rest = {name: array for name, array in arrays.items() if "fc1_" not in name}
    gates = {name: array for name, array in arrays.items() if "fc1_g" in name}
    values = {name: arrays[name.replace("fc1_g", "fc1_x")] for name in gates}
    return rest | {name.replace("fc1_g", "fc1"): np.concatenate([gates[name], values[name]], -1) for name in gates}


def reference_outputs(reference: torch.nn.Module, inputs: np.ndarray) -> list[torch.Tensor]:
    tokens, maps = reference.forward_intermediates(to_torch(inputs), indices=1, norm=True)
    return [reference.forward_head(tokens, pre_logits=True), *(x.permute(0, 2, 3, 1) for x in maps)]


def test_outputs_and_gradients_equal_timm():
    reference = randomise(timm_aimv2(dynamic_img_size=True))
    ours = nnx.eval_shape(our_aimv2)
    parameters.assign(ours, joined(renamed(reference.state_dict().items())), "timm")
    for size in ((56, 56), (70, 42)):
        inputs = images(2, *size)
        theirs = reference_outputs(reference, inputs)
        for mine, yours in zip(outputs(ours, inputs), theirs, strict=True):
            assert relative_error(mine, yours.detach().numpy()) < 1e-5
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    expected = joined(torch_gradients(reference, theirs, weights))
    errors = gradient_errors(gradients(ours, inputs, weights, train=True), expected)
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


def test_initialisation_is_distributed_as_timms():
    torch.manual_seed(0)
    expected = joined(renamed(timm_aimv2().state_dict().items()))
    mine = initialised(our_aimv2)
    assert mine.keys() == expected.keys()
    for name, theirs in expected.items():
        tolerance = 6 * theirs.std() / math.sqrt(theirs.size)  # six standard errors of a mean
        assert abs(mine[name].mean() - theirs.mean()) <= tolerance + 1e-7, name
        assert abs(mine[name].std() - theirs.std()) <= tolerance + 1e-7, name
    gate = mine["blocks.0.mlp.fc1.kernel"][:, :132]
    assert 0 < np.abs(gate).max() < 1e-5


def test_converted_and_back_again_from_timms_and_from_apples_names():
    theirs = {name: tensor.numpy() for name, tensor in randomise(timm_aimv2()).state_dict().items()}
    shapes = {name: leaf.shape for name, leaf in parameters.flatten(nnx.eval_shape(our_aimv2)).items()}
    ours = rules.convert(theirs, table_of("timm_aimv2"), shapes, what="timm")
    expected = joined(renamed((name, torch.from_numpy(array)) for name, array in theirs.items()))
    assert ours.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array)
    changes = [
        ("^pos_embed", "preprocessor.pos_embed"),
        ("^patch_embed", "preprocessor.patchifier"),
        (r"norm([12])\.", r"norm_\1."),
        ("fc1_g", "fc1"),
        ("fc1_x", "fc3"),
        ("^norm", "trunk.post_trunk_norm"),
        ("^blocks", "trunk.blocks"),
    ]
    apples = {}
    for name, array in theirs.items():
        for pattern, replacement in changes:
            name = re.sub(pattern, replacement, name)
        apples[name] = array
    for table, state in (("timm_aimv2", theirs), ("aimv2", apples)):
        same = rules.convert(state, table_of(table), shapes, what=table)
        back = rules.export(same, table_of(table), {name: x.shape for name, x in state.items()}, what=table)
        assert back.keys() == state.keys()
        for name, array in state.items():
            np.testing.assert_array_equal(back[name], array)
        for name, array in ours.items():
            np.testing.assert_array_equal(same[name], array)


def test_the_cards_are_what_timms_model_is():
    with torch.device("meta"):
        reference = timm.create_model("aimv2_large_patch14_224", num_classes=0)
    for name in ("vit_l14_aimv2", "vit_l14_aimv2_dist"):
        assert parameters.count(zoo.skeleton(name)) == sum(p.numel() for p in reference.parameters())


def test_input_that_the_patch_size_does_not_divide():
    with pytest.raises(BobError, match="input of 56x60 pixels is not divisible by the patch size 14"):
        nnx.eval_shape(our_aimv2)(jnp.zeros((1, 56, 60, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 225}, "input_size 225 is not divisible by patch_size 14"),
        ({"num_heads": 3}, "width 8 is not divisible by num_heads 3"),
    ],
)
def test_contradictory_arguments(arguments, message):
    with pytest.raises(BobError, match=message):
        nnx.eval_shape(lambda: AIMv2(**{"width": 8, "depth": 1, "num_heads": 1, **arguments}, rngs=nnx.Rngs(0)))
