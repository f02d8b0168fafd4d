"""`python -m converters verify NAME.text`: a text tower from the hub to a receipt with figures."""

import huggingface_hub.constants
import pytest
import tiny_clip
from converter_models import weights_cache  # noqa: F401
from from_timm import randomise
from hub_server import serve_hub
from safetensors.torch import save_file
from tiny_clip import open_clip

from bob_jax.backbones import zoo
from bob_jax.backbones.card import TextCard, WeightSource
from converters import cache
from converters.__main__ import main as command
from converters.text_parity import random_texts

pytestmark = pytest.mark.usefixtures("weights_cache")


def test_clip_from_the_hub(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    tiny_clip.publish(tmp_path / "served", tiny_clip.model())
    monkeypatch.setitem(zoo.CARDS, "tiny_clip", tiny_clip.card())
    with serve_hub(tmp_path / "served") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert command(["verify", "tiny_clip.text"]) == 0
    assert "embedding" in capsys.readouterr().out
    receipt = cache.read_receipt(zoo.text_card("tiny_clip"))
    assert [stage.stage for stage in receipt.parity] == ["blocks.0", "blocks.1", "norm", "embedding"]
    assert receipt.largest_error < 1e-5 and receipt.verified
    assert all(1e-4 < stage.bfloat16 < max(0.02, 1.5 * stage.bfloat16_original) for stage in receipt.parity)
    assert zoo.load_text("tiny_clip").weights_sha256 == receipt.weights_sha256
    ends = random_texts(zoo.text_card("tiny_clip")).argmax(axis=1)
    assert len(set(ends)) == 4


SIZE = {"kind": "siglip", "width": 64, "depth": 1, "num_heads": 2, "vocabulary": 100, "context": 8, "image_dim": 64}


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu"])
def test_siglip_from_a_file(tmp_path, monkeypatch, capsys, activation):
    """With every activation that a card can say."""
    text = {"context_length": 8, "vocab_size": 100, "width": 64, "heads": 2, "layers": 1, "no_causal_mask": True}
    text |= {"proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    vision = {"image_size": 32, "timm_model_name": "vit_tiny_patch16_224", "timm_proj": "none", "timm_pool": "avg"}
    model = randomise(open_clip.CustomTextCLIP(64, vision, text, init_logit_bias=-10.0))
    save_file(model.state_dict(), tmp_path / "siglip.safetensors")
    source = WeightSource(hub="timm/nowhere")
    known = TextCard("tiny_clip.text", SIZE | {"joint_dim": 64, "activation": activation}, source, source, 1, "mit")
    monkeypatch.setitem(zoo.CARDS, "tiny_clip", tiny_clip.card(text=known))
    assert command(["verify", "tiny_clip.text", "--from", str(tmp_path / "siglip.safetensors")]) == 0
    receipt = cache.read_receipt(known)
    assert receipt.largest_error < 1e-5 and receipt.source == "file:siglip.safetensors"


def test_names_that_are_not_there(capsys):
    assert command(["convert", "vit_b16_dino.text"]) == 2
    assert "vit_b16_dino has no text tower" in capsys.readouterr().err
    assert command(["verify", "vit_b16_clpi.text"]) == 2
    assert "did you mean vit_b16_clip" in capsys.readouterr().err
