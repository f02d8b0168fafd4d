"""Retrieval end to end against NumPy: descriptors of a real backbone, whitening, sizes, images that cannot be read."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score

from bob_jax.backbones import zoo
from bob_jax.backbones.base import Features
from bob_jax.data import catalog
from bob_jax.data.arrays import ArraySource
from bob_jax.data.base import Relevance, RetrievalDataset
from bob_jax.data.decode import CorruptImage
from bob_jax.errors import BobError
from bob_jax.metrics.catalog import METRICS
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.descriptors import GeM, Whitening, sizes, unit
from bob_jax.protocols.features import extract
from bob_jax.protocols.retrieval import Retrieval
from bob_jax.training.mesh import make_mesh, place

SECTION = {
    "descriptor": "pooled",
    "gem_p": 3.0,
    "input_size": 0,
    "scales": (1.0,),
    "whitening": 0,
    "top_k": 5,
    "batch_size": 64,
}


@pytest.fixture(scope="module")
def competitor():
    mesh = make_mesh()
    loaded = zoo.load("resnet10_nano_glyphs", place=lambda leaf: place(leaf, mesh))
    return Competitor(zoo.card("resnet10_nano_glyphs"), loaded.module, loaded.weights_sha256)


@pytest.fixture
def context(tmp_path):
    return Context(make_mesh(), tmp_path)


def run(competitor, dataset, context, **changes):
    return Retrieval.from_config(SECTION | changes).run(competitor, dataset, context)


def test_digits_equal_numpy(competitor, context):
    dataset = catalog.load("digits_retrieval", limit=120)
    result = run(competitor, dataset, context)
    values = {}
    for split, source in dataset.splits.items():
        rows = extract(competitor, source, split, context, 64)
        values[split] = rows.values / np.linalg.norm(rows.values, axis=1, keepdims=True)
    precision = []
    for query, (right, junk) in enumerate(zip(dataset.relevance.positives, dataset.relevance.junk, strict=True)):
        kept = np.setdiff1d(np.arange(len(values["gallery"])), junk)
        scores = values["gallery"][kept] @ values["query"][query]
        precision.append(average_precision_score(np.isin(kept, right), scores))
    np.testing.assert_allclose(result.outputs["ap"], precision, rtol=1e-5)
    assert METRICS["map"](result.outputs) == pytest.approx(np.mean(precision), rel=1e-6)
    assert result.outputs["id"].tolist() == list(dataset.splits["query"].ids)
    assert result.grid == () and result.notes["queries_without_positives"] == 0
    labels = dataset.splits["gallery"].labels
    own = dataset.splits["query"].labels
    np.testing.assert_array_equal(result.outputs["relevant"], labels[result.outputs["found"]] == own[:, None])


def test_gem_is_its_formula():
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    found = GeM(3.0)(Features(jnp.zeros((2, 1)), (jnp.zeros((2, 6, 8, 1)), jnp.asarray(maps))))
    expected = (np.maximum(maps, 1e-6).astype(np.float64) ** 3).mean((1, 2)) ** (1 / 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_whitening_is_scikit_learns():
    rows = np.random.default_rng(0).normal(size=(80, 10)) @ np.random.default_rng(1).normal(size=(10, 10))
    rows = rows.astype(np.float32)
    ours = Whitening.learn(rows, 6)(rows)
    theirs = unit(PCA(6, whiten=True, svd_solver="full").fit_transform(rows.astype(np.float64)).astype(np.float32))
    signs = np.sign((ours * theirs).sum(0))
    np.testing.assert_allclose(ours, theirs * signs, atol=1e-5)


@pytest.mark.parametrize("dimensions", [20, 11])
def test_more_dimensions_than_the_images_span(dimensions):
    rows = np.random.default_rng(0).normal(size=(12, 30)).astype(np.float32)
    rows[:, 10:] = 0
    with pytest.raises(BobError, match=f"protocols.retrieval.whitening is {dimensions}"):
        Whitening.learn(rows, dimensions)


def test_gem_sizes_and_whitening_together(competitor, context):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 40, 40, 3), dtype=np.uint8)
    labels = np.arange(60) % 4
    parts = [ArraySource(pixels[i : i + 20], labels[i : i + 20], [f"{i + j}" for j in range(20)]) for i in (0, 20, 40)]
    dataset = dataset_of(*parts)
    result = run(competitor, dataset, context, descriptor="gem", scales=(2.0, 1.0), whitening=7)
    side = competitor.card.preprocessing.input_size
    sides = sizes(competitor.module, side, (2.0, 1.0))
    assert sides == (2 * side, side) and result.notes["dimensions"] == 7
    assert sizes(competitor.module, side, (0.3,)) == (side,)  # never below one cell of the map
    described = []
    for part in parts:
        each = [extract(competitor, part, "x", context, 64, descriptor=GeM(3.0), input_size=at).values for at in sides]
        described.append(unit(unit(each[0]) + unit(each[1])))
    whiten = Whitening.learn(described[2], 7)
    similarity = whiten(described[0]) @ whiten(described[1]).T
    np.testing.assert_allclose(result.outputs["similarity"], -np.sort(-similarity, 1)[:, :5], atol=1e-5)


def dataset_of(query, gallery, whitening=None, empty=()) -> RetrievalDataset:
    positives = tuple(
        np.flatnonzero(gallery.labels == label) if row not in empty else np.array([], int)
        for row, label in enumerate(query.labels)
    )
    splits = {"query": query, "gallery": gallery} | ({"whitening": whitening} if whitening else {})
    return RetrievalDataset(
        name="noise",
        version="1",
        classes=(),
        splits=splits,
        split_notes=dict.fromkeys(splits, ""),
        metric="map",
        licence="",
        relevance=Relevance(positives, (np.array([], int),) * len(positives)),
    )


@pytest.fixture
def noise():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(24) % 3
    return ArraySource(pixels[:9], labels[:9], [f"q{i}" for i in range(9)]), ArraySource(pixels[9:], labels[9:])


def test_queries_without_positives_are_left_out_and_counted(competitor, context, noise):
    result = run(competitor, dataset_of(*noise, empty=(2, 5)), context)
    assert result.outputs["id"].tolist() == ["q0", "q1", "q3", "q4", "q6", "q7", "q8"]
    assert result.notes["queries_without_positives"] == 2
    whole = run(competitor, dataset_of(*noise), context)
    np.testing.assert_array_equal(result.outputs["ap"], whole.outputs["ap"][[0, 1, 3, 4, 6, 7, 8]])


def test_no_positive_at_all_and_no_whitening_split_are_one_line(competitor, context, noise):
    with pytest.raises(BobError, match="no query of noise has a positive"):
        run(competitor, dataset_of(*noise, empty=range(9)), context)
    with pytest.raises(BobError, match="noise has no images to learn it from"):
        run(competitor, dataset_of(*noise), context, whitening=3)
    query, gallery = noise
    with pytest.raises(BobError, match="image 'q0' of noise/whitening is also in noise/query"):
        run(competitor, dataset_of(query, gallery, whitening=query), context, whitening=3)
    with pytest.raises(BobError, match="unknown descriptor 'gemm': did you mean gem"):
        run(competitor, dataset_of(*noise), context, descriptor="gemm")


class Broken(ArraySource):
    """Some of its images cannot be decoded."""

    broken: tuple[int, ...] = ()

    def __getitem__(self, index):
        if index in self.broken:
            raise CorruptImage(f"cannot decode image '{self.ids[index]}'")
        return super().__getitem__(index)


def test_images_that_cannot_be_read_are_neither_found_nor_missed(competitor, tmp_path, noise):
    query, gallery = (Broken(part.images, part.labels, part.ids) for part in noise)
    query.broken, gallery.broken = (1,), (0, 4)
    context = Context(make_mesh(), tmp_path, skip_corrupt=True, num_workers=0)
    result = run(competitor, dataset_of(query, gallery), context)
    kept = [i for i in range(15) if i not in (0, 4)]
    smaller = ArraySource(gallery.images[kept], gallery.labels[kept], [gallery.ids[i] for i in kept])
    queries = [i for i in range(9) if i != 1]
    asked = ArraySource(query.images[queries], query.labels[queries], [query.ids[i] for i in queries])
    without = run(competitor, dataset_of(asked, smaller), Context(make_mesh(), tmp_path))
    np.testing.assert_allclose(result.outputs["ap"], without.outputs["ap"], rtol=1e-6)
    assert result.skipped["gallery"] == (gallery.ids[0], gallery.ids[4]) and result.skipped["query"] == ("q1",)
    assert set(result.outputs["found"].ravel()) <= set(kept)  # positions in the whole gallery
