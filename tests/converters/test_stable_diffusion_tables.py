"""Stable Diffusion from a hub to the zoo: several files, both key layouts, the text's embedding, and the way back."""

import dataclasses
import re
import warnings

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from converter_models import card_of, in_zoo, weights_cache  # noqa: F401
from converter_models import randomised as randomised_tower
from from_diffusers import Reference, ours, randomised
from hub_server import serve_hub
from safetensors.numpy import load_file, save_file

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.card import WeightSource
from bob_jax.backbones.cards.generative import PARTS
from bob_jax.errors import BobError
from converters import cache, rules, sources, tables
from converters.__main__ import main

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import CLIPTextConfig, CLIPTextModel

pytestmark = pytest.mark.usefixtures("weights_cache")
ARGUMENTS = {
    "vae_widths": (32, 32, 64, 64),
    "unet_widths": (32, 64, 64, 96),
    "num_heads": (2, 2, 2, 2),
    "context_features": 64,
    "blocks": 2,
    "input_size": 64,
}
REPOSITORY = "publisher/tiny-diffusion"
# Start token, "image classification" and end token in CLIP's vocabulary, as open_clip 3.3.0's SimpleTokenizer has them.
TEXT = [49406, 2867, 26612, 49407]
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def card(table="diffusers_sd_v1"):
    source = WeightSource(hub=REPOSITORY, parts=PARTS)
    return card_of("stable_diffusion", ARGUMENTS, table, source=source)


def text_tower(activation):
    config = CLIPTextConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=1, hidden_act=activation
    )
    return randomised_tower(CLIPTextModel(config))


def numpy_of(module):
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def v1():
    """Autoencoder and U-Net, the text tower, and what the U-Net is told."""
    return published("quick_gelu", padding=49407, linear_projection=False)


def published(activation, *, padding, linear_projection, arguments=ARGUMENTS):
    reference, tower = randomised(arguments, linear_projection=linear_projection), text_tower(activation)
    with torch.no_grad():
        tokens = torch.tensor([TEXT + [padding] * 73])
        reference.context.copy_(tower.double()(tokens).last_hidden_state[0])
    return reference, tower.float()


def save(folder, reference: Reference, tower, *, old_names=False):
    """diffusers' layout, decoder, up path and a counter of the tower included."""
    vae = numpy_of(reference.vae)
    if old_names:
        for new, old in OLD_NAMES.items():
            vae = {re.sub(rf"(attentions\.0)\.{new}\.", rf"\1.{old}.", name): array for name, array in vae.items()}
    text = {f"text_model.{name.removeprefix('text_model.')}": array for name, array in numpy_of(tower).items()}
    text["text_model.embeddings.position_ids"] = np.arange(77)[None]
    for (_, file), arrays in zip(PARTS, (vae, numpy_of(reference.unet), text), strict=True):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, folder / file)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch, v1):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    save(tmp_path / "served" / REPOSITORY, *v1, old_names=True)
    with serve_hub(tmp_path / "served") as hub, in_zoo(card()):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def check(arrays, reference):
    expected = ours(reference.state_dict().items())
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        if name == "context":
            np.testing.assert_allclose(arrays[name], array, atol=1e-5)  # five decimals are kept
        else:
            np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def test_from_the_hub_to_the_zoo(hub, v1):
    loaded = zoo.load("tiny")
    check({name: np.asarray(leaf) for name, leaf in parameters.flatten(loaded.module).items()}, v1[0])
    receipt = cache.read_receipt(card())
    assert receipt.source == f"hf://{REPOSITORY}@main"
    assert receipt.commit == hub.commit(REPOSITORY)
    files = hub.commits[REPOSITORY, receipt.commit]
    assert receipt.parts == {file: files[file].sha256 for _, file in PARTS}
    assert receipt.source_sha256 == sources.digest_of_parts(receipt.parts)
    requests = len(hub.requests)
    assert zoo.load("tiny").weights_sha256 == loaded.weights_sha256
    assert len(hub.requests) == requests


def test_from_a_folder_on_this_machine(hub, tmp_path, v1, capsys):
    folder = save(tmp_path / "mine", *v1)  # the attention under its new names: the same weights
    assert main(["convert", "tiny", "--from", str(folder)]) == 0
    receipt = cache.read_receipt(card())
    assert receipt.source == "file:mine" and receipt.commit is None and not hub.requests
    assert receipt.weights_sha256 in capsys.readouterr().out
    of_the_hub = cache.convert(card(), cache.original_of(card()))[1]
    assert of_the_hub.weights_sha256 == receipt.weights_sha256
    assert of_the_hub.parts.keys() == receipt.parts.keys() and of_the_hub.parts != receipt.parts
    (folder / PARTS[1][1]).unlink()
    assert main(["convert", "tiny", "--from", str(folder)]) == 2
    assert f"no checkpoint at {folder / PARTS[1][1]}" in capsys.readouterr().err


def test_version_2_pads_with_zeros_and_has_another_activation(tmp_path):
    reference, tower = published("gelu", padding=0, linear_projection=True)
    folder = save(tmp_path / "v2", reference, tower)
    with in_zoo(card("diffusers_sd_v2")) as known:
        check(cache.convert(known, cache.original_of(known, folder))[0], reference)


def test_verify_compares_both_implementations_stage_by_stage(tmp_path, capsys):
    """A whole run in version 2: linear projections, another padding and activation, two blocks in each level."""
    small = ARGUMENTS | {"vae_widths": (64,) * 4, "unet_widths": (64, 96), "num_heads": (2, 3)}
    reference, tower = published("gelu", padding=0, linear_projection=True, arguments=small)
    folder = save(tmp_path / "v2", reference, tower, old_names=True)
    with in_zoo(dataclasses.replace(card("diffusers_sd_v2"), arguments=small)) as known:
        assert main(["verify", "tiny", "--from", str(folder)]) == 0, capsys.readouterr()
        receipt = cache.read_receipt(known)
        exported = tmp_path / "exported.safetensors"
        assert main(["export", "tiny", "--to", str(exported)]) == 0, capsys.readouterr()
    assert receipt.largest_error < 1e-5
    names = [stage.stage for stage in receipt.parity if stage.input_size == 64]
    assert {"vae.mid_block", "unet.down_blocks.0.attentions.1.proj_out", "unet.mid_block", "pooled", "map 16"} < {
        *names
    }
    assert {stage.input_size for stage in receipt.parity} == {64, 96}
    for stage in receipt.parity[: len(names)]:
        # Eight bits, and no more of them lost than in the original.
        assert 0 < stage.bfloat16 < max(0.01, 1.5 * stage.bfloat16_original), stage
    parts = {
        f"{part}.{name}": array
        for part in ("vae", "unet")
        for name, array in numpy_of(getattr(reference, part)).items()
    }
    for name, array in load_file(exported).items():
        np.testing.assert_array_equal(array, parts[name], err_msg=name)


def compvis(arrays):
    """The publisher's names for diffusers' arrays of a model of four levels with two blocks each."""
    resnet = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    vae_attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    found = {}
    for name, array in arrays.items():
        part, _, name = name.partition(".")
        if part == "vae":
            name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
            name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
            name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
            name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
            for new, old in vae_attention.items():
                if f"mid_block.attentions.0.{new}." in name:
                    name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
                    array = array[:, :, None, None] if array.ndim == 2 else array
            found[f"first_stage_model.{name}"] = array
        elif part == "unet":
            for new, old in resnet.items():
                name = re.sub(rf"(resnets\.\d)\.{new}\.", rf"\1.{old}.", name)
            level = r"down_blocks\.(\d)\."
            name = re.sub(level + r"resnets\.(\d)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.0", name)
            name = re.sub(
                level + r"attentions\.(\d)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.1", name
            )
            name = re.sub(level + r"downsamplers\.0\.conv", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op", name)
            name = name.replace("mid_block.resnets.0", "middle_block.0").replace(
                "mid_block.resnets.1", "middle_block.2"
            )
            name = name.replace("mid_block.attentions.0", "middle_block.1")
            name = re.sub(r"^conv_in", "input_blocks.0.0", name).replace("time_embedding.linear_1", "time_embed.0")
            name = name.replace("time_embedding.linear_2", "time_embed.2").replace("up_blocks", "output_blocks")
            name = re.sub(r"^conv_(norm_)?out", "out.0", name)
            found[f"model.diffusion_model.{name}"] = array
        else:
            found[f"cond_stage_model.transformer.{name}"] = array
    return found | {"betas": np.zeros(4, np.float32), "model_ema.decay": np.zeros((), np.float32)}


def test_the_publishers_single_file_gives_the_same_weights(hub, tmp_path, v1):
    folder = save(tmp_path / "diffusers", *v1)
    original = cache.original_of(card(), folder)
    single = compvis(original.read())
    assert "model.diffusion_model.input_blocks.11.0.out_layers.3.weight" in single
    assert "model.diffusion_model.input_blocks.9.0.op.weight" in single
    assert "first_stage_model.encoder.mid.attn_1.proj_out.weight" in single
    save_file({name: np.ascontiguousarray(array) for name, array in single.items()}, tmp_path / "sd-v1-4.safetensors")
    file = cache.original_of(card(), tmp_path / "sd-v1-4.safetensors", "compvis_sd_v1")
    digests = {cache.convert(card(), one)[1].weights_sha256 for one in (original, file)}
    assert len(digests) == 1 and file.parts == {}


@pytest.mark.parametrize("table", ["diffusers_sd_v1", "compvis_sd_v1"])
def test_the_checkpoint_is_given_back(hub, tmp_path, v1, table):
    source = cache.original_of(card(), save(tmp_path / "diffusers", *v1)).read()
    source = compvis(source) if table.startswith("compvis") else source
    layout = tables.table_of(table)
    arrays = rules.convert(source, layout, cache.shapes_of(card()), what="tiny")
    shapes = {name: array.shape for name, array in source.items()}
    exported = rules.export(arrays, layout, shapes, what="tiny")
    kept = {name for name in source if not any(re.fullmatch(pattern, name) for pattern in layout.ignore)}
    assert exported.keys() == kept and len(kept) == len(arrays) - 1  # the text stays behind
    for name, array in exported.items():
        np.testing.assert_array_equal(array, source[name], err_msg=name)


def test_a_changed_part_is_noticed(hub, v1):
    cache.load(card())
    cache.path_of(card()).unlink()
    path = hub.folder / REPOSITORY / PARTS[0][1]
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    cache.load(card())  # the pinned commit is still there
    pin = sources.pin_path(WeightSource(hub=REPOSITORY, file=PARTS[0][1]))
    pin.unlink()
    with pytest.raises(BobError, match=f"hf://{REPOSITORY}@main: its files are of different commits"):
        cache.original_of(card())


def test_what_is_missing_is_one_line(hub, tmp_path, v1):
    folder = save(tmp_path / "diffusers", *v1)
    source = cache.original_of(card(), folder).read()
    shapes, layout = cache.shapes_of(card()), tables.table_of("diffusers_sd_v1")
    without_text = {name: array for name, array in source.items() if not name.startswith("text_encoder.")}
    with pytest.raises(BobError, match="tiny: the checkpoint has no text tower"):
        rules.convert(without_text, layout, shapes, what="tiny")
    del source["text_encoder.text_model.final_layer_norm.bias"]
    with pytest.raises(BobError, match=r"tiny: no CLIP text tower: final_layer_norm\.bias missing"):
        rules.convert(source, layout, shapes, what="tiny")
    (hub.folder / REPOSITORY / PARTS[2][1]).unlink()
    with pytest.raises(BobError, match=r"has no file text_encoder/model\.safetensors"):
        cache.load(card())
    assert not cache.path_of(card()).exists()


def test_tower_of_the_wrong_depth():
    """The 24 blocks of OpenCLIP's whole tower would load as well and give another text."""
    blocks = {f"t.encoder.layers.{index}.mlp.fc1.bias": np.zeros(1) for index in range(24)}
    with pytest.raises(BobError, match="width 1024 has 24 blocks where Stable Diffusion's has 23"):
        with_depth(blocks, 1024)


def with_depth(blocks, width):
    from converters import stable_diffusion

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stable_diffusion, "last_hidden_state", lambda *_: np.zeros((77, width)))
        return stable_diffusion.with_context(blocks, tower="t.", activation="gelu", padding=0)
