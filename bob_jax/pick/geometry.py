"""What features say without labels: how many dimensions they use, how far backbones agree, which clusters they form.

None of it says which backbone is best for a task that nobody has named. A collapsed backbone shows, an image twice
shows, and what several backbones agree on is probably in the images and not in one of them.
"""

import dataclasses

import numpy as np

MOST_CLUSTERS = 12
MOST_IMAGES = 2000  # for what takes all pairs of images
NEIGHBOURS = 10


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Of one backbone's features.

    Attributes:
        dimensions: of the features.
        effective_rank: exp of the entropy of the centred features' singular values (Roy & Vetterli 2007), between 1 and
            `dimensions`; RankMe (Garrido et al. 2023, arXiv 2210.02885) finds that among pretrainings of one kind more
            is better.
        intrinsic_dimension: by the ratio of the distances to the two nearest neighbours (TwoNN, Facco et al. 2017).
            None where distances do not tell, as of copies.
    """

    dimensions: int
    effective_rank: float
    intrinsic_dimension: float | None


@dataclasses.dataclass(frozen=True)
class Clusters:
    """k-means on features of unit length.

    Attributes:
        label: [N] int, the cluster of each image; the largest is 0.
        closeness: [N] cosine with the middle of the cluster.
        silhouette: how much nearer images are to their own cluster than to the next (Rousseeuw 1987), in [-1, 1].
    """

    label: np.ndarray
    closeness: np.ndarray
    silhouette: float


def geometry(features: np.ndarray) -> Geometry:
    """Of features [N, D], N > 2."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    values = np.linalg.svd(centred, compute_uv=False)
    share = values / max(values.sum(), np.finfo(np.float64).tiny)
    share = share[share > 1e-12]
    rank = float(np.exp(-(share * np.log(share)).sum())) if len(share) else 1.0
    return Geometry(features.shape[1], rank, _two_nearest(features[:MOST_IMAGES].astype(np.float64)))


def _two_nearest(x: np.ndarray) -> float | None:
    """TwoNN by maximum likelihood, the unlikely tenth left out as its authors do."""
    square = (x**2).sum(axis=1)
    distance = np.maximum(square[:, None] + square[None] - 2 * x @ x.T, 0.0)
    np.fill_diagonal(distance, np.inf)
    two = np.sqrt(np.partition(distance, 1, axis=1)[:, :2])
    apart = two[:, 0] > 1e-9 * np.sqrt(square.mean() + 1e-30)  # of a copy the nearest is at no distance
    ratio = np.sort(two[apart, 1] / two[apart, 0])
    kept = int(0.9 * len(ratio))
    if kept < 3:
        return None
    # The likelihood of the smallest `kept` of all ratios, the others being at least as large (type II censoring).
    total = np.log(ratio[:kept]).sum() + (len(ratio) - kept) * np.log(ratio[kept - 1])
    return float(kept / total) if total > 0 else None


def agreement(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """How alike two backbones see the same images.

    Args:
        first: [N, D] features, N > 3.
        second: [N, E] of the other.

    Returns:
        Linear CKA without bias (Kornblith et al. 2019, arXiv 1905.00414; Song et al. 2012 for the estimator), 1 for
        features that are turned and scaled alike and about 0 for unrelated ones; and the share of the ten nearest
        neighbours that are the same (Huh et al. 2024, arXiv 2405.07987).
    """
    grams = [_gram(features[:MOST_IMAGES]) for features in (first, second)]
    cross, *own = (_hsic(grams[i], grams[j]) for i, j in ((0, 1), (0, 0), (1, 1)))
    cka = cross / np.sqrt(own[0] * own[1]) if min(own) > 0 else 0.0
    k = min(NEIGHBOURS, len(grams[0]) - 1)
    near = [_nearest(features[:MOST_IMAGES], k) for features in (first, second)]
    shared = np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*near, strict=True)])
    return float(np.clip(cka, -1, 1)), float(shared)


def _gram(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    gram = x @ x.T
    np.fill_diagonal(gram, 0.0)
    return gram


def _hsic(first: np.ndarray, second: np.ndarray) -> float:
    """The unbiased estimator of Song et al., of Gram matrices with a diagonal of zeros."""
    n = len(first)
    trace = float((first * second).sum())
    sums = float(first.sum() * second.sum()) / ((n - 1) * (n - 2))
    cross = 2 * float(first.sum(axis=0) @ second.sum(axis=0)) / (n - 2)
    return (trace + sums - cross) / (n * (n - 3))


def _nearest(features: np.ndarray, k: int) -> np.ndarray:
    unit = _unit(features)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argpartition(-similarity, k - 1, axis=1)[:, :k]


def clusters(features: np.ndarray, seed: int = 0) -> Clusters:
    """As many clusters, from 2 to 12, as have the largest silhouette.

    Args:
        features: [N, D], N > 2.
        seed: where k-means starts.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    unit = _unit(features)
    distinct = len(np.unique(unit.round(6), axis=0))
    best, score = None, -2.0
    for count in range(2, min(MOST_CLUSTERS, distinct - 1, len(unit) - 1) + 1):
        label = KMeans(count, n_init=3, random_state=seed).fit_predict(unit)
        found = float(silhouette_score(unit, label, sample_size=min(len(unit), MOST_IMAGES), random_state=seed))
        if found > score:
            best, score = label, found
    if best is None:  # all images are alike
        return Clusters(np.zeros(len(unit), np.int64), np.ones(len(unit)), 0.0)
    largest = np.argsort(-np.bincount(best), kind="stable")
    label = np.empty(len(largest), np.int64)
    label[largest] = np.arange(len(largest))
    label = label[best]
    middles = _unit(np.stack([unit[label == number].mean(axis=0) for number in range(len(largest))]))
    return Clusters(label, (unit * middles[label]).sum(axis=1), score)


def _unit(features: np.ndarray) -> np.ndarray:
    x = features.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
