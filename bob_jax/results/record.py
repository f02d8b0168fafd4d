"""The record: everything about one judged cell, as one JSON file. `docs/records.md` explains it field by field."""

import dataclasses
import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from bob_jax.errors import BobError
from bob_jax.results.schema import REMEDY, parse, plain

SCHEMA_VERSION = 3
READABLE = (2, SCHEMA_VERSION)  # 2 had no `estimate`


@dataclasses.dataclass(frozen=True)
class Cell:
    """One backbone on one data set under one protocol with one seed; `id` comes from `cell_id`."""

    id: str
    benchmark: str
    backbone: str
    dataset: str
    protocol: str
    seed: int


@dataclasses.dataclass(frozen=True)
class BackboneUsed:
    """The backbone's card as plain data, and the digest of the weights that ran; null for weights without a file."""

    card: dict[str, Any]
    weights_sha256: str | None


@dataclasses.dataclass(frozen=True)
class Split:
    """One split: number of images, hash of its content, how it came to be, and the images that could not be read."""

    size: int
    fingerprint: str
    note: str
    skipped: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DatasetUsed:
    """The data as they were.

    Attributes:
        classes: their number.
        metric: name of the score that ranks backbones on them.
        draw: seed of the draw that chose a low-data training split; null where no draw did.
    """

    name: str
    version: str
    classes: int
    metric: str
    licence: str
    draw: int | None
    splits: dict[str, Split]


@dataclasses.dataclass(frozen=True)
class ProtocolUsed:
    """The protocol with all its hyper-parameters."""

    name: str
    hyperparameters: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Score:
    """A metric on the test split: value, ends of its interval, number of examples, and which way is better."""

    value: float
    low: float
    high: float
    n: int
    higher_is_better: bool


@dataclasses.dataclass(frozen=True)
class Interval:
    """How the intervals of all scores were made."""

    level: float
    method: str
    resamples: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Selection:
    """How the hyper-parameters were chosen.

    Attributes:
        split: the split the choice was made on, never "test".
        metric: the score it was made by.
        grid: every point tried: its hyper-parameters, what the protocol says of it, and `validation`, its score; null
            where the point diverged.
        chosen: position in `grid`.
    """

    split: str
    metric: str
    grid: tuple[dict[str, Any], ...]
    chosen: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """What judging cost; null where it was not measured.

    Attributes:
        wall_seconds: from the start of the cell to its record.
        device_seconds: time in which the devices worked, times their number.
        images_per_second: forward passes through the backbone, over all devices.
        flops_per_image: floating-point operations of one forward pass.
        peak_memory_bytes: most memory in use on one device.
    """

    wall_seconds: float | None = None
    device_seconds: float | None = None
    images_per_second: float | None = None
    flops_per_image: float | None = None
    peak_memory_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What the plan of the run said of a cell before it ran, to be held against what it took.

    Attributes:
        seconds: of one device: to be compared with wall seconds times devices.
        source: "cell", the same cell with another seed on such a device; "speed", the measured speed of the backbone
            on such a device; "table", FLOPs and the published peak of the device.
        passes: images through the backbone that were expected, in images forward.
        shared: passes that were not expected, because an earlier cell of the run makes these features.
    """

    seconds: float
    source: Literal["cell", "speed", "table"]
    passes: float | None
    shared: float


@dataclasses.dataclass(frozen=True)
class Environment:
    """Where the cell ran; `git_commit` is null outside a checkout, and ends in "-dirty" on changed files."""

    git_commit: str | None
    versions: dict[str, str]
    python: str
    platform: str
    device_kind: str
    device_count: int
    process_count: int


@dataclasses.dataclass(frozen=True)
class Record:
    """The result of a cell.

    Attributes:
        metrics: by name; all of the test split.
        main_metric: the one that ranks backbones.
        source_cell: id of the cell that left the head that was judged; null where the protocol made its own.
        selection: null for a protocol that chooses nothing.
        notes: what else the protocol says of the result, e.g. the temperature that calibrates it.
        created: UTC, ISO 8601.
        estimate: what was expected of `cost` before the cell ran; null where nothing was.
    """

    cell: Cell
    backbone: BackboneUsed
    dataset: DatasetUsed
    protocol: ProtocolUsed
    source_cell: str | None
    metrics: dict[str, Score]
    main_metric: str
    interval: Interval
    selection: Selection | None
    notes: dict[str, Any]
    cost: Cost
    environment: Environment
    created: str
    estimate: Estimate | None = None
    status: Literal["ok"] = "ok"
    schema_version: int = SCHEMA_VERSION


@dataclasses.dataclass(frozen=True)
class Failure:
    """A cell that raised. It never counts as a record: the cell runs again at the next start."""

    cell: Cell
    error: str
    traceback: str
    environment: Environment
    created: str
    status: Literal["failed"] = "failed"
    schema_version: int = SCHEMA_VERSION


def now() -> str:
    """The time for `created`: UTC, ISO 8601, whole seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def cell_id(fields: Mapping[str, Any]) -> str:
    """The name of a cell: equal for equal fields in any order, different for any difference.

    Args:
        fields: everything that decides the result, as plain data (weights digest, fingerprints of the data,
            hyper-parameters, ...). "dataset", "protocol", "backbone" (names) and "seed" must be among them.

    Returns:
        A file name that a person can read, e.g. "digits-knn-vit_b16_clip-s0-3f1c9a0b7d2e".
    """
    canonical = json.dumps(plain(fields, ""), sort_keys=True, separators=(",", ":"), allow_nan=False)
    words = [str(fields[name]) for name in ("dataset", "protocol", "backbone")]
    readable = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", word).lstrip(".")[:60] for word in words)
    return f"{readable}-s{fields['seed']}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


def to_json(record: Record | Failure) -> str:
    """The text of the file.

    Raises:
        BobError: a score is NaN or infinite; the message names it.
    """
    fields = plain(record, "")
    fields = {name: fields[name] for name in ("schema_version", "status", "created")} | fields  # these first
    return json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def record_from_json(text: str, file: str) -> Record:
    """Reads and checks a record.

    Args:
        text: what `to_json` wrote.
        file: its name, for the error.

    Raises:
        BobError: not JSON, an unknown, missing or mistyped field, or written by a newer bob_jax.
    """
    fields = _load(text, file)
    if fields.get("schema_version") == 2:
        fields |= {"schema_version": SCHEMA_VERSION, "estimate": None}
    record: Record = parse(Record, fields, file)
    if record.main_metric not in record.metrics:
        raise BobError(f"{file}: main_metric '{record.main_metric}' is not among metrics: {REMEDY}")
    if record.selection is not None:
        _check_selection(record.selection, file)
    return record


def failure_from_json(text: str, file: str) -> Failure:
    """Reads and checks the note of a failed cell; raises as `record_from_json` does."""
    fields = _load(text, file)
    if fields.get("schema_version") == 2:
        fields["schema_version"] = SCHEMA_VERSION
    failure: Failure = parse(Failure, fields, file)
    return failure


def _check_selection(selection: Selection, file: str) -> None:
    for i, point in enumerate(selection.grid):
        if "validation" not in point:
            raise BobError(f"{file}: field 'selection.grid.{i}.validation' is missing: {REMEDY}")
        parse(float | None, point["validation"], file, f"selection.grid.{i}.validation")
    if not 0 <= selection.chosen < len(selection.grid):
        raise BobError(f"{file}: selection.chosen is {selection.chosen}, but grid has {len(selection.grid)}: {REMEDY}")
    if selection.grid[selection.chosen]["validation"] is None:
        raise BobError(f"{file}: selection.chosen is {selection.chosen}, a point without a score: {REMEDY}")


def _load(text: str, file: str) -> dict[str, Any]:
    try:
        fields = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise BobError(f"{file}: not a record ({error}): {REMEDY}") from error
    if not isinstance(fields, dict):
        raise BobError(
            f"{file}: not a record but a {type(fields).__name__}: keep other files out of the results folder"
        )
    version = fields.get("schema_version")
    if type(version) is int and version > SCHEMA_VERSION:
        raise BobError(
            f"{file}: schema_version {version} is newer than this bob_jax reads ({SCHEMA_VERSION}): update bob_jax"
        )
    if "schema_version" in fields and (type(version) is not int or version not in READABLE):
        raise BobError(f"{file}: schema_version is {version!r}, it takes {SCHEMA_VERSION}: {REMEDY}")
    return fields


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")
