"""Box deltas: how a head says where an object lies relative to a box that it was shown.

The shift of the centre in sides of that box and the logarithm of the ratio of sides (Girshick et al. 2014, arXiv
1311.2524), standardised, so that what a head should say has about unit variance. The later a stage of a cascade, the
nearer its boxes are and the smaller its deltas: each stage has its own standard deviations (Cai and Vasconcelos 2018,
arXiv 1712.00726).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from bob_jax.detection.boxes import from_centres, to_centres

# No box grows or shrinks by more than this factor at once: the exponential of an untrained head's output is bounded.
MOST = 1000 / 16


@dataclasses.dataclass(frozen=True)
class Coder:
    """Encodes and decodes deltas (dx, dy, dw, dh).

    Attributes:
        stds: what deltas are divided by.
        means: what is subtracted from them before.
    """

    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    means: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def encode(self, boxes: jax.Array, targets: jax.Array) -> jax.Array:
        """The deltas that lead from boxes to targets.

        Args:
            boxes: [..., 4] corners in pixels.
            targets: [..., 4].

        Returns:
            [..., 4] float32. A side that is not positive counts as one pixel, so that padded boxes give finite numbers.
        """
        own, wanted = to_centres(boxes), to_centres(targets)
        sides, sides_wanted = (jnp.where(x[..., 2:] > 0, x[..., 2:], 1) for x in (own, wanted))
        shift = (wanted[..., :2] - own[..., :2]) / sides
        deltas = jnp.concatenate([shift, jnp.log(sides_wanted / sides)], axis=-1)
        return (deltas - _row(self.means, deltas)) / _row(self.stds, deltas)

    def decode(self, boxes: jax.Array, deltas: jax.Array) -> jax.Array:
        """Where the deltas lead; the inverse of `encode`, but for ratios of sides beyond `MOST`.

        As in mmdetection the ratio is bounded on both sides; torchvision bounds growth only.

        Args:
            boxes: [..., 4] corners in pixels.
            deltas: [..., 4], any float dtype.

        Returns:
            [..., 4] float32, not clipped to the image.
        """
        own, deltas = to_centres(boxes), deltas.astype(jnp.float32)
        deltas = deltas * _row(self.stds, deltas) + _row(self.means, deltas)
        centres = own[..., :2] + deltas[..., :2] * own[..., 2:]
        limit = math.log(MOST)
        sides = own[..., 2:] * jnp.exp(jnp.clip(deltas[..., 2:], -limit, limit))
        return from_centres(jnp.concatenate([centres, sides], axis=-1))


RPN = Coder()
CASCADE = (
    Coder((0.1, 0.1, 0.2, 0.2)),
    Coder((0.05, 0.05, 0.1, 0.1)),
    Coder((0.033, 0.033, 0.067, 0.067)),
)


def _row(values: tuple[float, ...], like: jax.Array) -> jax.Array:
    return jnp.array(values, jnp.float32).reshape((1,) * (like.ndim - 1) + (4,))
