"""Two heads on frozen features, k-NN and the linear probe, judged out of fold: every image by heads that never saw it.

The protocols' own votes and solver. All trainings of a backbone are padded to one shape with rows of weight 0 and
columns of zeros, which change no solution, so that they share one compilation.
"""

import dataclasses

import jax
import numpy as np

from bob_jax.protocols import knn
from bob_jax.protocols.head import Head
from bob_jax.protocols.linear_probe import solve, standardisation

KS = (1, 3, 5, 10, 20)
TEMPERATURE = 0.07  # of k-NN's votes, as DINO has it
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # lambda of the probe
# Gradient entries as small as that change no prediction worth speaking of; the protocol asks for 1e-5 and takes longer.
TOLERANCE, ITERATIONS = 1e-4, 200
LEAST_ROWS, LEAST_COLUMNS = 256, 128  # shapes are powers of two from here on
BLOCK = 1024  # rows of the similarities in memory at a time


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What out-of-fold heads say of the images.

    Attributes:
        index: [N] positions of the judged images among those given.
        knn: [N, K] how often each k is right, over the repeats.
        probe: [N, L] how often each lambda is right, over the repeats.
        first: [N] bool, whether the best lambda is right in the first repeat.
        strength: the best lambda, by position in `STRENGTHS`; of equals the strongest: the simpler model.
        logits: [N, C] float32 of that lambda in the first repeat.
    """

    index: np.ndarray
    knn: np.ndarray
    probe: np.ndarray
    first: np.ndarray
    strength: int
    logits: np.ndarray

    @property
    def neighbours(self) -> int:
        """The best k, by position in `KS`; of equals the smallest."""
        return int(self.knn.mean(axis=0).argmax())


def cross_validate(
    features: np.ndarray, labels: np.ndarray, classes: int, folds: np.ndarray, mesh: jax.sharding.Mesh
) -> Outcome:
    """Judges a backbone's features by both heads.

    Args:
        features: [N, D] float32.
        labels: [N] int.
        classes: C.
        folds: [R, N] int, of each repeat: who is judged when; negative for images that are learned from only.
        mesh: devices.
    """
    judged = np.flatnonzero(folds[0] >= 0)
    right = labels[judged]
    probes = [probe_out_of_fold(features, labels, classes, fold, mesh)[:, judged] for fold in folds]  # each [L, N, C]
    votes = [_vote(features, labels, classes, fold)[:, judged] for fold in folds]
    correct = [(logits.argmax(axis=2) == right).T for logits in probes]
    probe = np.mean(correct, axis=0)
    strength = best_strength(probe)
    return Outcome(
        judged,
        np.mean([(logits.argmax(axis=2) == right).T for logits in votes], axis=0),
        probe,
        correct[0][:, strength],
        strength,
        probes[0][strength],
    )


def best_strength(correct: np.ndarray) -> int:
    """Position of the best of the lambdas [N, L]; of equals the strongest."""
    score = correct.mean(axis=0)
    return int(np.flatnonzero(score >= score.max() - 1e-12)[-1])


def probe_out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    fold: np.ndarray,
    mesh: jax.sharding.Mesh,
    learned: np.ndarray | None = None,
) -> np.ndarray:
    """Class scores by probes that learned from the other folds.

    Args:
        features: [N, D] float32.
        labels: [N] int.
        classes: C.
        fold: [N] int; negative: never judged.
        mesh: devices.
        learned: [N] bool, who may be learned from; all when None.

    Returns:
        [L, N, C] float32, one for each lambda; zeros for images that are never judged.
    """
    logits = np.zeros((len(STRENGTHS), len(labels), classes), np.float32)
    for number in np.unique(fold[fold >= 0]):
        train, test = fold != number, fold == number
        if learned is not None:
            train &= learned
        probes = train_probes(features, labels, train, classes, mesh)
        logits[:, test] = [head_logits(head, features[test]) for head in probes]
    return logits


def train_probes(
    features: np.ndarray, labels: np.ndarray, train: np.ndarray, classes: int, mesh: jax.sharding.Mesh
) -> list[Head]:
    """A probe for each lambda.

    Args:
        features: [N, D] float32.
        labels: [N] int.
        train: [N] bool, who is learned from.
        classes: C.
        mesh: devices.
    """
    rows, columns = features.shape
    mean, scale = standardisation(features[train])
    padded = np.zeros((_shape(rows, LEAST_ROWS), _shape(columns, LEAST_COLUMNS)), np.float32)
    padded[:rows, :columns] = (features - mean) / scale * train[:, None]
    weights = np.zeros(len(padded))
    weights[:rows] = train / train.sum()
    kernels, bias, _, _ = solve(
        padded,
        np.pad(labels.astype(np.int32), (0, len(padded) - rows)),
        classes=classes,
        regularisation=STRENGTHS,
        tolerance=TOLERANCE,
        max_iterations=ITERATIONS,
        mesh=mesh,
        weights=weights,
    )
    return [Head(kernels[i, :columns], bias[i], mean, scale) for i in range(len(STRENGTHS))]


def head_logits(head: Head, features: np.ndarray) -> np.ndarray:
    """Class scores [N, C] on the host, where no shape costs a compilation."""
    assert head.mean is not None and head.scale is not None
    standardised = (features - np.asarray(head.mean)) / np.asarray(head.scale)
    return np.asarray(standardised @ np.asarray(head.kernel) + np.asarray(head.bias), np.float32)


def _shape(size: int, least: int) -> int:
    """The next power of two that is at least `least`."""
    return max(least, 1 << max(0, size - 1).bit_length())


def _vote(features: np.ndarray, labels: np.ndarray, classes: int, fold: np.ndarray) -> np.ndarray:
    """k-NN's class scores [K, N, C], neighbours being of other folds; for too large a k those of a smaller one."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    judged = fold[fold >= 0]
    fewest = len(labels) - int(np.unique(judged, return_counts=True)[1].max())
    ks = [k for k in KS if k <= fewest] or [1]
    similarity = np.empty((len(unit), max(ks)), np.float32)
    neighbour = np.empty((len(unit), max(ks)), np.int64)
    for start in range(0, len(unit), BLOCK):
        part = slice(start, start + BLOCK)
        found = unit[part] @ unit.T
        found[fold[part, None] == fold[None]] = -np.inf
        nearest = np.argpartition(-found, max(ks) - 1, axis=1)[:, : max(ks)]
        near = np.take_along_axis(found, nearest, axis=1)
        ahead = np.argsort(-near, axis=1, kind="stable")
        similarity[part], neighbour[part] = (np.take_along_axis(each, ahead, axis=1) for each in (near, nearest))
    votes = [np.asarray(knn.log_shares(similarity[:, :k], labels[neighbour[:, :k]], classes, TEMPERATURE)) for k in ks]
    return np.stack([votes[min(i, len(ks) - 1)] for i in range(len(KS))])
