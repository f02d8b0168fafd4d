"""Heads out of fold, the learning curve, copies and geometry, against the plain way and other libraries."""

import itertools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from bob_jax.data.arrays import ArraySource
from bob_jax.pick import copies, curve, evidence, folds, geometry, heads


@pytest.fixture(scope="module")
def clouds():
    """Features, labels and folds of three classes that overlap."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 240)
    features = generator.normal(size=(240, 20)).astype(np.float32) * generator.uniform(0.5, 4, 20).astype(np.float32)
    features[:, :3] += 2.2 * np.eye(3, dtype=np.float32)[labels]
    return features, labels, folds.assign(labels, np.arange(240))


@pytest.fixture(scope="module")
def outcome(clouds, mesh):
    features, labels, fold = clouds
    return heads.cross_validate(features, labels, 3, fold[None], mesh)


def test_probes_out_of_fold_are_probes_of_the_other_folds(clouds, mesh):
    """Whatever they are padded to: scikit-learn trains on the other folds alone."""
    features, labels, fold = clouds
    logits = heads.probe_out_of_fold(features, labels, 3, fold, mesh)
    for i, strength in ((1, 1e-3), (3, 1e-1)):
        for number in (0, 4):
            train, test = fold != number, fold == number
            mean, scale = features[train].mean(axis=0), features[train].std(axis=0)
            reference = LogisticRegression(C=1 / (strength * train.sum()), tol=1e-8, max_iter=5000)
            reference.fit((features[train] - mean) / scale, labels[train])
            expected = reference.predict_log_proba((features[test] - mean) / scale)
            ours = logits[i, test] - np.log(np.exp(logits[i, test]).sum(axis=1, keepdims=True))
            # Ours stops at gradients of 1e-4, weak regularisation leaves that much room.
            np.testing.assert_allclose(ours, expected, atol=0.03)


def test_neighbours_are_of_other_folds(clouds, outcome):
    features, labels, fold = clouds
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for i, k in enumerate(heads.KS):
        right = np.zeros(240, bool)
        for number in range(5):
            train, test = fold != number, fold == number
            votes = KNeighborsClassifier(
                k, weights=lambda distance: np.exp((1 - distance**2 / 2) / heads.TEMPERATURE), algorithm="brute"
            ).fit(unit[train], labels[train])
            right[test] = votes.predict(unit[test]) == labels[test]
        np.testing.assert_array_equal(outcome.knn[:, i], right)


def test_the_outcome_is_of_the_best_lambda(clouds, outcome):
    _, labels, _ = clouds
    assert outcome.probe.shape == (240, len(heads.STRENGTHS)) and outcome.index.tolist() == list(range(240))
    assert outcome.probe.mean(axis=0).max() == outcome.probe[:, outcome.strength].mean()
    np.testing.assert_array_equal(outcome.first, outcome.logits.argmax(axis=1) == labels)
    assert heads.best_strength(np.ones((4, 5))) == 4  # of equals the simplest


def test_on_many_devices_it_is_the_same(clouds, mesh, all_devices):
    features, labels, fold = clouds
    first = np.where(fold == 0, 0, folds.ALWAYS)
    one, eight = (heads.probe_out_of_fold(features, labels, 3, first, where) for where in (mesh, all_devices))
    # Sums in another order send the search another way; both end where no gradient entry is above 1e-4.
    np.testing.assert_allclose(one, eight, atol=0.02)


def test_an_image_that_is_only_learned_from_is_not_judged(clouds, mesh):
    features, labels, fold = clouds
    fold = np.where(np.arange(240) < 5, folds.ALWAYS, fold)
    found = heads.cross_validate(features, labels, 3, fold[None], mesh)
    assert found.index.tolist() == list(range(5, 240)) and len(found.first) == 235


def test_the_curve_is_training_on_parts(clouds, mesh):
    """Each point again by scikit-learn on the very images."""
    features, labels, fold = clouds
    seen = curve.learn(features, labels, 3, fold, mesh)
    parts = curve.parts(labels, fold)
    assert len(seen.points) == len(parts) > 3
    assert all((small <= large).all() for small, large in itertools.pairwise(parts)) and parts[-1].all()
    for part, point in zip(parts, seen.points, strict=True):
        sizes = [(part & (fold != number)).sum() for number in range(5)]
        assert point.images == round(np.mean(sizes))
        best = 0.0
        for strength in heads.STRENGTHS:
            right = np.zeros(240, bool)
            for number in range(5):
                train, test = part & (fold != number), fold == number
                mean, scale = features[train].mean(axis=0), features[train].std(axis=0)
                reference = LogisticRegression(C=1 / (strength * train.sum()), tol=1e-6, max_iter=5000)
                reference.fit((features[train] - mean) / scale, labels[train])
                right[test] = reference.predict((features[test] - mean) / scale) == labels[test]
            best = max(best, right.mean())
        seen = point.accuracy  # less what choosing lambda adds; its interval begins and ends in two figures
        assert best - 0.03 <= seen.value <= best + 2 / 240  # images between two classes
        assert abs(seen.high - evidence.wilson(best, 240).high) <= 2 / 240
        assert point.accuracy.n == 240


def test_every_size_has_every_class_whichever_fold_is_left_out():
    labels = np.repeat(np.arange(10), 12)
    fold = folds.assign(labels, np.arange(120))
    for part in curve.parts(labels, fold):
        for number in range(5):
            assert set(labels[part & (fold != number)].tolist()) == set(range(10))


def test_a_law_that_holds_is_foretold():
    """Errors 0.5 n^-0.5, 4000 images judged: the guesses' intervals hold the truth, and the test comes true."""
    generator = np.random.default_rng(1)
    sizes = np.array([50, 100, 200, 400, 800])
    held = []
    for _ in range(20):
        # The same images are hard at every size, as they are in truth.
        right = generator.random((4000, 1)) > 2.0 * sizes[None] ** -0.5
        seen = curve.from_outcomes(sizes, right, np.zeros(5))
        assert seen.came_true
        held += [guess.low <= 1 - 2.0 * guess.images**-0.5 <= guess.high for guess in seen.guesses]
        assert seen.gain.low > 0
    assert np.mean(held) > 0.9


def test_a_curve_that_is_flat_promises_nothing():
    generator = np.random.default_rng(2)
    right = (generator.random((300, 1)) < 0.8) & np.ones((1, 5), bool)
    seen = curve.from_outcomes(np.array([20, 40, 80, 160, 320]), right, np.zeros(5))
    assert seen.gain.low <= 0.03 and seen.guesses[0].low <= 0.8 + 0.03


def test_too_few_sizes_are_not_extrapolated():
    seen = curve.from_outcomes(np.array([10, 20]), np.ones((30, 2), bool), np.zeros(2))
    assert seen.guesses == () and seen.foretold is None and not seen.came_true


def test_copies_are_found_and_brothers_are_not():
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (12, 24, 24, 3)).astype(np.uint8)
    images = np.repeat(np.repeat(images[:, ::4, ::4], 4, axis=1), 4, axis=2)  # coarse enough to survive resizing
    images[5] = np.clip(images[2].astype(int) + generator.integers(-4, 5, images[2].shape), 0, 255)
    source = ArraySource(images, np.arange(12) % 3)
    features = generator.normal(size=(12, 8)).astype(np.float32)
    features[5] = features[2] + 0.01
    features[9] = features[7]  # alike for the backbone only
    fold = np.arange(12) % 4
    (pair,) = copies.find(features, source, np.arange(12), fold)
    assert pair.places == (2, 5) and pair.apart and not pair.labels_differ and pair.pixels > 0.99


def test_effective_rank_and_dimension_of_known_shapes():
    generator = np.random.default_rng(4)
    flat = generator.normal(size=(1500, 3)) @ np.linalg.qr(generator.normal(size=(30, 3)))[0].T
    found = geometry.geometry(flat.astype(np.float32))
    assert found.effective_rank == pytest.approx(3, abs=0.05) and found.dimensions == 30
    assert found.intrinsic_dimension == pytest.approx(3, rel=0.15)
    assert geometry.geometry(np.ones((20, 5), np.float32)).intrinsic_dimension is None


def test_agreement_knows_turned_features_from_unrelated_ones():
    generator = np.random.default_rng(5)
    x = generator.normal(size=(300, 12)).astype(np.float32)
    turned = 3 * x @ np.linalg.qr(generator.normal(size=(12, 12)))[0].astype(np.float32)
    assert geometry.agreement(x, turned) == (pytest.approx(1, abs=1e-5), pytest.approx(1, abs=0.01))
    cka, shared = geometry.agreement(x, generator.normal(size=(300, 40)).astype(np.float32))
    assert abs(cka) < 0.05 and shared < 0.1


def test_clusters_are_found():
    generator = np.random.default_rng(6)
    truth = np.repeat([0, 1, 2], [30, 20, 10])
    features = 8 * np.eye(16)[truth] + generator.normal(size=(60, 16))
    found = geometry.clusters(features)
    np.testing.assert_array_equal(found.label, truth)  # the largest is 0
    assert found.silhouette > 0.4
    assert geometry.clusters(np.ones((9, 4))).label.tolist() == [0] * 9
