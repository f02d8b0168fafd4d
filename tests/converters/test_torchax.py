"""A second, independent oracle: torchax runs PyTorch's own program in JAX, without our converter and without our code.

It shares neither the kernels of PyTorch nor a line of ours, so a mistake of either shows.
"""

import jax
import numpy as np
import pytest
from converter_models import TINY_VIT, card_of, in_zoo, numpy_state, randomised, weights_cache  # noqa: F401
from from_timm import FAST_COMPILE, outputs, relative_error
from safetensors.numpy import save_file
from test_tables import VITS, timm_vit
from torch_reference import import_timm

from bob_jax.backbones import torchax_repair, zoo
from converters import cache

timm = import_timm()
pytestmark = pytest.mark.usefixtures("weights_cache")

MODELS = {
    "vit": (TINY_VIT | VITS["registers"][0], lambda: timm_vit(**VITS["registers"][1])),
    "resnet": (
        {"stages": (1, 1, 1, 1), "block": "basic", "input_size": 64},
        lambda: timm.models.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), num_classes=0),
    ),
}


@pytest.fixture(scope="module")
def torchax():
    """torchax, importable beside the current torch."""
    torchax_repair.environment()
    import torchax

    return torchax


@pytest.mark.parametrize("architecture", MODELS)
def test_torchax_computes_what_our_port_computes(torchax, tmp_path, architecture):
    arguments, make = MODELS[architecture]
    model = randomised(make())
    save_file(numpy_state(model), tmp_path / "model.safetensors")
    side = arguments["input_size"]  # torchax 0.0.13 cannot resample positions
    images = np.random.default_rng(0).standard_normal((2, side, side, 3), np.float32)
    with in_zoo(card_of(architecture, arguments, f"timm_{architecture}")) as card:
        cache.convert(card, cache.original_of(card, tmp_path / "model.safetensors"))
        ours = outputs(zoo.load("tiny", dtype=np.float32).module, images)[0]
    weights, function = torchax.extract_jax(model)
    run = jax.jit(function, compiler_options=FAST_COMPILE)
    with jax.numpy_rank_promotion("allow"):
        theirs = np.asarray(run(weights, (images.transpose(0, 3, 1, 2),)))
    assert relative_error(ours, theirs) < 1e-5
