"""Which gallery images are right for a query, where labels decide it; and the original benchmark's division."""

import numpy as np

from bob_jax.data.base import Relevance

NOTHING = np.empty(0, np.int64)


def same_label(queries: np.ndarray, gallery: np.ndarray) -> Relevance:
    """Positives of a query are the gallery images of its label; nothing is junk.

    Args:
        queries: [Q] int labels.
        gallery: [G] int labels.
    """
    positives = tuple(_with_label(queries, gallery))
    return Relevance(positives, junk=(NOTHING,) * len(positives))


def all_against_all(labels: np.ndarray) -> Relevance:
    """Every image is a query, and its positives are the other images of its label: it is itself its only junk.

    Args:
        labels: [N] int labels of the images, which are queries and gallery.
    """
    positives = tuple(group[group != index] for index, group in enumerate(_with_label(labels, labels)))
    return Relevance(positives, junk=tuple(np.arange(len(labels))[:, None]))


def by_position(positives: list[np.ndarray], junk: list[np.ndarray]) -> Relevance:
    """Relevance from lists of positions as they come: in any order, with repetitions; a positive is never junk."""
    right = tuple(np.unique(np.asarray(found, np.int64)) for found in positives)
    passed = (np.setdiff1d(np.asarray(found, np.int64), keep) for found, keep in zip(junk, right, strict=True))
    return Relevance(right, tuple(passed))


def two_levels(labels: np.ndarray, cap: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The original benchmark's division of class folders (hsouri/bob-retrieval, `utils.py`, 2023).

    Of the first `cap` files of each class, the first fifth (rounded down) are queries and the others gallery: a class
    of fewer than five files gives distractors alone.

    Args:
        labels: [N] int, of files sorted by class and, within it, by name.
        cap: files per class that are kept; all when None.

    Returns:
        [Q] and [G] int, positions of the queries and of the gallery, ascending.
    """
    _, begins, sizes = np.unique(labels, return_index=True, return_counts=True)
    kept = sizes if cap is None else np.minimum(sizes, cap)
    place = np.arange(len(labels)) - np.repeat(begins, sizes)  # of each file in its class
    query = place < np.repeat(kept // 5, sizes)
    return np.flatnonzero(query), np.flatnonzero(~query & (place < np.repeat(kept, sizes)))


def _with_label(wanted: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """For each wanted label, the ascending positions that have it; one array for all who want the same."""
    order = np.argsort(labels, kind="stable")
    known, begins = np.unique(labels[order], return_index=True)
    groups = dict(zip(known.tolist(), np.split(order, begins[1:]), strict=True)) if len(labels) else {}
    return [groups.get(label, NOTHING) for label in wanted.tolist()]
