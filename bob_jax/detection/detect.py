"""From the last stage's scores to what is found: threshold, non-maximum suppression within classes, the best of all."""

import jax
import jax.numpy as jnp

from bob_jax.detection import boxes as box_arithmetic
from bob_jax.detection.nms import nms
from bob_jax.detection.objects import Boxes, Found

CANDIDATES = 2048  # best pairs of box and class that are compared with each other
SMALLEST = 1e-2  # pixels, of a found box's side


def find(
    proposals: Boxes,
    logits: jax.Array,
    boxes: jax.Array,
    extent: jax.Array,
    *,
    threshold: float,
    overlap: float,
    size: int,
    candidates: int = CANDIDATES,
) -> Found:
    """What is found in one image, masks not yet among it.

    Only the best `candidates` pairs of box and class are compared. As a box's fate depends on better ones alone, the
    result is that of comparing all, unless fewer than `size` are left: then `uncertain` says so.

    Args:
        proposals: P boxes, of which only validity is read.
        logits: [P, C + 1], the mean over the stages; background last.
        boxes: [P, C or 1, 4] of the last stage, in pixels.
        extent: [2], height and width of the image without padding; boxes are clipped to it.
        threshold: least probability.
        overlap: greatest IoU of two boxes of a class.
        size: slots of the result.
        candidates: pairs that are compared.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)[:, :-1]  # [P, C]
    count, classes = probabilities.shape
    clipped = box_arithmetic.clip(boxes, extent[0], extent[1])
    there = jnp.all(clipped[..., 2:] - clipped[..., :2] >= SMALLEST, axis=-1) & proposals.valid[:, None]
    possible = jnp.where(there & (probabilities > threshold), probabilities, -1).reshape(-1)
    scores, index = jax.lax.top_k(possible, min(candidates, count * classes))
    row, label = index // classes, (index % classes).astype(jnp.int32)
    chosen = clipped[row, jnp.minimum(label, boxes.shape[1] - 1)]
    kept = nms(chosen, scores, scores >= 0, threshold=overlap, size=size, classes=label)
    empty = jnp.zeros((size, 0, 0), jnp.float32)
    return Found(
        boxes=jnp.where(kept.valid[:, None], chosen[kept.indices], 0),
        classes=jnp.where(kept.valid, label[kept.indices], 0),
        scores=jnp.where(kept.valid, scores[kept.indices], 0),
        valid=kept.valid,
        masks=empty,
        uncertain=(jnp.sum(possible >= 0) > len(scores)) & ~jnp.all(kept.valid),
    )
