"""k-NN against a brute-force search in NumPy and scikit-learn's distance-weighted vote."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from bob_jax.protocols import knn, search


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(300, 24)).astype(np.float32) * rng.uniform(0.1, 10, (300, 1)).astype(np.float32)
    queries = rng.normal(size=(70, 24)).astype(np.float32)
    return queries, gallery, rng.integers(0, 7, 300).astype(np.int32)


def brute_force(queries, gallery, k):
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, gallery)]
    similarity = unit[0].astype(np.float64) @ unit[1].astype(np.float64).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, order, axis=1), order


@pytest.mark.parametrize(("query_block", "gallery_block"), [(1024, 16384), (16, 32), (70, 300), (33, 7)])
def test_nearest_equals_brute_force_whatever_the_blocks(clouds, monkeypatch, query_block, gallery_block):
    queries, gallery, _ = clouds
    monkeypatch.setattr(search, "QUERY_BLOCK", query_block)
    monkeypatch.setattr(search, "GALLERY_BLOCK", gallery_block)
    similarity, index = search.nearest(queries, gallery, 20)
    expected_similarity, expected_index = brute_force(queries, gallery, 20)
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_allclose(similarity, expected_similarity, atol=1e-6)


def test_equal_neighbours_come_in_order_of_their_index(monkeypatch):
    monkeypatch.setattr(search, "GALLERY_BLOCK", 3)
    gallery = np.tile(np.eye(2, dtype=np.float32), (5, 1))
    _, index = search.nearest(np.array([[1.0, 0.0]], np.float32), gallery, 5)
    assert index.tolist() == [[0, 2, 4, 6, 8]]


@pytest.mark.parametrize("k", [1, 5, 20])
def test_vote_equals_scikit_learn(clouds, k):
    queries, gallery, labels = clouds
    temperature = 0.07

    def weights(euclidean):  # between unit vectors: |a - b|^2 = 2 - 2 cos
        return np.exp((1 - euclidean**2 / 2) / temperature)

    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, gallery)]
    reference = KNeighborsClassifier(k, weights=weights, algorithm="brute").fit(unit[1].astype(np.float64), labels)
    logits = knn.vote(queries, gallery=gallery, labels=labels, classes=7, ks=(k,), temperature=temperature)[0]
    np.testing.assert_allclose(np.exp(logits), reference.predict_proba(unit[0].astype(np.float64)), atol=2e-5)


def test_a_grid_of_k_is_each_k_alone(clouds):
    queries, gallery, labels = clouds
    arguments = {"gallery": gallery, "labels": labels, "classes": 7, "temperature": 0.1}
    together = knn.vote(queries, ks=(1, 7, 30), **arguments)
    for k, logits in zip((1, 7, 30), together, strict=True):
        np.testing.assert_array_equal(logits, knn.vote(queries, ks=(k,), **arguments)[0])


def test_a_tiny_temperature_does_not_overflow(clouds):
    queries, gallery, labels = clouds
    logits = knn.vote(queries, gallery=gallery, labels=labels, classes=7, ks=(10,), temperature=1e-3)[0]
    assert np.isfinite(logits).all()
    _, index = brute_force(queries, gallery, 1)
    np.testing.assert_array_equal(logits.argmax(axis=1), labels[index[:, 0]])
