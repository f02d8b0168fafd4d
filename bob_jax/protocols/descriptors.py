"""The descriptor that images are compared by: pooled features or GeM, at one size or several, whitened or not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bob_jax.backbones.base import Backbone, Features
from bob_jax.data.base import Source
from bob_jax.errors import BobError, unknown_name
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.features import Descriptor, Pooled, extract
from bob_jax.protocols.inference import Rows

KINDS = ("pooled", "gem")
EPSILON = 1e-6  # below which GeM clips activations


@dataclasses.dataclass(frozen=True)
class GeM:
    """Generalised mean over the coarsest feature map (Radenovic et al. 2018, arXiv 1711.02512, equation 3).

    Attributes:
        p: 1 is the mean, infinity the maximum; negative activations count as none.
    """

    p: float

    def __call__(self, features: Features) -> jax.Array:
        """[B, C], C the width of the map."""
        raised = jnp.maximum(features.maps[-1].astype(jnp.float32), EPSILON) ** self.p
        return jnp.mean(raised, axis=(1, 2)) ** (1 / self.p)


@dataclasses.dataclass(frozen=True)
class Whitening:
    """PCA-whitening (Jegou and Chum 2012): centred, turned to the principal axes, each divided by its deviation.

    Attributes:
        mean: [D].
        axes: [D, E], the first E principal axes over their standard deviations.
    """

    mean: np.ndarray
    axes: np.ndarray

    @classmethod
    def learn(cls, descriptors: np.ndarray, dimensions: int) -> "Whitening":
        """From descriptors [N, D] of images that are neither queries nor gallery.

        Raises:
            BobError: more dimensions than the images span.
        """
        if not 0 < dimensions <= min(len(descriptors) - 1, descriptors.shape[1]):
            raise BobError(
                f"protocols.retrieval.whitening is {dimensions}: {len(descriptors)} images of {descriptors.shape[1]} "
                "dimensions do not span so many; choose fewer"
            )
        exact = descriptors.astype(np.float64)
        mean = exact.mean(axis=0)
        _, deviation, axes = np.linalg.svd(exact - mean, full_matrices=False)
        deviation = deviation[:dimensions] / np.sqrt(len(exact) - 1)
        if deviation[-1] <= 1e-7 * deviation[0]:
            raise BobError(f"protocols.retrieval.whitening is {dimensions}: the images vary in fewer; choose fewer")
        return cls(mean.astype(np.float32), (axes[:dimensions].T / deviation).astype(np.float32))

    def __call__(self, descriptors: np.ndarray) -> np.ndarray:
        """[N, D] -> [N, E] float32 at length 1."""
        return unit((descriptors - self.mean) @ self.axes)


def of_kind(kind: str, p: float) -> Descriptor:
    """The descriptor of a name.

    Raises:
        BobError: there is none of this name.
    """
    if kind not in KINDS:
        raise unknown_name("descriptor", kind, KINDS)
    return Pooled() if kind == "pooled" else GeM(p)


def sizes(backbone: Backbone, input_size: int, scales: tuple[float, ...]) -> tuple[int, ...]:
    """Sides of the inputs in pixels: each scale of the size, rounded to what the coarsest map divides."""
    stride = backbone.strides[-1]
    return tuple(max(stride, round(scale * input_size / stride) * stride) for scale in scales)


def describe(
    competitor: Competitor,
    source: Source,
    title: str,
    context: Context,
    batch_size: int,
    descriptor: Descriptor,
    input_sizes: tuple[int, ...],
) -> Rows:
    """Descriptors at length 1, the mean over several sizes of the input.

    Args:
        competitor: the backbone.
        source: the images.
        title: what the progress bar calls them.
        context: mesh and workers.
        batch_size: images on all devices together.
        descriptor: what is made of the backbone's features.
        input_sizes: sides of the input in pixels; the descriptors of each have length 1 before they are averaged.

    Raises:
        BobError: the backbone does not take a size.
    """
    seen = [
        extract(
            competitor,
            source,
            title if len(input_sizes) == 1 else f"{title} at {side}",
            context,
            batch_size,
            descriptor=descriptor,
            input_size=side,
        )
        for side in input_sizes
    ]
    values = unit(np.sum([unit(rows.values) for rows in seen], axis=0))
    return dataclasses.replace(seen[0], values=values)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows [N, D] float32 at length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows, dtype=np.float32), where=length > 0)
