"""RoIAlign over a feature pyramid (He et al. 2017, arXiv 1703.06870; levels as in Lin et al. 2017, arXiv 1612.03144).

One function with two back-ends that compute the same. "gather" reads the four neighbours of every sample, which a GPU
or CPU does well. On a TPU gathers are slow, and slower still backwards, where they scatter; bilinear interpolation is
separable, so "matmul" writes it as a product with one matrix per axis. That touches a whole map for each box, so every
level serves a fixed number of boxes: its capacity. Boxes that their own level has no room for go to another level, and
are counted.
"""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from bob_jax.errors import BobError, unknown_name

CANONICAL_CELLS = 14  # a level serves boxes from 14 to 28 of its cells wide: 56 to 112 pixels at stride 4
CHUNK = 64  # boxes whose half-interpolated maps are in memory at once in the "matmul" back-end
BACKENDS = ("gather", "matmul")
SMALL = 2048  # cells of a finest map up to which products are faster than gathers on a CPU too (2.5 times at 1,024)


def assign_levels(boxes: jax.Array, strides: Sequence[float]) -> jax.Array:
    """The pyramid level that serves each box: floor(log2(sqrt(width * height) / 56)) for strides from 4.

    Written as comparisons of areas, so that no rounding of a logarithm decides: a box of 112 x 112 pixels is in the
    second level, one that is a hair smaller in the first. Smaller and larger boxes go to the first and last level.

    Args:
        boxes: [T, 4] as x1, y1, x2, y2 in pixels.
        strides: of the levels, finest first.

    Returns:
        [T] int32 in [0, len(strides)).
    """
    sides = jnp.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    area = sides[:, 0] * sides[:, 1]
    starts = jnp.array([(CANONICAL_CELLS * stride) ** 2 for stride in strides[1:]], jnp.float32)
    return jnp.sum(area[:, None] >= starts[None], axis=1, dtype=jnp.int32)


def place(levels: jax.Array, valid: jax.Array, capacities: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Finds room for every box where each level serves only so many.

    In the order of their slots, boxes that find their level full go to the next coarser one that has room, and those
    that find none up there to the next finer one. As all levels together have room for all boxes, none is lost.

    Args:
        levels: [T] int32, the level that each box should have.
        valid: [T] bool; other boxes need no room.
        capacities: boxes that each level serves, T at least together.

    Returns:
        [T] int32, the level that each box has, len(capacities) for invalid ones; and [] int32, how many were moved.
    """
    count = len(capacities)
    placed = jnp.full_like(levels, count)
    free = []
    waiting = jnp.zeros_like(valid)
    for level, capacity in enumerate(capacities):  # up: own boxes, and those that the finer levels had no room for
        wanted = waiting | (valid & (levels == level))
        served = wanted & (jnp.cumsum(wanted) <= capacity)
        placed = jnp.where(served, level, placed)
        waiting = wanted & ~served
        free.append(capacity - jnp.sum(served))
    for level in reversed(range(count)):  # down: what the coarsest had no room for
        served = waiting & (jnp.cumsum(waiting) <= free[level])
        placed = jnp.where(served, level, placed)
        waiting &= ~served
    return placed, jnp.sum(valid & (placed != levels), dtype=jnp.int32)


def roi_align(
    maps: Sequence[jax.Array],
    strides: Sequence[float],
    boxes: jax.Array,
    valid: jax.Array,
    *,
    size: int,
    samples: int | None = 2,
    aligned: bool = True,
    backend: Literal["gather", "matmul"] | None = None,
    capacities: Sequence[int] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Features of boxes, each from the level of the pyramid that fits its size.

    A box is cut into size x size bins, and a bin is the mean over samples x samples bilinear interpolations. Samples
    outside the map have the value of its border, as in torchvision's Python definition
    `torchvision.ops.roi_align._roi_align`; its compiled kernel gives 0 more than a cell outside, which a box that is
    clipped to the image reaches only at the border, narrower than a cell and not `aligned`. No gradient flows into the
    boxes.

    Args:
        maps: [H, W, C] of one image for each level, finest first.
        strides: of the levels in pixels.
        boxes: [T, 4] float as x1, y1, x2, y2 in pixels of the image.
        valid: [T] bool; the features of other boxes are 0.
        size: bins along each side.
        samples: per bin and side; None is adaptive: as many as a bin has cells, rounded up, as detectors of mmdetection
            were trained. Adaptive sampling always runs as "matmul", and is slow.
        aligned: a pixel's centre lies half a pixel inside it. False is the first RoIAlign's arithmetic, off by half a
            cell, with boxes of a cell at least: torchvision's public detectors were trained with it.
        backend: None is "matmul" on a TPU, and on a CPU where maps are small; else "gather".
        capacities: boxes that each level serves in the "matmul" back-end; None is half of all boxes for each level,
            and, for adaptive sampling or on small maps, all of them.

    Returns:
        [T, size, size, C] in the maps' dtype, and [] int32: how many valid boxes were served by another level than
        their own for lack of capacity (always 0 with "gather").

    Raises:
        BobError: an unknown back-end; levels, strides and capacities of different number; not room for every box.
    """
    boxes = jax.lax.stop_gradient(jnp.where(valid[:, None], boxes.astype(jnp.float32), 0))
    small = maps[0].shape[0] * maps[0].shape[1] <= SMALL
    if backend is None:
        backend = "matmul" if jax.default_backend() == "tpu" or (jax.default_backend() == "cpu" and small) else "gather"
    if backend not in BACKENDS:
        raise unknown_name("RoIAlign back-end", backend, BACKENDS)
    capacities = _capacities(capacities, len(boxes), len(maps), for_all=samples is None or small)
    if not len(maps) == len(strides) == len(capacities):
        raise BobError(f"RoIAlign: {len(maps)} maps, {len(strides)} strides and {len(capacities)} capacities: one each")
    levels = assign_levels(boxes, strides)
    if backend == "gather" and samples is not None:
        features = _gathered(maps, strides, boxes, levels, size, samples, aligned)
        return jnp.where(valid[:, None, None, None], features, 0), jnp.zeros((), jnp.int32)
    if all(capacity >= len(boxes) for capacity in capacities):
        levels = jnp.where(valid, levels, len(maps))
        return _summed(maps, strides, boxes, levels, size, samples, aligned), jnp.zeros((), jnp.int32)
    levels, moved = place(levels, valid, capacities)
    return _multiplied(maps, strides, boxes, levels, capacities, size, samples, aligned), moved


def interpolation_matrix(points: jax.Array, cells: int) -> jax.Array:
    """Weights of linear interpolation between the centres of cells, with the border's value outside.

    Args:
        points: [...] positions, 0 at the centre of the first cell, cells - 1 at that of the last.
        cells: number of cells, H.

    Returns:
        [..., H]; each row sums to 1.
    """
    centres = jnp.arange(cells, dtype=jnp.float32).reshape((1,) * points.ndim + (-1,))
    return jax.nn.relu(1 - jnp.abs(jnp.clip(points, 0, cells - 1)[..., None] - centres))


def _capacities(given: Sequence[int] | None, boxes: int, levels: int, *, for_all: bool) -> Sequence[int]:
    if given is None:
        share = 1 if for_all else min(2, levels)
        return (math.ceil(boxes / share),) * levels
    if sum(given) < boxes:
        raise BobError(f"RoIAlign: capacities {tuple(given)} have room for {sum(given)} of {boxes} boxes: raise them")
    return given


def _bins(boxes: jax.Array, strides: jax.Array, size: int, aligned: bool) -> tuple[jax.Array, jax.Array]:
    """Where boxes start and how wide a bin is, in cells of their level: [T, 2] each, x before y; `strides` [T]."""
    corners = boxes / strides[:, None] - (0.5 if aligned else 0.0)
    sides = corners[:, 2:] - corners[:, :2]
    return corners[:, :2], (sides if aligned else jnp.maximum(sides, 1)) / size


def _gathered(
    maps: Sequence[jax.Array],
    strides: Sequence[float],
    boxes: jax.Array,
    levels: jax.Array,
    size: int,
    samples: int,
    aligned: bool,
) -> jax.Array:
    """The "gather" back-end: all levels in one long list of cells, an offset for each box. [T, size, size, C]."""
    cells = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])
    shapes = jnp.array([x.shape[1::-1] for x in maps], jnp.int32)[levels]  # [T, 2], width before height
    areas = [x.shape[0] * x.shape[1] for x in maps]
    first = jnp.array([sum(areas[:level]) for level in range(len(maps))], jnp.int32)[levels]

    start, width = _bins(boxes, jnp.array(strides, jnp.float32)[levels], size, aligned)
    bins, inner = jnp.arange(size, dtype=jnp.float32), jnp.arange(samples) + 0.5
    step = (width / samples)[..., None, None] * inner[None, None, None]
    points = (start[..., None] + width[..., None] * bins[None, None])[..., None] + step
    points = points.reshape(len(boxes), 2, -1)  # [T, 2, size * samples]
    last = shapes[..., None] - 1
    points = jnp.clip(points, 0, last.astype(jnp.float32))
    low = jnp.floor(points).astype(jnp.int32)
    high_weight = points - low
    # Each axis as [T, size, samples * 2]: for every bin, the two neighbours of each of its samples.
    index = jnp.stack([low, jnp.minimum(low + 1, last)], axis=-1).reshape(len(boxes), 2, size, samples * 2)
    weight = jnp.stack([1 - high_weight, high_weight], axis=-1).reshape(index.shape) / samples

    columns, rows = index[:, 0, None, :, None, :], index[:, 1, :, None, :, None]
    where = first[:, None, None, None, None] + rows * shapes[:, 0, None, None, None, None] + columns
    weights = weight[:, 1, :, None, :, None] * weight[:, 0, None, :, None, :]
    values = jnp.take(cells, where, axis=0)  # [T, size, size, samples * 2, samples * 2, C]
    return jnp.sum(weights[..., None] * values, axis=(3, 4), dtype=jnp.float32).astype(cells.dtype)


def _summed(
    maps: Sequence[jax.Array],
    strides: Sequence[float],
    boxes: jax.Array,
    levels: jax.Array,
    size: int,
    samples: int | None,
    aligned: bool,
) -> jax.Array:
    """The "matmul" back-end where each level has room for all boxes: weights of the other levels' boxes are 0.

    On small maps that costs less than sorting boxes by level and back, whose gradient is a scatter: in all 3 times less
    on a CPU, forward and backward, for 8 images of 32 x 32 cells and 48 boxes each.
    """
    result = jnp.zeros((len(boxes), size, size, maps[0].shape[-1]), maps[0].dtype)
    for level, (x, stride) in enumerate(zip(maps, strides, strict=True)):
        columns, rows = _weights(boxes, x, stride, size, samples, aligned)
        result += _contracted(x, rows * (levels == level)[:, None, None], columns)
    return result


def _multiplied(
    maps: Sequence[jax.Array],
    strides: Sequence[float],
    boxes: jax.Array,
    levels: jax.Array,
    capacities: Sequence[int],
    size: int,
    samples: int | None,
    aligned: bool,
) -> jax.Array:
    """The "matmul" back-end. `levels` [T] as `place` returns them; [T, size, size, C]."""
    total = len(boxes)
    results, where = [], jnp.full(total, sum(capacities), jnp.int32)
    for level, (x, stride, capacity) in enumerate(zip(maps, strides, capacities, strict=True)):
        here = levels == level
        where = jnp.where(here, sum(capacities[:level]) + jnp.cumsum(here, dtype=jnp.int32) - 1, where)
        (slots,) = jnp.nonzero(here, size=capacity, fill_value=total)
        chosen = jnp.take(boxes, slots, axis=0, mode="fill", fill_value=0)
        columns, rows = _weights(chosen, x, stride, size, samples, aligned)
        results.append(_contracted(x, rows, columns))
    return jnp.take(jnp.concatenate(results), where, axis=0, mode="fill", fill_value=0)


def _weights(
    boxes: jax.Array, x: jax.Array, stride: float, size: int, samples: int | None, aligned: bool
) -> tuple[jax.Array, jax.Array]:
    """Weights of the columns [T, size, W] and rows [T, size, H] of a map for boxes [T, 4] in pixels."""
    start, width = _bins(boxes, jnp.full(len(boxes), stride, jnp.float32), size, aligned)
    columns, rows = (_axis_weights(start[:, i], width[:, i], size, samples, x.shape[1 - i]) for i in (0, 1))
    return columns, rows


def _axis_weights(start: jax.Array, width: jax.Array, size: int, samples: int | None, cells: int) -> jax.Array:
    """The mean of a bin's samples along one axis as weights of the map's cells: [T, size, cells] float32.

    Args:
        start: [T] where the boxes start, in cells.
        width: [T] of a bin, in cells.
        size: bins of a box.
        samples: of each bin, or None for adaptive ones.
        cells: H, of the map along this axis.
    """
    adaptive = samples is None
    # A box is not wider than the image, nor is a bin of it wider than the map over the bins, up to a rounded side.
    most = math.ceil((cells + 1) / size) if samples is None else samples
    number = jnp.ceil(width) if adaptive else jnp.full_like(width, most)
    number = jnp.clip(number, 1, most)
    bins = jnp.arange(size, dtype=jnp.float32)[None]

    def add(i: jax.Array, weights: jax.Array) -> jax.Array:
        points = start[:, None] + bins * width[:, None] + ((i + 0.5) * (width / number))[:, None]
        return weights + jnp.where((i < number)[:, None, None], interpolation_matrix(points, cells), 0)

    weights = jax.lax.fori_loop(0, most, add, jnp.zeros((len(start), size, cells)))
    return weights / number[:, None, None]


def _contracted(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Both products, a chunk of boxes after the other. [H, W, C], [T, size, H] and [T, size, W] to [T, size, size, C].

    Float32 maps are multiplied in float32 on every platform; bfloat16 ones take bfloat16 weights.
    """
    total = len(rows)
    rows, columns = rows.astype(x.dtype), columns.astype(x.dtype)
    if total <= CHUNK:
        return _both_products(x, rows, columns)
    chunks = math.ceil(total / CHUNK)
    padding = ((0, chunks * CHUNK - total), (0, 0), (0, 0))
    split = [jnp.pad(w, padding).reshape(chunks, CHUNK, *w.shape[1:]) for w in (rows, columns)]
    results = jax.lax.map(lambda weights: _both_products(x, *weights), (split[0], split[1]))
    return results.reshape(chunks * CHUNK, *results.shape[2:])[:total]


@jax.custom_vjp
def _both_products(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """[H, W, C], [T, size, H] and [T, size, W] to [T, size, size, C]; the weights have no gradient.

    One product with all rows of all boxes, then one for each row: a box at a time is twice as slow on a CPU. The
    gradient is written out because the derived one makes both products the wrong way round and turns them over, which
    takes twice as long as all the rest on a CPU.
    """
    boxes, size, height = rows.shape
    half = _times(rows.reshape(boxes * size, height), x.reshape(height, -1)).reshape(boxes * size, *x.shape[1:])
    return _times(jnp.repeat(columns, size, axis=0), half).reshape(boxes, size, size, -1)


def _both_products_forward(
    x: jax.Array, rows: jax.Array, columns: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _both_products(x, rows, columns), (rows, columns)


def _both_products_backward(
    weights: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    rows, columns = weights
    boxes, size, height = rows.shape
    back = jnp.repeat(jnp.swapaxes(columns, 1, 2), size, axis=0)
    half = _times(back, gradient.reshape(boxes * size, size, -1))
    whole = _times(rows.reshape(boxes * size, height).T, half.reshape(boxes * size, -1))
    return whole.reshape(height, *half.shape[1:]), jnp.zeros_like(rows), jnp.zeros_like(columns)


_both_products.defvjp(_both_products_forward, _both_products_backward)


def _times(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
