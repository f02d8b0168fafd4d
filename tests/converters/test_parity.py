"""The user's way to trusted weights: `python -m converters`, on full-size models with random weights."""

import os
import subprocess
import sys

import huggingface_hub.constants
import numpy as np
import pytest
from converter_models import TINY_VIT, card_of, in_zoo, numpy_state, randomised, weights_cache  # noqa: F401
from hub_server import serve_hub
from safetensors.numpy import save_file
from torch_reference import import_timm

from bob_jax.backbones import zoo
from bob_jax.backbones.card import WeightSource
from converters import cache, parity
from converters.__main__ import main

timm = import_timm()
pytestmark = pytest.mark.usefixtures("weights_cache")


def test_full_vit_b16_clip_from_the_hub_to_a_verified_receipt(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    model = randomised(timm.create_model("vit_base_patch16_clip_224.laion2b", pretrained=False))
    path = tmp_path / "served/timm/vit_base_patch16_clip_224.laion2b/model.safetensors"
    path.parent.mkdir(parents=True)
    save_file(numpy_state(model), path)
    with serve_hub(tmp_path / "served") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert main(["verify", "vit_b16_clip"]) == 0
    printed = capsys.readouterr().out
    assert "pooled" in printed and "map 16" in printed and "ok" in printed
    card = zoo.card("vit_b16_clip")
    receipt = cache.read_receipt(card)
    assert set(receipt.parity) == {"224 pooled", "224 map 16", "256 pooled", "256 map 16"}
    assert max(receipt.parity.values()) < 1e-5
    assert receipt.libraries["timm"] == timm.__version__
    assert receipt.commit == hub.commit("timm/vit_base_patch16_clip_224.laion2b")


def test_full_resnet50_from_a_file(tmp_path, capsys):
    model = randomised(timm.create_model("resnet50.a1_in1k", pretrained=False))
    save_file(numpy_state(model), tmp_path / "resnet50.safetensors")
    assert main(["verify", "resnet50_in1k", "--from", str(tmp_path / "resnet50.safetensors")]) == 0
    receipt = cache.read_receipt(zoo.card("resnet50_in1k"))
    stages = {f"{side} {stage}" for side in (224, 288) for stage in ("pooled", "map 4", "map 8", "map 16", "map 32")}
    assert set(receipt.parity) == stages
    assert max(receipt.parity.values()) < 1e-5
    assert main(["list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["resnet50_in1k"])
    assert receipt.date[:10] in line


def tiny_moco(num_heads):
    """A card of a small MoCo-like ViT, verified against timm's of 3 heads."""
    return card_of("vit", TINY_VIT | {"num_heads": num_heads}, "timm_vit")


@pytest.mark.parametrize(("num_heads", "code"), [(3, 0), (6, 1)])
def test_equal_shapes_with_another_number_of_heads_fail_verification(tmp_path, monkeypatch, capsys, num_heads, code):
    """The MoCo v3 trap: such weights load without complaint and only the features tell."""

    def create(*_, num_classes, dynamic_img_size, **__):
        return timm.models.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0, dynamic_img_size=True
        )

    save_file(numpy_state(randomised(create(num_classes=0, dynamic_img_size=True))), tmp_path / "x.safetensors")
    monkeypatch.setattr(timm, "create_model", create)
    with in_zoo(tiny_moco(num_heads)) as card:
        assert main(["verify", card.name, "--from", str(tmp_path / "x.safetensors")]) == code
        assert cache.read_receipt(card).parity is not None
    assert ("TOO LARGE" in capsys.readouterr().out) == bool(code)


def test_weights_that_are_not_numbers_fail_verification(monkeypatch, capsys):
    monkeypatch.setattr(cache, "original_of", lambda *_: None)
    monkeypatch.setattr(parity, "verify", lambda *_: {"224 pooled": 1e-7, "224 map 16": float("nan")})
    assert main(["verify", "vit_b16_clip"]) == 1
    assert "TOO LARGE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_b16_clip", ("vit_base_patch16_clip_224", {})),
        ("vit_b16_clip_openai", ("vit_base_patch16_clip_quickgelu_224", {})),
        ("vit_s16_mocov3", ("vit_small_patch16_224", {"num_heads": 12})),
        ("resnet50_vicreg", ("resnet50", {})),
    ],
)
def test_reference_is_the_same_function(name, expected):
    assert parity.timm_name(zoo.card(name)) == expected


def test_timm_knows_the_reference_of_every_card():
    for card in zoo.CARDS.values():
        if card.source is not None:
            assert timm.is_model(parity.timm_name(card)[0]), card.name


def test_convert_prints_where_the_weights_are_and_their_digest(tmp_path, capsys):
    model = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0)
    save_file(numpy_state(model), tmp_path / "x.safetensors")
    with in_zoo(tiny_moco(3)) as card:
        assert main(["convert", "tiny", "--from", str(tmp_path / "x.safetensors"), "--table", "timm_vit"]) == 0
        receipt = cache.read_receipt(card)
        assert str(cache.path_of(card)) in (printed := capsys.readouterr().out)
    assert receipt.weights_sha256 in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "vit_b16_clipp"], "unknown backbone 'vit_b16_clipp': did you mean"),
        (["verify", "vit_b16_random"], "is a random twin: it has no weights to convert"),
        (["convert", "vit_b16_dino", "--from", "gone.pth"], "no checkpoint at gone.pth"),
        (["convert", "vit_b16_dino", "--table", "timm_vit"], "give --from FILE too"),
        (["convert", "vit_b16_dino", "--from", "x", "--table", "nothing"], "unknown table 'nothing'"),
        (["convert"], "the following arguments are required: name"),
        (["convrt", "vit_b16_dino"], "invalid choice: 'convrt'"),
        ([], "required"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(arguments, message, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and message in printed.err


def test_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "converters", "convert", "nothing"],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown backbone 'nothing'") and done.stdout == ""


def test_url_cards_name_their_publisher():
    sources = {card.name: card.source for card in zoo.CARDS.values() if card.source and card.source.url}
    assert set(sources) == set(parity.UNPUBLISHED)
    assert all(
        source == WeightSource(url=source.url) and "fbaipublicfiles" in source.url for source in sources.values()
    )


def test_relative_error_is_of_the_largest_value():
    assert parity.relative(np.array([1.0, -4.0]), np.array([1.5, -4.0])) == pytest.approx(0.125)
