"""Stable Diffusion's encoder against diffusers on random weights, and what only bob_jax promises."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from from_diffusers import Reference, ours, randomised
from from_timm import (
    gradient_errors,
    gradients,
    images,
    outputs,
    relative_error,
    scalar_weights,
    to_torch,
)

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.card import HALF
from bob_jax.backbones.diffusion_blocks import ResBlock
from bob_jax.backbones.stable_diffusion import StableDiffusionEncoder
from bob_jax.errors import BobError

# Groups of two and three channels: with one, the bias before a norm would have no gradient, and nothing to compare.
TINY = {
    "vae_widths": (64, 64, 64, 96),
    "unet_widths": (64, 64, 96),
    "num_heads": (2, 4, 3),
    "context_features": 24,
    "blocks": 1,
}
SMALL = TINY | {"unet_widths": (64, 96), "num_heads": (2, 3)}


def pair(arguments: dict) -> tuple[StableDiffusionEncoder, Reference]:
    reference = randomised(arguments, linear_projection=False)
    model = nnx.eval_shape(lambda: StableDiffusionEncoder(**arguments, rngs=nnx.Rngs(0)))
    parameters.assign(model, ours(reference.state_dict().items()), "diffusers")
    return model, reference


# 72x40: the halvings meet odd sides, 9x5 latents and 5x3 behind them.
@pytest.mark.parametrize("size", [(64, 64), (72, 40)])
def test_outputs_equal_diffusers(size):
    """Version 2, two blocks a level and bfloat16 are compared where `verify` is tested."""
    model, reference = pair(TINY)
    inputs = images(2, *size)
    with torch.no_grad():
        theirs = reference(to_torch(inputs))
    mine = outputs(model, inputs)
    assert len(mine) == len(theirs) == 2 + model.levels
    for one, other in zip(mine, theirs, strict=True):
        assert relative_error(one, other.numpy()) < 1e-5


def test_gradients_equal_diffusers():
    model, reference = pair(SMALL)
    inputs = images(2, 64, 64)
    theirs = reference(to_torch(inputs))
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    loss = sum((torch.from_numpy(w) * x).sum() for w, x in zip(weights, theirs, strict=True))
    named = dict(reference.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    expected = ours((name, g) for name, g in zip(named, found, strict=True) if g is not None)
    mine = gradients(model, inputs, weights, train=True)
    # Softmax does not see a bias that all keys share: that gradient is 0 but for rounding, on both sides.
    name = "vae.mid_block.attention.to_k.bias"
    for none in (mine.pop(name), expected.pop(name)):
        assert np.abs(none).max() < 1e-5 * np.abs(expected["vae.mid_block.attention.to_v.bias"]).max()
    errors = gradient_errors(mine, expected)
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


def test_drop_path_is_one_ramp_and_drops_branches_in_training_only():
    model = nnx.eval_shape(lambda: StableDiffusionEncoder(**TINY, drop_path=0.1, rngs=nnx.Rngs(0)))
    levels, middles = [*model.vae.down_blocks, *model.unet.down_blocks], (model.vae.mid_block, model.unet.mid_block)
    rates = [block.drop_path for level in levels for block in level.resnets]
    rates[4:4] = [block.drop_path for block in middles[0].resnets]
    rates += [block.drop_path for block in middles[1].resnets]
    np.testing.assert_allclose(rates, np.linspace(0, 0.1, 4 + 2 + 3 + 2))
    assert [middle.attention.drop_path for middle in middles] == [middle.resnets[0].drop_path for middle in middles]
    assert model.unet.down_blocks[1].attentions[0].drop_path == model.unet.down_blocks[1].resnets[0].drop_path

    block = ResBlock(32, 32, drop_path=0.5, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((32, 2, 2, 32), np.float32))
    branch, drawn = block(x, rngs=None) - x, block(x, rngs=nnx.Rngs(0)) - x
    dropped = jnp.abs(drawn).max((1, 2, 3)) == 0
    assert 6 <= dropped.sum() <= 26  # of 32, each with probability 0.5
    np.testing.assert_allclose(drawn[~dropped], 2 * branch[~dropped], rtol=0, atol=1e-5)


def test_initialisation_is_distributed_as_the_publishers():
    """diffusers' start is PyTorch's; the publisher's own code has zeros where the U-Net's branches end."""
    torch.manual_seed(0)
    reference = ours(Reference(SMALL, linear_projection=False).state_dict().items())
    # Not `initialised`: most shapes occur many times, and one by one each is compiled once.
    mine = parameters.flatten(StableDiffusionEncoder(**SMALL, rngs=nnx.Rngs(jax.random.key(0, impl="rbg"))))
    assert mine.keys() == reference.keys()
    zero = {name for name in mine if name.startswith("unet.") and (".conv2." in name or ".proj_out." in name)}
    assert len(zero) == 2 * (2 + 1 + 2 + 1)  # kernel and bias; blocks of the levels and the middle, transformers
    for name, expected in reference.items():
        if name in zero:
            assert not mine[name].any(), name
            continue
        tolerance = 6 * expected.std() / math.sqrt(expected.size)  # six standard errors of a mean
        assert abs(mine[name].mean() - expected.mean()) <= tolerance * math.sqrt(2) + 1e-7, name
        assert abs(mine[name].std() - expected.std()) <= tolerance + 1e-7, name
    bound = 1 / math.sqrt(9 * 3)
    assert 0.95 * bound < jnp.abs(mine["vae.conv_in.kernel"]).max() <= bound


def test_text_is_stored_but_never_trained():
    model = nnx.eval_shape(lambda: StableDiffusionEncoder(**TINY, rngs=nnx.Rngs(0)))
    assert parameters.flatten(model)["context"].shape == (77, 24)
    assert "context" not in nnx.to_pure_dict(nnx.state(model, nnx.Param))


def test_text_is_attended_to():
    """What a parity test against the same text would not show if attention were uniform: another text, other maps."""
    model, _ = pair(TINY)
    before = outputs(model, images(2, 64, 64))
    model.context[...] = model.context[...][::-1] * 0.5
    after = outputs(model, images(2, 64, 64))
    np.testing.assert_array_equal(before[1], after[1])  # the autoencoder's map
    assert relative_error(after[0], before[0]) > 1e-2


def test_maps_have_no_scale_and_pooled_is_the_mean_of_the_last():
    model, _ = pair(TINY)
    pooled, *maps = outputs(model, images(2, 64, 64))
    for map_ in maps:
        groups = map_.reshape(2, -1, 32, map_.shape[-1] // 32)
        np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(groups.std((1, 3)), 1, atol=2e-3)  # epsilon beside a small variance
    np.testing.assert_allclose(pooled, maps[-1].mean((1, 2)), atol=1e-6)


def test_halvings_of_odd_sides_round_up():
    model = nnx.eval_shape(lambda: StableDiffusionEncoder(**TINY, rngs=nnx.Rngs(0)))
    features = nnx.eval_shape(lambda model, x: model(x), model, jax.ShapeDtypeStruct((2, 224, 40, 3), jnp.float32))
    assert [x.shape[1:3] for x in features.maps] == [(56, 10), (28, 5), (14, 3), (7, 2)]


def test_input_that_the_autoencoder_does_not_divide():
    model = nnx.eval_shape(lambda: StableDiffusionEncoder(**TINY, rngs=nnx.Rngs(0)))
    with pytest.raises(BobError, match=r"input of 64x60 pixels is not divisible by 8: .* e.g. 512"):
        model(jnp.zeros((1, 64, 60, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vae_widths": (32, 32)}, r"vae_widths \(32, 32\) must be 4 numbers"),
        ({"num_heads": (1, 2)}, r"unet_widths \(64, 64, 96\) and num_heads \(1, 2\) must have an entry for each level"),
        ({"unet_widths": (32,), "num_heads": (1,)}, "at least two"),
        ({"num_heads": (3, 4, 3)}, "width 64 is not divisible by num_heads 3"),
        ({"unet_widths": (64, 48, 96)}, "width 48 is not divisible by the 32 groups"),
        ({"input_size": 100}, "input_size 100 is not divisible by 8"),
    ],
)
def test_contradictory_arguments(arguments, message):
    with pytest.raises(BobError, match=message):
        nnx.eval_shape(lambda: StableDiffusionEncoder(**TINY | arguments, rngs=nnx.Rngs(0)))


def test_cards_are_the_published_architectures():
    v14, v21 = zoo.skeleton("sd_v14_encoder"), zoo.skeleton("sd_v21_encoder")
    shapes = [{name: leaf.shape for name, leaf in parameters.flatten(model).items()} for model in (v14, v21)]
    assert round(parameters.count(v14) / 1e6, 1) == 382.9 and round(parameters.count(v14.vae) / 1e6, 1) == 34.2
    assert v14.strides == v21.strides == (4, 8, 16, 32, 64)
    assert v14.widths == v21.widths == (256, 320, 640, 1280, 1280)
    different = {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert different == {"context"} | {name for name in shapes[0] if re.search(r"attn2\.to_[kv]", name)}
    assert shapes[0]["context"] == (77, 768) and shapes[1]["context"] == (77, 1024)
    heads = [[level.attentions[0].block.attn1.num_heads for level in m.unet.down_blocks[:3]] for m in (v14, v21)]
    assert heads == [[8, 8, 8], [5, 10, 20]]
    assert [m.unet.mid_block.attention.block.attn1.num_heads for m in (v14, v21)] == [8, 20]


def test_trap_pixels_are_in_minus_one_to_one():
    for name in ("sd_v14_encoder", "sd_v21_encoder"):
        card = zoo.card(name)
        assert card.preprocessing.mean == card.preprocessing.std == HALF
        assert card.preprocessing.input_size == card.arguments["input_size"] == 256
        assert card.commercial and "rail" in card.licence


def test_trap_paddings_differ_between_the_autoencoder_and_the_unet():
    model = zoo.skeleton("sd_v14_encoder")
    assert {level.downsample.padding for level in model.vae.down_blocks[:-1]} == {(0, 1)}
    assert {level.downsample.padding for level in model.unet.down_blocks[:-1]} == {(1, 1)}
