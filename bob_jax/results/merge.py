"""Two results folders: what both know made one folder, and where they disagree.

Cells are told apart by their ids, which hold everything that decides a result. Two laboratories that ran the same cell
have two records of it. The merge keeps the first and says what differs in the other: nothing is ever overwritten, and
nobody is asked to choose between two truths without seeing both.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bob_jax.results import store
from bob_jax.results.files import copy_whole
from bob_jax.results.record import Record, Score
from bob_jax.results.schema import plain
from bob_jax.results.store import FAILED, Store

BESIDE = "per-example outputs"  # how a conflict names them


@dataclasses.dataclass(frozen=True)
class Conflict:
    """A cell with two records.

    Attributes:
        cell: id.
        kept: folder of the record that stays.
        other: folder of the one that is left where it is.
        differing: dotted field -> its values in `kept` and in `other`; None where a field is missing.
    """

    cell: str
    kept: Path
    other: Path
    differing: dict[str, tuple[Any, Any]]

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores whose values differ; none where only cost, time or machine do."""
        fields = (field.split(".") for field in self.differing)
        return tuple(words[1] for words in fields if words[0] == "metrics" and words[-1] == "value")


@dataclasses.dataclass(frozen=True)
class Merged:
    """What a merge did: cells that came from each folder, and those that have two records."""

    cells: dict[Path, int]
    conflicts: tuple[Conflict, ...]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A score of one cell that is not the same in two folders; None where a folder's record lacks it."""

    cell: str
    metric: str
    first: Score | None
    second: Score | None


@dataclasses.dataclass(frozen=True)
class Compared:
    """Two folders side by side.

    Attributes:
        only_first, only_second: ids of cells that the other lacks.
        both: number of cells in both.
        differences: scores that are not equal, cell by cell.
    """

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    both: int
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.only_first or self.only_second or self.differences)


def merge(folders: Sequence[Path], out: Path) -> Merged:
    """Copies every cell of the folders to another, with all its files; folders inside keep their names.

    What is in `out` already counts first and stays; then the first folder that has a cell. A failure comes along where
    no folder has a record of its cell.

    Args:
        folders: of records, or of such folders.
        out: where to; made if need be, and may be one of them.

    Raises:
        BobError: a folder is missing, a record cannot be read, or a file cannot be written.
    """
    sources = [_records(folder) for folder in folders]  # all is read before anything is written
    kept = _cells(out) if out.is_dir() else {}
    targets = {cell: place.folder for cell, (_, place) in kept.items()}
    counts: dict[Path, int] = {}
    conflicts = []
    for folder, records in zip(folders, sources, strict=True):
        counts[folder] = 0
        for record, place in records:
            cell = record.cell.id
            if cell not in kept:
                kept[cell], targets[cell] = (record, place), out / place.folder.relative_to(folder)
                counts[folder] += 1
            found = _conflict(kept[cell], (record, place))
            conflicts += found
            if not found:
                _copy(cell, place.folder, targets[cell])
    for folder in folders:
        _copy_failures(folder, out, kept)
    return Merged(counts, tuple(conflicts))


def compare(first: Path, second: Path) -> Compared:
    """What one folder has and the other has not, and the scores that are not equal.

    Raises:
        BobError: a folder is missing, or a record cannot be read.
    """
    mine, theirs = _cells(first), _cells(second)
    shared = [cell for cell in mine if cell in theirs]
    return Compared(
        tuple(cell for cell in mine if cell not in theirs),
        tuple(cell for cell in theirs if cell not in mine),
        len(shared),
        tuple(found for cell in shared for found in _differences(mine[cell][0], theirs[cell][0])),
    )


def words(one: Difference) -> tuple[str, str, str, str]:
    """A difference as it is written: both scores with their intervals, second less first, do the intervals meet?"""
    shown = ["-" if s is None else f"{s.value:.5g} [{s.low:.5g}, {s.high:.5g}]" for s in (one.first, one.second)]
    if one.first is None or one.second is None:
        return shown[0], shown[1], "-", "-"
    meet = one.first.low <= one.second.high and one.second.low <= one.first.high
    return shown[0], shown[1], f"{one.second.value - one.first.value:+.2g}", "meet" if meet else "apart"


def _records(folder: Path) -> list[tuple[Record, Store]]:
    """All of them: folders inside may have a cell twice."""
    return [(record, place) for place in store.stores_in(folder) for record in place.read_all()]


def _cells(folder: Path) -> dict[str, tuple[Record, Store]]:
    return {record.cell.id: (record, place) for record, place in reversed(_records(folder))}  # the first counts


def _differences(first: Record, second: Record) -> Iterator[Difference]:
    for metric in dict.fromkeys([first.main_metric, *first.metrics, *second.metrics]):
        one, other = first.metrics.get(metric), second.metrics.get(metric)
        if one != other:
            yield Difference(first.cell.id, metric, one, other)


def _conflict(kept: tuple[Record, Store], other: tuple[Record, Store]) -> list[Conflict]:
    """None, or one where the two records of a cell or the outputs beside them differ."""
    cell = kept[0].cell.id
    mine, theirs = (_flat(plain(record, "")) for record, _ in (kept, other))
    differing = {
        field: (mine.get(field), theirs.get(field))
        for field in mine.keys() | theirs.keys()
        if mine.get(field) != theirs.get(field)
    }
    outputs = [place.per_example(cell) for _, place in (kept, other)]
    if None not in outputs and not _equal(*outputs):
        differing[BESIDE] = ("in one way", "in another")
    if not differing:
        return []
    order = sorted(differing, key=lambda field: (not field.startswith("metrics."), field))
    return [Conflict(cell, kept[1].folder, other[1].folder, {field: differing[field] for field in order})]


def _flat(value: Any, field: str = "") -> dict[str, Any]:
    """Dotted field -> value, lists as they are."""
    if not isinstance(value, dict) or not value:
        return {field: value}
    return {
        name: leaf for key, item in value.items() for name, leaf in _flat(item, f"{field}.{key}".lstrip(".")).items()
    }


def _equal(first: Mapping[str, np.ndarray] | None, second: Mapping[str, np.ndarray] | None) -> bool:
    if first is None or second is None or first.keys() != second.keys():
        return first is second
    return all(
        first[name].dtype == second[name].dtype and first[name].tobytes() == second[name].tobytes() for name in first
    )


def _copy(cell: str, place: Path, out: Path) -> None:
    """The files of a cell that are not there yet, its record last: a record that exists is complete."""
    files = sorted(path for path in place.glob(f"{cell}.*") if not path.name.endswith(FAILED))
    for file in sorted(files, key=lambda path: path.suffix == ".json"):
        if not (out / file.name).exists():
            copy_whole(file, out / file.name)


def _copy_failures(folder: Path, out: Path, kept: Mapping[str, Any]) -> None:
    for place in store.stores_in(folder):
        for failure in place.failures():
            note = f"{failure.cell.id}{FAILED}"
            target = out / place.folder.relative_to(folder) / note
            if failure.cell.id not in kept and not target.exists():
                copy_whole(place.folder / note, target)
