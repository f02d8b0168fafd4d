"""Weights that go back: the original implementation, filled with what is exported, computes what ours computes."""

import functools
import re

import numpy as np
import pytest
import torch
from converter_models import TINY_VIT, card_of, in_zoo, numpy_state, randomised, weights_cache  # noqa: F401
from safetensors.numpy import load_file, save_file
from test_tables import OF, VITS, clip_resnet, timm_vit
from test_tables_eva import KINDS, TINY, timm_beit, timm_eva
from torch_reference import import_timm

from bob_jax.backbones import parameters, zoo
from converters import formats, references, sources
from converters.__main__ import main
from converters.parity import compare
from converters.receipt import TOLERANCE

timm = import_timm()
pytestmark = pytest.mark.usefixtures("weights_cache")

NARROW_RESNET = {"stages": (1, 1, 1, 1), "block": "basic", "input_size": 64}
MODELS = {
    "vit": (TINY_VIT | VITS["siglip"][0], lambda: timm_vit(**VITS["siglip"][1])),
    "resnet": (NARROW_RESNET, lambda: timm.models.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), num_classes=0)),
    "clip_resnet": ({"stages": (1, 2, 1, 1), "width": 8, "input_size": 64, "projection_dim": 32}, clip_resnet),
    "convnext": (
        {"depths": (1, 1, 2, 1), "widths": (8, 12, 16, 24), "input_size": 64},
        lambda: timm.models.ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 12, 16, 24), num_classes=0),
    ),
    "swin_v2": (
        {"width": 16, "depths": (1, 2, 1, 1), "num_heads": (2, 2, 4, 4), "window": 4, "input_size": 64},
        lambda: timm.models.SwinTransformerV2(
            img_size=64, embed_dim=16, depths=(1, 2, 1, 1), num_heads=(2, 2, 4, 4), window_size=4, num_classes=0
        ),
    ),
    "hiera": (
        {"width": 16, "num_heads": 2, "stages": (1, 2, 2, 1), "input_size": 64},
        lambda: timm.models.Hiera(img_size=(64, 64), embed_dim=16, num_heads=2, stages=(1, 2, 2, 1), num_classes=0),
    ),
    "sam_vit": (
        {"width": 16, "window": 3, "global_blocks": (1,), "input_size": 64, "depth": 2, "num_heads": 2},
        lambda: timm.models.vision_transformer_sam.VisionTransformerSAM(
            img_size=64,
            embed_dim=16,
            depth=2,
            num_heads=2,
            num_classes=0,
            use_rel_pos=True,
            window_size=3,
            global_attn_indexes=(1,),
            norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        ),
    ),
    "eva": (KINDS["eva02_clip"][0] | TINY, lambda: timm_eva("eva02_clip")),
    "beit": (TINY, timm_beit),
    "aimv2": (
        {"width": 48, "depth": 2, "num_heads": 3, "input_size": 56},
        lambda: timm.create_model(
            "aimv2_large_patch14_224", num_classes=0, img_size=56, embed_dim=48, depth=2, num_heads=3
        ),
    ),
}
PTH = ("resnet", "clip_resnet", "beit")  # the others are written as .safetensors


@pytest.fixture
def fine_tuned(tmp_path):
    """Writes weights as a training of ours would leave them, by dotted path; returns them and the module."""

    def write(card):
        module = zoo.skeleton(card.name, dtype=np.float32)
        generator = np.random.default_rng(3)
        arrays = {
            name: generator.uniform(0.5 if name.endswith(("var", "scale")) else -0.2, 0.9, leaf.shape).astype(
                np.float32
            )
            if leaf.ndim == 1
            else generator.standard_normal(leaf.shape, np.float32) * np.float32(np.prod(leaf.shape[:-1]) ** -0.5)
            for name, leaf in parameters.flatten(module).items()
        }
        parameters.assign(module, arrays, "test")
        save_file(arrays, tmp_path / "tuned.safetensors")
        return arrays, module

    return write


@pytest.mark.parametrize("architecture", MODELS)
def test_the_original_filled_with_an_export_computes_the_same(tmp_path, monkeypatch, fine_tuned, architecture):
    """There and back without the published file: names and shapes are asked of the implementation itself."""
    arguments, make = MODELS[architecture]
    monkeypatch.setitem(references.REFERENCES, architecture, lambda card: OF[architecture](make()))
    suffix = ".pth" if architecture in PTH else ".safetensors"
    to = tmp_path / f"out/exported{suffix}"
    with in_zoo(card_of(architecture, arguments, f"timm_{architecture}")) as card:
        arrays, module = fine_tuned(card)
        assert main(["export", "tiny", "--weights", str(tmp_path / "tuned.safetensors"), "--to", str(to)]) == 0
        assert main(["convert", "tiny", "--from", str(to)]) == 0
        again = zoo.load("tiny").module
    for name, leaf in parameters.flatten(again).items():
        np.testing.assert_array_equal(leaf, arrays[name])
    state = load_file(to) if suffix == ".safetensors" else torch.load(to, weights_only=True)
    model = make().eval()
    model.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()}, strict=True)
    stages = compare(module, OF[architecture](model), [arguments["input_size"]])
    assert max(stage.float32 for stage in stages) < TOLERANCE, stages


def test_the_published_file_is_template_enough_and_no_torch_is_needed(tmp_path, monkeypatch, fine_tuned):
    """The published file is in the cache: its header has all names; a head and what else is ignored stays behind."""
    published = numpy_state(randomised(timm_vit())) | {"head.weight": np.zeros((3, 48), np.float32)}
    save_file(published, tmp_path / "model.safetensors")
    monkeypatch.setattr(sources, "cached", lambda source: tmp_path / "model.safetensors")
    monkeypatch.setattr(references, "build", None)
    to = tmp_path / "exported.safetensors"
    with in_zoo(card_of("vit", TINY_VIT, "timm_vit")) as card:
        arrays, _ = fine_tuned(card)
        assert main(["export", "tiny", "--weights", str(tmp_path / "tuned.safetensors"), "--to", str(to)]) == 0
    exported = load_file(to)
    assert exported.keys() == published.keys() - {"head.weight"}
    np.testing.assert_array_equal(exported["blocks.1.mlp.fc2.weight"], arrays["blocks.1.mlp.fc2.kernel"].T)
    assert formats.read_safetensors_header(to).metadata == {"format": "pt", "backbone": "tiny", "licence": "mit"}


def test_published_weights_come_back_bit_by_bit(tmp_path, monkeypatch):
    published = numpy_state(randomised(timm_vit()))
    save_file(published, tmp_path / "model.safetensors")
    monkeypatch.setattr(references, "build", lambda card: references.of_vit(timm_vit()))
    with in_zoo(card_of("vit", TINY_VIT, "timm_vit")):
        assert main(["convert", "tiny", "--from", str(tmp_path / "model.safetensors")]) == 0
        assert main(["export", "tiny", "--to", str(tmp_path / "back.safetensors")]) == 0
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == published.keys()
    for name, array in published.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize(
    ("name", "rename", "message"),
    [
        ("x.pt", {}, "give it a name that ends in .safetensors or .pth"),
        ("x.pth", {"norm.scale": "head.kernel"}, r"without a place in it: head.kernel; not a parameter .*: norm.scale"),
        ("taken/x.pth", {}, "cannot write"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    tmp_path, monkeypatch, capsys, fine_tuned, name, rename, message
):
    monkeypatch.setattr(references, "build", lambda card: references.of_vit(timm_vit()))
    (tmp_path / "taken").write_text("a file where a folder should be")
    with in_zoo(card_of("vit", TINY_VIT, "timm_vit")) as card:
        arrays, _ = fine_tuned(card)
        weights = tmp_path / "renamed.safetensors"
        save_file({rename.get(key, key): array for key, array in arrays.items()}, weights)
        before = sorted(tmp_path.rglob("*"))
        assert main(["export", "tiny", "--weights", str(weights), "--to", str(tmp_path / name)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert re.search(message, printed.err), printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bridged_backbone_goes_back_under_the_names_it_never_lost(tmp_path, fine_tuned):
    name = "timm:test_efficientnet.random"
    saved, _ = fine_tuned(zoo.card(name))
    assert (
        main(["export", name, "--weights", str(tmp_path / "tuned.safetensors"), "--to", str(tmp_path / "out.pth")]) == 0
    )
    model = timm.create_model("test_efficientnet", num_classes=0)
    missing = model.load_state_dict(torch.load(tmp_path / "out.pth"), strict=False)
    assert not missing.unexpected_keys
    assert {key.rpartition(".")[2] for key in missing.missing_keys} <= {"num_batches_tracked"}
    for key, tensor in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(tensor.numpy(), saved[key])
