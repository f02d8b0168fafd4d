"""What more images would bring: accuracy by the number of images learned from, and a guess at what lies beyond.

Probes learn from stratified parts of each fold's training images, every image is judged at every size, and a power law
is fitted to the errors (Cortes et al. 1993; Hestness et al. 2017, arXiv 1712.00409). A curve of few points fits many
laws, so two are taken, one that ends at no error and one that need not, on draws of the judged images; the interval of
a guess holds the middle 95 % of both. Laws fail (Viering & Loog 2021, arXiv 2103.10948): so the largest size is also
foretold from the smaller ones, and the answer says whether that came true.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from scipy.optimize import nnls

from bob_jax.metrics import bootstrap
from bob_jax.pick import evidence, heads
from bob_jax.pick.evidence import Share

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of a fold's training images
BEYOND = (2.0, 4.0, 10.0)  # times the largest size
EXPONENTS = np.linspace(0.05, 2.0, 40)
RESAMPLES = 400
FEWEST = 3  # sizes, to fit a law of two parameters


@dataclasses.dataclass(frozen=True)
class Point:
    """Accuracy after learning from so many images."""

    images: int
    accuracy: Share


@dataclasses.dataclass(frozen=True)
class Guess:
    """Accuracy that the curve lets expect after learning from so many images, and the 95 % interval of the guess."""

    images: int
    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Curve:
    """What was seen and what is guessed.

    Attributes:
        points: by ascending size; the last is all that a fold learns from.
        guesses: beyond; none where there are too few points.
        foretold: the last point, guessed from those before; None where these are too few.
        gain: of twice the images over the last point, with its interval; None without guesses.
    """

    points: tuple[Point, ...]
    guesses: tuple[Guess, ...]
    foretold: Guess | None
    gain: Guess | None

    @property
    def came_true(self) -> bool:
        """Whether the last point's interval and that of what was foretold overlap."""
        last = self.points[-1].accuracy
        return self.foretold is not None and self.foretold.low <= last.high and last.low <= self.foretold.high


def parts(labels: np.ndarray, fold: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Who is learned from at each size.

    Args:
        labels: [N] int.
        fold: [N] int; negative: learned from only.
        seed: of the draw.

    Returns:
        [N] bool for each size, ascending, each within the next; two or more of each class at least, sizes that would
        be equal once. Stratified within each fold, so that whichever fold is left out a share of the rest remains.
    """
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # Folds take turns: the first images of a class are of different folds, and no fold is left with none.
        turns = np.empty(len(members))
        for number in np.unique(fold[members]):
            own = np.flatnonzero(fold[members] == number)
            turns[generator.permutation(own)] = np.arange(len(own)) + generator.random() * 0.5
        rank = np.empty(len(members))
        rank[np.argsort(turns, kind="stable")] = np.arange(len(members))
        place[members] = np.where(rank < 3, 0.0, (rank + 0.5) / len(members))
    found: list[np.ndarray] = []
    for share in SHARES:
        part = place <= share
        if not found or part.sum() > 1.2 * found[-1].sum():
            found.append(part)
    if not found[-1].all():
        found[-1] = np.ones(len(labels), bool)
    return found


def learn(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    fold: np.ndarray,
    mesh: jax.sharding.Mesh,
    time_is_left: Callable[[], bool] = lambda: True,
) -> Curve | None:
    """The curve of a backbone's features.

    Args:
        features: [N, D] float32.
        labels: [N] int.
        classes: C.
        fold: [N] int, as in `heads.cross_validate`.
        mesh: devices.
        time_is_left: asked before each size; the largest is measured first, so that what is there is worth having.

    Returns:
        None where there was no time at all.
    """
    judged = fold >= 0
    count = len(np.unique(fold[judged]))
    sizes, right, luck = [], [], []
    for part in reversed(parts(labels, fold)):
        if not time_is_left():
            break
        logits = heads.probe_out_of_fold(features, labels, classes, fold, mesh, part)[:, judged]
        correct = (logits.argmax(axis=2) == labels[judged]).T
        sizes.append(round(sum((part & (fold != number)).sum() for number in range(count)) / count))
        right.append(correct[:, heads.best_strength(correct)])
        luck.append(evidence.optimism(correct))
    if not sizes:
        return None
    return from_outcomes(np.array(sizes[::-1]), np.stack(right[::-1], axis=1), np.array(luck[::-1]))


def from_outcomes(sizes: np.ndarray, right: np.ndarray, luck: np.ndarray) -> Curve:
    """The curve of what was got right at each size.

    Args:
        sizes: [S] ascending.
        right: [N, S] bool.
        luck: [S] what choosing lambda at each size added to the share that is right.
    """
    right = right.astype(np.float64)
    last = int(sizes[-1])
    points = tuple(Point(int(size), evidence.corrected(right, i, float(luck[i]))) for i, size in enumerate(sizes))
    seen = np.array([point.accuracy.value for point in points])
    beyond = np.array([last * times for times in BEYOND])
    # Two images that are right and two that are wrong at every size (Agresti & Coull 1998): draws of few mistakes
    # would have too narrow a spread, and of none would have none.
    drawing = np.concatenate([right, np.ones((2, len(sizes))), np.zeros((2, len(sizes)))])
    drawn = bootstrap.replicates(
        lambda weights: weights @ drawing / weights.sum(axis=1, keepdims=True), len(drawing), RESAMPLES
    )
    drawn = np.clip(drawn - luck[None], 0, 1)
    guesses: tuple[Guess, ...] = ()
    foretold = gain = None
    if len(sizes) >= FEWEST:
        values = 1 - _extrapolated(sizes, 1 - seen[None], beyond)  # [2, 1, T]
        spread = 1 - _extrapolated(sizes, 1 - drawn, beyond)  # [2, R, T]
        guesses = tuple(_guess(int(x), values[:, 0, i], spread[..., i]) for i, x in enumerate(beyond))
        gain = _guess(int(beyond[0]), values[:, 0, 0] - seen[-1], spread[..., 0] - drawn[None, :, -1])
    if len(sizes) > FEWEST:
        target = sizes[-1:].astype(np.float64)
        values = 1 - _extrapolated(sizes[:-1], 1 - seen[None, :-1], target)
        foretold = _guess(last, values[:, 0, 0], 1 - _extrapolated(sizes[:-1], 1 - drawn[:, :-1], target)[..., 0])
    return Curve(points, guesses, foretold, gain)


def _guess(images: int, values: np.ndarray, spread: np.ndarray) -> Guess:
    """The middle of two laws' values [2], and the hull of their intervals [2, R]."""
    ends = np.quantile(spread, [0.025, 0.975], axis=1)
    value = float(values.mean())
    return Guess(images, value, min(float(ends[0].min()), value), max(float(ends[1].max()), value))


def _extrapolated(sizes: np.ndarray, errors: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    """Errors beyond the sizes by two laws, b n^-c and a + b n^-c with a, b >= 0: errors [R, S] -> [2, R, T]."""
    return np.stack([[law(sizes, row, beyond) for row in errors] for law in (_to_nothing, _to_a_floor)])


def _to_nothing(sizes: np.ndarray, errors: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    x = sizes / sizes[-1]
    basis = x[None] ** -EXPONENTS[:, None]  # [E, S]
    b = (basis @ errors) / (basis**2).sum(axis=1)
    best = int(((errors[None] - b[:, None] * basis) ** 2).sum(axis=1).argmin())
    return np.clip(b[best] * (beyond / sizes[-1]) ** -EXPONENTS[best], 0, 1)


def _to_a_floor(sizes: np.ndarray, errors: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    x = sizes / sizes[-1]
    least, found = np.inf, np.zeros(len(beyond))
    for exponent in EXPONENTS[::3]:
        basis = np.stack([np.ones(len(x)), x**-exponent], axis=1)
        weights, residual = nnls(basis, errors)
        if residual < least - 1e-12:
            least = residual
            found = weights[0] + weights[1] * (beyond / sizes[-1]) ** -exponent
    return np.clip(found, 0, 1)
