"""Weighted k-nearest neighbours on frozen features, as DINO evaluates (Caron et al. 2021, arXiv 2104.14294).

Each of the k nearest training images by cosine similarity s votes for its class with weight exp(s / T). Exact search
on the device: the gallery passes through in blocks, and only the best k of each query are kept, so memory is bounded.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bob_jax.data.base import Dataset, Task
from bob_jax.errors import BobError
from bob_jax.protocols.base import Competitor, Context, Protocol, Result
from bob_jax.protocols.features import extract
from bob_jax.protocols.scoring import judged, validation_score
from bob_jax.protocols.search import nearest


@dataclasses.dataclass(frozen=True)
class KNN(Protocol):
    """k-NN with the k of a small grid that is best on validation.

    Attributes:
        k: numbers of neighbours to try; those larger than the training split are left out.
        temperature: T of the vote exp(s / T).
        batch_size: images through the backbone at a time.
    """

    name: ClassVar[str] = "knn"
    tasks: ClassVar[tuple[Task, ...]] = ("classification", "multilabel")
    k: tuple[int, ...]
    temperature: float
    batch_size: int

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Votes of the training images for the test images."""
        train, validation, test = (
            extract(competitor, dataset.splits[split], f"{dataset.name}/{split}", context, self.batch_size)
            for split in ("train", "validation", "test")
        )
        ks = tuple(k for k in self.k if k <= len(train.values))
        if not ks:
            raise BobError(f"protocols.knn.k = {self.k}: all larger than the {len(train.values)} training images")
        classify = functools.partial(
            vote, gallery=train.values, labels=train.labels, classes=len(dataset.classes), temperature=self.temperature
        )
        voted = classify(validation.values, ks=ks)
        grid = [
            {"k": k, "validation": validation_score(dataset, logits, validation.labels)}
            for k, logits in zip(ks, voted, strict=True)
        ]
        chosen = max(range(len(grid)), key=lambda i: (grid[i]["validation"], -ks[i]))  # of equals the smallest k
        judgement = judged(dataset, test, classify(test.values, ks=(ks[chosen],))[0], validation, voted[chosen])
        return Result(
            **judgement._asdict(),
            cost=test.cost,
            grid=tuple(grid),
            chosen=chosen,
            skipped={"train": train.skipped, "validation": validation.skipped, "test": test.skipped},
        )


def vote(
    queries: np.ndarray,
    *,
    gallery: np.ndarray,
    labels: np.ndarray,
    classes: int,
    ks: tuple[int, ...],
    temperature: float,
) -> list[np.ndarray]:
    """Class scores of the queries, for each k.

    Args:
        queries: [Q, D] float32.
        gallery: [N, D] float32.
        labels: [N] int32, of the gallery; or [N, C] of 0 and 1, where an image has several.
        classes: C.
        ks: neighbours, each at most N.
        temperature: T.

    Returns:
        One [Q, C] float32 per k: the logarithm of each class's share of the votes; of several labels the logit of the
        share of the votes for each. They end at -30 (and 30).
    """
    similarity, neighbours = nearest(queries, gallery, max(ks))
    return [
        np.asarray(
            log_shares(jnp.asarray(similarity[:, :k]), jnp.asarray(labels[neighbours[:, :k]]), classes, temperature)
        )
        for k in ks
    ]


@functools.partial(jax.jit, static_argnums=(2, 3))
def log_shares(similarity: jax.Array, labels: jax.Array, classes: int, temperature: float) -> jax.Array:
    """Log-shares [Q, C] of the votes of neighbours: similarity [Q, k], their labels [Q, k] or [Q, k, C]; see `vote`."""
    # The largest similarity is taken out of the exponent: shares stay the same, and no temperature can overflow.
    weight = jnp.exp((similarity - similarity.max(axis=1, keepdims=True)) / temperature)
    if labels.ndim == 3:  # [Q, k, C]
        share = jnp.einsum("qk,qkc->qc", weight, labels, precision="float32") / weight.sum(axis=1, keepdims=True)
        return jnp.clip(jnp.log(share) - jnp.log1p(-share), -30.0, 30.0)
    rows = jnp.arange(len(labels))[:, None]
    shares = jnp.zeros((len(labels), classes)).at[rows, labels].add(weight) / weight.sum(axis=1, keepdims=True)
    return jnp.maximum(jnp.log(shares), -30.0)
