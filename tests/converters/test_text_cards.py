"""Cards of text towers against the models that OpenCLIP, by its registry, builds for these checkpoints."""

import numpy as np
import pytest
import torch
from tiny_clip import open_clip

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.cards import pins
from converters import rules
from converters.text import OPENCLIP_TEXT

NAMES = [name for name, card in zoo.CARDS.items() if card.text]
BY_HUB = {
    settings["hf_hub"].strip("/"): (model, settings)
    for model, tag in open_clip.list_pretrained()
    if (settings := open_clip.get_pretrained_cfg(model, tag)).get("hf_hub") and not model.endswith("-quickgelu")
}


def entry(name: str):
    """What OpenCLIP says of the weights, and the configuration of their model."""
    model, settings = BY_HUB[zoo.text_card(name).source.hub]
    return settings, open_clip.get_model_config(model)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_the_configuration(name):
    settings, config = entry(name)
    arguments, text, card = zoo.text_card(name).arguments, config["text_cfg"], zoo.card(name)
    assert arguments["context"] == text["context_length"] and arguments["vocabulary"] == text["vocab_size"]
    assert (arguments["width"], arguments["depth"], arguments["num_heads"]) == (
        text["width"], text["layers"], text["heads"],
    )  # fmt: skip
    assert arguments["joint_dim"] == config["embed_dim"] and arguments.get("mlp_ratio", 4.0) == text.get(
        "mlp_ratio", 4.0
    )
    tanh = text.get("act_kwargs", {}).get("approximate") == "tanh"
    quick = settings.get("quick_gelu", False)
    assert arguments.get("activation", "gelu") == ("quick_gelu" if quick else "gelu_tanh" if tanh else "gelu")
    siglip = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    found = {key: text[key] for key in siglip if key in text}
    assert found == (siglip if arguments["kind"] == "siglip" else {})
    assert set(text) <= {
        "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "act_kwargs", "hf_tokenizer_name",
        "tokenizer_kwargs", *siglip,
    }  # fmt: skip
    # The same pictures, too: what OpenCLIP feeds these weights with.
    np.testing.assert_allclose(card.preprocessing.mean, settings["mean"], atol=1e-6)
    np.testing.assert_allclose(card.preprocessing.std, settings["std"], atol=1e-6)
    assert (card.preprocessing.crop_mode == "squash") == (settings["resize_mode"] == "squash")


@pytest.mark.parametrize("name", NAMES)
def test_every_array_of_the_checkpoint_has_its_place(name):
    """Names and shapes of OpenCLIP's model, which it loads these checkpoints into strictly."""
    _, config = entry(name)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    logit_bias = config.pop("init_logit_bias", None)
    with torch.device("meta"):
        built = kind(**config, init_logit_bias=logit_bias)
    skeleton = parameters.flatten(zoo.text_skeleton(zoo.text_card(name)))
    problems: dict[str, list[str]] = {}
    filled = []
    for key, tensor in built.state_dict().items():
        place = rules._place(key, OPENCLIP_TEXT, problems)
        if place is not None:
            target, rule = place
            filled.append(target)
            assert (
                rule.transform(np.broadcast_to(np.float32(0), tuple(tensor.shape))).shape == skeleton[target].shape
            ), key
    assert not problems
    assert sorted(filled) == sorted(skeleton)


def test_files_are_of_a_kind_that_is_there():
    """timm's repositories have safetensors; of the others only the pickle is sure."""
    for name in NAMES:
        source = zoo.text_card(name).source
        wanted = pins.OPEN_CLIP if source.hub.startswith("timm/") else pins.LAION
        assert source.file == wanted
