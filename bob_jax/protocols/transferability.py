"""A guess instead of a judgement: transferability scores of a frozen backbone's training features.

Nothing is trained and no test image is read. These records never count in a ranking; `bob rank` holds them against
fine-tuning, where there is some (docs/ranking.md).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from bob_jax.data.base import Dataset
from bob_jax.metrics import transferability
from bob_jax.metrics.bootstrap import NORMAL, Estimate
from bob_jax.protocols.base import Competitor, Context, Protocol, Result
from bob_jax.protocols.features import extract

HALVES = 10  # random halves, whose scores tell how sure the whole's is
# For N-LEEP, whose mixture has five Gaussians a class: more take hours, and of fewer images each is a cluster of one.
MOST_CLASSES, FEWEST_PER_CLASS = 100, 40


@dataclasses.dataclass(frozen=True)
class Transferability(Protocol):
    """LogME, H-score, GBC, and N-LEEP of training features.

    N-LEEP has diagonal Gaussians, and is left out above 100 classes and below 40 images a class.

    Attributes:
        images: at most so many training images, drawn by the cell's seed; as many of each class as its share.
        batch_size: images through the backbone at a time.
    """

    name: ClassVar[str] = "transferability"
    images: int
    batch_size: int

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Scores the training features."""
        train = extract(competitor, dataset.splits["train"], f"{dataset.name}/train", context, self.batch_size)
        generator = np.random.default_rng(context.seed)
        chosen = _part(train.labels, min(1.0, self.images / len(train.labels)), generator)
        features, labels = train.values[chosen], train.labels[chosen]
        ids = dataset.splits["train"].ids
        estimates = scores(features, labels, generator)
        return Result(
            outputs={"id": np.array([ids[i] for i in train.index[chosen]]), "label": labels},
            cost=train.cost,
            skipped={"train": train.skipped},
            scores=estimates,
            higher_is_better=dict.fromkeys(estimates, True),
            main_metric="logme",
            notes={"interval": f"1.96 standard deviations over {HALVES} random halves of the training images"},
        )


def scores(features: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> Mapping[str, Estimate]:
    """Every score by name, with an interval over training images.

    The standard deviation of a mean over random halves, drawn without replacement, is that of the mean over all (the
    half-sample method, McCarthy 1969); scores that depend on the number of images are shifted in a half, which does
    not matter for its spread.

    Args:
        features: [N, D] float32.
        labels: [N] int.
        generator: of the halves.

    Raises:
        BobError: fewer than two classes, or features that are not finite.
    """
    functions: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "logme": transferability.logme,
        "h_score": transferability.h_score,
        "gbc": transferability.gbc,
    }
    classes = len(np.unique(labels))
    if classes <= MOST_CLASSES and len(labels) >= FEWEST_PER_CLASS * classes:
        functions["nleep"] = lambda x, y: transferability.nleep(x, y, diagonal=True)
    halves = [_part(labels, 0.5, generator) for _ in range(HALVES)]
    found = {}
    for name, function in functions.items():
        value = function(features, labels)
        spread = NORMAL * float(np.std([function(features[half], labels[half]) for half in halves], ddof=1))
        found[name] = Estimate(value, value - spread, value + spread, len(labels))
    return found


def _part(labels: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Positions, ascending, of a share of each class, rounded, but at least one image."""
    chosen = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))
