"""Several labels per image, through every protocol that takes them: two handwritten digits in each picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bob_jax.backbones import zoo
from bob_jax.data import digits, on_device
from bob_jax.data.arrays import ArraySource
from bob_jax.data.base import MultilabelDataset
from bob_jax.metrics.catalog import METRICS
from bob_jax.protocols import knn
from bob_jax.protocols.augmented_probe import AugmentedProbe
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.features import extract
from bob_jax.protocols.finetune import Finetune
from bob_jax.protocols.head import Head, predict
from bob_jax.protocols.knn import KNN
from bob_jax.protocols.linear_probe import LinearProbe, solve, standardisation
from bob_jax.training.mesh import make_mesh, place
from configs.digits import PROTOCOLS

NAMES = tuple("0123456789")


def pairs(split: str, count: int) -> ArraySource:
    """Pictures of two digits side by side, on a square; the labels say which digits are there."""
    source = digits.load().splits[split]
    chosen = np.random.default_rng(len(split)).integers(0, len(source), (count, 2))
    pixels = np.zeros((count, 16, 16, 3), np.uint8)
    labels = np.zeros((count, 10), np.float32)
    for row, (left, right) in enumerate(chosen):
        for column, index in ((0, left), (8, right)):
            example = source[int(index)]
            pixels[row, 4:12, column : column + 8] = example["image"]
            labels[row, example["label"]] = 1
    return ArraySource(pixels, labels, [f"{split}{row}" for row in range(count)])


@pytest.fixture(scope="module")
def dataset():
    sizes = {"train": 400, "validation": 100, "test": 150}
    splits = {split: pairs(split, count) for split, count in sizes.items()}
    return MultilabelDataset("pairs", "1", NAMES, splits, dict.fromkeys(splits, ""), "mean_auc", "none")


@pytest.fixture(scope="module")
def competitor():
    mesh = make_mesh()
    loaded = zoo.load("resnet10_nano_glyphs", place=lambda leaf: place(leaf, mesh))
    return Competitor(zoo.card("resnet10_nano_glyphs"), loaded.module, loaded.weights_sha256)


CHANGES = {
    KNN: {},
    LinearProbe: {"regularisation": (1e-2, 1e-1)},
    AugmentedProbe: {"base_learning_rates": (100.0,), "epochs": 8},
    Finetune: {"learning_rates": (3e-3,), "epochs": 8, "mixup": 0.2, "evaluations": 1},
}


@pytest.mark.parametrize("kind", CHANGES, ids=lambda kind: kind.name)
def test_every_protocol_learns_and_says_what_it_says_of_each_label(kind, dataset, competitor, tmp_path):
    protocol = kind.from_config(PROTOCOLS[kind.name] | CHANGES[kind])
    result = protocol.run(competitor, dataset, Context(make_mesh(), tmp_path))
    labels = dataset.splits["test"].labels
    np.testing.assert_array_equal(result.outputs["labels"], labels > 0.5)
    score = METRICS["mean_auc"](result.outputs)
    expected = [roc_auc_score(labels[:, i], result.outputs["logits"][:, i]) for i in range(10)]
    assert score == pytest.approx(np.mean(expected), rel=1e-9) and score > 0.7
    assert result.scores["auc_3"].value == pytest.approx(expected[3], rel=1e-9)
    assert all(0 <= point["validation"] <= 1 for point in result.grid)
    assert "correct" not in result.outputs and "temperature" not in result.notes
    if kind.makes_head:
        assert result.weights["head.kernel"].shape == (competitor.module.feature_dim, 10)


def test_linear_probe_is_a_logistic_regression_a_label(dataset, competitor, tmp_path):
    rows = extract(competitor, dataset.splits["train"], "pairs", Context(make_mesh(), tmp_path), 128)
    mean, scale = standardisation(rows.values)
    features, strength = (rows.values - mean) / scale, 1e-2
    weights, bias, gradient, _ = solve(
        features,
        rows.labels,
        classes=10,
        regularisation=(strength,),
        tolerance=3e-6,
        max_iterations=2000,
        mesh=make_mesh(),
    )
    assert gradient[0] <= 3e-6
    ours = 1 / (1 + np.exp(-predict(Head(weights[0], bias[0]), features)))
    for label in range(10):
        reference = LogisticRegression(C=1 / (strength * len(features)), tol=1e-9, max_iter=20000)
        reference.fit(features.astype(np.float64), rows.labels[:, label])
        np.testing.assert_allclose(ours[:, label], reference.predict_proba(features)[:, 1], atol=2e-4)


def test_neighbours_vote_for_each_label():
    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(7, 6)).astype(np.float32)
    labels = (rng.random((40, 3)) < 0.4).astype(np.float32)
    found = knn.vote(queries, gallery=gallery, labels=labels, classes=3, ks=(5,), temperature=0.1)[0]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, gallery)]
    similarity = unit[0] @ unit[1].T
    for query in range(7):
        near = np.argsort(-similarity[query])[:5]
        weight = np.exp(similarity[query, near] / 0.1)
        share = (weight[:, None] * labels[near]).sum(0) / weight.sum()
        np.testing.assert_allclose(1 / (1 + np.exp(-found[query])), share, rtol=1e-5, atol=1e-6)


def test_the_loss_is_pytorchs_on_smoothed_labels():
    rng = np.random.default_rng(0)
    labels = (rng.random((6, 4)) < 0.5).astype(np.float32)
    images = jnp.zeros((6, 8, 8, 3))
    _, targets = on_device.mix(
        images, jnp.asarray(labels), jax.random.key(0), classes=4, mixup=0.0, cutmix=0.0, label_smoothing=0.1
    )
    np.testing.assert_allclose(targets, labels * 0.9 + 0.05, rtol=1e-6)
    from bob_jax.protocols.scoring import cross_entropy

    logits = rng.normal(size=(6, 4)).astype(np.float32)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits), torch.tensor(np.asarray(targets)), reduction="none"
    ).sum(1)
    np.testing.assert_allclose(cross_entropy(jnp.asarray(logits), targets), theirs, rtol=1e-5)
