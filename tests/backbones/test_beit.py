"""BEiT against timm's on random weights; its relative positions."""

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
from bob_jax.backbones.beit import Beit, relative_index, resample_relative
from bob_jax.errors import BobError

timm = import_timm()
from timm.layers import resize_rel_pos_bias_table  # noqa: E402  (timm is importable only after import_timm)
from timm.models.beit import Beit as TimmBeit  # noqa: E402

SMALL = {"patch_size": 8, "depth": 2, "num_heads": 3}
# What PyTorch says of timm's interpolation code.
TIMM_RESAMPLES = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "ignore:torch.searchsorted")
NAMES = [(r"gamma_(\d)", r"ls\1.gamma")]


def timm_beit() -> TimmBeit:
    return TimmBeit(
        img_size=48, embed_dim=48, num_classes=0, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1, **SMALL
    )


def random_timm(make) -> torch.nn.Module:
    """A timm model with random weights; what it computes for itself (zero key biases, indices) stays what it is."""
    model = randomise(make())
    for module in model.modules():
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
    return model


def our_beit(rngs: nnx.Rngs | None = None) -> Beit:
    return Beit(width=48, input_size=48, layer_scale=0.1, **SMALL, rngs=rngs or nnx.Rngs(0))


def reference_outputs(reference: TimmBeit, inputs: np.ndarray) -> list[torch.Tensor]:
    tokens, maps = reference.forward_intermediates(to_torch(inputs), indices=1, norm=True)
    return [reference.forward_head(tokens, pre_logits=True), *(x.permute(0, 2, 3, 1) for x in maps)]


@TIMM_RESAMPLES
@pytest.mark.parametrize("size", [(48, 48), (64, 40)])
def test_outputs_equal_timm(size):
    reference = random_timm(timm_beit)
    ours = filled(our_beit, reference, NAMES)
    reference.set_input_size(size)  # timm's way to another size: the tables are replaced
    inputs = images(2, *size)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(outputs(ours, inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


def test_gradients_equal_timm():
    reference = random_timm(timm_beit)
    ours = filled(our_beit, reference, NAMES)
    inputs = images(2, 48, 48)
    theirs = reference_outputs(reference, inputs)
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    expected = torch_gradients(reference, theirs, weights, NAMES)
    errors = gradient_errors(gradients(ours, inputs, weights, train=True), expected)
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


def test_full_size_equals_timm():
    with torch.device("meta"):  # its own initialisation would take longer than all the rest
        reference = timm.create_model("beit_base_patch16_224", num_classes=0)
    reference = random_timm(lambda: reference.to_empty(device="cpu"))
    inputs = images(1, 224, 224)
    card = zoo.card("vit_b16_beit_ft_in22k")
    ours = filled(lambda: Beit(**card.arguments, rngs=nnx.Rngs(0)), reference, NAMES)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(outputs(ours, inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


def test_relative_index_by_hand():
    """A 2 x 2 grid has 9 distances; rows of the table: (-1, -1), (-1, 0), (-1, 1), (0, -1)... and 3 for the class."""
    index = relative_index((2, 2))
    np.testing.assert_array_equal(
        index,
        [
            [11, 9, 9, 9, 9],
            [10, 4, 3, 1, 0],
            [10, 5, 4, 2, 1],
            [10, 7, 6, 4, 3],
            [10, 8, 7, 5, 4],
        ],
    )


@TIMM_RESAMPLES
@pytest.mark.parametrize(
    ("old", "new"),
    [((14, 14), (24, 24)), ((14, 14), (14, 20)), ((14, 14), (9, 16)), ((6, 6), (1, 3)), ((3, 5), (7, 2))],
)
def test_trap_tables_are_resampled_as_timm_does(old, new):
    entries = [(2 * h - 1) * (2 * w - 1) + 3 for h, w in (old, new)]
    table = np.random.default_rng(0).standard_normal((entries[0], 4), np.float32)
    expected = resize_rel_pos_bias_table(torch.from_numpy(table), new, (entries[1], 4), old_window_size=old).numpy()
    mine = np.asarray(resample_relative(jnp.asarray(table), old, new))
    assert relative_error(mine, expected) < 1e-5
    np.testing.assert_array_equal(mine[-3:], table[-3:])  # the class token has no distance


def test_trap_there_is_no_key_bias_in_the_module_nor_in_timms_checkpoint():
    model = nnx.eval_shape(our_beit)
    names = set(parameters.flatten(model))
    assert not [name for name in (*names, *timm_beit().state_dict()) if "k_bias" in name or "index" in name]
    assert names >= {"blocks.1.attn.q_bias", "blocks.1.attn.v_bias", "blocks.1.attn.relative_position_bias_table"}
    assert model.blocks[0].attn.qkv.bias is None
    full = parameters.flatten(zoo.skeleton("vit_b16_beitv2_ft_in1k"))
    assert full["blocks.11.attn.relative_position_bias_table"].shape == (732, 12)


def test_trap_the_norm_stands_behind_the_mean():
    assert {name.split(".")[0] for name in parameters.flatten(nnx.eval_shape(our_beit))} == {
        "patch_embed",
        "cls_token",
        "blocks",
        "fc_norm",
    }
    for card in zoo.CARDS.values():
        if card.architecture == "beit":
            assert card.pooling == "mean", card.name
            assert "ft_" in card.name and "not a self-supervised" in card.notes, card.name


def test_initialisation_is_distributed_as_timms():
    torch.manual_seed(0)
    expected = renamed(timm_beit().state_dict().items(), NAMES)
    mine = initialised(our_beit)
    assert mine.keys() == expected.keys()
    for name, theirs in expected.items():
        tolerance = 6 * theirs.std() / math.sqrt(theirs.size)  # six standard errors of a mean
        assert abs(mine[name].mean() - theirs.mean()) <= tolerance + 1e-7, name
        assert abs(mine[name].std() - theirs.std()) <= tolerance + 1e-7, name


@pytest.mark.parametrize("name", ["vit_b16_beit_ft_in22k", "vit_b16_beitv2_ft_in1k", "vit_l16_beitv2_ft_in22k"])
def test_a_card_is_what_timms_model_is(name):
    card = zoo.card(name)
    with torch.device("meta"):
        reference = timm.create_model(card.source.hub.removeprefix("timm/").partition(".")[0], num_classes=0)
    assert parameters.count(zoo.skeleton(name)) == sum(p.numel() for p in reference.parameters())
    assert card.arguments["layer_scale"] == reference.blocks[0].init_values


def test_input_that_the_patch_size_does_not_divide():
    with pytest.raises(BobError, match="input of 32x36 pixels is not divisible by the patch size 8"):
        nnx.eval_shape(our_beit)(jnp.zeros((1, 32, 36, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 225}, "input_size 225 is not divisible by patch_size 16"),
        ({"num_heads": 3}, "width 8 is not divisible by num_heads 3"),
    ],
)
def test_contradictory_arguments(arguments, message):
    with pytest.raises(BobError, match=message):
        nnx.eval_shape(lambda: Beit(**{"width": 8, "depth": 1, "num_heads": 1, **arguments}, rngs=nnx.Rngs(0)))
