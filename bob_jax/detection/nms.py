"""Non-maximum suppression: of boxes that overlap too much, the one with the highest score stays.

The greedy rule goes through the boxes one by one, best first, and keeps each that overlaps no kept one. Here the boxes
are taken in blocks. What earlier blocks kept has struck out its overlaps already; within a block

    keep[j] = alive[j] and no i < j with keep[i] overlaps j

is repeated until nothing changes. After r rounds the first r boxes have their final value, whatever the others had, so
there is one fixed point, the greedy result, and the repetition finds it for every threshold, usually in 2 to 9 rounds.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bob_jax.detection.boxes import pairwise_iou

BLOCK = 512


class Kept(NamedTuple):
    """What is left, best score first.

    Attributes:
        indices: [size] int32 into the boxes given; 0 in slots that are not valid.
        valid: [size] bool.
        overflow: [] int32, boxes that were not suppressed and yet have no slot.
    """

    indices: jax.Array
    valid: jax.Array
    overflow: jax.Array


def nms(
    boxes: jax.Array,
    scores: jax.Array,
    valid: jax.Array,
    *,
    threshold: float,
    size: int,
    classes: jax.Array | None = None,
    block: int = BLOCK,
) -> Kept:
    """Greedy non-maximum suppression with a result of fixed size.

    Equal scores go by index. A box falls if its IoU with a kept one is above the threshold, both in float32; boxes
    without area overlap nothing.

    Args:
        boxes: [N, 4] in pixels.
        scores: [N].
        valid: [N] bool; other boxes may hold anything, NaN included: they neither stay nor suppress.
        threshold: greatest IoU at which both stay.
        size: slots of the result.
        classes: [N] int: boxes of different class do not suppress each other. Classes are compared as such: moving
            each class to its own place, as others do, costs the coordinates their last bits.
        block: boxes that are decided at once. Memory is block x N. Smaller blocks take longer to compile, larger ones
            longer for a chain of boxes that each overlap the next: up to `block` rounds.
    """
    block = max(min(block, len(boxes)), 1)
    missing = max(math.ceil(len(boxes) / block), 1) * block - len(boxes)  # slots of the last block without a box
    if classes is None:
        classes = jnp.zeros(len(boxes), jnp.int32)
    boxes, scores, valid, classes = (
        jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in (boxes, scores, valid, classes)
    )
    order = jnp.lexsort((-scores, ~valid))
    boxes, valid, classes = boxes[order], valid[order], classes[order]
    boxes = jnp.where(valid[:, None], jax.lax.stop_gradient(boxes.astype(jnp.float32)), 0)
    keep = _kept(boxes, valid, classes, threshold, block)

    (places,) = jnp.nonzero(keep, size=size, fill_value=0)
    count = jnp.sum(keep, dtype=jnp.int32)
    is_used = jnp.arange(size, dtype=jnp.int32) < count
    indices = jnp.where(is_used, order[places], 0)
    return Kept(indices.astype(jnp.int32), is_used, jnp.maximum(count - size, 0))


def _kept(boxes: jax.Array, valid: jax.Array, classes: jax.Array, threshold: float, block: int) -> jax.Array:
    """Which of the boxes stay, [N] bool; sorted, N a multiple of the block."""
    kept, alive = [], valid  # `alive` holds the boxes from this block on
    above = jnp.triu(jnp.ones((block, block), bool), 1)
    for start in range(0, len(boxes), block):  # unrolled, so that a block is compared with none before it
        rest = slice(start, None)
        own = slice(start, start + block)
        strikes = pairwise_iou(boxes[own], boxes[rest]) > threshold  # [block, N - start]
        strikes &= classes[own][:, None] == classes[rest][None]
        kept.append(_fixed_point(strikes[:, :block] & above, alive[:block]))
        alive = alive[block:] & ~jnp.any(strikes[:, block:] & kept[-1][:, None], axis=0)
    return jnp.concatenate(kept)


def _fixed_point(strikes: jax.Array, alive: jax.Array) -> jax.Array:
    """Which boxes of a block stay. `strikes` [T, T] is true only above the diagonal, `alive` [T]."""

    def again(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        keep, _ = state
        after = alive & ~jnp.any(strikes & keep[:, None], axis=0)
        return after, jnp.any(after != keep)

    return jax.lax.while_loop(lambda state: state[1], again, (alive, jnp.any(alive)))[0]
