"""Transferability scores against their definitions: direct maximisation, integration, loops, scikit-learn."""

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from bob_jax.errors import BobError
from bob_jax.metrics import transferability
from bob_jax.metrics.transferability import gbc, h_score, leep, logme, nleep

SCORES = {
    "logme": logme,
    "h_score": h_score,
    "nleep": lambda x, y: nleep(x, y, diagonal=True),
    "gbc": gbc,
}


def blobs(n=120, d=6, classes=3, apart=1.0, seed=0):
    """[n, d] features of classes that lie apart, and [n] labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = generator.normal(size=(classes, d))
    return apart * centres[labels] + generator.normal(size=(n, d)) * np.linspace(0.5, 1.5, d), labels


@pytest.mark.parametrize(("n", "d"), [(60, 5), (40, 12), (15, 30)])
def test_logme_is_the_largest_evidence(n, d):
    """y ~ N(0, 1/beta + F F' / alpha), maximised over both by a general optimiser, class by class."""
    x, labels = blobs(n, d, classes=3, apart=0.7)
    found = []
    for c in range(3):
        target = (labels == c).astype(float)

        def negative(logs, target=target):
            covariance = np.eye(n) * np.exp(-logs[1]) + x @ x.T * np.exp(-logs[0])
            return -stats.multivariate_normal.logpdf(target, np.zeros(n), covariance)

        starts = [optimize.minimize(negative, start, method="Nelder-Mead") for start in ([0, 0], [3, 3], [0, 4])]
        found.append(-min(result.fun for result in starts) / n)
    # Where 30 dimensions can fit 15 images the evidence is nearly flat: fixed point and simplex stop near its top.
    assert logme(x, labels) == pytest.approx(np.mean(found), abs=1e-5 if n > d else 1e-3)


def test_logme_does_not_turn():
    x, labels = blobs()
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    assert logme(x @ rotation, labels) == pytest.approx(logme(x, labels), rel=1e-9)
    padded = np.concatenate([x, np.zeros((len(x), 3))], axis=1)
    assert logme(padded, labels) == pytest.approx(logme(x, labels), rel=1e-9)


def test_h_score_of_two_classes_by_hand():
    """Means -1 and 1, variance 1 within: of the total variance 2 the means have 1."""
    x = np.array([[-2.0], [0.0], [0.0], [2.0]])
    assert h_score(x, np.array([0, 0, 1, 1]), shrinkage=False) == pytest.approx(0.5)


def test_h_score_is_the_formula():
    x, labels = blobs()
    means = np.stack([x[labels == c].mean(axis=0) for c in labels])
    between = np.cov(means, rowvar=False, ddof=0)
    plain = np.trace(np.linalg.inv(np.cov(x, rowvar=False, ddof=0)) @ between)
    assert h_score(x, labels, shrinkage=False) == pytest.approx(plain)
    fitted = LedoitWolf().fit(x)
    shrunk = np.trace(np.linalg.inv(fitted.covariance_) @ between) * (1 - fitted.shrinkage_)
    assert h_score(x, labels) == pytest.approx(shrunk)
    assert 0 < h_score(x, labels) < plain < 2


@pytest.mark.parametrize(("n", "d"), [(100, 4), (20, 40), (5, 1)])
def test_ledoit_wolf_is_scikit_learns(n, d):
    x = blobs(n, d)[0]
    covariance, share = transferability.ledoit_wolf(x - x.mean(axis=0))
    fitted = LedoitWolf().fit(x)
    assert share == pytest.approx(fitted.shrinkage_)
    np.testing.assert_allclose(covariance, fitted.covariance_, rtol=1e-9, atol=1e-12)


def slow_leep(p, labels):
    n, z = p.shape
    joint = {(y, k): sum(p[i, k] for i in range(n) if labels[i] == y) / n for y in set(labels) for k in range(z)}
    marginal = [sum(joint[y, k] for y in set(labels)) for k in range(z)]
    return np.mean(
        [np.log(sum(joint[labels[i], k] / marginal[k] * p[i, k] for k in range(z) if marginal[k])) for i in range(n)]
    )


def test_leep_is_the_formula_in_a_loop():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 40)
    p = generator.dirichlet(np.ones(5), 40)
    p[:, 4] = 0  # a class that never comes
    p /= p.sum(axis=1, keepdims=True)
    assert leep(p, labels) == pytest.approx(slow_leep(p, labels.tolist()))


def test_leep_by_hand():
    """A source that knows the classes has 0; one that says nothing has the entropy of the labels."""
    labels = np.array([0, 1, 1, 0])
    assert leep(np.eye(2)[labels], labels) == pytest.approx(0.0)
    assert leep(np.full((4, 3), 1 / 3), labels) == pytest.approx(np.log(0.5))


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_nleep_is_leep_of_a_mixture_on_principal_components(kind):
    x, labels = blobs(n=300, apart=2.0)
    reduced = PCA(n_components=0.8).fit_transform(x)
    assert 1 < reduced.shape[1] < 6
    mixture = GaussianMixture(15, covariance_type=kind, random_state=0).fit(reduced)
    expected = slow_leep(mixture.predict_proba(reduced), labels.tolist())
    # Principal components have no sign, which moves the start of the mixture by rounding alone.
    assert nleep(x, labels, diagonal=kind == "diag") == pytest.approx(expected, rel=1e-6)


def test_gbc_integrates_the_overlap():
    """Two spherical Gaussians in the plane: the integral of sqrt(p q) over a fine grid, twice."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    x = generator.normal(size=(400, 2)) * np.where(labels, 0.7, 1.2)[:, None] + labels[:, None] * [1.5, 0.5]
    step = np.linspace(-8, 8, 801)
    grid = np.stack(np.meshgrid(step, step, indexing="ij"), axis=-1)
    density = []
    for c in (0, 1):
        mean, variance = x[labels == c].mean(axis=0), x[labels == c].var(axis=0).mean()
        density.append(stats.multivariate_normal.pdf(grid, mean, variance * np.eye(2)))
    overlap = np.sqrt(density[0] * density[1]).sum() * (step[1] - step[0]) ** 2
    assert 0.1 < overlap < 0.9
    assert gbc(x, labels) == pytest.approx(-2 * overlap, rel=1e-5)


def test_gbc_of_many_dimensions_is_that_of_64_principal_components():
    x, labels = blobs(n=300, d=100)
    assert gbc(x, labels) == pytest.approx(gbc(PCA(64, svd_solver="full").fit_transform(x), labels))


@pytest.mark.parametrize("name", SCORES)
def test_classes_that_lie_apart_transfer_better(name):
    scores = [SCORES[name](*blobs(n=240, apart=apart)) for apart in (0.0, 0.7, 1.5, 4.0)]
    assert scores == sorted(scores)
    assert len(set(scores)) == 4


@pytest.mark.parametrize("name", SCORES)
def test_names_of_classes_and_order_of_images_do_not_matter(name):
    x, labels = blobs(n=240)
    expected = SCORES[name](x, labels)
    assert SCORES[name](x, np.array([7, -1, 4])[labels]) == pytest.approx(expected)
    if name != "nleep":  # its mixture starts from other images
        order = np.random.default_rng(0).permutation(240)
        assert SCORES[name](x[order], labels[order]) == pytest.approx(expected)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_degenerate_features_have_a_finite_score(name, dtype):
    labels = np.arange(12) % 3
    for x in (np.zeros((12, 4)), np.ones((12, 4)), np.eye(3)[labels], np.arange(12.0)[:, None]):
        assert np.isfinite(SCORES[name](x.astype(dtype), labels))


@pytest.mark.parametrize("score", [*SCORES.values(), leep])
def test_what_cannot_be_scored_is_one_line(score):
    x, labels = blobs(n=12)
    with pytest.raises(BobError, match=r"^images of 1 class: transferability takes at least two$"):
        score(x, np.zeros(12, dtype=int))
    with pytest.raises(BobError, match=r"^some features are NaN or infinite"):
        score(np.where(np.arange(6) == 2, np.nan, x), labels)
    with pytest.raises(ValueError, match=r"they must be \[N, D\] and \[N\]"):
        score(x, labels[:3])


def test_scores_are_named():
    assert set(transferability.NAMES) == set(SCORES)
