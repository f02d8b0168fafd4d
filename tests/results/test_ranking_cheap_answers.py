import dataclasses

import numpy as np
import pytest
from scipy import stats
from test_ranking_settings import N

from bob_jax.errors import BobError
from bob_jax.results.ranking.cheap_answers import CheapAnswer, cheap_answers, summaries
from bob_jax.results.ranking.correlation import Correlation, correlate
from bob_jax.results.ranking.settings import Setting, Settings


def table(*columns):
    """Columns (dataset, protocol, values); the test images are the data set's."""
    values = np.array([column[2] for column in columns], dtype=np.float64).T
    names = tuple("abcdefgh"[: len(values)])
    settings = tuple(
        Setting(f"{data} · {protocol}", "classification", data, protocol, "accuracy", protocol != "loss", data)
        for data, protocol, _ in columns
    )
    return Settings(names, settings, values, tuple(((),) * len(settings) for _ in names))


FINE = (0.9, 0.8, 0.7, 0.6, 0.5)


def test_each_cheap_protocol_on_each_data_set():
    found = cheap_answers(
        table(
            ("digits", "finetune", FINE),
            ("digits", "knn", (0.5, 0.6, 0.4, 0.3, 0.1)),
            ("digits", "loss", (1, 2, 3, 4, 5)),
            ("pets", "knn", (1, 2, 3, 4, 5)),  # no fine-tuning there
            ("cars", "finetune", FINE),
            ("cars", "knn", (5, 4, 3, 2, 1)),
        )
    )
    assert [(one.dataset, one.cheap) for one in found] == [("digits", "knn"), ("digits", "loss"), ("cars", "knn")]
    knn, loss, cars = found
    assert (knn.cheap_title, knn.target_title) == ("digits · knn", "digits · finetune")
    assert knn.spearman == correlate(np.array([0.5, 0.6, 0.4, 0.3, 0.1]), np.array(FINE))
    assert knn.kendall.value == pytest.approx(stats.kendalltau((0.5, 0.6, 0.4, 0.3, 0.1), FINE).statistic)
    assert (knn.regret, knn.agrees) == (pytest.approx(0.1), False)
    assert (loss.regret, loss.agrees, loss.spearman.value) == (0.0, True, pytest.approx(1.0))
    assert (cars.regret, cars.agrees) == (0.0, True)


def test_of_equal_choices_the_worst_counts():
    (found,) = cheap_answers(table(("d", "finetune", FINE), ("d", "knn", (1, 0, 0, 1, 0))))
    assert found.regret == pytest.approx(0.3)


def test_only_backbones_with_both():
    (found,) = cheap_answers(
        table(("d", "finetune", (0.9, 0.8, N, 0.6, 0.5)), ("d", "knn", (0.1, 0.2, 0.9, 0.3, N))),
    )
    assert found.spearman.n == 3
    assert found.regret == pytest.approx(0.3)


def test_other_test_images_are_another_question():
    one = table(("d", "finetune", FINE), ("d", "knn", FINE), ("d", "retrieval", FINE))
    other = Setting("d · knn, test images 5", "classification", "d", "knn", "accuracy", True, "fewer")
    retrieval = Setting("d · retrieval", "retrieval", "d", "retrieval", "map", True, "d")
    with pytest.raises(BobError, match=r"^no two backbones have a record of 'finetune' and of another protocol"):
        cheap_answers(Settings(one.backbones, (one.settings[0], other, retrieval), one.values, one.cells))


def test_another_target():
    (found,) = cheap_answers(table(("d", "linear_probe", FINE), ("d", "knn", FINE)), target="linear_probe")
    assert (found.cheap, found.agrees) == ("knn", True)


def test_nothing_to_hold_against_is_one_line():
    with pytest.raises(BobError, match=r"^no record of protocol 'finetune': nothing to hold"):
        cheap_answers(table(("d", "knn", FINE)))
    with pytest.raises(BobError, match=r"^no two backbones have a record of 'finetune'"):
        cheap_answers(table(("d", "finetune", (1, N)), ("d", "knn", (N, 1))))


def test_equal_scores_have_no_correlation_but_a_regret():
    (found,) = cheap_answers(table(("d", "finetune", FINE), ("d", "knn", (1, 1, 1, 1, 1))))
    assert found.spearman == Correlation(None, -1.0, 1.0, 5)
    assert found.regret == pytest.approx(0.4)
    (one,) = summaries([found])
    assert (one.spearman, one.low, one.high, one.regret) == (None, -1.0, 1.0, pytest.approx(0.4))


def answer(cheap, rho, low, high, regret=0.0, n=8):
    one = Correlation(rho, low, high, n)
    return CheapAnswer("d", cheap, "", "", one, one, regret, regret == 0)


def test_over_data_sets_by_hand():
    """Fisher's mean of 0.6 and 0.8 is tanh((0.6931 + 1.0986) / 2) = 0.7143; ends in the same way."""
    found = summaries(
        [
            answer("knn", 0.6, 0.2, 0.8, regret=0.02),
            answer("probe", 0.9, 0.5, 0.95, n=5),
            answer("knn", 0.8, 0.5, 0.9),
            answer("knn", None, -1.0, 1.0, regret=0.01, n=2),
        ]
    )
    assert [one.cheap for one in found] == ["probe", "knn"]
    probe, knn = found
    assert (probe.spearman, probe.low, probe.high, probe.datasets, probe.backbones) == (0.9, 0.5, 0.95, 1, 5)
    assert knn.spearman == pytest.approx(0.7143, abs=1e-4)
    assert knn.low == pytest.approx(np.tanh((np.arctanh(0.2) + np.arctanh(0.5)) / 2))
    assert knn.high == pytest.approx(np.tanh((np.arctanh(0.8) + np.arctanh(0.9)) / 2))
    assert (knn.datasets, knn.comparisons, knn.backbones, knn.agreeing) == (1, 3, 2, 1)
    assert knn.regret == pytest.approx(0.01)


def test_perfect_orders_stay_within_bounds():
    (one,) = summaries([answer("knn", 1.0, 0.3, 1.0), answer("knn", 1.0, -1.0, 1.0)])
    assert one.spearman == pytest.approx(1.0)
    assert -1 <= one.low < one.spearman <= one.high <= 1


def test_boards_of_one_data_set_are_comparisons_and_not_data_sets():
    """Two grids of fine-tuning on digits; a low-data variant on the same test images is another data set."""
    one = table(
        ("digits", "finetune", FINE),
        ("digits", "finetune", FINE[::-1]),
        ("digits", "knn", FINE),
        ("digits@5shot", "knn", FINE),
    )
    settings = tuple(dataclasses.replace(setting, images="digits") for setting in one.settings)
    found = cheap_answers(dataclasses.replace(one, settings=settings))
    assert {answer.dataset for answer in found} == {"digits"}
    (knn,) = summaries(found)
    assert (knn.datasets, knn.comparisons, knn.agreeing) == (1, 2, 1)
