"""Calibration errors against a plain loop over bins, temperature scaling against PyTorch's L-BFGS."""

import numpy as np
import pytest
import torch

from bob_jax.metrics import calibration
from bob_jax.metrics.calibration import BINS, COLDEST, METRICS, fit_temperature


@pytest.fixture
def outputs():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.1, 1, 500)
    return {"confidence": confidence, "correct": rng.random(500) < confidence**2}


def loop(confidence, correct, members) -> float:
    """The definition, bin by bin."""
    total = 0.0
    for member in members:
        if member.any():
            total += member.sum() * abs(correct[member].mean() - confidence[member].mean())
    return total / len(confidence)


def test_equal_width_is_the_definition(outputs):
    c = outputs["confidence"]
    members = [(c > b / BINS) & (c <= (b + 1) / BINS) for b in range(BINS)]
    assert METRICS["ece"](outputs) == pytest.approx(loop(c, outputs["correct"], members), rel=1e-12)


def test_equal_mass_is_the_definition(outputs):
    c = outputs["confidence"]
    members = [np.isin(np.arange(500), part) for part in np.array_split(np.argsort(c), BINS)]
    ours = METRICS["ece_equal_mass"](outputs)
    # 500 is no multiple of 15: which bins have one image more is a matter of convention, worth less than an image each
    assert ours == pytest.approx(loop(c, outputs["correct"], members), abs=BINS / 500)
    even = {name: array[:450] for name, array in outputs.items()}
    members = [np.isin(np.arange(450), part) for part in np.array_split(np.argsort(c[:450]), BINS)]
    assert METRICS["ece_equal_mass"](even) == pytest.approx(loop(c[:450], even["correct"], members), rel=1e-12)


def test_a_weight_is_a_repetition(outputs):
    copies = np.random.default_rng(1).integers(0, 4, (3, 500))
    repeated = [METRICS["ece"]({k: np.repeat(v, count) for k, v in outputs.items()}) for count in copies]
    np.testing.assert_allclose(METRICS["ece"].weighted(outputs, copies.astype(float)), repeated, rtol=1e-12)


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    sure = np.ones(20)
    for name in ("ece", "ece_equal_mass"):
        assert METRICS[name]({"confidence": sure, "correct": np.ones(20, bool)}) == 0
        assert METRICS[name]({"confidence": sure, "correct": np.zeros(20, bool)}) == 1


def test_the_order_of_equally_sure_images_does_not_matter():
    correct = np.repeat([True, False], 150)  # all of the right ones first, as where a test set is sorted by class
    said = {"confidence": np.full(300, 0.5), "correct": correct}
    assert METRICS["ece_equal_mass"](said) == 0
    rng = np.random.default_rng(4)
    coarse = {"confidence": np.round(rng.random(300), 1), "correct": correct}
    order = rng.permutation(300)
    shuffled = {name: array[order] for name, array in coarse.items()}
    assert METRICS["ece_equal_mass"](shuffled) == pytest.approx(METRICS["ece_equal_mass"](coarse), rel=1e-12)


def test_conditions_are_averaged(outputs):
    both = {k: np.stack([v, v[::-1] if k == "correct" else v], 1) for k, v in outputs.items()}
    alone = [METRICS["ece"]({k: v[:, i] for k, v in both.items()}) for i in range(2)]
    assert METRICS["ece"](both) == pytest.approx(np.mean(alone), rel=1e-12)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_temperature_is_that_of_lbfgs(scale):
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(400, 7)) * 2
    labels = np.array([rng.choice(7, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    logits = logits * scale
    inverse = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [inverse], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.tensor(logits) * inverse, torch.tensor(labels))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert fit_temperature(logits, labels) == pytest.approx(1 / inverse.item(), rel=1e-5)
    assert fit_temperature(logits, labels) == pytest.approx(scale, rel=0.2)


def test_separated_data_end_at_the_coldest_temperature():
    logits = np.eye(3)[[0, 1, 2]] * 5
    assert fit_temperature(logits, np.arange(3)) == pytest.approx(COLDEST, rel=1e-3)


def test_a_class_that_is_ruled_out_does_not_break_the_fit():
    logits = np.array([[0.0, 1.0, -np.inf], [2.0, 0.0, -np.inf], [0.0, 1.0, -np.inf]])
    assert np.isfinite(fit_temperature(logits, np.array([1, 1, 2])))
    assert calibration.fit_temperature(np.array([[0.0, -np.inf]]), np.array([1])) == 1.0
