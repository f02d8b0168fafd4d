"""Converted weights on disk: strict, keyed by what decides them, whole or not there, with a receipt."""

import dataclasses
import functools
import json
import multiprocessing
import os

import huggingface_hub.constants
import jax
import numpy as np
import pytest
from converter_models import TINY_VIT, card_of, in_zoo, weights_cache  # noqa: F401
from hub_server import serve_hub
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.card import WeightSource
from bob_jax.errors import BobError
from bob_jax.training import mesh as meshes
from converters import cache, formats

ARGUMENTS = TINY_VIT | {"depth": 1}
CARD = card_of("vit", ARGUMENTS, "timm_vit")


def checkpoint(seed=0, scale=1.0):
    """A checkpoint of CARD's architecture under timm's names."""
    generator = np.random.default_rng(seed)
    width = 48
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 17, width),
        "patch_embed.proj.weight": (width, 3, 8, 8),
        "patch_embed.proj.bias": (width,),
        "blocks.0.attn.qkv.weight": (3 * width, width),
        "blocks.0.attn.qkv.bias": (3 * width,),
        "blocks.0.attn.proj.weight": (width, width),
        "blocks.0.attn.proj.bias": (width,),
        "blocks.0.mlp.fc1.weight": (4 * width, width),
        "blocks.0.mlp.fc1.bias": (4 * width,),
        "blocks.0.mlp.fc2.weight": (width, 4 * width),
        "blocks.0.mlp.fc2.bias": (width,),
    }
    shapes |= {
        f"{norm}.{leaf}": (width,)
        for norm in ("norm", "blocks.0.norm1", "blocks.0.norm2")
        for leaf in ("weight", "bias")
    }
    return {name: scale * generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}


@pytest.fixture
def hub(tmp_path, monkeypatch, weights_cache):  # noqa: F811
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "served/timm/tiny").mkdir(parents=True)
    save_file(checkpoint(), tmp_path / "served/timm/tiny/model.safetensors")
    with serve_hub(tmp_path / "served") as hub, in_zoo(CARD):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_first_load_fetches_and_converts_and_the_next_reads_the_cache(hub):
    first = zoo.load("tiny")
    receipt = cache.read_receipt(CARD)
    requests = len(hub.requests)
    again = zoo.load("tiny")
    assert len(hub.requests) == requests
    assert first.weights_sha256 == again.weights_sha256 == receipt.weights_sha256 == zoo.weights_sha256("tiny")
    loaded = parameters.flatten(again.module)
    source = checkpoint()
    np.testing.assert_array_equal(loaded["blocks.0.attn.qkv.kernel"], source["blocks.0.attn.qkv.weight"].T)
    np.testing.assert_array_equal(
        loaded["patch_embed.proj.kernel"][3, 5, 1], source["patch_embed.proj.weight"][:, 1, 3, 5]
    )
    np.testing.assert_array_equal(loaded["norm.scale"], source["norm.weight"])


def test_receipt_stands_in_the_header_and_says_where_the_weights_come_from(hub):
    cache.load(CARD)
    header = json.loads(formats.read_safetensors_header(cache.path_of(CARD)).metadata["receipt"])
    assert header["source"] == "hf://timm/tiny@main/model.safetensors"
    assert header["commit"] == hub.commit("timm/tiny")
    assert len(header["source_sha256"]) == len(header["weights_sha256"]) == 64
    assert (
        header["licence"] == "mit"
        and header["backbone"] == "tiny"
        and header["parity"] == []
        and header["verified"] is None
    )
    assert set(header["libraries"]) == {"python", "numpy", "safetensors", "jax", "flax"}
    assert header["date"].endswith("+00:00")


def test_digest_is_of_the_values_and_not_of_the_file(hub):
    first = cache.load(CARD)[1]
    cache.path_of(CARD).unlink()
    second = cache.load(CARD)[1]
    assert first.weights_sha256 == second.weights_sha256
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float32)}
    assert cache.digest(arrays) == cache.digest(dict(reversed(arrays.items())))
    for other in ({"a": np.ones((3, 2), np.float32)}, {"b": np.full(4, 1e-38, np.float32)}, {"c": arrays["b"]}):
        assert cache.digest(arrays) != cache.digest(arrays | other)


def test_weights_go_where_they_are_placed_one_array_at_a_time(hub):
    cache.load(CARD)
    seen = []

    def place(array):
        assert array.flags.owndata and array.flags.writeable  # nobody else's memory, so it may be given away
        seen.append(array.nbytes)
        return jax.device_put(array, jax.devices()[3])

    module = zoo.load("tiny", place=place).module
    placed = parameters.flatten(module)
    assert len(seen) == len(placed) and max(seen) < sum(seen) / 3
    assert {leaf.device for leaf in placed.values()} == {jax.devices()[3]}
    np.testing.assert_array_equal(placed["blocks.0.mlp.fc1.kernel"], checkpoint()["blocks.0.mlp.fc1.weight"].T)


@pytest.mark.parametrize("card", ["tiny", "vit_nano8_random"])
def test_weights_split_over_devices_as_they_are_read(hub, monkeypatch, card):
    """Each of 8 devices gets its eighth of a matrix and nothing else; small arrays are whole on all."""

    def build(name, **_):  # compiling a twin's real initialisation takes longer than all the rest here
        module = zoo.skeleton(name)
        ones = {path: np.ones(leaf.shape, np.float32) for path, leaf in parameters.flatten(module).items()}
        parameters.assign(module, ones, name)
        return module

    monkeypatch.setattr(zoo, "build", build)
    mesh = meshes.make_mesh(fsdp=8)
    whole = parameters.flatten(zoo.load(card).module)
    split = parameters.flatten(zoo.load(card, place=functools.partial(meshes.place, mesh=mesh)).module)
    kernel = split["blocks.0.mlp.fc1.kernel"]
    assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 8}
    assert len({shard.device for shard in kernel.addressable_shards}) == 8
    assert split["norm.scale"].sharding.is_fully_replicated
    for name, leaf in whole.items():
        np.testing.assert_array_equal(split[name], leaf)


@pytest.mark.parametrize("kept", [0, 100, -5])
def test_truncated_cache_is_noticed_and_made_anew(hub, kept):
    expected = cache.load(CARD)[1].weights_sha256
    path = cache.path_of(CARD)
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    assert cache.read_receipt(CARD) is None
    assert cache.load(CARD)[1].weights_sha256 == expected
    assert path.stat().st_size == len(whole)


def test_a_flipped_bit_in_the_cache_is_noticed_and_mended(hub):
    expected = cache.load(CARD)[1].weights_sha256
    path = cache.path_of(CARD)
    damaged = bytearray(path.read_bytes())
    damaged[-10] ^= 1
    path.write_bytes(bytes(damaged))
    arrays, receipt = cache.load(CARD)
    assert cache.digest(arrays) == receipt.weights_sha256 == expected
    assert cache.digest(load_file(path)) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": ARGUMENTS | {"activation": "quick_gelu"}},
        {"source": WeightSource(hub="timm/tiny", revision="v2")},
        {"table": "mocov3_vit"},
    ],
)
def test_another_card_does_not_use_the_old_conversion(hub, change):
    cache.load(CARD)
    assert cache.read_receipt(dataclasses.replace(CARD, **change)) is None
    assert cache.read_receipt(dataclasses.replace(CARD, notes="new words")) is not None


def test_another_converter_does_not_use_the_old_conversion(hub, monkeypatch):
    cache.load(CARD)
    monkeypatch.setattr(cache, "CONVERTER_VERSION", cache.CONVERTER_VERSION + 1)
    assert cache.read_receipt(CARD) is None
    assert cache.load(CARD)[1].converter == cache.CONVERTER_VERSION


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_checkpoint_of_another_architecture_is_one_error_and_leaves_nothing(hub, tmp_path, architecture):
    arguments = ARGUMENTS | {"depth": 3, "width": 96} if architecture == "vit" else {"input_size": 64}
    card = card_of(architecture, arguments, f"timm_{architecture}", name="other")
    with (
        in_zoo(card),
        pytest.raises(BobError, match=r"hf://timm/tiny@main/model.safetensors for other does not fit") as caught,
    ):
        cache.load(card)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 4000
    if architecture == "vit":
        assert "missing in the checkpoint: " in message and "blocks.{1-2}.norm1.scale" in message
        assert "of shape (48, 144) where the architecture has (96, 288): blocks.0.attn.qkv.kernel" in message
    assert not cache.path_of(card).exists()
    assert [path.name for path in cache.path_of(card).parent.iterdir()] == ["pins"]


def test_half_precision_sources_become_float32(hub, tmp_path):
    import ml_dtypes

    halves = {name: array.astype(ml_dtypes.bfloat16) for name, array in checkpoint().items()}
    save_file(halves, tmp_path / "half.safetensors")
    arrays, receipt = cache.convert(CARD, cache.original_of(CARD, tmp_path / "half.safetensors"))
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(arrays["norm.bias"], halves["norm.bias"].astype(np.float32))
    assert receipt.source == "file:half.safetensors" and receipt.commit is None


def test_a_users_file_stays_in_use_until_it_is_replaced(hub, tmp_path):
    save_file(checkpoint(seed=1), tmp_path / "mine.safetensors")
    mine = cache.convert(CARD, cache.original_of(CARD, tmp_path / "mine.safetensors"))[1]
    assert zoo.load("tiny").weights_sha256 == mine.weights_sha256
    assert not hub.requests


def test_random_twins_and_unknown_tables_have_nothing_to_convert(tmp_path):
    with pytest.raises(BobError, match="vit_nano4_random is a random twin"):
        cache.original_of(zoo.card("vit_nano4_random"))
    with pytest.raises(BobError, match="unknown table 'timm_vitt': did you mean timm_vit"):
        cache.original_of(zoo.card("vit_b16_dino"), tmp_path / "x.pth", "timm_vitt")


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")],
    ids=["Python's", "safetensors'"],
)
def test_full_disk_is_one_line_and_keeps_what_was_there(hub, monkeypatch, error):
    before = cache.load(CARD)[1]

    def full(*_, **__):
        raise error

    monkeypatch.setattr(cache, "save_file", full)
    with pytest.raises(BobError, match=r"cannot write .*tiny\.safetensors \(.*No space left on device\)"):
        cache.convert(CARD, cache.original_of(CARD))
    assert cache.read_receipt(CARD) == before


def test_a_disk_that_does_not_keep_what_is_written_is_told(hub, monkeypatch):
    def lossy(arrays, path, **options):
        save_file({name: array * 2 for name, array in arrays.items()}, path, **options)

    monkeypatch.setattr(cache, "save_file", lossy)
    with pytest.raises(BobError, match="is not what was just written there: check the disk"):
        cache.load(CARD)


def _load(endpoint, folder, queue):
    os.environ |= {"HF_ENDPOINT": endpoint, "BOB_CACHE": f"{folder}/bob", "JAX_PLATFORMS": "cpu"}
    huggingface_hub.constants.HF_HUB_CACHE = f"{folder}/hub_cache"
    with in_zoo(CARD):
        queue.put(cache.load(CARD)[1].weights_sha256)


def test_processes_that_load_at_once_all_get_the_same_whole_weights(hub, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_load, args=(hub.url, str(tmp_path), queue)) for _ in range(2)]
    for process in processes:
        process.start()
    digests = {queue.get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
    assert digests == {cache.digest(load_file(cache.path_of(CARD)))}
    assert {path.name for path in cache.path_of(CARD).parent.iterdir()} == {"tiny.safetensors", "pins"}


def test_what_is_written_is_readable_for_whoever_shares_the_cache(hub, tmp_path):
    zoo.load("tiny")
    (tmp_path / "plain").touch()
    assert cache.path_of(CARD).stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert [path.name for path in cache.path_of(CARD).parent.glob("tiny*")] == ["tiny.safetensors"]
