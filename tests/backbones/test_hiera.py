"""Hiera against timm's on random weights, and its checkpoints' layouts."""

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

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.hiera import Hiera
from bob_jax.errors import BobError
from converters import rules
from converters.tables import table_of

timm = import_timm()
from timm.layers import resample_abs_pos_embed  # noqa: E402  (timm is importable only after import_timm)
from timm.models import hiera as timm_hiera  # noqa: E402

NAMES = [(r"^head\.norm", "norm")]
# At 64 pixels the maps have 16, 8, 4 and 2 tokens on a side: four windows in the first stages, global ones behind.
STAGES = (1, 2, 2, 1)


def timm_model(size: tuple[int, int], **more) -> timm_hiera.Hiera:
    return timm_hiera.Hiera(img_size=size, embed_dim=16, num_heads=2, stages=STAGES, num_classes=0, **more)


def small(rngs: nnx.Rngs | None = None) -> Hiera:
    return Hiera(width=16, num_heads=2, stages=STAGES, input_size=64, rngs=rngs or nnx.Rngs(0))


def reference_outputs(reference: timm_hiera.Hiera, inputs: np.ndarray) -> list[torch.Tensor]:
    tokens, maps = reference.forward_intermediates(to_torch(inputs), output_fmt="NHWC")
    return [reference.forward_head(tokens, pre_logits=True), *maps]


@pytest.fixture(scope="module")
def reference() -> timm_hiera.Hiera:
    return randomise(timm_model((64, 64)))


def test_outputs_equal_timm(reference):
    inputs = images(2, 64, 64)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(outputs(filled(small, reference, NAMES), inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


def test_another_size_equals_timm_with_resampled_positions(reference):
    """timm's model has one size: it is built anew, with the table that timm's own function resamples."""
    inputs = images(2, 96, 64)
    state = reference.state_dict()
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], (24, 16), (16, 16), num_prefix_tokens=0)
    other = timm_model((96, 64)).eval()
    other.load_state_dict(state)
    with torch.no_grad():
        theirs = reference_outputs(other, inputs)
    for mine, yours in zip(outputs(filled(small, reference, NAMES), inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


def test_gradients_equal_timm(reference):
    inputs = images(2, 64, 64)
    theirs = reference_outputs(reference, inputs)
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    ours = gradients(filled(small, reference, NAMES), inputs, weights, train=True)
    errors = gradient_errors(ours, torch_gradients(reference, theirs, weights, NAMES))
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


def test_initialisation_is_distributed_as_timms():
    torch.manual_seed(0)
    expected = renamed(timm_model((64, 64)).state_dict().items(), NAMES)
    mine = initialised(small)
    assert mine.keys() == expected.keys()
    for name, x in expected.items():
        tolerance = 6 * x.std() / math.sqrt(x.size)  # six standard errors of a mean
        assert abs(mine[name].mean() - x.mean()) <= tolerance + 1e-7, name
        assert abs(mine[name].std() - x.std()) <= tolerance + 1e-7, name
    assert (mine["blocks.1.proj.bias"] == np.float32(0.02)).all()


@pytest.mark.parametrize("layout", ["timm", "fine-tuned", "pretrained"])
def test_every_layout_gives_the_same_backbone_and_gets_its_tensors_back(layout, reference):
    state = {name: x.numpy() for name, x in reference.state_dict().items()}
    extra = {"head.fc.weight": np.zeros((5, 128), np.float32)}
    if layout != "timm":
        norm = "norm" if layout == "fine-tuned" else "encoder_norm"
        extra = {"head.projection.weight": extra["head.fc.weight"]}
        if layout == "pretrained":
            names = (
                "mask_token",
                "decoder_pos_embed",
                "decoder_blocks.0.norm1.weight",
                "multi_scale_fusion_heads.0.bias",
            )
            extra = dict.fromkeys(names, np.zeros(2, np.float32))
        state = {f"model_state.{name.replace('head.norm', norm)}": x for name, x in state.items()}
        extra = {f"model_state.{name}": x for name, x in extra.items()}
    shapes = {name: leaf.shape for name, leaf in parameters.flatten(nnx.eval_shape(small)).items()}
    arrays = rules.convert(state | extra, table_of("timm_hiera"), shapes, what=layout)
    expected = renamed(reference.state_dict().items(), NAMES)
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    back = rules.export(arrays, table_of("timm_hiera"), {n: x.shape for n, x in (state | extra).items()}, what=layout)
    assert back.keys() == state.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)


def test_cards():
    cards = [zoo.card(name) for name in zoo.names(architecture="hiera")]
    assert [card.name for card in cards] == ["hiera_b_mae", "hiera_b_mae_ft_in1k"]
    assert not any(card.commercial for card in cards)
    with torch.device("meta"):
        theirs = timm.create_model("hiera_base_224", num_classes=0)
    assert parameters.count(zoo.skeleton("hiera_b_mae")) == sum(p.numel() for p in theirs.parameters())


def test_input_that_mask_units_do_not_divide():
    with pytest.raises(BobError, match="input of 64x80 pixels is not divisible by 32"):
        nnx.eval_shape(small)(jnp.zeros((1, 64, 80, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": (1, 2, 0, 1)}, r"stages \(1, 2, 0, 1\) must be four positive numbers"),
        ({"input_size": 80}, "input_size 80 is not divisible by 32"),
        ({"num_heads": 3}, "width 16 is not divisible by num_heads 3"),
    ],
)
def test_contradictory_arguments(arguments, message):
    with pytest.raises(BobError, match=message):
        nnx.eval_shape(lambda: Hiera(**{"width": 16, "input_size": 64, **arguments}, rngs=nnx.Rngs(0)))
