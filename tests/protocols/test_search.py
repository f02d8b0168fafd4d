"""Exact search against a stable sort in NumPy, with ties, junk, and any size of block."""

import jax
import numpy as np
import pytest

from bob_jax.errors import BobError
from bob_jax.protocols import search as module
from bob_jax.protocols.search import ABSENT, search
from bob_jax.training.mesh import make_mesh

Q, G, D = 37, 211, 12


@pytest.fixture(scope="module")
def problem():
    """Small whole numbers, so that similarities are exact and many are equal; a third of the gallery stands twice."""
    rng = np.random.default_rng(0)
    gallery = rng.integers(-2, 3, (G, D)).astype(np.float32)
    gallery[140:] = gallery[: G - 140]
    queries = rng.integers(-2, 3, (Q, D)).astype(np.float32)
    marks = [rng.permutation(G)[: rng.integers(0, 40)] for _ in range(Q)]
    cut = [len(mark) // 2 for mark in marks]
    positives = [np.sort(mark[:at]) for mark, at in zip(marks, cut, strict=True)]
    junk = [np.sort(mark[at:]) for mark, at in zip(marks, cut, strict=True)]
    return queries, gallery, positives, junk


def by_sorting(queries, gallery, positives, junk, k):
    ranks, index = [], np.full((len(queries), k), ABSENT)
    for row, (query, right, out) in enumerate(zip(queries, positives, junk, strict=True)):
        order = np.argsort(-(gallery.astype(np.float64) @ query), kind="stable")
        order = order[~np.isin(order, out)]
        ranks.append(np.flatnonzero(np.isin(order, right)))
        index[row, : min(k, len(order))] = order[:k]
    return ranks, index


@pytest.mark.parametrize(("query_block", "gallery_block"), [(1024, 16384), (8, 16), (5, 64), (37, 211)])
def test_ranks_and_lists_are_those_of_a_stable_sort(problem, query_block, gallery_block, monkeypatch):
    monkeypatch.setattr(module, "QUERY_BLOCK", query_block)
    monkeypatch.setattr(module, "GALLERY_BLOCK", gallery_block)
    hits = search(*problem, k=20, mesh=make_mesh())
    ranks, index = by_sorting(*problem, k=20)
    assert len(hits.ranks) == Q
    for ours, theirs in zip(hits.ranks, ranks, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(hits.index, index)
    similarity = np.take_along_axis(problem[0] @ problem[1].T, hits.index, axis=1)
    np.testing.assert_array_equal(hits.similarity, similarity)


def test_a_list_longer_than_what_is_left_ends(problem):
    queries, gallery, _, _ = problem
    none = [np.array([], int)] * Q
    hits = search(queries, gallery[:5], none, [np.array([1, 3])] * Q, k=9, mesh=make_mesh())
    assert hits.index.shape == (Q, 5)
    assert (hits.index[:, 3:] == ABSENT).all() and np.isneginf(hits.similarity[:, 3:]).all()
    assert all(set(row) == {0, 2, 4} for row in hits.index[:, :3].tolist())
    assert all(len(found) == 0 for found in hits.ranks)


def test_real_numbers_against_float64(tmp_path):
    rng = np.random.default_rng(1)
    gallery, queries = (rng.normal(size=(n, 64)).astype(np.float32) for n in (500, 40))
    positives = [np.sort(rng.permutation(500)[:9]) for _ in range(40)]
    none = [np.array([], int)] * 40
    mapped = np.lib.format.open_memmap(tmp_path / "gallery.npy", "w+", np.float32, gallery.shape)
    mapped[:] = gallery
    hits = search(queries, mapped, positives, none, k=10, mesh=make_mesh())
    for ours, theirs in zip(hits.ranks, by_sorting(queries, gallery, positives, none, 10)[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_image_a_query_does_not_find_itself():
    rng = np.random.default_rng(2)
    rows = np.repeat(rng.normal(size=(30, 16)).astype(np.float32), 2, axis=0)  # each image and its exact double
    twins = [np.array([i ^ 1]) for i in range(60)]
    hits = search(rows, rows, twins, [np.array([i]) for i in range(60)], k=1, mesh=make_mesh())
    assert all(found.tolist() == [0] for found in hits.ranks)
    np.testing.assert_array_equal(hits.index[:, 0], np.arange(60) ^ 1)


def test_a_descriptor_that_diverged_is_one_line(problem):
    queries, gallery, positives, junk = problem
    bad = gallery.copy()
    bad[7, 0] = np.nan
    with pytest.raises(BobError, match="gallery are NaN or infinite"):
        search(queries, bad, positives, junk, k=3, mesh=make_mesh())


def test_memory_does_not_grow_with_the_number_of_positives():
    def temporaries(count: int) -> int:
        shapes = [((64, count), "int32"), ((64, 5), "float32"), ((64, 5), "int32"), ((64, D), "float32")]
        shapes += [((64, count), "int32"), ((64, 1), "int32"), ((64, count), "float32"), ((1024, D), "float32")]
        before, best, index, queries, positives, junk, threshold, rows = (
            jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes
        )
        state = (before, best, index)
        lowered = module._advance.lower(state, queries, positives, junk, threshold, rows, 0, 1024)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    matrix = 64 * 1024 * 4
    assert temporaries(256) < temporaries(16) + matrix  # compared all at once it would be 240 bool matrices more
