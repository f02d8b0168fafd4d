"""Arithmetic of boxes: formats, areas, overlaps and what a picture's clipping, scaling and flipping does to them.

A box is x1, y1, x2, y2 in pixels, with x2 - x1 its width: no pixel is added, unlike in the first detectors. All
arithmetic is in float32, whatever comes in. A box whose x2 < x1 or y2 < y1 has no area. Overlaps of boxes without area
are 0, never NaN, and so are their gradients: padded boxes hurt nobody.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def from_centres(boxes: jax.Array) -> jax.Array:
    """Centre x, centre y, width, height to corners. [..., 4] to [..., 4] float32."""
    centres, half = _halves(boxes)
    half = half / 2
    return jnp.concatenate([centres - half, centres + half], axis=-1)


def to_centres(boxes: jax.Array) -> jax.Array:
    """Corners to centre x, centre y, width, height. [..., 4] to [..., 4] float32."""
    low, high = _halves(boxes)
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def from_coco(boxes: jax.Array) -> jax.Array:
    """COCO's x, y, width, height to corners. [..., 4] to [..., 4] float32."""
    low, sides = _halves(boxes)
    return jnp.concatenate([low, low + sides], axis=-1)


def to_coco(boxes: jax.Array) -> jax.Array:
    """Corners to COCO's x, y, width, height. [..., 4] to [..., 4] float32."""
    low, high = _halves(boxes)
    return jnp.concatenate([low, high - low], axis=-1)


def area(boxes: jax.Array) -> jax.Array:
    """Area in square pixels. [..., 4] to [...] float32; 0 for boxes whose corners are the wrong way round."""
    low, high = _halves(boxes)
    return _product(high - low)


def iou(first: jax.Array, second: jax.Array) -> jax.Array:
    """Intersection over union of boxes in pairs. [..., 4] twice to [...] float32 in [0, 1]."""
    common, union, _ = _overlaps(first, second)
    return _ratio(common, union)


def giou(first: jax.Array, second: jax.Array) -> jax.Array:
    """Generalised intersection over union in pairs (Rezatofighi et al. 2019, arXiv 1902.09630).

    IoU less the share of the smallest box around both that neither covers; it has a gradient where boxes lie apart.

    Args:
        first: [..., 4].
        second: [..., 4].

    Returns:
        [...] float32 in [-1, 1].
    """
    common, union, hull = _overlaps(first, second)
    return _ratio(common, union) - _ratio(hull - union, hull)


def pairwise_iou(first: jax.Array, second: jax.Array) -> jax.Array:
    """Intersection over union of all with all. [N, 4] and [M, 4] to [N, M] float32 in [0, 1]."""
    return iou(first[:, None], second[None])


def pairwise_giou(first: jax.Array, second: jax.Array) -> jax.Array:
    """Generalised intersection over union of all with all. [N, 4] and [M, 4] to [N, M] float32 in [-1, 1]."""
    return giou(first[:, None], second[None])


def coverage(boxes: jax.Array, region: jax.Array) -> jax.Array:
    """The share of each box's own area that lies in the region. [..., 4] twice to [...] float32 in [0, 1]."""
    common, _, _ = _overlaps(boxes, region)
    return _ratio(common, area(boxes))


def giou_loss(predicted: jax.Array, targets: jax.Array, valid: jax.Array) -> jax.Array:
    """1 - GIoU of each predicted box with its target.

    Args:
        predicted: [..., 4].
        targets: [..., 4].
        valid: [...] bool. Other pairs may hold anything, NaN included: their loss and their gradient are 0.

    Returns:
        [...] float32 in [0, 2], not yet summed: what it is divided by differs from head to head.
    """
    predicted, targets = (jnp.where(valid[..., None], x, 0) for x in (predicted, targets))
    return jnp.where(valid, 1 - giou(predicted, targets), 0)


def clip(boxes: jax.Array, height: ArrayLike, width: ArrayLike) -> jax.Array:
    """Cuts boxes at the border of their image. [..., 4] to [..., 4] float32; `height` and `width` may be traced."""
    most = jnp.stack([width, height, width, height], dtype=jnp.float32)
    return jnp.clip(boxes.astype(jnp.float32), 0, _aligned(most, boxes))


def scale(boxes: jax.Array, y: ArrayLike, x: ArrayLike) -> jax.Array:
    """Boxes of an image that was resized by the factors y and x. [..., 4] to [..., 4] float32."""
    factors = jnp.stack([x, y, x, y], dtype=jnp.float32)
    return boxes.astype(jnp.float32) * _aligned(factors, boxes)


def flip(boxes: jax.Array, width: ArrayLike) -> jax.Array:
    """Boxes of an image of this width that was mirrored left to right. [..., 4] to [..., 4] float32."""
    x1, y1, x2, y2 = jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)
    return jnp.stack([width - x2, y1, width - x1, y2], axis=-1)


def _halves(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    boxes = jnp.asarray(boxes, jnp.float32)
    return boxes[..., :2], boxes[..., 2:]


def _product(sides: jax.Array) -> jax.Array:
    sides = jnp.maximum(sides, 0)
    return sides[..., 0] * sides[..., 1]


def _overlaps(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Areas of the intersection, of the union, and of the smallest box around both."""
    (low1, high1), (low2, high2) = _halves(first), _halves(second)
    common = _product(jnp.minimum(high1, high2) - jnp.maximum(low1, low2))
    hull = _product(jnp.maximum(high1, high2) - jnp.minimum(low1, low2))
    return common, area(first) + area(second) - common, hull


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """part / whole, and 0 where there is no whole, with a finite gradient in either case."""
    some = whole > 0
    return jnp.where(some, part / jnp.where(some, whole, 1), 0)


def _aligned(values: jax.Array, boxes: jax.Array) -> jax.Array:
    """[4] with as many leading axes as the boxes have."""
    return values.reshape((1,) * (boxes.ndim - 1) + (4,))
