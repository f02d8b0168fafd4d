"""A head judged on shifted images: against the same scores by hand, over the classes of the table alone."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from bob_jax.backbones import zoo
from bob_jax.data.arrays import ArraySource
from bob_jax.data.base import Dataset, ShiftDataset
from bob_jax.errors import BobError
from bob_jax.metrics.bootstrap import intervals
from bob_jax.metrics.catalog import METRICS
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.head import Head, predict
from bob_jax.protocols.ood import OutOfDistribution
from bob_jax.protocols.trained import restore
from bob_jax.training.mesh import make_mesh, place

TABLE = np.array([4, 1, 3])  # the target's classes, not in the source's order
N = 24


@pytest.fixture(scope="module")
def competitor():
    mesh = make_mesh()
    loaded = zoo.load("resnet10_nano_random", place=lambda leaf: place(leaf, mesh))
    return Competitor(zoo.card("resnet10_nano_random"), loaded.module, loaded.weights_sha256)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def source(pixels):
    test = ArraySource(pixels, np.arange(N) % 5)
    return Dataset("five", "1", tuple("abcde"), {"test": test}, {"test": ""}, "accuracy", "none")


def context(competitor, source, tmp_path, backbone=None) -> Context:
    mesh = make_mesh()
    rng = np.random.default_rng(1)
    shape = (competitor.module.feature_dim, 5)
    weights = Head(rng.normal(size=shape).astype(np.float32), rng.normal(size=5).astype(np.float32)).named()
    return Context(mesh, tmp_path, trained=restore(competitor, weights | (backbone or {}), source, 2.0, "cell", mesh))


def target(splits, **fields) -> ShiftDataset:
    given = {"source": "five", "table": TABLE, "metric": "accuracy", **fields}
    return ShiftDataset(
        name="shifted",
        version="1",
        classes=tuple("edb"),
        splits=splits,
        split_notes=dict.fromkeys(splits, ""),
        licence="none",
        **given,
    )


def logits_of(ctx, pixels) -> np.ndarray:
    """The source's logits, straight from the module."""
    import jax.numpy as jnp

    from bob_jax.data.on_device import normalize
    from bob_jax.data.transforms import Eval

    preprocessing = ctx.trained.competitor.card.preprocessing
    images = np.stack([Eval(preprocessing)(image) for image in pixels])
    normal = normalize(jnp.asarray(images), preprocessing.mean, preprocessing.std)
    return predict(ctx.trained.head, np.asarray(ctx.trained.competitor.module(normal).pooled))


def test_one_shift_over_the_classes_of_the_table(competitor, source, pixels, tmp_path):
    ctx = context(competitor, source, tmp_path)
    labels = np.random.default_rng(2).integers(0, 3, N)
    dataset = target({"test": ArraySource(255 - pixels, labels)}, metric="mean_per_class_accuracy")
    result = OutOfDistribution(batch_size=8).run(competitor, dataset, ctx)

    prediction = logits_of(ctx, 255 - pixels)[:, TABLE].argmax(1)
    np.testing.assert_array_equal(result.outputs["prediction"], prediction)
    np.testing.assert_array_equal(result.outputs["correct"], prediction == labels)
    assert METRICS["mean_per_class_accuracy"](result.outputs) == pytest.approx(
        balanced_accuracy_score(labels, prediction)
    )
    kept = np.isin(np.arange(N) % 5, TABLE)
    clean = logits_of(ctx, pixels[kept])[:, TABLE].argmax(1)
    right = TABLE[clean] == (np.arange(N) % 5)[kept]
    assert result.scores["clean_accuracy"].value == pytest.approx(right.mean())
    assert result.scores["gap_accuracy"].value == pytest.approx(right.mean() - (prediction == labels).mean())
    assert result.notes == {"temperature": 2.0, "clean_images": int(kept.sum())}
    assert "nll_scaled" in result.outputs and result.weights is None


def test_conditions_are_columns_and_are_scored_one_by_one(competitor, source, pixels, tmp_path):
    ctx = context(competitor, source, tmp_path)
    labels = np.tile(np.arange(3), 8)
    splits = {
        name: ArraySource(changed, labels) for name, changed in (("dark_1", pixels // 2), ("dark_2", pixels // 8))
    }
    dataset = target(splits, reference_errors={"dark": 0.5})
    result = OutOfDistribution(batch_size=8).run(competitor, dataset, ctx)
    columns = [logits_of(ctx, pixels // by)[:, TABLE].argmax(1) == labels for by in (2, 8)]
    np.testing.assert_array_equal(result.outputs["correct"], np.stack(columns, 1))
    assert result.scores["accuracy_dark_2"].value == pytest.approx(columns[1].mean())
    scored = intervals({"accuracy": METRICS["accuracy"]}, result.outputs)["accuracy"]
    assert scored.value == pytest.approx(np.mean(columns)) and scored.n == N
    error = METRICS["mean_corruption_error"](result.outputs)
    assert error == pytest.approx((1 - np.mean(columns)) / 0.5)


def test_several_right_classes(competitor, source, pixels, tmp_path):
    ctx = context(competitor, source, tmp_path)
    labels = np.random.default_rng(3).random((N, 3)) < 0.5
    labels[:, 0] |= ~labels.any(1)
    result = OutOfDistribution(batch_size=8).run(competitor, target({"test": ArraySource(pixels, labels)}), ctx)
    prediction = logits_of(ctx, pixels)[:, TABLE].argmax(1)
    np.testing.assert_array_equal(result.outputs["correct"], labels[np.arange(N), prediction])
    assert "label" not in result.outputs and "clean_accuracy" in result.scores


def test_a_fine_tuned_backbone_is_the_one_that_is_judged(competitor, source, pixels, tmp_path):
    before = np.asarray(competitor.module.conv1.kernel[...])
    tuned = {"backbone." + name: np.asarray(leaf) for name, leaf in _leaves(competitor.module).items()}
    tuned["backbone.conv1.kernel"] = -tuned["backbone.conv1.kernel"]
    ctx = context(competitor, source, tmp_path, tuned)
    assert ctx.trained.competitor.weights_sha256 != competitor.weights_sha256
    result = OutOfDistribution(batch_size=8).run(
        competitor, target({"test": ArraySource(pixels, np.tile(np.arange(3), 8))}), ctx
    )
    np.testing.assert_array_equal(result.outputs["prediction"], logits_of(ctx, pixels)[:, TABLE].argmax(1))
    np.testing.assert_array_equal(np.asarray(competitor.module.conv1.kernel[...]), before)


def test_a_target_without_a_clean_image_says_so(competitor, source, pixels, tmp_path):
    only = Dataset("two", "1", tuple("abcde"), {"test": ArraySource(pixels[:4], np.zeros(4, int))}, {}, "accuracy", "")
    ctx = context(competitor, only, tmp_path)
    with pytest.raises(BobError, match="no test image of two has a class of shifted"):
        OutOfDistribution(batch_size=8).run(competitor, target({"test": ArraySource(pixels, np.zeros(N, int))}), ctx)


def _leaves(module):
    from bob_jax.backbones import parameters

    return parameters.flatten(module)
