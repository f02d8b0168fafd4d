"""The user's way to trusted weights: `python -m converters`, on full-size models with random weights."""

import os
import re
import subprocess
import sys

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from converter_models import TINY_VIT, card_of, in_zoo, numpy_state, randomised, weights_cache  # noqa: F401
from flax import nnx
from hub_server import serve_hub
from safetensors.numpy import save_file
from torch_reference import import_timm

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.card import WeightSource
from converters import cache, parity, references, rules
from converters.__main__ import main
from converters.stages import submodule
from converters.tables import table_of

timm = import_timm()
pytestmark = pytest.mark.usefixtures("weights_cache")
# Built from their parts: timm has no model that is named after them.
OWN = {
    name
    for name, card in zoo.CARDS.items()
    if card.source and (card.architecture in ("sscd", "stable_diffusion") or name == "convnext_xl_vicregl")
}


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
    assert "blocks.11" in printed and "map 16" in printed and "ok" in printed
    receipt = cache.read_receipt(zoo.card("vit_b16_clip"))
    stages = ["patch_embed", "norm_pre", *(f"blocks.{index}" for index in range(12)), "norm", "pooled", "map 16"]
    assert [(stage.input_size, stage.stage) for stage in receipt.parity] == [
        (side, stage) for side in (224, 256) for stage in stages
    ]
    assert receipt.largest_error == max(stage.float32 for stage in receipt.parity) < 1e-5
    for stage in receipt.parity[: len(stages)]:
        # Eight bits, and no more of them lost than in the original.
        assert 1e-4 < stage.bfloat16 < max(0.01, 1.5 * stage.bfloat16_original), stage
        assert 0 < stage.bfloat16_between < 0.1, stage
    assert {stage.bfloat16 for stage in receipt.parity[len(stages) :]} == {None}
    assert receipt.libraries["timm"] == timm.__version__ and "torch" in receipt.libraries
    assert receipt.verified[:10] == receipt.date[:10]
    assert receipt.commit == hub.commit("timm/vit_base_patch16_clip_224.laion2b")


def test_full_resnet18_from_a_file(tmp_path, capsys):
    model = randomised(timm.create_model("resnet18.a1_in1k", pretrained=False))
    save_file(numpy_state(model), tmp_path / "resnet18.safetensors")
    assert main(["verify", "resnet18_in1k", "--from", str(tmp_path / "resnet18.safetensors")]) == 0
    receipt = cache.read_receipt(zoo.card("resnet18_in1k"))
    stages = {(stage.input_size, stage.stage) for stage in receipt.parity}
    blocks = [f"layer{stage}.{index}" for stage, blocks in enumerate((2, 2, 2, 2), 1) for index in range(blocks)]
    ends = ("conv1", *blocks, "pooled", "map 4", "map 8", "map 16", "map 32")
    assert stages == {(side, stage) for side in (224, 288) for stage in ends}
    assert receipt.largest_error < 1e-5
    assert main(["list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["resnet18_in1k"])
    assert receipt.date[:10] in line


def tiny_timm():
    return timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0, dynamic_img_size=True
    )


def tiny_moco(num_heads):
    """A card of a small MoCo-like ViT, verified against timm's of 3 heads."""
    return card_of("vit", TINY_VIT | {"num_heads": num_heads}, "timm_vit")


@pytest.mark.parametrize(("num_heads", "code"), [(3, 0), (6, 1)])
def test_equal_shapes_with_another_number_of_heads_fail_verification(tmp_path, monkeypatch, capsys, num_heads, code):
    """The MoCo v3 trap: such weights load without complaint and only the features tell."""

    save_file(numpy_state(randomised(tiny_timm())), tmp_path / "x.safetensors")
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: tiny_timm())
    with in_zoo(tiny_moco(num_heads)) as card:
        assert main(["verify", card.name, "--from", str(tmp_path / "x.safetensors")]) == code
        parity = {(one.input_size, one.stage): one.float32 for one in cache.read_receipt(card).parity}
    # It is the first block that tells, not what stands before it.
    assert parity[32, "patch_embed"] < 1e-5
    assert (parity[32, "blocks.0"] > 1e-3) == bool(code)
    assert ("TOO LARGE" in capsys.readouterr().out) == bool(code)


def test_stages_that_overflow_are_told(tmp_path, monkeypatch, capsys):
    state = numpy_state(randomised(tiny_timm()))
    state["blocks.1.norm1.weight"][:] = 3e38
    save_file(state, tmp_path / "x.safetensors")
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: tiny_timm())
    with in_zoo(tiny_moco(3)):
        assert main(["verify", "tiny", "--from", str(tmp_path / "x.safetensors")]) == 2
    assert "error: blocks.1 at 32 pixels is not finite" in capsys.readouterr().err


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
    assert references.timm_name(zoo.card(name)) == expected


def test_every_architecture_has_a_reference_and_timm_knows_its_name():
    assert set(references.REFERENCES) == {card.architecture for card in zoo.CARDS.values() if card.source} | {"torch"}
    for card in zoo.CARDS.values():
        if card.source is not None and card.name not in OWN:
            assert timm.is_model(references.timm_name(card)[0]), card.name


@pytest.mark.parametrize("architecture", [name for name in references.REFERENCES if name not in ("timm", "torch")])
def test_every_stage_of_a_reference_is_a_submodule_on_both_sides(architecture):
    """One card of each kind of pooling, built without memory; the template of an export comes from there too."""
    cards = [card for card in zoo.CARDS.values() if card.architecture == architecture and card.source]
    for card in {(card.pooling, card.table): card for card in reversed(cards)}.values():
        module = zoo.skeleton(card.name)
        with torch.device("meta"):
            reference = references.build(card)
        assert reference.stages
        for ours, theirs in reference.stages:
            assert isinstance(submodule(module, ours), nnx.Module), ours
            assert reference.module.get_submodule(theirs) is not None
        shapes = {name: tuple(value.shape) for name, value in reference.module.state_dict().items()}
        arrays = {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in parameters.flatten(module).items()}
        exported = rules.export(arrays, table_of(reference.table), shapes, what=card.name)
        ignored = [name for name in shapes if any(re.fullmatch(one, name) for one in table_of(reference.table).ignore)]
        assert exported.keys() == shapes.keys() - ignored and len(exported) > len(shapes) / 3, card.name


def test_dinov2_is_verified_where_timm_resamples_no_positions():
    with torch.device("meta"):
        assert references.build(zoo.card("vit_s14_dinov2")).sizes == (518,)
        assert references.build(zoo.card("vit_s14_dinov2_reg")).sizes is None


def test_convert_prints_where_the_weights_are_and_their_digest(tmp_path, capsys):
    save_file(numpy_state(tiny_timm()), tmp_path / "x.safetensors")
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
    shipped = {card.name for card in zoo.CARDS.values() if card.source and card.source.shipped}
    assert (sources.keys() | shipped) - OWN == set(references.UNPUBLISHED)
    for name, source in sources.items():
        publisher = "github.com/isl-org/MiDaS" if name.endswith("_midas") else "dl.fbaipublicfiles.com"
        assert source == WeightSource(url=source.url, sha256=source.sha256), name
        assert source.url.startswith(f"https://{publisher}/"), name


def test_relative_error_is_of_the_largest_value():
    assert parity.relative(np.array([1.0, -4.0]), np.array([1.5, -4.0])) == pytest.approx(0.125)
