"""A user's own backbone: added, used, removed; every mistake one line. The guide's commands: tests/docs."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from from_timm import randomise
from running import ROOT
from safetensors.numpy import save_file
from torch_reference import import_timm

from bob_jax import cli
from bob_jax.backbones import own, parameters, zoo
from bob_jax.errors import BobError
from configs import digits, fgvc
from converters import cache

timm = import_timm()

FLAX = """
import jax
import jax.numpy as jnp
from flax import nnx

from bob_jax.backbones.base import Backbone, Features
from bob_jax.backbones.layers import BatchNorm, Convolution


class Net(Backbone):
    def __init__(self, input_size, dtype, rngs):
        self.conv = Convolution(3, 8, 3, 4, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(8, dtype=dtype)
        self.feature_dim, self.input_size, self.dtype = 8, input_size, dtype
        self.strides, self.widths, self.num_layers = (4,), (8,), 2

    def __call__(self, images, *, rngs=None):
        x = jax.nn.relu(self.bn(self.conv(images.astype(self.dtype)), train=rngs is not None))
        return Features(x.mean((1, 2)).astype(jnp.float32), (x,))

    def layer_of(self, path):
        return {"conv": 0, "bn": 1}[path.partition(".")[0]]


def build(input_size, dtype, rngs):
    return Net(input_size, dtype, rngs)
"""
LAST = "self.strides, self.widths, self.num_layers = (4,), (8,), 2"
BREAKING = {
    "wide": ("self.feature_dim = 9", "the descriptor is (2, 8), and feature_dim says 9"),
    "strides": ("self.strides = (2,)", "and stride 2, width 8 say otherwise"),
    "maps": ("self.strides = ()", "1 maps, 0 strides and 1 widths"),
    "listed": ("self.extra = nnx.static([1])", "a static attribute is not hashable"),
    "lambda": ("self.extra = lambda x: x", "two instances have different graph definitions"),
    "layers": ("self.num_layers = 1", "layer_of('bn.bias') is 1, outside of [0, 1)"),
    "raw": ("self.extra = jnp.ones(3)", "keep no arrays but nnx.Variables"),
    "array": ("self.extra = nnx.data(jnp.ones(3))", "has state other than nnx.Param and nnx.BatchStat"),
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A folder of the user's, with a cache of its own."""
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FLAX)
    torch_file = ROOT / "tests" / "backbones" / "tiny_torch.py"
    (tmp_path / "tiny.py").write_text(torch_file.read_text())
    return tmp_path


def bob(*words: str) -> int:
    return cli.main(["backbones", *words])


def added(*words: str) -> None:
    assert bob("add", *words, "--input-size", "32") == 0


def test_a_torch_module_with_weights(home, capsys):
    state = randomise(own.function("tiny.py:build")()).state_dict()
    torch.save({"state_dict": {f"module.{name}": x for name, x in state.items()}}, home / "w.pth")
    added("tiny.py:build", "--name", "mine", "--weights", "w.pth", "--mean", "0", "0", "0", "--licence", "mit")
    printed = capsys.readouterr().out
    assert printed.startswith("mine keeps the contract") and "mean: 0.0, 0.0, 0.0" in printed
    assert float(re.search(r"parity: (\S+)", printed)[1]) < 1e-5
    card = zoo.card("mine")
    assert (card.architecture, card.licence, card.feature_dim, card.preprocessing.input_size) == (
        "torch",
        "mit",
        16,
        32,
    )
    loaded = zoo.load("mine")
    for name, leaf in parameters.flatten(loaded.module).items():
        np.testing.assert_array_equal(leaf, state[name])
    assert loaded.weights_sha256 == zoo.weights_sha256("mine") == cache.read_receipt(card).weights_sha256
    assert bob("mine") == 0
    assert "method: own" in capsys.readouterr().out
    assert bob("--method", "own") == 0
    assert any(line.split()[:1] == ["mine"] for line in capsys.readouterr().out.splitlines())
    assert digits.get_config("mine").backbones == fgvc.get_config("mine,dataset=cub").backbones == ("mine",)
    weights = cache.path_of(card)
    assert weights.exists()
    assert bob("remove", "mine") == 0
    assert not weights.exists() and (home / "w.pth").exists()
    with pytest.raises(BobError, match="unknown backbone 'mine'"):
        digits.get_config("mine")


def test_a_flax_module_with_and_without_weights(home):
    added("net.py:build", "--name", "fresh")
    fresh = zoo.load("fresh")
    assert fresh.weights_sha256 == zoo.weights_sha256("fresh")
    arrays = {name: np.asarray(x) + 0.5 for name, x in parameters.flatten(fresh.module).items()}
    save_file(arrays, home / "w.safetensors")
    added("net.py:build", "--name", "filled", "--weights", "w.safetensors")
    filled = zoo.load("filled")
    assert filled.weights_sha256 != fresh.weights_sha256
    for name, leaf in parameters.flatten(filled.module).items():
        np.testing.assert_array_equal(leaf, arrays[name])
    assert set(own.cards()) == {"fresh", "filled"}
    assert filled.module(jax.numpy.ones((1, 32, 32, 3))).pooled.shape == (1, 8)


def test_a_timm_model_with_weights_of_ones_own(home):
    model = randomise(timm.create_model("test_efficientnet", num_classes=7))
    torch.save(model.state_dict(), home / "w.pth")
    added("timm:test_efficientnet", "--name", "mine", "--weights", "w.pth")
    state = model.state_dict()
    for name, leaf in parameters.flatten(zoo.load("mine").module).items():
        np.testing.assert_array_equal(leaf, state[name])
    card = zoo.card("mine")
    assert (card.method, card.table, card.preprocessing.crop_pct) == ("own", "timm", 0.95)


def test_a_function_may_return_a_timm_name_or_load_its_weights(home):
    (home / "name.py").write_text("def build():\n    return 'timm:test_efficientnet.random'\n")
    added("name.py:build")
    assert zoo.card("name").arguments["source"] == "timm:test_efficientnet"
    (home / "loads.py").write_text(
        "import torch, tiny\n\n\ndef build():\n    net = tiny.build()\n"
        "    torch.nn.init.constant_(net.stem.weight, 0.25)\n    return net\n"
    )
    added("loads.py:build")
    stem = parameters.flatten(zoo.load("loads").module)["stem.weight"]
    assert (np.asarray(stem) == 0.25).all()


@pytest.mark.parametrize("name", BREAKING)
def test_what_breaks_the_contract_is_told_and_not_added(home, capsys, name):
    change, words = BREAKING[name]
    (home / "net.py").write_text(FLAX.replace(LAST, f"{LAST}\n        {change}"))
    assert bob("add", "net.py:build", "--name", "bad", "--input-size", "32") == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not own.cards()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gone.py:build",), "no file"),
        (("net.py",), "'net.py' names no function: write FILE.py:FUNCTION, or timm:MODEL.TAG"),
        (("net.py:buidl",), "unknown function in"),
        (("tiny.py:raising",), "tiny.py:raising raises ValueError: no such size"),
        (("tiny.py:number",), "returns int: it must return an nnx.Module, a torch.nn.Module or 'timm:...'"),
        (("tiny.py:tokens",), "the module returns a tensor (2, 1024, 3): return [B, D]"),
        (("tiny.py:airy",), "uses the operator aten::special_airy_ai, which torchax has not in JAX"),
        (("tiny.py:branching",), "does not run through torchax on images"),
        (("broken.py:build",), "broken.py cannot be imported: ZeroDivisionError: division by zero"),
        (("exits.py:build",), "exits.py cannot be imported: SystemExit: 0"),
        (("late.py:build",), "late.py:build raises SystemExit: 0"),
        (("timm:regnetz_999.x",), "unknown timm model 'regnetz_999'"),
        (("timm:regnety_016",), "must say which weights"),
        (("net.py:build", "--name", "vit_b16_clip"), "the name 'vit_b16_clip' is taken"),
        (("net.py:build", "--name", "Mine, all mine"), "is no name"),
        (("net.py:build", "--weights", "gone.pth"), "no file"),
        (("net.py:build", "--weights", "other.safetensors"), "missing in the checkpoint: bn.bias"),
        (("tiny.py:build", "--weights", "other.safetensors"), "not a parameter of this architecture: head.weight"),
        (("timm:test_efficientnet", "--weights", "other.safetensors"), "does not fit timm's test_efficientnet"),
        (("net.py:build", "--crop-pct", "0"), "crop_pct in (0, 1]"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_added(home, capsys, arguments, words):
    (home / "broken.py").write_text("1 / 0\n")
    (home / "exits.py").write_text("raise SystemExit(0)\n")
    (home / "late.py").write_text("def build():\n    raise SystemExit(0)\n")
    save_file({"head.weight": np.ones((3, 3), np.float32)}, home / "other.safetensors")
    assert bob("add", *arguments, "--input-size", "32") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and words in captured.err
    assert not own.cards()


def test_a_name_is_added_once_and_files_are_pinned(home, capsys):
    added("net.py:build", "--name", "mine")
    assert bob("add", "net.py:build", "--name", "mine", "--input-size", "32") == 2
    assert "the name 'mine' is taken" in capsys.readouterr().err
    (home / "net.py").write_text(FLAX + "\n# changed\n")
    with pytest.raises(BobError, match=r"net\.py has changed since its backbone was added"):
        zoo.load("mine")
    assert bob("remove", "other") == 2
    assert "unknown backbone of your own 'other'" in capsys.readouterr().err
    assert bob("remove", "vit_b16_clip") == 2
    assert "is the zoo's" in capsys.readouterr().err


def test_changed_weights_are_noticed(home):
    added("net.py:build", "--name", "fresh")
    arrays = {name: np.asarray(x) for name, x in parameters.flatten(zoo.load("fresh").module).items()}
    save_file(arrays, home / "w.safetensors")
    added("net.py:build", "--name", "mine", "--weights", "w.safetensors")
    save_file({name: x + 1 for name, x in arrays.items()}, home / "w.safetensors")
    cache.path_of(zoo.card("mine")).unlink()  # while the converted copy is there, it is what was added
    with pytest.raises(BobError, match=r"w\.safetensors has changed since its backbone was added"):
        zoo.load("mine")


def test_a_damaged_file_of_own_cards_is_one_line(home, capsys):
    own.file().parent.mkdir(parents=True)
    own.file().write_text('{"mine": {"architecture": "torch"}}')
    assert bob("mine") == 2
    error = capsys.readouterr().err
    assert "backbones.json is damaged" in error and error.count("\n") == 1


def test_the_module_is_rebuilt_alike_for_every_graph_definition(home):
    added("net.py:build", "--name", "mine")
    first, second = (nnx.graphdef(zoo.skeleton("mine")) for _ in range(2))
    assert first == second and hash(first) == hash(second)
