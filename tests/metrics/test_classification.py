import numpy as np
import pytest
from sklearn import metrics as sk

from bob_jax.errors import BobError
from bob_jax.metrics import classification
from bob_jax.metrics.classification import METRICS, per_example, per_example_any


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    labels = rng.choice(12, 700, p=np.arange(1, 13) / 78)  # unbalanced
    logits = rng.normal(size=(700, 12)).astype(np.float32)
    logits[np.arange(700), labels] += 1.5
    return logits, labels


def softmax(logits):
    odds = np.exp(logits.astype(np.float64))
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("accuracy", lambda logits, labels: sk.accuracy_score(labels, logits.argmax(1))),
        ("top5_accuracy", lambda logits, labels: sk.top_k_accuracy_score(labels, logits, k=5)),
        ("mean_per_class_accuracy", lambda logits, labels: sk.balanced_accuracy_score(labels, logits.argmax(1))),
        ("nll", lambda logits, labels: sk.log_loss(labels, softmax(logits))),
        ("brier", lambda logits, labels: sk.brier_score_loss(labels, softmax(logits), scale_by_half=False)),
    ],
)
def test_metrics_equal_scikit_learn(predictions, name, reference):
    assert METRICS[name](per_example(*predictions)) == pytest.approx(reference(*predictions), rel=1e-12)


def test_hand_values():
    # Row 0: p = (1/4, 3/4). Row 1: p = (1/2, 1/2), a tie, which the lower class wins.
    outputs = per_example(np.log([[1.0, 3.0], [1.0, 1.0], [4.0, 1.0]]), np.array([1, 1, 0]))
    np.testing.assert_array_equal(outputs["prediction"], [1, 0, 0])
    np.testing.assert_array_equal(outputs["correct"], [True, False, True])
    np.testing.assert_allclose(outputs["confidence"], [0.75, 0.5, 0.8], rtol=1e-12)
    np.testing.assert_allclose(outputs["nll"], -np.log([0.75, 0.5, 0.8]), rtol=1e-12)
    np.testing.assert_allclose(outputs["brier"], [2 / 16, 2 / 4, 2 / 25], rtol=1e-12)
    assert METRICS["mean_per_class_accuracy"](outputs) == pytest.approx((1 + 1 / 2) / 2)


def test_a_constant_answer_earns_one_class_not_all():
    """With all logits equal only the first classes count as predicted, in top-1 and top-5 alike."""
    outputs = per_example(np.zeros((10, 10)), np.arange(10))
    np.testing.assert_array_equal(outputs["correct"], np.arange(10) < 1)
    np.testing.assert_array_equal(outputs["correct_top5"], np.arange(10) < 5)


def test_top5_of_five_classes_is_no_score():
    assert "correct_top5" not in per_example(np.eye(5), np.arange(5))
    assert "correct_top5" in per_example(np.eye(6), np.arange(6))


def test_large_logits_do_not_overflow():
    outputs = per_example(np.float32([[3e38, 0, -3e38], [5000, 4000, 4999]]), np.array([0, 2]))
    np.testing.assert_allclose(outputs["nll"], [0, 1 + np.log1p(np.exp(-1))], rtol=1e-12)
    np.testing.assert_allclose(outputs["confidence"], [1, 1 / (1 + np.exp(-1))], rtol=1e-12)


def test_a_ruled_out_class_is_allowed():
    outputs = per_example(np.array([[0.0, -np.inf, 0.0]] * 2), np.array([0, 1]))
    np.testing.assert_array_equal(outputs["nll"], [np.log(2), np.inf])
    np.testing.assert_array_equal(outputs["brier"], [0.5, 1.5])


def test_blocks_change_nothing(predictions, monkeypatch):
    whole = per_example(*predictions)
    monkeypatch.setattr(classification, "BLOCK", 50)
    for name, values in per_example(*predictions).items():
        np.testing.assert_array_equal(values, whole[name])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_diverged_scores_are_refused(bad):
    logits = np.zeros((4, 3))
    logits[2, 1] = bad
    with pytest.raises(BobError, match=r"scores of 1 of 4 examples are NaN or infinite \(first: example 2\)"):
        per_example(logits, np.zeros(4, int))


def test_a_row_that_rules_out_every_class_is_refused():
    with pytest.raises(BobError, match="scores of 1 of 1"):
        per_example(np.full((1, 3), -np.inf), np.array([0]))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((3, 2)), np.zeros(4, int)),
        (np.zeros(3), np.zeros(3, int)),
        (np.zeros((0, 2)), np.zeros(0, int)),
        (np.zeros((2, 2)), np.array([0, 2])),
        (np.zeros((2, 2)), np.array([-1, 0])),
    ],
)
def test_shapes_and_labels_that_do_not_fit(logits, labels):
    with pytest.raises(ValueError, match="labels"):
        per_example(logits, labels)


@pytest.mark.parametrize("name", METRICS)
def test_a_weight_is_a_number_of_copies(predictions, name):
    outputs = per_example(*predictions)
    copies = np.random.default_rng(1).integers(0, 3, (4, 700))
    copies[0, predictions[1] == 11] = 0  # a class that does not occur is left out
    expected = [METRICS[name]({k: np.repeat(v, count) for k, v in outputs.items()}) for count in copies]
    np.testing.assert_allclose(METRICS[name].weighted(outputs, copies.astype(float)), expected, rtol=1e-12)


def test_any_of_several_classes(predictions):
    logits, labels = predictions
    one = np.zeros(logits.shape, bool)
    one[np.arange(len(labels)), labels] = True
    single, several = per_example(logits, labels), per_example_any(logits, one)
    for name, array in several.items():
        np.testing.assert_allclose(array, single[name], rtol=1e-12)
    more = one | (np.random.default_rng(0).random(one.shape) < 0.3)
    several = per_example_any(logits, more)
    probability = softmax(logits)
    np.testing.assert_allclose(several["nll"], -np.log((probability * more).sum(1)), rtol=1e-9)
    np.testing.assert_array_equal(several["correct"], more[np.arange(len(labels)), logits.argmax(1)])
    with pytest.raises(ValueError, match="each image needs one right class"):
        per_example_any(logits, np.zeros_like(more))
