"""The Square attack: random search without gradients (Andriushchenko et al. 2020, arXiv 1912.00049).

A classifier whose gradient is useless (saturated, quantised, broken by its own arithmetic) resists every attack that
follows it, and is not robust for that. This one only asks for class scores: it proposes to change a random square and
keeps what lowers the margin between the right class and the best other one. The squares shrink on the published
schedule, stretched to the number of queries as in the authors' code.

In L-infinity (algorithm 2) a square of +-radius per channel replaces what was there, from a start of vertical stripes.
In L2 (algorithm 3) the length of the perturbation moves: that of a second square, and what is left of the radius, go
into the first, on top of a pattern with two bumps of opposite sign.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bob_jax.protocols.attacks import TINY, Ball, Found, Logits

Array = jax.Array | np.ndarray

AREA = 0.8  # of the image that the first squares cover
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries, of 10 000, after which the area is halved
SMALLEST = 3  # side of a square in L2: its pattern has a centre
TILES = 5  # patterns that the start has along a side, in L2


def square(logits: Logits, ball: Ball, labels: jax.Array, keys: jax.Array, *, queries: int) -> Found:
    """Random search from one start.

    Args:
        logits: the classifier, of two classes or more.
        ball: around the clean images; in L2 at least 5 pixels wide and high.
        labels: [B] int, the right classes.
        keys: [B] randomness.
        queries: proposals, each of which the classifier sees; the start is one more.
    """
    _, height, width, _ = ball.pixels.shape
    sides = {norm: jnp.asarray(_sides(queries, height, width, norm)) for norm in ("linf", "l2")}
    radius = jnp.asarray(ball.radius)
    replace, shift = (jax.vmap(propose, (0, 0, 0, None, None)) for propose in (_replace, _shift))

    def body(i: jax.Array, now: tuple[Found, jax.Array]) -> tuple[Found, jax.Array]:
        found, margin = now
        fresh = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        pixels = ball.by_norm(
            lambda: replace(fresh, found.pixels, ball.pixels, radius, sides["linf"][i]),
            lambda: shift(fresh, found.pixels, ball.pixels, radius, sides["l2"][i]),
        )
        new_margin, fooled = _margin(logits(pixels), labels)
        better = ~found.fooled & (fooled | (new_margin < margin))
        kept = jnp.where(better[:, None, None, None], pixels, found.pixels)
        return Found(kept, found.fooled | fooled), jnp.where(better, new_margin, margin)

    pixels = ball.by_norm(*(jax.vmap(start, (0, 0, None)) for start in (_stripes, _tiles)), keys, ball.pixels, radius)
    margin, fooled = _margin(logits(pixels), labels)
    return jax.lax.fori_loop(1, queries + 1, body, (Found(pixels, fooled), margin))[0]


def _margin(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The right class's logit beyond the best other one [B], and whether the right one is missed [B]."""
    right = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    margin = jnp.where(right, logits, -jnp.inf).max(-1) - jnp.where(right, -jnp.inf, logits).max(-1)
    return margin, logits.argmax(axis=-1) != labels


def _sides(queries: int, height: int, width: int, norm: str) -> np.ndarray:
    """[queries + 1] int: side of the square of each query, in pixels."""
    query = np.arange(queries + 1) - 1
    halvings = np.searchsorted(HALVINGS, query * 10_000 // max(queries, 1), side="left")
    sides = np.rint(np.sqrt(AREA / 2.0**halvings * height * width)).astype(int)
    if norm == "l2":
        sides = np.maximum(sides, SMALLEST)
        sides += sides % 2 == 0
    return np.clip(sides, 1, min(height, width))


def _stripes(key: jax.Array, clean: jax.Array, radius: jax.Array) -> jax.Array:
    """[H, W, 3]: columns of +-radius."""
    _, width, channels = clean.shape
    return jnp.clip(clean + radius * jax.random.rademacher(key, (1, width, channels), clean.dtype), 0, 1)


def _replace(key: jax.Array, best: jax.Array, clean: jax.Array, radius: jax.Array, side: jax.Array) -> jax.Array:
    """[H, W, 3]: +-radius in a random square."""
    where, sign = jax.random.split(key)
    signs = jax.random.rademacher(sign, (1, 1, clean.shape[-1]), clean.dtype)
    changed = jnp.clip(clean + radius * signs, 0, 1)
    return jnp.where(_inside(*_window(where, clean, side), side), changed, best)


def _tiles(key: jax.Array, clean: jax.Array, radius: jax.Array) -> jax.Array:
    """[H, W, 3]: patterns side by side, of length radius together."""
    height, width, channels = clean.shape
    side = height // TILES
    first = (height - side * TILES) // 2
    down, across = height // side, width // side
    sign, turn = jax.random.split(key)
    signs = jax.random.rademacher(sign, (down, across, channels), clean.dtype)
    turned = jax.random.bernoulli(turn, shape=(down, across))
    row, column = (np.arange(size) - first for size in (height, width))
    # Beyond the last whole tile the position in the tile is out of range, and the pattern zero.
    tile = [np.clip(place // side, 0, count - 1) for place, count in ((row, down), (column, across))]
    place = row - tile[0] * side, column - tile[1] * side
    upright, lying = _pattern(*place, side), _pattern(*place[::-1], side).T
    which = np.ix_(*tile)
    delta = jnp.where(turned[which], lying, upright)[..., None] * signs[which]
    return jnp.clip(clean + radius * delta / (_length(delta) + TINY), 0, 1)


def _shift(key: jax.Array, best: jax.Array, clean: jax.Array, radius: jax.Array, side: jax.Array) -> jax.Array:
    """[H, W, 3]: the perturbation of one random square moved into another."""
    into_key, from_key, sign, turn = jax.random.split(key, 4)
    row, column = _window(into_key, clean, side)
    into, out_of = _inside(row, column, side), _inside(*_window(from_key, clean, side), side)
    upright, lying = _pattern(row, column, side), _pattern(column, row, side).T
    signs = jax.random.rademacher(sign, (1, 1, clean.shape[-1]), clean.dtype)
    delta = best - clean
    unused = jnp.maximum(radius**2 - _length(delta) ** 2, 0) / clean.shape[-1]
    moved = jnp.sqrt(unused + _length(jnp.where(into | out_of, delta, 0), (0, 1)) ** 2)  # per channel
    there = jnp.where(into, delta, 0)
    new = jnp.where(jax.random.bernoulli(turn), lying, upright)[..., None] * signs
    new = new + there / (_length(there, (0, 1)) + TINY)
    new = new / (_length(new, (0, 1)) + TINY) * moved
    delta = jnp.where(into, new, jnp.where(out_of, 0, delta))
    return jnp.clip(clean + radius * delta / (_length(delta) + TINY), 0, 1)


def _pattern(row: Array, column: Array, side: Array | int) -> jax.Array:
    """[H, W] of length 1: two bumps, one above the other, of opposite sign; zero outside of the square.

    Args:
        row: [H] int, counted from the square's upper edge.
        column: [W] int, from its left edge.
        side: of the square in pixels.
    """
    upper = _bump(row, column, side // 2, side)
    both = upper - _bump(row - side // 2, column, side - side // 2, side)
    return both / (_length(both) + TINY)


def _bump(row: Array, column: Array, height: Array | int, width: Array | int) -> jax.Array:
    """[H, W] of length 1: a rectangle whose values fall from its centre: 1 + 1/4 + 1/9 + ... over the rings outside."""
    largest = jnp.maximum(height, width) // 2 + 1  # rings
    ring = jnp.maximum(jnp.abs(row - height // 2)[:, None], jnp.abs(column - width // 2)[None])
    sums = jnp.concatenate([jnp.zeros(1), jnp.cumsum(1 / jnp.arange(1.0, 2 + len(row) + len(column)) ** 2)])
    values = sums[largest] - sums[jnp.minimum(ring, largest)]
    inside = ((row >= 0) & (row < height))[:, None] & ((column >= 0) & (column < width))[None]
    values = jnp.where(inside, values, 0)
    return values / (_length(values) + TINY)


def _window(key: jax.Array, clean: jax.Array, side: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows [H] and columns [W] counted from the corner of a random square that lies within the image."""
    height, width = clean.shape[:2]
    top, left = jnp.floor(jax.random.uniform(key, (2,)) * (jnp.array([height, width]) - side + 1)).astype(int)
    return jnp.arange(height) - top, jnp.arange(width) - left


def _inside(row: jax.Array, column: jax.Array, side: jax.Array) -> jax.Array:
    """[H, W, 1] bool."""
    return ((row >= 0) & (row < side))[:, None, None] & ((column >= 0) & (column < side))[None, :, None]


def _length(values: jax.Array, axis: tuple[int, ...] | None = None) -> jax.Array:
    return jnp.sqrt(jnp.sum(values**2, axis=axis, keepdims=True)) if axis else jnp.sqrt(jnp.sum(values**2))
