"""What a metric is: a function of what was written down for each test example, so that examples can be resampled.

Where the same examples were shown under K conditions (corruptions, say), an array has one column for each, [N, K], and
the score is the mean of the columns' scores. All columns of an example are drawn together.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Metric:
    """A score over a set of examples.

    Attributes:
        inputs: names of the per-example arrays [N], or [N, K] under K conditions, it reads.
        function: (weights [R, N], *arrays [N]) -> [R]; the score of R weighted sets of the same N examples. A weight
            is how often an example counts: 1 for the test set itself, a bootstrap draw otherwise.
        higher_is_better: whether the best backbone has the largest value.
    """

    inputs: tuple[str, ...]
    function: Callable[..., np.ndarray]
    higher_is_better: bool = True

    def __call__(self, outputs: Mapping[str, np.ndarray]) -> float:
        """The score of the test set.

        Args:
            outputs: per-example arrays [N] by name, N >= 1; more names than `inputs` may be there.
        """
        return float(self.weighted(outputs, np.ones((1, len(outputs[self.inputs[0]]))))[0])

    def weighted(self, outputs: Mapping[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
        """The scores [R] under weights [R, N]."""
        return self.function(weights, *(outputs[name] for name in self.inputs))

    def per_example(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The values [N] float64 whose weighted mean the score is; None where it is no such mean."""
        return _over_conditions(outputs[self.inputs[0]]) if self.function is mean else None


def mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted mean: weights [R, N], values [N] or [N, K] -> [R]."""
    return weights @ _over_conditions(values) / weights.sum(axis=1)


def mean_per_class(weights: np.ndarray, values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Mean over classes of the weighted mean of each class: weights [R, N], values [N] or [N, K], label [N] int -> [R].

    A class without an example (of any weight) is left out of the mean, as in scikit-learn's `balanced_accuracy_score`.
    """
    order = np.argsort(label, kind="stable")
    first = np.flatnonzero(np.diff(label[order], prepend=label[order[0]] - 1))
    weights = weights[:, order]
    present = np.add.reduceat(weights, first, axis=1)
    total = np.add.reduceat(weights * _over_conditions(values)[order], first, axis=1)
    share = np.divide(total, present, out=np.zeros_like(total), where=present > 0)
    return share.sum(axis=1) / (present > 0).sum(axis=1)


def _over_conditions(values: np.ndarray) -> np.ndarray:
    """[N] float64, the mean of the columns: every column has the same weights, so their scores need not be averaged."""
    return values.astype(np.float64) if values.ndim == 1 else values.mean(axis=1, dtype=np.float64)
