"""Areas under ROC curves and binary likelihoods against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from bob_jax.errors import BobError
from bob_jax.metrics.bootstrap import intervals
from bob_jax.metrics.multilabel import METRICS, areas, each_area, per_example

N, L = 300, 4


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    labels = (rng.random((N, L)) < [0.5, 0.1, 0.9, 0.3]).astype(np.float32)
    logits = rng.normal(size=(N, L)) + labels
    return np.round(logits, 1).astype(np.float32), labels  # rounded: many scores are equal


def test_areas_are_scikit_learns(predictions):
    logits, labels = predictions
    outputs = per_example(logits, labels)
    expected = [roc_auc_score(labels[:, i], logits[:, i]) for i in range(L)]
    assert METRICS["mean_auc"](outputs) == pytest.approx(np.mean(expected), rel=1e-12)
    np.testing.assert_allclose(areas(np.ones((1, N)), logits, outputs["labels"])[0], expected, rtol=1e-12)


def test_weights_are_scikit_learns(predictions):
    logits, labels = predictions
    weights = np.random.default_rng(1).integers(0, 4, (3, N)).astype(float)
    found = areas(weights, logits, labels > 0.5)
    for row, values in zip(weights, found, strict=True):
        expected = [roc_auc_score(labels[:, i], logits[:, i], sample_weight=row) for i in range(L)]
        np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_likelihood_is_scikit_learns(predictions):
    logits, labels = predictions
    expected = [log_loss(labels[:, i], 1 / (1 + np.exp(-logits[:, i].astype(np.float64)))) for i in range(L)]
    assert METRICS["binary_nll"](per_example(logits, labels)) == pytest.approx(np.mean(expected), rel=1e-9)


def test_a_label_on_all_images_is_left_out_and_an_area_of_zero_is_not(predictions):
    logits, labels = predictions
    labels[:, 1], logits[:, 2] = 1, -labels[:, 2]
    outputs = per_example(logits, labels)
    expected = [roc_auc_score(labels[:, i], logits[:, i]) for i in (0, 2, 3)]
    assert expected[1] == 0
    assert METRICS["mean_auc"](outputs) == pytest.approx(np.mean(expected), rel=1e-12)
    assert list(each_area(outputs, "abcd")) == ["auc_a", "auc_c", "auc_d"]


def test_each_label_has_an_interval_around_it(predictions):
    outputs = per_example(*predictions)
    for estimate in (*each_area(outputs, "abcd").values(), *intervals(METRICS, outputs).values()):
        assert estimate.low < estimate.value < estimate.high and estimate.n == N


def test_nothing_to_rank_and_scores_that_diverged_are_one_line(predictions):
    logits, labels = predictions
    with pytest.raises(BobError, match="on all images or on none"):
        per_example(logits, np.ones_like(labels))
    logits[3, 1] = np.nan
    with pytest.raises(BobError, match="the head diverged"):
        per_example(logits, labels)
