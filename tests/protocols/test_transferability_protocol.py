"""The protocol on a shipped backbone: the scores of its features, which images they are of, and how sure they are."""

import dataclasses

import numpy as np
import pytest
from synthetic_records import simulate

from bob_jax.backbones import zoo
from bob_jax.data import catalog
from bob_jax.metrics import transferability as metrics
from bob_jax.protocols import transferability
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.features import extract
from bob_jax.results.boards import boards
from bob_jax.results.ranking import cheap_answers, settings
from bob_jax.results.record import Score
from bob_jax.training.mesh import make_mesh


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A backbone's result on 420 digits of 500, and all of its features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOB_CACHE", str(tmp_path_factory.mktemp("cache")))
        loaded = zoo.load("vit_nano8_glyphs")
        competitor = Competitor(zoo.card("vit_nano8_glyphs"), loaded.module, loaded.weights_sha256)
        dataset = catalog.load("digits", limit=500)
        context = Context(make_mesh(), tmp_path_factory.mktemp("work"))
        result = transferability.Transferability(images=420, batch_size=64).run(competitor, dataset, context)
        rows = extract(competitor, dataset.splits["train"], "train", context, 64)
        return result, rows, dataset.splits["train"].ids


def test_scores_are_those_of_the_features_of_the_images_named(judged):
    result, rows, ids = judged
    used = np.array([list(ids).index(name) for name in result.outputs["id"]])
    features, labels = rows.values[used], rows.labels[used]
    np.testing.assert_array_equal(result.outputs["label"], labels)
    assert set(result.scores) == set(metrics.NAMES)
    for name, function in (("logme", metrics.logme), ("h_score", metrics.h_score), ("gbc", metrics.gbc)):
        assert result.scores[name].value == pytest.approx(function(features, labels))
    assert result.scores["nleep"].value == pytest.approx(metrics.nleep(features, labels, diagonal=True))
    assert (result.main_metric, set(result.higher_is_better.values())) == ("logme", {True})
    for score in result.scores.values():
        assert score.low < score.value < score.high
        assert score.n == len(used)


def test_each_class_keeps_its_share(judged):
    result, rows, _ = judged
    whole, part = np.bincount(rows.labels), np.bincount(result.outputs["label"])
    np.testing.assert_array_equal(part, np.round(0.84 * whole))
    assert 415 <= len(result.outputs["id"]) <= 425
    assert len(set(result.outputs["id"])) == len(result.outputs["id"])


def test_the_interval_is_that_of_a_mean(monkeypatch):
    """Of a score that is a mean within classes, halves vary as theory says."""
    monkeypatch.setattr(transferability, "HALVES", 3000)
    for name in ("h_score", "gbc", "nleep"):
        monkeypatch.setattr(metrics, name, lambda x, y, **_: 0.0)
    monkeypatch.setattr(metrics, "logme", lambda x, y: float(x.mean()))
    values = np.random.default_rng(0).normal(size=(200, 1)).astype(np.float32)
    labels = np.arange(200) % 2
    found = transferability.scores(values, labels, np.random.default_rng(1))["logme"]
    within = np.mean([values[labels == c].var(ddof=1) for c in (0, 1)])
    # 3000 halves give the standard deviation to 1.3 %.
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.sqrt(within / 200), rel=0.05)


def test_many_classes_and_few_images_have_no_mixture(monkeypatch):
    x, labels = np.random.default_rng(0).normal(size=(120, 4)), np.arange(120) % 3
    cheap = {"logme", "h_score", "gbc"}
    assert set(transferability.scores(x, labels, np.random.default_rng(0))) == {*cheap, "nleep"}
    assert set(transferability.scores(x[:-1], labels[:-1], np.random.default_rng(0))) == cheap
    monkeypatch.setattr(transferability, "MOST_CLASSES", 2)
    assert set(transferability.scores(x, labels, np.random.default_rng(0))) == cheap


def test_a_class_of_one_image_stays():
    labels = np.array([0, 0, 0, 0, 1])
    chosen = transferability._part(labels, 0.5, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [2, 1]


def test_guesses_are_held_against_fine_tuning_and_do_not_rank():
    made = []
    for i, (name, accuracy) in enumerate((("a", 0.9), ("b", 0.7), ("c", 0.5))):
        done, _ = simulate(name, accuracy=accuracy)
        for protocol, scores in (("finetune", done.metrics), ("transferability", guesses(i))):
            cell = dataclasses.replace(done.cell, id=f"{name}-{protocol}", protocol=protocol)
            main = "logme" if protocol == "transferability" else done.main_metric
            used = dataclasses.replace(done.protocol, name=protocol)
            made.append(dataclasses.replace(done, cell=cell, protocol=used, metrics=scores, main_metric=main))
    found = boards(made, lambda _: None)
    assert [board.percent for board in found] == [True, False]
    assert [one.protocol for one in settings.from_boards(found, made).settings] == ["finetune"]
    assert settings.from_boards(found[1:], made).backbones == ()
    table = settings.from_boards(found, made, predictions=True)
    assert [one.title for one in table.settings[1:]] == [
        "digits · transferability: logme",
        "digits · transferability: gbc",
    ]
    logme, gbc = cheap_answers.cheap_answers(table)
    assert (logme.cheap, logme.spearman.value, logme.regret) == ("transferability: logme", pytest.approx(1.0), 0.0)
    assert (gbc.cheap, gbc.spearman.value) == ("transferability: gbc", pytest.approx(-1.0))
    assert gbc.regret > 0.3


def guesses(i):
    return {
        "logme": Score(0.5 - 0.1 * i, 0.0, 1.0, 100, True),
        "gbc": Score(-5.0 + i, -9.0, 0.0, 100, True),
    }
