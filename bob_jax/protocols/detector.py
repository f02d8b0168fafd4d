"""A backbone with the heads of a detector, as pure functions of their weights: what training and use have in common."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from bob_jax.backbones import parameters
from bob_jax.data import on_device
from bob_jax.data.detection_transforms import Fit, Jitter, SceneTransform, Slots
from bob_jax.data.multi_scale import MultiScale, SingleScale
from bob_jax.detection.design import Design
from bob_jax.detection.detector import Heads
from bob_jax.detection.objects import Found
from bob_jax.errors import BobError
from bob_jax.protocols.base import Competitor
from bob_jax.protocols.tuning import Weights
from bob_jax.training.mesh import batch_sharding

if TYPE_CHECKING:
    from bob_jax.protocols.detection import Detection


@dataclasses.dataclass(frozen=True)
class Detector:
    """A backbone with its heads as pure functions of their weights; what a training run and a picture's user share.

    Attributes:
        protocol: hyper-parameters.
        competitor: the backbone.
        heads: structure of the heads, with the weights they start from.
    """

    protocol: "Detection"
    competitor: Competitor
    heads: Heads

    @classmethod
    def new(cls, protocol: "Detection", competitor: Competitor, classes: int, masks: bool, seed: int) -> "Detector":
        """With fresh heads.

        Args:
            protocol: hyper-parameters.
            competitor: the backbone.
            classes: their number.
            masks: whether the data have masks; without, no mask head is built.
            seed: of the heads' weights.

        Raises:
            BobError: a backbone that no detector can be built on.
        """
        if not masks:
            protocol = dataclasses.replace(protocol, mask_heads=0)
        design = Design(**{field.name: getattr(protocol, field.name) for field in dataclasses.fields(Design)})
        module = competitor.module
        heads = nnx.jit(
            lambda key: Heads(module, classes, design, dtype=module.dtype, rngs=nnx.Rngs(key)),
        )(jax.random.key(seed))
        return cls(protocol, competitor, heads)

    def assign(self, weights: Mapping[str, np.ndarray], where: str) -> None:
        """Fills backbone and heads with the weights that a cell left.

        Args:
            weights: by dotted path below `backbone.` and `heads.`.
            where: origin of the weights, for the error message.

        Raises:
            BobError: they do not fit.
        """
        for before, module in (("backbone.", self.competitor.module), ("heads.", self.heads)):
            own = {name.removeprefix(before): array for name, array in weights.items() if name.startswith(before)}
            parameters.assign(module, own, where)

    @property
    def weights(self) -> Weights:
        """Those it has now, as `prediction` takes them."""
        parts: Any = nnx.split(self.competitor.module, nnx.Param, nnx.BatchStat)
        backbone, heads, stats = map(nnx.to_pure_dict, (parts[1], nnx.state(self.heads), parts[2]))
        return {"params": {"backbone": backbone, "heads": heads}, "stats": stats}

    @property
    def slots(self) -> Slots:
        """Room for the objects of an image."""
        return Slots(self.protocol.slots, self.protocol.mask_side)

    @property
    def size(self) -> int:
        """Side of the inputs, or their short side, that the backbone takes.

        Raises:
            BobError: the backbone takes its own input size alone, and that is another one.
        """
        multiple, wanted = self.competitor.module.side_multiple, self.protocol.size
        if not multiple:
            return self.competitor.module.input_size
        if wanted < multiple:
            raise BobError(f"size {wanted}: {self.competitor.card.name} takes multiples of {multiple} pixels; raise it")
        return wanted // multiple * multiple

    def train_view(self) -> SceneTransform:
        """From a scene to a training input."""
        protocol = self.protocol
        if protocol.views == "multi_scale":
            return MultiScale(self.size, self.slots)
        return Jitter(self.size, self.slots, protocol.scale, protocol.flip)

    def test_view(self) -> SceneTransform:
        """From a scene to an evaluation input."""
        return (SingleScale if self.protocol.views == "multi_scale" else Fit)(self.size, self.slots)

    def prediction(self, mesh: jax.sharding.Mesh) -> Callable[[Weights, jax.Array, jax.Array], Found]:
        """Jitted: weights, images [B, H, W, 3] uint8 and extents [B, 2] to what is found."""
        (graph, _), preprocessing = nnx.split(self.competitor.module), self.competitor.card.preprocessing
        heads, _ = nnx.split(self.heads)

        @functools.partial(jax.jit, out_shardings=batch_sharding(mesh))
        def apply(weights: Weights, images: jax.Array, extents: jax.Array) -> Found:
            params = weights["params"]
            images = on_device.normalize(images, preprocessing.mean, preprocessing.std)
            backbone = nnx.merge(graph, params["backbone"], weights["stats"])
            return nnx.merge(heads, params["heads"]).detect(backbone(images).maps, extents)

        return apply
