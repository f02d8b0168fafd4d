"""Backbones of the zoo as Scenic models: a backbone with its pretrained weights, and a linear head.

The module is one of Flax NNX; `flax.nnx.bridge.ToLinen` shows it to Scenic as a Linen module, whose `init` gives the
pretrained weights as parameters below "backbone" and a fresh head below "output_projection", Scenic's name for it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax.nn import initializers

from bob_jax.backbones import zoo
from bob_jax.backbones.base import Backbone
from bob_jax.backbones.layers import Linear

NAME = "bob_jax"  # `config.model_name` and `config.dataset_name`
HEAD_STD = 0.01  # of the head's truncated normal initialisation


class Classifier(nnx.Module):
    """A backbone and a head, called as Scenic's trainers call a model."""

    def __init__(self, backbone: Backbone, classes: int, rngs: nnx.Rngs):
        """
        Args:
            backbone: with its weights.
            classes: number of them.
            rngs: of the head's initialisation; its stream "dropout" is the drop path's.
        """
        self.backbone = backbone
        self.output_projection = Linear(
            backbone.feature_dim,
            classes,
            kernel_init=initializers.truncated_normal(HEAD_STD),
            dtype=jnp.float32,
            rngs=rngs,
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
        rngs = nnx.Rngs(drop_path=self.rngs.dropout()) if train else None
        return self.output_projection(self.backbone(inputs, rngs=rngs).pooled.astype(jnp.float32))


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
    graphdef, state = _loaded(backbone, drop_path)
    return Classifier(nnx.merge(graphdef, state), classes, rngs)


@functools.lru_cache(maxsize=1)
def _loaded(backbone: str, drop_path: float) -> tuple[Any, Any]:
    """Structure and weights, on the host: the devices get the trainer's copy."""
    host = jax.local_devices(backend="cpu")[0]
    graphdef, state = nnx.split(zoo.load(backbone, drop_path=drop_path, place=lambda x: jax.device_put(x, host)).module)
    return graphdef, nnx.to_pure_dict(state)


@functools.cache
def model_class() -> Any:
    """The Scenic model class, for `config.model.backbone` and the classes of the data set."""
    from ml_collections import ConfigDict
    from scenic.model_lib.base_models.classification_model import ClassificationModel

    class BackboneClassificationModel(ClassificationModel):  # type: ignore[misc]
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
