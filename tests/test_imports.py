"""What a plain run does not touch is not imported; the light rooms live on jax, flax, optax, orbax and numpy."""

import subprocess
import sys

import pytest

HEAVY = (
    *("torch", "timm", "transformers", "diffusers", "tensorflow", "tensorflow_datasets", "tokenizers", "ray"),
    *("scenic", "clu"),
)
EXTRAS = ("ml_collections", "grain", "sklearn", "scipy", "matplotlib", "PIL", "huggingface_hub", "safetensors")
ALL = """
import importlib, pkgutil, sys
for name in {blocked!r}:
    sys.modules[name] = None
for root in {roots!r}:
    package = importlib.import_module(root)
    for module in pkgutil.walk_packages(package.__path__, root + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    ("roots", "blocked"),
    [
        (("bob_jax", "configs", "converters"), HEAVY),
        (("bob_jax.backbones", "bob_jax.training"), HEAVY + EXTRAS),
    ],
)
def test_modules_import_without(roots, blocked):
    code = ALL.format(roots=roots, blocked=blocked)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_results_are_read_without_jax():
    code = ALL.format(roots=("bob_jax.results", "bob_jax.metrics"), blocked=("jax", "flax"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
