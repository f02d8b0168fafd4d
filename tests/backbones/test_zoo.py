"""The cards: each builds what it says, and the traps that shapes do not protect from are asserted one by one."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.card import CLIP_MEAN, HALF, IMAGENET_MEAN
from bob_jax.errors import BobError

PRETRAINED = [name for name, card in zoo.CARDS.items() if card.source is not None]
RANDOM = [name for name, card in zoo.CARDS.items() if card.source is None]
SHAPELESS = ("activation", "epsilon", "window", "pretrained_windows")  # arguments without influence on any shape


@functools.cache
def measured(architecture: str, arguments: str) -> tuple[float, int, int]:
    """Millions of parameters, feature width and input size of an architecture; many cards share one."""
    make = functools.partial(zoo.ARCHITECTURES[architecture], **json.loads(arguments))
    module = nnx.eval_shape(lambda: make(rngs=zoo.OneKey(jax.random.key(0))))
    return parameters.count(module) / 1e6, module.feature_dim, module.input_size


@pytest.mark.parametrize("name", zoo.CARDS)
def test_card_says_what_the_architecture_is(name):
    card = zoo.card(name)
    arguments = dict(card.arguments)
    if arguments.get("activation") != "swiglu":
        arguments = {key: value for key, value in arguments.items() if key not in SHAPELESS}
    millions, feature_dim, input_size = measured(card.architecture, json.dumps(arguments, sort_keys=True))
    # Cards give millions as published, rounded to one decimal.
    assert millions == pytest.approx(card.parameters, rel=0.01)
    assert feature_dim == card.feature_dim
    assert input_size == card.preprocessing.input_size


def test_pretrained_cards_are_complete():
    from converters.tables import TABLES

    for card in map(zoo.card, PRETRAINED):
        places = (card.source.hub, card.source.url, card.source.shipped)
        assert sum(map(bool, places)) == 1, card.name
        assert card.table in TABLES, card.name
        assert card.licence and card.data and card.method != "random", card.name
        assert card.name == card.name.lower() and not card.name.endswith("_random")
        assert card.pooling in ("cls", "mean", "map", "attention", "gem"), card.name


def test_random_twins_have_no_weights_to_fetch():
    for card in map(zoo.card, RANDOM):
        assert card.name.endswith("_random") and card.method == "random"
        assert card.source is None and card.table is None


def test_no_two_cards_share_weights_and_arguments():
    seen = [json.dumps([str(card.source), dict(card.arguments)]) for card in map(zoo.card, PRETRAINED)]
    assert len(seen) == len(set(seen))


def test_the_paper_backbones_of_these_architectures_are_there():
    wanted = (
        "resnet50_in1k resnet101_in1k resnet50_dino resnet50_vicreg resnet50_clip vit_s16_in21k_ft_in1k "
        "vit_b16_in21k_ft_in1k vit_s16_dino vit_b16_dino vit_s16_mocov3 vit_b16_mocov3 vit_b16_mae vit_l16_mae "
        "vit_b16_clip vit_l14_clip vit_s16_in1k vit_b16_in1k vit_l16_in21k_ft_in1k vit_h14_mae resnet50_mocov3 "
        "resnet101_clip resnet50x4_clip resnet50x16_clip resnet50x64_clip resnet50_tv_in1k resnet101_tv_in1k "
        "vit_s16_deit vit_b16_384_deit resnet50_random resnet101_random vit_s16_random vit_b16_random vit_l16_random"
    )
    assert set(wanted.split()) <= set(zoo.CARDS)


def test_trap_mocov3_small_has_12_heads():
    assert zoo.card("vit_s16_mocov3").arguments["num_heads"] == 12
    assert zoo.card("vit_s16_dino").arguments["num_heads"] == 6


def test_trap_mocov3_positions_are_fixed_but_part_of_the_checkpoint():
    for name in ("vit_s16_mocov3", "vit_b16_mocov3"):
        assert zoo.card(name).arguments["position"] == "sincos"
    assert parameters.flatten(zoo.skeleton("vit_s16_mocov3"))["pos_embed"].shape == (1, 197, 384)


def test_trap_clip_vits_have_epsilon_1e_5_and_a_norm_before_the_blocks():
    clip = [card for card in zoo.CARDS.values() if card.method == "clip" and card.architecture == "vit"]
    assert len(clip) == 9
    for card in clip:
        assert card.arguments["epsilon"] == 1e-5 and card.arguments["pre_norm"], card.name
    assert "epsilon" not in zoo.card("vit_b16_dino").arguments  # the class's default
    assert zoo.skeleton("vit_nano4_random").norm.epsilon == 1e-6


def test_trap_quick_gelu_where_the_weights_were_trained_with_it():
    quick = {name for name, card in zoo.CARDS.items() if card.arguments.get("activation") == "quick_gelu"}
    assert quick == {
        "vit_b32_clip_openai",
        "vit_b16_clip_openai",
        "vit_l14_clip_openai",
        "vit_b16_clip_metaclip",
        "vit_b16_clip_metaclip400m",
        "vit_b16_clip_dfn",
    }
    assert zoo.card("vit_b16_clip_openai").source.hub == "timm/vit_base_patch16_clip_224.openai"


def test_trap_siglip_tanh_gelu_depends_on_the_size():
    tanh = {name for name, card in zoo.CARDS.items() if card.arguments.get("activation") == "gelu_tanh"}
    assert tanh == {"vit_b32_siglip2", "vit_so400m16_siglip2"}


def test_trap_normalisation():
    assert zoo.card("vit_l14_clip").preprocessing.mean == HALF
    assert zoo.card("vit_b16_clip").preprocessing.mean == CLIP_MEAN
    assert zoo.card("vit_b16_in21k_ft_in1k").preprocessing.mean == HALF
    for name in ("vit_b16_deit", "vit_b16_dino", "vit_b16_mae", "vit_b16_mocov3", "vit_b14_dinov2", "resnet50_in1k"):
        assert zoo.card(name).preprocessing.mean == IMAGENET_MEAN


def test_trap_publishers_preprocessing_where_timm_differs():
    for name in ("vit_s16_dino", "vit_b16_dino", "vit_b16_mae", "vit_l16_mae", "vit_h14_mae", "resnet50_dino"):
        assert (zoo.card(name).preprocessing.crop_pct, zoo.card(name).preprocessing.interpolation) == (0.875, "bicubic")
    for name in ("vit_s16_mocov3", "resnet50_mocov3", "resnet50_vicreg", "resnet50_tv_in1k"):
        assert zoo.card(name).preprocessing.interpolation == "bilinear"
    for name in ("vit_b16_clip_openai", "resnet50_clip"):
        assert zoo.card(name).preprocessing.crop_pct == 1.0
    assert zoo.card("vit_b16_siglip2").preprocessing.crop_mode == "squash"
    assert zoo.card("resnet50_a1h_in1k").preprocessing.input_size == 176


def test_trap_dinov2_positions_are_for_518_and_registers_have_none():
    for name in ("vit_s14_dinov2", "vit_l14_dinov2_reg"):
        assert zoo.card(name).preprocessing.input_size == 224  # as the authors evaluate, not timm's 518
    assert zoo.card("vit_s14_dinov2").arguments["resample"] == "dinov2"
    assert zoo.card("vit_s14_dinov2_reg").arguments["resample"] == "antialiased"
    assert parameters.flatten(zoo.skeleton("vit_s14_dinov2"))["pos_embed"].shape == (1, 37 * 37 + 1, 384)
    registers = parameters.flatten(zoo.skeleton("vit_s14_dinov2_reg"))
    assert registers["pos_embed"].shape == (1, 37 * 37, 384)
    assert registers["reg_token"].shape == (1, 4, 384)


def test_trap_clip_features_stand_before_the_projection_for_vits_and_behind_it_for_resnets():
    widths = {"vit_b16_clip": 768, "vit_l14_clip": 1024, "resnet50_clip": 1024, "resnet101_clip": 512}
    assert {name: zoo.card(name).feature_dim for name in widths} == widths


def test_trap_tags_are_written_out():
    for card in map(zoo.card, PRETRAINED):
        if card.source.hub and card.architecture != "stable_diffusion":
            assert card.source.hub.startswith("timm/") and card.source.hub.count(".") == 1, card.name
    assert zoo.card("vit_h14_mae").source.hub == "timm/vit_huge_patch14_224.mae"


def test_non_commercial_licences_are_marked():
    marked = {card.method for card in zoo.CARDS.values() if not card.commercial}
    assert marked == {
        "mae",
        "mocov3",
        "clip",
        "sscd",
        "eupe",
        "aimv2",
        "vicregl",
        "fcmae",
        "swag",
        "fcmae+supervised",
    }
    forbid = (
        "cc-by-nc-4.0",
        "apple-ascl",
        "fair-noncommercial-research-license",
    )
    for card in zoo.CARDS.values():
        assert card.commercial == (card.licence not in forbid), card.name


def test_unknown_name_says_the_nearest():
    with pytest.raises(BobError, match=r"unknown backbone 'vit_b16_clipp': did you mean .*vit_b16_clip"):
        zoo.load("vit_b16_clipp")


def test_names_are_filtered():
    assert zoo.names() == list(zoo.CARDS)
    assert zoo.names(method="vicreg") == ["resnet50_vicreg"]
    assert set(zoo.names(architecture="clip_resnet", method="clip")) == set(zoo.names(architecture="clip_resnet"))


def test_random_twin_follows_from_its_seed():
    name, kernel = "vit_nano8_random", "blocks.0.attn.qkv.kernel"
    first, again, other = (zoo.load(name, seed=seed) for seed in (3, 3, 4))
    same = jax.tree.map(np.array_equal, parameters.flatten(first.module), parameters.flatten(again.module))
    assert all(same.values())
    assert not np.array_equal(parameters.flatten(first.module)[kernel], parameters.flatten(other.module)[kernel])
    assert first.weights_sha256 == again.weights_sha256 == zoo.weights_sha256(name, seed=3) != other.weights_sha256


def test_digests_of_all_random_twins_differ():
    digests = {zoo.weights_sha256(name) for name in RANDOM}
    assert len(digests) == len(RANDOM) and all(len(digest) == 64 for digest in digests)


@pytest.mark.parametrize("architecture", [name for name in zoo.ARCHITECTURES if name not in zoo.OWN])
def test_a_skeleton_counts_no_keys(architecture, monkeypatch):
    """Else its time grows with the square of its layers: 3 s for a large one, where it takes less than 1."""

    def draw(*_):
        raise AssertionError("drew a key from nnx.Rngs")

    name = next(name for name, card in zoo.CARDS.items() if card.architecture == architecture)
    expected = nnx.eval_shape(lambda: zoo._make(zoo.card(name), dtype=None, drop_path=0.0, window=0, rngs=nnx.Rngs(0)))
    monkeypatch.setattr(nnx.RngStream, "__call__", draw)
    module = zoo.skeleton(name)
    assert parameters.flatten(module) == parameters.flatten(expected)
    assert nnx.graphdef(module) == nnx.graphdef(expected)


def test_load_passes_dtype_and_drop_path_on():
    module = zoo.load("vit_nano8_random", dtype=jnp.bfloat16, drop_path=0.5).module
    images = jnp.ones((8, 32, 32, 3))
    assert module(images).maps[0].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in parameters.flatten(module).values()} == {jnp.dtype(jnp.float32)}
    assert module.blocks[-1].drop_path == 0.5
    trained = np.asarray(module(images, rngs=nnx.Rngs(0)).maps[0], np.float32)
    assert np.ptp(trained, axis=0).max() > 0  # equal images part ways


def test_the_zoo_itself_imports_no_converter_and_no_torch():
    code = "import sys; from bob_jax.backbones import zoo; zoo.skeleton('vit_nano8_random'); "
    code += "print([name for name in ('converters', 'torch', 'timm', 'tensorflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
