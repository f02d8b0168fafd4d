"""The vmapped L-BFGS against scikit-learn's solver in float64, on real digits."""

import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from bob_jax.protocols import linear_probe
from bob_jax.protocols.linear_probe import solve, standardisation
from bob_jax.training.mesh import make_mesh

STRENGTHS = (1e-4, 1e-2, 1.0)


def objective(features, labels, weights, bias, strength):
    logits = features.astype(np.float64) @ weights.astype(np.float64) + bias
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]
    return losses.mean() + strength / 2 * (weights.astype(np.float64) ** 2).sum()


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    mean, scale = standardisation(features.astype(np.float32))
    return (features.astype(np.float32) - mean) / scale, labels.astype(np.int32)


@pytest.fixture(scope="module")
def solutions(digits):
    return solve(*digits, classes=10, regularisation=STRENGTHS, tolerance=3e-6, max_iterations=1000, mesh=make_mesh())


def test_every_strength_converges(solutions):
    _, _, gradient, iterations = solutions
    assert (gradient <= 3e-6).all()
    assert (iterations < 1000).all()


@pytest.mark.parametrize("i", range(len(STRENGTHS)))
def test_objective_and_probabilities_equal_scikit_learn(digits, solutions, i):
    features, labels = digits
    weights, bias, _, _ = (array[i] for array in solutions)
    reference = LogisticRegression(C=1 / (STRENGTHS[i] * len(labels)), tol=1e-9, max_iter=20000)
    reference.fit(features.astype(np.float64), labels)
    best = objective(features, labels, reference.coef_.T, reference.intercept_, STRENGTHS[i])
    found = objective(features, labels, weights, bias, STRENGTHS[i])
    assert found <= best * (1 + 1e-5)
    logits = features @ weights + bias
    probabilities = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    # Of the float32 solution: the objective is flat where the regularisation is weak, so W is known less well than
    # its value.
    assert np.abs(probabilities - reference.predict_proba(features)).mean() < 1e-4


def test_rows_split_over_devices_give_the_same_solution(digits):
    # Strong enough that the solution is known as well as its gradient: where the objective is flat, two solutions of
    # the same tolerance lie as far apart as their last rounding errors decide (5e-5 on some processors for 1e-2).
    arguments = {"classes": 10, "regularisation": (1e-1,), "tolerance": 3e-6, "max_iterations": 1000}
    assert jax.device_count() == 8
    many = solve(*digits, mesh=make_mesh(), **arguments)
    one = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
    alone = solve(*digits, mesh=one, **arguments)
    np.testing.assert_allclose(many[0], alone[0], rtol=0, atol=5e-6 * np.abs(alone[0]).max())


def test_a_constant_feature_keeps_scale_one():
    features = np.array([[1.0, 5.0], [3.0, 5.0]], np.float32)
    mean, scale = standardisation(features)
    assert mean.tolist() == [2.0, 5.0]
    assert scale.tolist() == [1.0, 1.0]


def test_rows_in_parts_give_the_same_solution(digits, monkeypatch):
    """As where the logits of all rows are too large for a device."""
    arguments = {"classes": 10, "regularisation": (1e-1, 1.0), "tolerance": 3e-6, "max_iterations": 1000}
    whole, _, _, _ = solve(*digits, mesh=make_mesh(), **arguments)
    shapes, placed = [], linear_probe.meshes.split_rows
    monkeypatch.setattr(linear_probe, "LOGITS", 4096)

    def noted(tree, mesh, axis):
        shapes.append(tree["features"].shape)
        return placed(tree, mesh, axis)

    monkeypatch.setattr(linear_probe.meshes, "split_rows", noted)
    parts, _, gradient, _ = solve(*digits, mesh=make_mesh(), **arguments)
    assert (gradient <= 3e-6).all()
    assert shapes == [(5, 360, 64)]  # 1,797 rows of 10 x 2 logits on 8 devices: 4.4 times 4096 bytes
    np.testing.assert_allclose(parts, whole, rtol=0, atol=5e-6 * np.abs(whole).max())


def test_the_probe_of_imagenet_fits_a_device():
    """As the compiler plans its memory, in bytes; all rows at once took 193 GB."""
    parts = -(-1_268_355 * 1000 * 10 * 4 // linear_probe.LOGITS)
    rows = -(-1_268_355 // parts)
    shapes = {"features": (parts, rows, 768), "labels": (parts, rows), "weight": (parts, rows)}
    kinds = {"features": np.float32, "labels": np.int32, "weight": np.float32}
    data = {name: jax.ShapeDtypeStruct(shape, kinds[name]) for name, shape in shapes.items()}
    strengths = jax.ShapeDtypeStruct((10,), np.float32)
    planned = linear_probe._solve.lower(data, strengths, 1000, 1e-5, 1000).compile().memory_analysis()
    assert planned.temp_size_in_bytes < 2e9
