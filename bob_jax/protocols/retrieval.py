"""Retrieval without training: the gallery ranked by cosine similarity of descriptors to each query."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from bob_jax.data.base import Dataset, RetrievalDataset, Task
from bob_jax.errors import BobError
from bob_jax.metrics.retrieval import per_query
from bob_jax.protocols.base import Competitor, Context, Protocol, Result
from bob_jax.protocols.descriptors import Whitening, describe, of_kind, sizes
from bob_jax.protocols.inference import Rows
from bob_jax.protocols.search import ABSENT, search


@dataclasses.dataclass(frozen=True)
class Retrieval(Protocol):
    """Exact search; nothing is trained, nothing chosen.

    Attributes:
        descriptor: "pooled" or "gem".
        gem_p: exponent of GeM.
        input_size: side of the input in pixels; 0 is the card's.
        scales: of that size, whose descriptors are averaged.
        whitening: dimensions kept by a whitening learned on the data set's third split; 0 is none.
        top_k: images that the record names for each query.
        batch_size: images through the backbone at a time.
    """

    name: ClassVar[str] = "retrieval"
    tasks: ClassVar[tuple[Task, ...]] = ("retrieval",)
    descriptor: str
    gem_p: float
    input_size: int
    scales: tuple[float, ...]
    whitening: int
    top_k: int
    batch_size: int

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Describes every image once and ranks the gallery for each query that has a positive."""
        assert isinstance(dataset, RetrievalDataset)
        rows = self._described(competitor, dataset, context)
        query, gallery = rows["query"], rows["gallery"]
        positives, junk = (
            _seen(lists, query.index, gallery.index, len(dataset.splits["gallery"]))
            for lists in (dataset.relevance.positives, dataset.relevance.junk)
        )
        asked = [row for row, found in enumerate(positives) if len(found)]
        if not asked:
            raise BobError(f"no query of {dataset.name} has a positive in the gallery: there is nothing to score")
        positives, junk = [positives[row] for row in asked], [junk[row] for row in asked]
        hits = search(query.values[asked], gallery.values, positives, junk, k=self.top_k, mesh=context.mesh)
        ids = dataset.splits["query"].ids
        found = np.where(hits.index == ABSENT, ABSENT, gallery.index[hits.index])  # positions in the whole gallery
        outputs = {
            "id": np.array([ids[query.index[row]] for row in asked]),
            **per_query(hits.ranks),
            "found": found,
            "similarity": hits.similarity,
            "relevant": np.array([np.isin(row, own) for row, own in zip(hits.index, positives, strict=True)]),
        }
        return Result(
            outputs=outputs,
            cost=gallery.cost,
            skipped={split: found.skipped for split, found in rows.items()},
            notes={"queries_without_positives": len(query.index) - len(asked), "dimensions": query.values.shape[1]},
        )

    def _described(self, competitor: Competitor, dataset: RetrievalDataset, context: Context) -> dict[str, Rows]:
        """Descriptors of each split; the third one's only where a whitening is to be learned from it."""
        if self.whitening and "whitening" not in dataset.splits:
            raise BobError(
                f"protocols.retrieval.whitening is {self.whitening}, but {dataset.name} has no images to learn it from "
                "that are neither queries nor gallery: set it to 0"
            )
        if self.whitening:
            _check_disjoint(dataset)
        side = self.input_size or competitor.card.preprocessing.input_size
        rows: dict[str, Rows] = {}
        for split, source in dataset.splits.items():
            if split == "whitening" and not self.whitening:
                continue
            same = next((other for other in rows if dataset.splits[other] is source), None)
            rows[split] = (
                rows[same]
                if same
                else describe(
                    competitor,
                    source,
                    f"{dataset.name}/{split}",
                    context,
                    self.batch_size,
                    of_kind(self.descriptor, self.gem_p),
                    sizes(competitor.module, side, self.scales),
                )
            )
        if not self.whitening:
            return rows
        whitening = Whitening.learn(rows.pop("whitening").values, self.whitening)
        return {split: dataclasses.replace(part, values=whitening(part.values)) for split, part in rows.items()}


def _check_disjoint(dataset: RetrievalDataset) -> None:
    """Raises a BobError where an image that a whitening is learned from is to be found, or asked with."""
    learned = set(dataset.splits["whitening"].ids)
    for split in ("query", "gallery"):
        if shared := sorted(learned.intersection(dataset.splits[split].ids)):
            raise BobError(
                f"image '{shared[0]}' of {dataset.name}/whitening is also in {dataset.name}/{split}, one of "
                f"{len(shared)}: a whitening must be learned from other images"
            )


def _seen(lists: Sequence[np.ndarray], queries: np.ndarray, gallery: np.ndarray, whole: int) -> list[np.ndarray]:
    """Positions among the images that could be decoded.

    Args:
        lists: positions in the whole gallery, of each query of the whole.
        queries: [Q] positions of the queries that were.
        gallery: [G] positions of the gallery's images that were.
        whole: number of images in the whole gallery.
    """
    if len(gallery) == whole:
        return [lists[query] for query in queries]
    place = np.full(whole, ABSENT)
    place[gallery] = np.arange(len(gallery))
    moved = (place[lists[query]] for query in queries)
    return [row[row != ABSENT] for row in moved]
