"""Masks in the frame of a box: targets of a mask head, and its predictions back in the image.

A ground-truth mask is kept as a small grid over its own box (112 x 112), so that a hundred of them are 1.25 MB an
image, not 100 MB. What lies outside the box is background.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bob_jax.detection.roi_align import interpolation_matrix

SIZE = 28  # side of a mask head's output


def mask_targets(
    rois: jax.Array, boxes: jax.Array, masks: jax.Array, match: jax.Array, *, size: int = SIZE
) -> jax.Array:
    """What the mask head should say of each RoI: its object's mask, sampled at the centres of size x size bins.

    Bilinear in the object's grid, with the border's value up to the edge of the box, 0 outside it, and a threshold of
    0.5 (He et al. 2017, arXiv 1703.06870).

    Args:
        rois: [T, 4] as x1, y1, x2, y2 in pixels.
        boxes: [G, 4] of the objects, padded.
        masks: [G, M, M] 0 or 1, any dtype; row i, column j is the point ((j + 0.5) / M, (i + 0.5) / M) of the box.
        match: [T] int, the object of each RoI; of RoIs without one, any number.
        size: bins along each side.

    Returns:
        [T, size, size] float32, 0 or 1. All 0 for objects of no area, as padded ones are.
    """
    match = jnp.clip(match, 0, len(boxes) - 1)
    side = masks.shape[-1]
    rois, own = rois.astype(jnp.float32), boxes.astype(jnp.float32)[match]
    extent = own[:, 2:] - own[:, :2]
    steps = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size
    points = rois[:, :2, None] + steps[None, None] * (rois[:, 2:] - rois[:, :2])[..., None]  # [T, 2, size] in pixels
    inside = (points >= own[:, :2, None]) & (points <= own[:, 2:, None]) & (extent[..., None] > 0)
    cells = (points - own[:, :2, None]) / jnp.where(extent > 0, extent, 1)[..., None] * side - 0.5
    weights = jnp.where(inside[..., None], interpolation_matrix(cells, side), 0)  # [T, 2, size, M]
    chosen = masks[match].astype(jnp.float32)
    exact = jax.lax.Precision.HIGHEST
    rows = jnp.einsum("tym,tmn->tyn", weights[:, 1], chosen, precision=exact)
    values = jnp.einsum("tyn,txn->tyx", rows, weights[:, 0], precision=exact)
    return (values >= 0.5).astype(jnp.float32)


def paste(probabilities: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
    """A predicted mask in its image: bilinear at the pixels' centres, 0 outside the grid, as mmdetection pastes it.

    In NumPy, because images differ in size and the masks of a validation set are pasted in parallel on the host. Only
    the pixels of the box are computed.

    Args:
        probabilities: [m, m] in [0, 1].
        box: [4] as x1, y1, x2, y2 in pixels of the image.
        height: of the image.
        width: of the image.
        threshold: from which probability a pixel belongs to the object.

    Returns:
        [height, width] bool.
    """
    image = np.zeros((height, width), bool)
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    if not (x2 > x1 and y2 > y1):
        return image
    rows, row_weights = _pixels(y1, y2, height, probabilities.shape[0])
    columns, column_weights = _pixels(x1, x2, width, probabilities.shape[1])
    image[rows, columns] = row_weights @ probabilities.astype(np.float64) @ column_weights.T >= threshold
    return image


def _pixels(start: float, end: float, side: int, cells: int) -> tuple[slice, np.ndarray]:
    """The pixels along one axis of an image that a mask reaches, and the weights of its cells [pixels, cells]."""
    reach = (end - start) / cells / 2  # half a cell outside the box the interpolation ends
    first, last = (int(np.clip(edge, 0, side)) for edge in (np.floor(start - reach), np.ceil(end + reach)))
    points = (np.arange(first, last) + 0.5 - start) / (end - start) * cells - 0.5
    return slice(first, last), np.maximum(1 - np.abs(points[:, None] - np.arange(cells)[None]), 0)
