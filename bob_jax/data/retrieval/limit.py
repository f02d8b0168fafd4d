"""A small part of a retrieval data set, for a trial run: some queries, and what they should find among the rest."""

import dataclasses

import numpy as np

from bob_jax.data.base import Relevance, RetrievalDataset, Source
from bob_jax.data.subset import Subset, balanced


def limited(dataset: RetrievalDataset, limit: int) -> RetrievalDataset:
    """At most `limit` images of each split, with the relevance among them.

    Queries are the first of a class-balanced order. Of the gallery, the first positive of each of these comes first,
    then the second of each, and so on, then other images. Where every image is a query, half of the images are chosen
    as queries are, the others as a gallery is, and all of them are both.

    Args:
        dataset: the whole.
        limit: images per split, at least 1.
    """
    query, gallery = dataset.splits["query"], dataset.splits["gallery"]
    same = query is gallery
    queries = balanced(query, max(1, limit // 2) if same else limit).indices
    turn = np.full(len(gallery), np.inf)
    for index in queries:
        found = dataset.relevance.positives[index]
        turn[found] = np.minimum(turn[found], np.arange(len(found)))
    if same:
        turn[queries] = -1
    kept = np.sort(np.argsort(turn, kind="stable")[:limit])
    splits: dict[str, Source] = {"gallery": Subset(gallery, kept)}
    splits["query"] = splits["gallery"] if same else Subset(query, queries)
    if "whitening" in dataset.splits:
        splits["whitening"] = balanced(dataset.splits["whitening"], limit)
    place = np.full(len(gallery), -1)
    place[kept] = np.arange(len(kept))
    positives, junk = (
        tuple(moved[moved >= 0] for moved in (place[lists[index]] for index in (kept if same else queries)))
        for lists in (dataset.relevance.positives, dataset.relevance.junk)
    )
    return dataclasses.replace(
        dataset,
        splits={split: splits[split] for split in dataset.splits},
        split_notes={split: f"{note}; of these {limit} at most" for split, note in dataset.split_notes.items()},
        relevance=Relevance(positives, junk),
    )
