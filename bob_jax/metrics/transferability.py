"""How well will a frozen backbone transfer, guessed from its features of labelled images without training anything?

Higher is better for all of them; only the order of backbones on one data set means something. Whether to believe that
order is another matter: `bob_jax.results.ranking.cheap_answers` holds it against fine-tuning.
"""

import warnings

import numpy as np
from scipy import linalg

from bob_jax.errors import BobError

NAMES = ("logme", "h_score", "nleep", "gbc")  # those that need features and labels alone

STEPS, TOLERANCE = 200, 1e-8  # of LogME's fixed point
SMALLEST = 1e-5  # of what LogME divides by; its authors' program adds as much
ENERGY = 0.8  # share of the variance that N-LEEP's components keep
PER_CLASS = 5  # Gaussians a class, of N-LEEP
DIMENSIONS = 64  # of GBC's principal components
FLOOR = 1e-4  # of a class's variance in GBC, relative to that of all images


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """Logarithm of the maximum evidence of a linear model, per image and class (You et al. 2021, arXiv 2102.11005).

    Each class is a regression of 0 and 1 on the features, weights from N(0, 1/alpha), noise from N(0, 1/beta); alpha
    and beta are those of the largest evidence, by the fixed point of arXiv 2110.10545, algorithm 3.

    Args:
        features: [N, D].
        labels: [N] int.

    Raises:
        BobError: fewer than two classes, or features that are not finite.
    """
    x, index, classes = _checked(features, labels)
    n, targets = len(x), np.eye(classes)[index]
    square, projected = _spectrum(x, targets)  # [K], [K, C]: squared singular values, targets along left vectors
    energy = projected**2
    outside = np.maximum(targets.sum(axis=0) - energy.sum(axis=0), 0.0)  # what no weights can fit
    ratio = np.ones(classes)  # alpha / beta
    for _ in range(STEPS):
        shrunk = square[:, None] / (square[:, None] + ratio)
        used = shrunk.sum(axis=0)
        weights = (energy * shrunk**2 / square[:, None]).sum(axis=0)
        residual = (energy * (1 - shrunk) ** 2).sum(axis=0) + outside
        alpha = np.maximum(used / np.maximum(weights, SMALLEST), np.finfo(np.float64).tiny)  # features may be all 0
        beta = (n - used) / np.maximum(residual, SMALLEST)
        before, ratio = ratio, alpha / beta
        if (np.abs(ratio - before) <= TOLERANCE * before).all():
            break
    evidence = len(square) * np.log(alpha) + n * np.log(beta / (2 * np.pi))  # the rest of D cancels
    evidence -= np.log(alpha + beta * square[:, None]).sum(axis=0) + beta * residual + alpha * weights
    return float(evidence.mean() / (2 * n))


def _spectrum(x: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values [K] of x [N, D] that are not 0, and targets [N, C] along its left singular vectors."""
    n, d = x.shape
    if n >= d:
        square, right = np.linalg.eigh(x.T @ x)
        kept = square > square.max() * max(n, d) * np.finfo(np.float64).eps
        return square[kept], (right[:, kept].T @ (x.T @ targets)) / np.sqrt(square[kept])[:, None]
    square, left = np.linalg.eigh(x @ x.T)
    kept = square > square.max() * max(n, d) * np.finfo(np.float64).eps
    return square[kept], left[:, kept].T @ targets


def h_score(features: np.ndarray, labels: np.ndarray, *, shrinkage: bool = True) -> float:
    """Variance of the class means over variance of the features: tr(cov(f)^-1 cov(E[f | y])), at most classes - 1.

    Bao et al. 2019 (ICIP); the covariance shrunk as Ledoit & Wolf do and the score by the same share, without which few
    images of many dimensions make it meaningless (Ibrahim et al. 2021, arXiv 2110.06893).

    Args:
        features: [N, D].
        labels: [N] int.
        shrinkage: False gives the score of 2019, by the pseudo-inverse.

    Raises:
        BobError: fewer than two classes, or features that are not finite.
    """
    x, index, classes = _checked(features, labels)
    x = x - x.mean(axis=0)
    count = np.bincount(index, minlength=classes)
    means = (np.eye(classes)[index].T @ x) / count[:, None]
    root = means * np.sqrt(count / len(x))[:, None]  # root.T @ root is the covariance of the means
    if not shrinkage:
        return float(np.trace(np.linalg.pinv(x.T @ x / len(x), hermitian=True) @ root.T @ root))
    covariance, shrunk = ledoit_wolf(x)
    if not covariance.any():
        return 0.0
    return float((1 - shrunk) * np.sum(root * linalg.solve(covariance, root.T, assume_a="pos").T))


def ledoit_wolf(centred: np.ndarray) -> tuple[np.ndarray, float]:
    """The covariance drawn towards a multiple of the identity (Ledoit & Wolf 2004, section 3.3).

    Args:
        centred: [N, D], each column of mean 0.

    Returns:
        [D, D] and the share of the identity in it, in [0, 1].
    """
    n, d = centred.shape
    covariance = centred.T @ centred / n
    mean = np.trace(covariance) / d
    distance = np.sum((covariance - mean * np.eye(d)) ** 2)
    error = (np.mean(np.sum(centred**2, axis=1) ** 2) - np.sum(covariance**2)) / n
    share = float(min(error, distance) / distance) if distance > 0 else 0.0
    return (1 - share) * covariance + share * mean * np.eye(d), share


def leep(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean log-probability of the labels through the source's classes (Nguyen et al. 2020, arXiv 2002.12462).

    Args:
        probabilities: [N, Z] of the source's classes, for each image; rows sum to 1.
        labels: [N] int, of the target.

    Raises:
        BobError: fewer than two classes, or probabilities that are not finite.
    """
    p, index, classes = _checked(probabilities, labels)
    joint = np.eye(classes)[index].T @ p / len(p)  # [C, Z]
    marginal = joint.sum(axis=0)
    conditional = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
    return float(np.mean(np.log(np.sum(conditional[index] * p, axis=1))))


def nleep(features: np.ndarray, labels: np.ndarray, *, diagonal: bool = False, seed: int = 0) -> float:
    """LEEP with clusters of the features as the source's classes (Li et al. 2021, CVPR, "Ranking neural checkpoints").

    Principal components of 80 % of the variance, five Gaussians a class, posteriors in place of probabilities.

    Args:
        features: [N, D].
        labels: [N] int.
        diagonal: Gaussians of diagonal covariance; the full ones of the paper take N D^2 times as many steps, and more
            images than one often has.
        seed: where the mixture starts.

    Raises:
        BobError: fewer than two classes, or features that are not finite.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    x, _, classes = _checked(features, labels)
    reduced = _principal(x, energy=ENERGY)
    kind = "diag" if diagonal else "full"
    components = min(PER_CLASS * classes, len(np.unique(reduced, axis=0)))
    mixture = GaussianMixture(components, covariance_type=kind, random_state=seed, reg_covar=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # clusters need not have settled to the last digit
        posterior = mixture.fit(reduced).predict_proba(reduced)
    return leep(posterior, labels)


def gbc(features: np.ndarray, labels: np.ndarray) -> float:
    """Minus the overlap of the classes: sum over ordered pairs of exp(-Bhattacharyya distance) (Pandy et al. 2022).

    arXiv 2111.12780: each class a spherical Gaussian in 64 principal components. (The program published with it counts
    the variances' part of the distance for one dimension, not for all of them.)

    Args:
        features: [N, D].
        labels: [N] int.

    Returns:
        From -classes * (classes - 1), all classes alike, to 0, no overlap.

    Raises:
        BobError: fewer than two classes, or features that are not finite.
    """
    x, index, classes = _checked(features, labels)
    x = _principal(x, dimensions=DIMENSIONS)
    member = np.eye(classes)[index]
    count = member.sum(axis=0)
    means = (member.T @ x) / count[:, None]
    variance = (member.T @ ((x - means[index]) ** 2).mean(axis=1)) / count
    variance = np.maximum(variance, FLOOR * max(x.var(axis=0).mean(), np.finfo(np.float64).tiny))
    between = np.sum((means[:, None] - means[None]) ** 2, axis=2)
    average = (variance[:, None] + variance[None]) / 2
    spread = np.log(average) - (np.log(variance)[:, None] + np.log(variance)[None]) / 2
    overlap = np.exp(-between / (8 * average) - x.shape[1] / 2 * spread)
    return float(np.trace(overlap) - overlap.sum())


def _principal(x: np.ndarray, *, energy: float = 1.0, dimensions: int | None = None) -> np.ndarray:
    """The first principal components [N, K] of x [N, D]: at most so many, that hold at least this share of variance."""
    x = x - x.mean(axis=0)
    variance, directions = np.linalg.eigh(x.T @ x / len(x))
    variance, directions = np.maximum(variance[::-1], 0.0), directions[:, ::-1]
    share = np.cumsum(variance) / max(variance.sum(), np.finfo(np.float64).tiny)
    count = int(np.searchsorted(share, energy - 1e-12)) + 1
    return x @ directions[:, : min(count, x.shape[1], dimensions or x.shape[1])]


def _checked(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Features as float64, labels as 0, 1, ... without gaps, and the number of classes."""
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features {features.shape} and labels {labels.shape}: they must be [N, D] and [N]")
    names, index = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise BobError(f"images of {len(names)} class: transferability takes at least two")
    x = features.astype(np.float64)
    if not np.isfinite(x).all():
        raise BobError("some features are NaN or infinite: the backbone is broken, or computes in too few bits")
    return x, index, len(names)
