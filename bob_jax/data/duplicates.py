"""Test images that are among the training images too: what a check found, kept for the runs that come after it.

One JSON file in the cache for each pair of splits, named by their fingerprints. It holds what two ways of looking
found: "pixels" (the same pixels; `bob_jax.data.prepare`) and "nearest" (features that nearly agree;
`bob_jax.protocols.duplicates`).
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bob_jax.cache import cache_dir
from bob_jax.data.base import Source
from bob_jax.data.subset import Subset


class Twin(NamedTuple):
    """A test image, the training image that it is like, and how like: their features' cosine, 1 for equal pixels."""

    test: str
    train: str
    similarity: float


def keep(train: Source, test: Source, way: Literal["pixels", "nearest"], twins: list[Twin], **how: Any) -> None:
    """Writes down what was found between two whole splits, in place of what the same way of looking found before.

    Args:
        train, test: the splits; all of their images were looked at.
        way: of looking.
        twins: found; none is also worth knowing.
        how: what decided it, plain data.
    """
    path = _path(train, test)
    found = _read(path) | {way: {**how, "twins": twins}}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(json.dumps(found, indent=1))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def known(train: Source, test: Source) -> frozenset[str] | None:
    """The test images that have a twin in train, as far as a check has found out.

    A check of the whole data set holds for its parts too: fewer training images, a limited test split.

    Args:
        train, test: the splits of a run.

    Returns:
        Their ids, of `test`; None where nobody has looked.
    """
    for wider in _with_parents(train):
        for other in _with_parents(test):
            if found := _read(_path(wider, other)):
                trained, judged = set(train.ids), set(test.ids)
                twins = [Twin(*twin) for way in found.values() for twin in way["twins"]]
                return frozenset(twin.test for twin in twins if twin.test in judged and twin.train in trained)
    return None


def _with_parents(source: Source) -> Iterator[Source]:
    yield source
    while isinstance(source, Subset):
        source = source.parent
        yield source


def _path(train: Source, test: Source) -> Path:
    name = hashlib.sha256(f"{train.fingerprint}/{test.fingerprint}".encode()).hexdigest()[:32]
    return cache_dir("data") / "duplicates" / f"{name}.json"


def _read(path: Path) -> dict[str, Any]:
    """What is kept, by way of looking; nothing where there is none. A damaged file counts as absent."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
