"""Rank correlations against scipy and the published table's, intervals against theory and by how often they cover."""

import numpy as np
import pytest
from scipy import stats
from test_ranking_aggregates import published

from bob_jax.results.ranking.correlation import Correlation, between, correlate, kendall, spearman

# Spearman between the columns of the published table, upper triangle, as scipy gave it with two digits.
PUBLISHED = """
.98 .95 .81 .80 .63 .56 .46
    .94 .79 .79 .65 .57 .50
        .82 .78 .55 .59 .42
            .94 .71 .67 .68
                .77 .64 .73
                    .74 .81
                        .58
"""


def pair(n, seed=0, digits=1):
    """[n] and [n], correlated, with ties."""
    x, y = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], n).T
    return np.round(x, digits), np.round(y, digits)


@pytest.mark.parametrize("n", [2, 3, 5, 20, 60])
@pytest.mark.parametrize("seed", range(3))
def test_the_coefficients_are_scipys(n, seed):
    x, y = pair(n, seed)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def test_the_published_table():
    _, mrr, _ = published()
    names = [f"c{i}" for i in range(8)]
    expected = [float(word) for word in PUBLISHED.split()]
    found = between(names, mrr)
    assert [(one.first, one.second) for one in found][:8] == [("c0", f"c{j}") for j in range(1, 8)] + [("c1", "c2")]
    assert len(found) == len(expected) == 28
    np.testing.assert_allclose([one.spearman.value for one in found], expected, atol=0.0051)  # two digits
    assert {one.spearman.n for one in found} == {33}
    assert all(0 < one.kendall.value < one.spearman.value for one in found)


def test_the_interval_by_hand():
    """Spearman 0.6 of 28: atanh 0.6931, sd sqrt(1.18 / 25) = 0.2173; Kendall the same: sd sqrt(0.437 / 24)."""
    x = np.arange(28.0)
    for kind, deviation in (("spearman", np.sqrt((1 + 0.6**2 / 2) / 25)), ("kendall", np.sqrt(0.437 / 24))):
        y, value = nearest_to(0.6, x, kind)
        found = correlate(x, y, kind)
        deviation = np.sqrt((1 + value**2 / 2) / 25) if kind == "spearman" else deviation
        assert found.value == value == pytest.approx(0.6, abs=0.02)
        assert found.low == pytest.approx(np.tanh(np.arctanh(value) - 1.96 * deviation), abs=1e-4)
        assert found.high == pytest.approx(np.tanh(np.arctanh(value) + 1.96 * deviation), abs=1e-4)


def nearest_to(target, x, kind):
    """An order with a coefficient near the target."""
    function = spearman if kind == "spearman" else kendall
    orders = [x + np.random.default_rng(seed).normal(0, 8, len(x)) for seed in range(200)]
    best = min(orders, key=lambda y: abs(function(x, y) - target))
    return best, function(x, best)


@pytest.mark.parametrize("kind", ["spearman", "kendall"])
def test_intervals_cover_what_they_should(kind):
    """True values of a bivariate normal with r = 0.6: 6 / pi asin(r / 2) and 2 / pi asin(r)."""
    true = 6 / np.pi * np.arcsin(0.3) if kind == "spearman" else 2 / np.pi * np.arcsin(0.6)
    covered = 0
    for seed in range(1000):
        found = correlate(*pair(15, seed, digits=9), kind)
        covered += found.low <= true <= found.high
    assert 925 <= covered <= 985  # 950 expected


@pytest.mark.parametrize("kind", ["spearman", "kendall"])
def test_few_backbones_say_nothing_and_equal_orders_are_no_proof(kind):
    for n in (2, 3):
        assert correlate(np.arange(n), np.arange(n), kind) == Correlation(pytest.approx(1.0), -1.0, 1.0, n)
    narrowing = [correlate(np.arange(n), np.arange(n), kind) for n in (6, 10, 30)]
    assert all(one.value == one.high == pytest.approx(1.0) for one in narrowing)
    assert -1 < narrowing[0].low < narrowing[1].low < narrowing[2].low < 1
    turned = correlate(np.arange(10), -np.arange(10), kind)
    assert (turned.value, turned.low) == (pytest.approx(-1.0), pytest.approx(-1.0))
    assert turned.high == pytest.approx(-narrowing[1].low)


@pytest.mark.parametrize("kind", ["spearman", "kendall"])
def test_nothing_to_correlate(kind):
    none = [
        correlate(np.array([]), np.array([]), kind),
        correlate(np.array([1.0]), np.array([2.0]), kind),
        correlate(np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0]), kind),
        correlate(np.array([1.0, np.nan, 2.0]), np.array([np.nan, 1.0, 2.0]), kind),
    ]
    assert none == [Correlation(None, -1.0, 1.0, n) for n in (0, 1, 3, 1)]


def test_only_backbones_that_have_both_count():
    x, y = pair(12)
    x[3], y[5] = np.nan, np.nan
    both = [i for i in range(12) if i not in (3, 5)]
    assert correlate(x, y) == correlate(x[both], y[both])
    assert correlate(x, y).n == 10


@pytest.mark.parametrize("kind", ["spearman", "kendall"])
def test_order_of_backbones_and_monotone_changes_do_not_matter(kind):
    x, y = pair(12)
    order = np.random.default_rng(0).permutation(12)
    found = correlate(x, y, kind)
    for other in (correlate(x[order], y[order], kind), correlate(np.exp(x), y**3, kind), correlate(y, x, kind)):
        assert (other.value, other.low, other.high) == pytest.approx((found.value, found.low, found.high))
    turned = correlate(x, -y, kind)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))
