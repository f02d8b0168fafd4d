"""Text towers against OpenCLIP's and transformers' on random weights, through the table of OpenCLIP's key names."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from converter_models import numpy_state, randomised
from flax import nnx
from from_timm import relative_error
from tiny_clip import from_transformers
from torch_reference import import_timm

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.card import TextCard, WeightSource
from bob_jax.backbones.cards import text as cards_text
from bob_jax.backbones.text import TextTower
from bob_jax.errors import BobError
from converters import rules
from converters.text import OPENCLIP_TEXT

import_timm()  # registers torchvision's operators, without which neither loads beside a CPU-only torch
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import open_clip
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, SiglipTextConfig, SiglipTextModel

TOLERANCE = 1e-5
SMALL = {"width": 128, "depth": 2, "num_heads": 2, "vocabulary": 100, "joint_dim": 48, "image_dim": 64}
CLIP = {"kind": "clip", **SMALL, "context": 12, "image_projection": "linear"}
SIGLIP = {"kind": "siglip", **SMALL, "context": 8, "joint_dim": 128, "image_dim": 128, "activation": "gelu_tanh"}


def card(arguments: dict) -> TextCard:
    return TextCard("tiny.text", arguments, WeightSource(hub="timm/tiny"), WeightSource(hub="timm/tiny"), 0, "mit")


def tower(arguments: dict, arrays: dict[str, np.ndarray], dtype=jnp.float32) -> TextTower:
    """A tower with weights in OpenCLIP's names."""
    skeleton = zoo.text_skeleton(card(arguments), dtype=dtype)
    shapes = {name: leaf.shape for name, leaf in parameters.flatten(skeleton).items()}
    parameters.assign(skeleton, rules.convert(arrays, OPENCLIP_TEXT, shapes, what="tiny"), "tiny")
    return skeleton


def embed(module: TextTower, tokens: np.ndarray) -> np.ndarray:
    graph, state = nnx.split(module)
    return np.asarray(jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))(state, tokens))


def texts(count: int, context: int, vocabulary: int, seed: int = 0) -> np.ndarray:
    """Texts of different lengths between a start and an end token, padded with 0."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((count, context), np.int32)
    for row, length in zip(tokens, rng.integers(1, context - 1, count), strict=True):
        row[: length + 2] = [vocabulary - 2, *rng.integers(0, vocabulary - 2, length), vocabulary - 1]
    return tokens


def openclip(arguments: dict, vision: dict, **more) -> torch.nn.Module:
    """The whole model as OpenCLIP builds it from a configuration."""
    text = {
        "context_length": arguments["context"],
        "vocab_size": arguments["vocabulary"],
        "width": arguments["width"],
        "heads": arguments["num_heads"],
        "layers": arguments["depth"],
    }
    if arguments["kind"] == "siglip":
        text |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
        text |= {"act_kwargs": {"approximate": "tanh"}} if arguments["activation"] == "gelu_tanh" else {}
        more |= {"init_logit_bias": -10.0}
    custom = more.pop("custom", arguments["kind"] == "siglip")
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    quick = arguments.get("activation") == "quick_gelu"
    model = kind(arguments["joint_dim"], vision, text, quick_gelu=quick, **more)
    return randomised(model)


VIT = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("custom", [False, True])
def test_clip_tower_equals_open_clip(activation, custom):
    arguments = CLIP | {"activation": activation}
    model = openclip(arguments, VIT, custom=custom)
    tokens = texts(9, 12, 100)
    with torch.no_grad():
        expected = model.encode_text(torch.from_numpy(tokens).long()).numpy()
    ours = tower(arguments, numpy_state(model))
    assert relative_error(embed(ours, tokens), expected) < TOLERANCE
    np.testing.assert_array_equal(ours.image_proj.kernel[...], model.visual.proj.detach().numpy())
    assert float(ours.logit_scale[...]) == model.logit_scale.item() and ours.logit_bias is None


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_siglip_tower_equals_open_clip(activation):
    arguments = SIGLIP | {"activation": activation}
    vision = {"image_size": 32, "timm_model_name": "vit_tiny_patch16_224", "timm_proj": "none", "timm_pool": "avg"}
    model = openclip(arguments, vision)
    tokens = np.random.default_rng(0).integers(0, 100, (5, 8), np.int32)
    with torch.no_grad():
        expected = model.encode_text(torch.from_numpy(tokens).long()).numpy()
    ours = tower(arguments, numpy_state(model))
    assert relative_error(embed(ours, tokens), expected) < TOLERANCE
    assert float(ours.logit_scale[...]) == model.logit_scale.item()
    assert float(ours.logit_bias[...]) == model.logit_bias.item()
    assert ours.image_proj is None


def test_projection_of_a_trunk_has_its_bias():
    """EVA-CLIP and the Perception Encoder: the head of timm's trunk leads to the joint space."""
    arguments = CLIP | {"image_projection": "affine", "image_dim": 192}
    vision = {"image_size": 32, "timm_model_name": "vit_tiny_patch16_224", "timm_proj": None, "timm_pool": "token"}
    model = openclip(arguments, vision, custom=True)
    ours = tower(arguments, numpy_state(model))
    head = model.visual.trunk.head
    np.testing.assert_array_equal(ours.image_proj.kernel[...], head.weight.detach().numpy().T)
    np.testing.assert_array_equal(ours.image_proj.bias[...], head.bias.detach().numpy())


def test_projection_behind_a_trunk():
    """OpenCLIP's ConvNeXts."""
    arguments = CLIP | {"image_dim": 320}
    vision = {"image_size": 32, "timm_model_name": "convnext_atto", "timm_proj": "linear", "timm_pool": ""}
    model = openclip(arguments, vision, custom=False)
    kernel = tower(arguments, numpy_state(model)).image_proj.kernel[...]
    np.testing.assert_array_equal(kernel, model.visual.head.proj.weight.detach().numpy().T)


def test_tower_of_a_resnet_has_no_projection_of_images():
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
    arguments = CLIP | {"image_projection": "none", "image_dim": 48, "activation": "quick_gelu"}
    assert tower(arguments, numpy_state(openclip(arguments, vision, custom=False))).image_proj is None


def transformers_clip(arguments: dict) -> CLIPTextModelWithProjection:
    return randomised(
        CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=arguments["vocabulary"],
                hidden_size=arguments["width"],
                intermediate_size=4 * arguments["width"],
                projection_dim=arguments["joint_dim"],
                num_hidden_layers=arguments["depth"],
                num_attention_heads=arguments["num_heads"],
                max_position_embeddings=arguments["context"],
                hidden_act=arguments["activation"],
                bos_token_id=arguments["vocabulary"] - 2,
                eos_token_id=arguments["vocabulary"] - 1,
            )
        )
    )


def transformers_siglip(arguments: dict) -> SiglipTextModel:
    return randomised(
        SiglipTextModel(
            SiglipTextConfig(
                vocab_size=arguments["vocabulary"],
                hidden_size=arguments["width"],
                intermediate_size=4 * arguments["width"],
                num_hidden_layers=arguments["depth"],
                num_attention_heads=arguments["num_heads"],
                max_position_embeddings=arguments["context"],
                projection_size=arguments["joint_dim"],
            )
        )
    )


FULL_CLIP = zoo.card("vit_b16_clip_openai").text.arguments
FULL_SIGLIP = zoo.card("vit_b16_siglip2").text.arguments | {"vocabulary": 32000}


@pytest.mark.parametrize("arguments", [CLIP | {"activation": "quick_gelu"}, CLIP | {"activation": "gelu"}, FULL_CLIP])
def test_clip_tower_equals_transformers(arguments):
    model = transformers_clip(arguments)
    tokens = texts(4, arguments["context"], arguments["vocabulary"])
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens).long()).text_embeds.numpy()
    arrays = from_transformers(numpy_state(model)) | {"logit_scale": np.float32(4.6)}
    arrays["visual.proj"] = np.ones((arguments["image_dim"], arguments["joint_dim"]), np.float32)
    assert relative_error(embed(tower(arguments, arrays), tokens), expected) < TOLERANCE


@pytest.mark.parametrize("arguments", [SIGLIP, FULL_SIGLIP])
def test_siglip_tower_equals_transformers(arguments):
    model = transformers_siglip(arguments)
    tokens = np.random.default_rng(0).integers(0, 100, (3, arguments["context"]), np.int32)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens).long()).pooler_output.numpy()
    arrays = from_transformers(numpy_state(model)) | {"logit_scale": np.float32(4.6), "logit_bias": np.float32(-12)}
    assert relative_error(embed(tower(arguments, arrays), tokens), expected) < TOLERANCE


def test_what_stands_behind_the_end_of_a_clip_text_does_not_matter():
    ours = tower(CLIP, numpy_state(openclip(CLIP, VIT)))
    tokens = texts(6, 12, 100)
    tokens[:, 8:] = 0
    tokens[tokens.max(axis=1) != 99, 7] = 99
    assert relative_error(embed(ours, tokens[:, :8]), embed(ours, tokens)) < TOLERANCE


def test_bfloat16_is_near_float32():
    state = numpy_state(openclip(CLIP, VIT))
    tokens = texts(6, 12, 100)
    assert relative_error(embed(tower(CLIP, state, jnp.bfloat16), tokens), embed(tower(CLIP, state), tokens)) < 0.05


def test_a_strict_table_names_what_is_missing_and_what_is_new():
    state = numpy_state(openclip(CLIP, VIT))
    del state["transformer.resblocks.1.ln_2.bias"], state["logit_scale"]
    state["text.extra"] = np.ones(3)
    with pytest.raises(BobError, match=r"known to the table: text.extra; missing.*blocks.1.norm2.bias, logit_scale"):
        tower(CLIP, state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "clap"}, "did you mean clip"),
        ({"num_heads": 3}, "width 128 is not divisible by num_heads 3"),
        ({"image_projection": "none"}, "image_dim 64 is not joint_dim 48"),
        ({"image_projection": "mlp"}, "unknown image_projection 'mlp'"),
    ],
)
def test_arguments_that_contradict_each_other(change, message):
    with pytest.raises(BobError, match=message):
        zoo.text_skeleton(card(CLIP | change))


def test_texts_that_do_not_fit():
    ours = tower(CLIP, numpy_state(openclip(CLIP, VIT)))
    with pytest.raises(BobError, match="texts of 13 tokens where its positions are 12"):
        embed(ours, texts(2, 13, 100))


def test_backbone_without_a_text_tower():
    with pytest.raises(BobError, match=r"vit_b16_dino has no text tower.*choose a vision-language backbone"):
        zoo.load_text("vit_b16_dino")


def test_every_vision_language_card_has_its_text_side():
    """But for those whose pool was taken away: their descriptor never met a text."""
    both = {name for name, known in zoo.CARDS.items() if known.text}
    learned = {name for name, known in zoo.CARDS.items() if known.method in ("clip", "siglip", "siglip2", "pe")}
    assert both <= learned
    assert all("_gap" in name or name == "vit_b16_pe_spatial" for name in learned - both), learned - both
    for name in both:
        known = zoo.card(name).text
        assert known.arguments["image_dim"] == zoo.card(name).feature_dim and known.name == f"{name}.text"
        zoo.text_skeleton(known)


def test_published_figures_stand_on_the_cards_that_can_be_held_to_them():
    figures = {name: known.scores["imagenet zero-shot"] for name, known in zoo.CARDS.items() if known.text
               and "imagenet zero-shot" in known.scores}  # fmt: skip
    assert set().union(*cards_text.ZERO_SHOT.values()) == set(figures)
    assert figures["vit_b16_clip_openai"] == "68.34 (open_clip docs/openclip_results.csv)"
    assert all(30 < float(figure.split()[0]) < 90 for figure in figures.values())
    without = {name for name, known in zoo.CARDS.items() if known.text} - set(figures)
    assert without == {"vit_b16_pe_core", "vit_so400m14_378_siglip2"}  # no figure was found for these
