"""What a reader of ground truth finds, and the data set made of it; finding and parsing the files it reads."""

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bob_jax.data.base import Relevance, RetrievalDataset, Source
from bob_jax.errors import BobError


@dataclasses.dataclass(frozen=True)
class Found:
    """What the files of a data set hold.

    Attributes:
        query, gallery: the images; the same source where every image is a query.
        relevance: what each query should find.
        notes: how the splits came to be, by name of the split.
        classes: class names in label order, where there are classes.
        whitening: images of neither, to learn a whitening from, where there are any.
    """

    query: Source
    gallery: Source
    relevance: Relevance
    notes: dict[str, str]
    classes: tuple[str, ...] = ()
    whitening: Source | None = None


def as_dataset(found: Found, name: str, metric: str, licence: str) -> RetrievalDataset:
    """The data set of what was found.

    Args:
        found: images and relevance.
        name: of the data set, with its variant.
        metric: score that ranks backbones.
        licence: terms of the data.
    """
    splits = {"query": found.query, "gallery": found.gallery}
    if found.whitening is not None:
        splits["whitening"] = found.whitening
    digest = hashlib.sha256("".join(source.fingerprint for source in splits.values()).encode())
    for lists in (found.relevance.positives, found.relevance.junk):
        digest.update(np.array([len(positions) for positions in lists], "<i8").tobytes())
        digest.update(np.concatenate([np.empty(0, np.int64), *lists]).astype("<i8").tobytes())
    return RetrievalDataset(
        name=name,
        version=digest.hexdigest()[:16],
        classes=found.classes,
        splits=splits,
        split_notes={split: found.notes[split] for split in splits},
        metric=metric,
        licence=licence,
        relevance=found.relevance,
    )


def folder_with(place: Path, name: str) -> Path:
    """The folder that holds a file or folder of this name: the place itself, or one or two below; archives differ.

    Raises:
        BobError: there is none.
    """
    for pattern in (name, f"*/{name}", f"*/*/{name}"):
        found = min(place.glob(pattern), default=None)
        if found is not None:
            return found.parent
    raise BobError(f"{name} is missing in {place}: fetch and unpack the complete official data there")


def rows(file: Path, pattern: str, *, skip: int = 0) -> Iterator[tuple[str, ...]]:
    """The groups of a pattern in every line of a text file; empty lines are passed over.

    Args:
        file: UTF-8; bytes that are not are kept, as in names of files.
        pattern: regular expression of a whole line.
        skip: lines of a heading.

    Raises:
        BobError: a line of another form, or no such file.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise BobError(f"cannot read {file}: {error.strerror}; fetch the complete official data") from error
    form = re.compile(pattern)
    for number, line in enumerate(lines[skip:], skip + 1):
        if not line.strip():
            continue
        match = form.fullmatch(line.strip())
        if match is None:
            raise BobError(f"line {number} of {file} is {line[:80]!r}, not of the official form: fetch the file again")
        yield match.groups()
