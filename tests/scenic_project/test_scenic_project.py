"""bob_jax as a project of google-research/scenic. What needs Scenic itself is skipped where it is not on the path."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import ROOT, environment

from bob_jax.backbones import parameters, zoo
from bob_jax.errors import BobError
from bob_jax.scenic import config as configs
from bob_jax.scenic import dataset, host
from bob_jax.scenic.model import linen_classifier

SMALL = ("vit_nano8_glyphs", "resnet10_nano_glyphs")  # without and with batch statistics


def importable() -> bool:
    return importlib.util.find_spec("scenic") is not None and importlib.util.find_spec("scenic.app") is not None


needs_scenic = pytest.mark.skipif(
    not importable(), reason="google-research/scenic is not on PYTHONPATH: docs/scenic.md says how to have it"
)


@pytest.fixture(scope="module", params=SMALL)
def small(request):
    """A backbone, its Linen twin under a head, and the twin's variables."""
    module = linen_classifier(request.param, 5)
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    return request.param, module, module.init({"params": jax.random.key(1)}, images, train=False, debug=False), images


def test_linen_variables_are_the_published_weights(small):
    name, _, variables, _ = small
    weights = parameters.flatten(zoo.load(name).module)
    found = {}
    for tree in (variables["params"]["backbone"], variables.get("batch_stats", {}).get("backbone", {})):
        for path, leaf in jax.tree.leaves_with_path(tree):
            found[jax.tree_util.keystr(path, simple=True, separator=".")] = leaf
    assert found.keys() == weights.keys()
    for path, leaf in weights.items():
        np.testing.assert_array_equal(found[path], leaf)


def test_the_linen_module_says_what_the_backbone_says(small):
    name, module, variables, images = small
    head = variables["params"]["output_projection"]
    expected = zoo.load(name).module(images).pooled @ head["kernel"] + head["bias"][None]
    logits = jax.jit(lambda v, x: module.apply(v, x, train=False, mutable=False, debug=False))(variables, images)
    assert jnp.abs(logits - expected).max() <= 1e-5 * jnp.abs(expected).max()


def test_training_learns_statistics_and_everything_has_a_gradient(small):
    name, module, variables, images = small
    rest = {key: value for key, value in variables.items() if key != "params"}

    @jax.jit
    def loss(params):
        logits, new = module.apply(
            {"params": params, **rest}, images, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(2)}
        )
        return jax.nn.logsumexp(logits, axis=-1).mean(), new

    gradients, new = jax.grad(loss, has_aux=True)(variables["params"])
    assert all(jnp.isfinite(leaf).all() and (leaf != 0).any() for leaf in jax.tree.leaves(gradients))
    assert bool(new) == (name == "resnet10_nano_glyphs")
    for old, moved in zip(jax.tree.leaves(rest), jax.tree.leaves(new), strict=True):
        assert not (old == moved).all()


def test_drop_path_follows_the_trainers_key():
    module = linen_classifier("vit_nano8_glyphs", 5, drop_path=0.5)
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    variables = module.init({"params": jax.random.key(1)}, images)

    @jax.jit
    def logits(key):
        return module.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]

    first, again, other = (logits(jax.random.key(seed)) for seed in (2, 2, 3))
    assert (first == again).all() and not (first == other).all()


def test_mistakes_are_one_line():
    with pytest.raises(BobError, match="did you mean vit_b16_clip"):
        linen_classifier("vit_b16_klip", 5)
    with pytest.raises(BobError, match="did you mean pets"):
        configs.get_config("vit_b16_clip,pet")
    with pytest.raises(BobError, match="digits_retrieval asks for retrieval"):
        dataset._load({"name": "digits_retrieval"})


def test_a_missing_scenic_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "scenic", raising=False)
    with pytest.raises(BobError, match="no Scenic on the Python path: `git clone"):
        host.require()


def test_the_other_scenic_is_told(tmp_path):
    (tmp_path / "scenic").mkdir()  # before any other scenic on the path
    (tmp_path / "scenic/__init__.py").touch()
    done = run("-m", "bob_jax.scenic", env=environment(tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: the `scenic` that is installed is another project")
    assert done.stderr.count("\n") == 1


def run(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)


@needs_scenic
@pytest.mark.parametrize("argument", [*SMALL, "vit_nano8_glyphs,digits,frozen"])
def test_a_step_of_scenics_trainer_changes_the_published_weights_unless_they_are_frozen(argument, tmp_path):
    program = Path(__file__).with_name("one_step.py")
    done = run(str(program), argument, str(tmp_path), env=environment(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 2
    assert (found["images"], found["labels"], found["again"]) == (90, True, True)
    assert found["inputs"] < 1e-5
    assert found["parity"] <= 1e-5
    assert found["parameters"] > 20
    assert len(found["still"]) == (found["parameters"] if "frozen" in argument else 0)
    assert 0 < found["head_moved"] < 1e-3 and found["largest"] < 1e-3  # one step of AdamW at 3e-4
    assert found["statistics_agree"] and bool(found["statistics"]) == ("resnet" in argument)
    assert found["summary"] == ["accuracy", "loss"]


@needs_scenic
def test_the_command_trains_and_goes_on_from_its_checkpoint(tmp_path):
    words = (
        *("-m", "bob_jax.scenic", "--config=bob_jax/scenic/config.py", f"--workdir={tmp_path / 'run'}"),
        *("--config.dataset_configs.limit=64", "--config.batch_size=32", "--config.lr_configs.warmup_steps=2"),
    )
    for steps, told in ((3, "training loop at step 1."), (5, "training loop at step 4.")):
        done = run(*words, f"--config.num_training_steps={steps}", env=environment(tmp_path))
        assert done.returncode == 0, done.stderr[-3000:]
        assert told in done.stderr
        assert (tmp_path / "run" / f"checkpoint_{steps}").exists()
