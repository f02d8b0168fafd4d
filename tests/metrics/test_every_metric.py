"""What holds for all scores of the catalogue: names, weights, and the order of the test set."""

import numpy as np
import pytest

from bob_jax.metrics.catalog import FAMILIES, METRICS

N = 90
CLASSES, LABELS, FOUND = 4, 3, 20
REPEATED = sorted(
    METRICS.keys()
    # Draws keep the bins of the test set, where a repeated test set has its own.
    - {"ece_equal_mass", "ece_equal_mass_scaled"}
    # The copies of a pair count at once, where those of a repeated query come one after the other.
    - {"micro_ap"}
)


@pytest.fixture(scope="module")
def outputs():
    """Every array that a score reads: of numbers, unless it is known to hold something else."""
    rng = np.random.default_rng(0)
    special = {
        "label": rng.integers(0, CLASSES, N),
        "logits": np.round(rng.normal(size=(N, LABELS)), 1).astype(np.float32),
        "labels": rng.random((N, LABELS)) < 0.4,
        "similarity": -np.sort(-rng.random((N, FOUND)), axis=1),
        "relevant": rng.random((N, FOUND)) < 0.2,
    }
    special["positives"] = special["relevant"].sum(axis=1) + 1
    names = {name for metric in METRICS.values() for name in metric.inputs}
    flags = {name: rng.random(N) < 0.6 for name in sorted(names) if name.startswith(("correct", "hit"))}
    return {name: rng.random(N) for name in sorted(names)} | flags | special


def test_no_two_families_share_a_name():
    assert sum(len(family.METRICS) for family in FAMILIES) == len(METRICS)


@pytest.mark.parametrize("name", REPEATED)
def test_a_weight_is_a_number_of_repetitions(name, outputs):
    counts = np.random.default_rng(1).integers(0, 4, (3, N))
    expected = [METRICS[name]({key: np.repeat(array, row, axis=0) for key, array in outputs.items()}) for row in counts]
    assert len(set(expected)) == 3  # else nothing would be shown
    np.testing.assert_allclose(METRICS[name].weighted(outputs, counts.astype(np.float64)), expected, rtol=1e-11)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_neither_the_order_of_the_test_set_nor_the_sum_of_the_weights_matters(name, outputs):
    rng = np.random.default_rng(2)
    order, weights = rng.permutation(N), rng.integers(0, 4, (3, N)).astype(np.float64)
    value = METRICS[name].weighted(outputs, weights)
    shuffled = {key: array[order] for key, array in outputs.items()}
    np.testing.assert_allclose(METRICS[name].weighted(shuffled, weights[:, order]), value, rtol=1e-11)
    np.testing.assert_allclose(METRICS[name].weighted(outputs, 2 * weights), value, rtol=1e-11)
