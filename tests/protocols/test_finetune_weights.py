"""The weights that fine-tuning hands out are whole: with them alone the test logits come out again."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.resnet import ResNet
from bob_jax.data.arrays import ArraySource
from bob_jax.data.base import Dataset
from bob_jax.data.on_device import normalize
from bob_jax.metrics.classification import per_example
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.finetune import Finetune
from bob_jax.training.mesh import make_mesh
from configs import digits


def make() -> ResNet:
    return ResNet(stages=(1, 1, 1, 1), block="basic", width=8, input_size=32, rngs=nnx.Rngs(0))


def test_weights_give_the_test_logits_again(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    source = ArraySource(pixels, rng.integers(0, 3, 64))
    splits = dict.fromkeys(("train", "validation", "test"), source)
    dataset = Dataset("noise", "1", tuple("abc"), splits, dict.fromkeys(splits, ""), "accuracy", "none")
    section = digits.get_config("protocol=finetune").protocols.finetune
    section.update({"learning_rates": (1e-2,), "epochs": 3, "batch_size": 32})
    card, start = zoo.card("resnet10_nano_random"), make()
    result = Finetune.from_config(section).run(
        Competitor(card, start, "0" * 64), dataset, Context(make_mesh(), tmp_path)
    )

    trained = dict(result.weights)
    head = trained.pop("head.kernel"), trained.pop("head.bias")
    module = nnx.eval_shape(make)
    parameters.assign(module, {name.removeprefix("backbone."): array for name, array in trained.items()}, "finetune")
    images = normalize(jnp.asarray(pixels), card.preprocessing.mean, card.preprocessing.std)
    logits = np.asarray(module(images).pooled) @ head[0] + head[1]
    outputs = per_example(logits, source.labels)
    np.testing.assert_allclose(result.outputs["nll"], outputs["nll"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(result.outputs["prediction"], outputs["prediction"])
    assert trained["backbone.bn1.mean"].any()  # the statistics are those of training, not the first ones
    assert not np.array_equal(trained["backbone.conv1.kernel"], start.conv1.kernel[...])
