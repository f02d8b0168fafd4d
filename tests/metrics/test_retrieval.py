"""Retrieval scores: hand values, trec_eval, scikit-learn, and revisitop's formula written anew."""

import numpy as np
import pytest
import pytrec_eval
from sklearn.metrics import average_precision_score

from bob_jax.metrics.bootstrap import intervals
from bob_jax.metrics.retrieval import METRICS, micro_average_precision, per_query

Q, G = 20, 200


@pytest.fixture(scope="module")
def problem():
    """Scores without ties [Q, G] and what is relevant; every query has a positive."""
    rng = np.random.default_rng(0)
    relevant = rng.random((Q, G)) < rng.uniform(0.01, 0.8, (Q, 1))
    relevant[np.arange(Q), rng.integers(0, G, Q)] = True
    return rng.permutation(Q * G).reshape(Q, G) / (Q * G), relevant


@pytest.fixture(scope="module")
def ranks(problem):
    scores, relevant = problem
    order = np.argsort(-scores, axis=1)
    return [np.flatnonzero(np.take(row, by)) for row, by in zip(relevant, order, strict=True)]


@pytest.fixture(scope="module")
def outputs(ranks):
    return per_query(ranks)


TREC = {
    "map": "map",
    "map@100_positives": "map_cut_100",
    "mrr": "recip_rank",
    "r_precision": "Rprec",
    **{f"{name}@{k}": f"{trec}_{k}" for name, trec in (("precision", "P"), ("recall", "recall")) for k in (1, 5, 10)},
    **{f"hit@{k}": f"success_{k}" for k in (1, 5, 10)},
}


@pytest.mark.parametrize("name", TREC)
def test_trec_eval_agrees(name, problem, outputs):
    scores, relevant = problem
    judged = {f"q{q}": {f"d{g}": int(relevant[q, g]) for g in range(G)} for q in range(Q)}
    run = {f"q{q}": {f"d{g}": float(scores[q, g]) for g in range(G)} for q in range(Q)}
    measures = {"map", "map_cut.100", "recip_rank", "Rprec", "P.1,5,10", "recall.1,5,10", "success.1,5,10"}
    theirs = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(run)
    expected = np.mean([theirs[f"q{q}"][TREC[name]] for q in range(Q)])
    assert METRICS[name](outputs) == pytest.approx(expected, abs=1e-12)


def test_scikit_learn_agrees(problem, outputs):
    scores, relevant = problem
    expected = [average_precision_score(relevant[q], scores[q]) for q in range(Q)]
    np.testing.assert_allclose(outputs["ap"], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("positions", "n", "value"),
    [((1,), 1, 0.25), ((0, 2), 2, 0.791667), ((0, 4), 2, 0.6625), ((0, 1, 2), 3, 1.0)],
)
def test_trapezoids_by_hand(positions, n, value):
    found = per_query([np.array(positions)])
    assert len(positions) == n and found["ap_trapezoid"][0] == pytest.approx(value, abs=1e-6)


def test_trapezoids_of_which_one_comes_last():
    # By hand {1, 2, 5} of n = 4 gives .320833: here the fourth is a million images further on.
    found = per_query([np.array([1, 2, 5, 10**9])])
    assert found["ap_trapezoid"][0] == pytest.approx(0.320833, abs=1e-6)


def test_revisited_oxford_formula(ranks, outputs):
    """Area under the curve, precision before and after each hit; precision by min(k, rank of the last positive)."""
    for query, found in enumerate(ranks):
        area, n = 0.0, len(found)
        for hit, position in enumerate(found):
            before = 1.0 if position == 0 else hit / position
            area += (before + (hit + 1) / (position + 1)) / 2 / n
        assert outputs["ap_trapezoid"][query] == pytest.approx(area, rel=1e-12)
        for k in (1, 5, 10):
            first = min(found.max() + 1, k)
            expected = (found < first).sum() / first
            assert outputs[f"precision@{k}_revisited"][query] == pytest.approx(expected)
    assert (outputs["ap_trapezoid"] <= outputs["ap"] + 1e-12).all()


def test_three_conventions_of_map_at_k():
    early = [np.array([0, 3, 150])]
    found, terms = per_query(early), 1 + 2 / 4
    assert found["ap@100"][0] == pytest.approx(terms / 3)  # min(n, k) is n
    assert found["ap@100_positives"][0] == pytest.approx(terms / 3)
    assert found["ap@100_hits"][0] == pytest.approx(terms / 2)
    many = per_query([np.arange(0, 400, 2)])  # 200 positives, 50 of them within the first 100
    terms = sum((j + 1) / (2 * j + 1) for j in range(50))
    assert many["ap@100"][0] == pytest.approx(terms / 100)
    assert many["ap@100_positives"][0] == pytest.approx(terms / 200)
    assert many["ap@100_hits"][0] == pytest.approx(terms / 50)
    assert per_query([np.array([100])])["ap@100_hits"][0] == 0


def test_map_at_r():
    found = per_query([np.array([0, 2, 7])])  # of the first three two are right
    assert found["ap@r"][0] == pytest.approx((1 + 2 / 3) / 3) and found["r_precision"][0] == pytest.approx(2 / 3)


def test_micro_ap_of_the_whole_matrix_is_scikit_learns(problem):
    scores, relevant = problem
    order = np.argsort(-scores, axis=1)
    listed = {
        "similarity": np.take_along_axis(scores, order, 1),
        "relevant": np.take_along_axis(relevant, order, 1),
        "positives": relevant.sum(1),
    }
    expected = average_precision_score(relevant.ravel(), scores.ravel())
    assert METRICS["micro_ap"](listed) == pytest.approx(expected, rel=1e-12)
    weights = np.random.default_rng(1).integers(0, 3, (4, Q)).astype(float)
    drawn = micro_average_precision(weights, *(listed[name] for name in METRICS["micro_ap"].inputs))
    for row, value in zip(weights, drawn, strict=True):
        weight = np.repeat(row, G)
        # A query drawn twice puts its pairs in twice, one right after the other: the order of equal pairs matters
        # little, and scikit-learn weights them as one.
        theirs = average_precision_score(relevant.ravel(), scores.ravel(), sample_weight=weight)
        assert value == pytest.approx(theirs, rel=1e-12)


def test_what_a_truncated_list_lacks_is_never_found():
    value = METRICS["micro_ap"](
        {
            "similarity": np.array([[0.9, 0.2], [0.8, -np.inf]]),
            "relevant": np.array([[True, False], [True, False]]),
            "positives": np.array([2, 1]),
        }
    )
    assert value == pytest.approx(2 / 3)


def test_queries_without_positives_and_unsorted_ranks_are_refused():
    with pytest.raises(ValueError, match="one positive or more"):
        per_query([np.array([0]), np.array([], int)])
    with pytest.raises(ValueError, match="must ascend"):
        per_query([np.array([3, 1])])


def test_every_score_has_an_interval(outputs):
    metrics = {name: metric for name, metric in METRICS.items() if set(metric.inputs) <= set(outputs)}
    assert set(METRICS) - set(metrics) == {"micro_ap"}
    for estimate in intervals(metrics, outputs, resamples=50).values():
        assert estimate.low <= estimate.value <= estimate.high and estimate.n == Q
