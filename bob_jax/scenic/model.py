"""Backbones of the zoo as Scenic models: a backbone with its pretrained weights, and a linear head.

The module is one of Flax NNX; `flax.nnx.bridge.ToLinen` shows it to Scenic as a Linen module, whose `init` gives the
pretrained weights as parameters below "backbone" and a fresh head below "output_projection", Scenic's name for it.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax.nn import initializers

from bob_jax.backbones import zoo
from bob_jax.backbones.layers import Linear

NAME = "bob_jax"  # `config.model_name` and `config.dataset_name`
HEAD_STD = 0.01  # of the head's truncated normal initialisation


class Classifier(nnx.Module):
    """A backbone and a head, called as Scenic's trainers call a model.

    Scenic names parameters by joining the keys on the way to them, so here all keys are words, where Flax NNX has
    numbers for the parts of a list: "blocks", "0", "attn".
    """

    def __init__(self, structure: Any, weights: Any, width: int, classes: int, rngs: nnx.Rngs):
        """
        Args:
            structure: graph definition of the backbone.
            weights: its variables, as nested dicts.
            width: of its descriptor.
            classes: number of them.
            rngs: of the head's initialisation; its stream "dropout" is the drop path's.
        """
        self.structure = nnx.static(structure)
        self.backbone = _by_word(weights)
        self.output_projection = Linear(
            width, classes, kernel_init=initializers.truncated_normal(HEAD_STD), dtype=jnp.float32, rngs=rngs
        )
        self.rngs = rngs

    def __call__(self, inputs: jax.Array, *, train: bool = False, debug: bool = False) -> jax.Array:
        """Logits [B, C] of normalised images [B, H, W, 3].

        Args:
            inputs: float, normalised as the card of the backbone says.
            train: whether batch statistics are those of the batch, and drop path is drawn.
            debug: nothing here listens to it.
        """
        del debug
        backbone = nnx.merge(self.structure, _by_number(nnx.to_pure_dict(nnx.state(self.backbone))))
        pooled = backbone(inputs, rngs=nnx.Rngs(drop_path=self.rngs.dropout()) if train else None).pooled
        if train:
            nnx.update(self.backbone, _to_words(nnx.to_pure_dict(nnx.state(backbone, nnx.BatchStat))))
        return self.output_projection(pooled.astype(jnp.float32))


def _by_word(weights: Mapping[Any, Any]) -> nnx.Dict:
    """Variables of their own in a tree that Flax NNX can hold."""
    return nnx.Dict(
        {str(key): _by_word(x) if isinstance(x, Mapping) else type(x)(x[...]) for key, x in weights.items()}
    )


def _to_words(tree: Any) -> Any:
    return {str(key): _to_words(x) for key, x in tree.items()} if isinstance(tree, Mapping) else tree


def _by_number(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    return {int(key) if key.isdecimal() else key: _by_number(x) for key, x in tree.items()}


def linen_classifier(backbone: str, classes: int, drop_path: float = 0.0) -> linen.Module:
    """A Linen module whose `init` gives pretrained weights and a fresh head.

    Args:
        backbone: name in the zoo.
        classes: number of them.
        drop_path: rate of the last block; it rises linearly from 0.

    Raises:
        BobError: unknown name; at `init`, weights that cannot be had.
    """
    zoo.card(backbone)
    return nnx.bridge.ToLinen(_classifier, args=(backbone, classes, drop_path), metadata_fn=None)


def _classifier(backbone: str, classes: int, drop_path: float, *, rngs: nnx.Rngs) -> Classifier:
    """The bridge builds it anew for every trace and then puts Linen's parameters into it."""
    return Classifier(*_loaded(backbone, drop_path), classes, rngs)


@functools.lru_cache(maxsize=1)
def _loaded(backbone: str, drop_path: float) -> tuple[Any, Any, int]:
    """Structure, weights and width. The weights lie on the host: the devices get the trainer's copy."""
    host = jax.local_devices(backend="cpu")[0]
    module = zoo.load(backbone, drop_path=drop_path, place=lambda x: jax.device_put(x, host)).module
    structure, weights = nnx.split(module)
    return structure, weights, module.feature_dim


@functools.cache
def model_class() -> Any:
    """The Scenic model class, for `config.model.backbone` and the classes of the data set."""
    from ml_collections import ConfigDict
    from scenic.model_lib.base_models.classification_model import ClassificationModel

    class BackboneClassificationModel(ClassificationModel):
        """Scenic's classification model, loss and metrics, around a backbone of the zoo."""

        def build_flax_model(self) -> linen.Module:
            """The backbone under its head."""
            model = self.config.model
            classes = self.dataset_meta_data["num_classes"]
            return linen_classifier(model.backbone, classes, model.get("drop_path", 0.0))

        def default_flax_model_config(self) -> ConfigDict:
            """What Scenic's own tests of models ask for."""
            return ConfigDict({"model": {"backbone": "vit_nano8_glyphs"}})

    return BackboneClassificationModel
