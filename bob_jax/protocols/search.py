"""Exact search by inner product, blocked: memory is bounded, and the queries x gallery matrix is never whole.

The gallery passes through in blocks, from the host (where it may be a memory map) to the devices, which split its rows.
A first pass looks up how similar each query is to its positives; a second one counts what comes before them. Both see
the same blocks of the same shape, so an image has the same similarity in both, to the bit, and ties are true ties.
Of equal similarities the lower position in the gallery comes first. (Products of other shapes may round the last bit of
a float32 otherwise: with other blocks or devices, images that are equal but for that bit may change places.)
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bob_jax.errors import BobError
from bob_jax.training import mesh as meshes

QUERY_BLOCK = 1024  # rows of the similarity matrix in memory at a time
GALLERY_BLOCK = 16384  # and its columns
POSITIVES_AT_ONCE = 4
ABSENT = -1  # in a padded list of positions


@dataclasses.dataclass(frozen=True)
class Hits:
    """What each query found.

    Attributes:
        ranks: 0-based ranks of its positives, ascending, among the gallery without its junk.
        index: [Q, K] positions of the most similar images that are no junk, best first; -1 where there are fewer.
        similarity: [Q, K] float32 of these; -inf where there are fewer.
    """

    ranks: list[np.ndarray]
    index: np.ndarray
    similarity: np.ndarray


def search(
    queries: np.ndarray,
    gallery: np.ndarray,
    positives: Sequence[np.ndarray],
    junk: Sequence[np.ndarray],
    *,
    k: int,
    mesh: jax.sharding.Mesh,
) -> Hits:
    """Ranks of all positives and the k most similar images of each query.

    Args:
        queries: [Q, D] float32.
        gallery: [G, D] float32, in memory or mapped.
        positives: of each query, positions in the gallery.
        junk: of each query, positions that are taken out of its ranking.
        k: how many images to name.
        mesh: devices; the gallery's rows are split over them.

    Raises:
        BobError: a descriptor that is not finite.
    """
    size = min(GALLERY_BLOCK, meshes.round_up(len(gallery), mesh))
    k = min(k, len(gallery))
    blocks = [_Block.start(queries[i], positives[i], junk[i], k, mesh) for i in _slices(len(queries), QUERY_BLOCK)]
    with jax.set_mesh(mesh):
        for offset, rows in _stream(gallery, size, mesh):
            for block in blocks:
                block.threshold = _look_up(block.threshold, block.queries, block.positives, rows, offset)
                jax.block_until_ready(block.threshold)  # blocks in flight would be blocks in memory
        for offset, rows in _stream(gallery, size, mesh):
            for block in blocks:
                block.state = _advance(
                    block.state, block.queries, block.positives, block.junk, block.threshold, rows, offset, len(gallery)
                )
                jax.block_until_ready(block.state)
    ranks: list[np.ndarray] = []
    for block, part in zip(blocks, _slices(len(queries), QUERY_BLOCK), strict=True):
        counts = meshes.to_host(block.state[0])
        ranks += [np.sort(row[: len(own)]) for row, own in zip(counts, positives[part], strict=True)]
    similarity, index = (np.concatenate([meshes.to_host(block.state[i]) for block in blocks]) for i in (1, 2))
    return Hits(ranks, np.where(np.isfinite(similarity), index, ABSENT), similarity)


def nearest(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows by cosine similarity, exactly, nearest first; of equals the lower index.

    Args:
        queries: [Q, D] float32.
        gallery: [N, D] float32, N >= k.
        k: neighbours.

    Returns:
        similarity [Q, k] float32 in [-1, 1], and index [Q, k] int32 into the gallery.
    """
    best = [
        (jnp.full((len(block), k), -jnp.inf), jnp.zeros((len(block), k), jnp.int32), unit(jnp.asarray(block)))
        for block in (queries[part] for part in _slices(len(queries), QUERY_BLOCK))
    ]
    for part in _slices(len(gallery), GALLERY_BLOCK):
        rows = unit(jnp.asarray(gallery[part]))
        best = [(*_best_of(similarity, index, query, rows, part.start), query) for similarity, index, query in best]
    similarity = np.concatenate([np.asarray(part) for part, _, _ in best])
    return similarity, np.concatenate([np.asarray(part) for _, part, _ in best])


@jax.jit
def unit(rows: jax.Array) -> jax.Array:
    """Rows [N, D] at length 1; a row of zeros stays."""
    return rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


@dataclasses.dataclass
class _Block:
    """Some queries, and what is known of them so far; all on the devices.

    Attributes:
        queries: [B, D].
        positives, junk: [B, M], [B, J] positions, padded.
        threshold: [B, M] similarity of the positives.
        state: what comes before each positive [B, M], and the best so far: similarity and position [B, k].
    """

    queries: jax.Array
    positives: jax.Array
    junk: jax.Array
    threshold: jax.Array
    state: tuple[jax.Array, jax.Array, jax.Array]

    @classmethod
    def start(
        cls,
        queries: np.ndarray,
        positives: Sequence[np.ndarray],
        junk: Sequence[np.ndarray],
        k: int,
        mesh: jax.sharding.Mesh,
    ) -> "_Block":
        if not np.isfinite(queries).all():
            raise BobError("descriptors of queries are NaN or infinite: the backbone diverged")
        marked = _padded(positives)
        best = np.full((len(queries), k), -np.inf, np.float32)
        # Nothing comes before what is not there.
        threshold = np.full(marked.shape, np.inf, np.float32)
        state = (np.zeros(marked.shape, np.int32), best, np.zeros(best.shape, np.int32))
        return cls(*meshes.place((queries.astype(np.float32), marked, _padded(junk), threshold, state), mesh))


def _padded(lists: Sequence[np.ndarray]) -> np.ndarray:
    """[B, M] int32, M a power of two so that blocks of queries share compilations; -1 where a list ends."""
    longest = max((len(positions) for positions in lists), default=0)
    table = np.full((len(lists), 1 << max(0, longest - 1).bit_length()), ABSENT, np.int32)
    for row, positions in zip(table, lists, strict=True):
        row[: len(positions)] = positions
    return table


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _stream(gallery: np.ndarray, size: int, mesh: jax.sharding.Mesh) -> Iterator[tuple[int, jax.Array]]:
    """Blocks [size, D] of the gallery on the devices, and where each begins; the last one is padded."""
    size = meshes.round_up(size, mesh)
    for part in _slices(len(gallery), size):
        rows = np.asarray(gallery[part], np.float32)
        if not np.isfinite(rows).all():
            raise BobError("descriptors of the gallery are NaN or infinite: the backbone diverged")
        yield part.start, meshes.split_rows(np.pad(rows, [(0, size - len(rows)), (0, 0)]), mesh)


def _similarity(queries: jax.Array, rows: jax.Array) -> jax.Array:
    """[B, S]; the barrier keeps the product from being fused differently in the two passes."""
    return jax.lax.optimization_barrier(jnp.matmul(queries, rows.T, precision="float32"))


@jax.jit
def _look_up(threshold: jax.Array, queries: jax.Array, positives: jax.Array, rows: jax.Array, offset: int) -> jax.Array:
    local = positives - offset
    inside = (positives >= 0) & (local >= 0) & (local < len(rows))
    found = jnp.take_along_axis(_similarity(queries, rows), jnp.clip(local, 0, len(rows) - 1), axis=1)
    return jnp.where(inside, found, threshold)


@functools.partial(jax.jit, donate_argnums=0)
def _advance(
    state: tuple[jax.Array, jax.Array, jax.Array],
    queries: jax.Array,
    positives: jax.Array,
    junk: jax.Array,
    threshold: jax.Array,
    rows: jax.Array,
    offset: int,
    total: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    before, similarity, index = state
    columns = offset + jnp.arange(len(rows), dtype=jnp.int32)
    new = jnp.where((columns < total)[None], _similarity(queries, rows), -jnp.inf)
    local = junk - offset
    outside = (junk < 0) | (local < 0) | (local >= len(rows))
    # A position past the end is dropped: what is no junk of this block changes nothing.
    new = new.at[jnp.arange(len(new))[:, None], jnp.where(outside, len(rows), local)].set(-jnp.inf, mode="drop")

    def ahead(one: tuple[jax.Array, jax.Array]) -> jax.Array:
        least, position = one
        first = (new > least[:, None]) | ((new == least[:, None]) & (columns[None] < position[:, None]))
        return jnp.sum(first, axis=-1, dtype=jnp.int32)

    # A few positives of every query at a time: compared all at once they would be [B, M, S].
    before = before + jax.lax.map(ahead, (threshold.T, positives.T), batch_size=POSITIVES_AT_ONCE).T
    return before, *_merge(similarity, index, new, columns)


@jax.jit
def _best_of(
    similarity: jax.Array, index: jax.Array, queries: jax.Array, rows: jax.Array, offset: int
) -> tuple[jax.Array, jax.Array]:
    new = jnp.matmul(queries, rows.T, precision="float32")
    return _merge(similarity, index, new, offset + jnp.arange(len(rows), dtype=jnp.int32))


def _merge(similarity: jax.Array, index: jax.Array, new: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The best k of what is known and of one more block; the known come first, so of equals the lower index wins."""
    top, position = jax.lax.top_k(jnp.concatenate([similarity, new], axis=1), similarity.shape[1])
    columns = jnp.broadcast_to(columns[None], new.shape)
    return top, jnp.take_along_axis(jnp.concatenate([index, columns], axis=1), position, axis=1)
