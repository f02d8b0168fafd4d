"""What a grid will take before it runs: what is done, what is missing, hours, downloads, and what these cost.

A cell that was judged on the same kind of device with another seed takes what it took then. Any other takes its passes
through the backbone (`work`) over the speed of that, and the time beside them: reading weights, compiling, training
heads on known features, bootstrap intervals. Both are measured where records of the same kind of device say so, and
otherwise estimated: the speed from the card's FLOPs and a table (`devices`), the time beside passes as a constant.
"""

import dataclasses
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bob_jax import grid
from bob_jax.backbones import flops, zoo
from bob_jax.data import catalog
from bob_jax.grid import Cell
from bob_jax.launch import devices, work
from bob_jax.results.record import Record
from bob_jax.results.store import Store, stores_in

BESIDE = 20.0  # seconds of a cell beside its passes, where no record of its protocol says otherwise: assumed
BYTES = 4  # of a published parameter: most checkpoints are float32

# Whose speed is that of the card's own input, forward: others see larger pictures, or have more than the backbone.
PLAIN = (
    *("published_head", "zero_shot", "knn", "linear_probe", "augmented_probe", "finetune", "transferability"),
    "ood_",
)


@dataclasses.dataclass(frozen=True)
class Download:
    """Something that is not there yet.

    Attributes:
        name: of the backbone or data set; of the first of several data sets that share a download.
        bytes: about; of weights 4 for each parameter; None where it is not known.
        by_hand: the user must bring it, or accept terms first.
    """

    name: str
    bytes: int | None
    by_hand: bool


@dataclasses.dataclass(frozen=True)
class Line:
    """One cell of the plan.

    Attributes:
        benchmark, backbone, dataset, protocol, seed: which.
        done: it has a record where the run will look; nothing more is asked of it.
        passes: images forward through the backbone that no earlier cell of the plan makes; None where not known.
        seconds: of one device; 0 for a cell that is done, None where it is not known.
        measured: from records of this backbone on this kind of device: of this very cell, or its speed.
        weights, data: what must be had first, and no earlier cell needs.
    """

    benchmark: str
    backbone: str
    dataset: str
    protocol: str
    seed: int
    done: bool
    passes: float | None
    seconds: float | None
    measured: bool
    weights: Download | None
    data: Download | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """All cells, and the device they are planned for.

    Attributes:
        device: kind, as JAX names it.
        price: of an hour of one device, in whatever currency; None when not given.
        lines: in the order of running.
    """

    device: str
    price: float | None
    lines: tuple[Line, ...]

    @property
    def hours(self) -> float:
        """Of one device, over all cells whose time is known."""
        return sum(line.seconds or 0.0 for line in self.lines) / 3600

    @property
    def totals(self) -> dict[str, Any]:
        """The figures of the whole: what is not known is left out of the sums and counted beside them."""
        weights = [line.weights for line in self.lines if line.weights]
        data = [line.data for line in self.lines if line.data]
        open_ = [line for line in self.lines if not line.done]
        watts = devices.power(self.device)
        return {
            "cells": len(self.lines),
            "done": len(self.lines) - len(open_),
            "measured": sum(line.measured for line in open_),
            "unknown": sum(line.seconds is None for line in open_),
            "hours": self.hours,
            "bytes_weights": sum(one.bytes or 0 for one in weights),
            "bytes_data": sum(one.bytes or 0 for one in data),
            "money": None if self.price is None else self.price * self.hours,
            "kilowatt_hours": None if watts is None else watts * self.hours / 1000,
        }


def make(config: Mapping[str, Any], device: str, price: float | None = None) -> Plan:
    """The plan of a config. Nothing is fetched, no backbone built; only the user's own data are looked at.

    A cell counts as done where its record fits it in everything but the data's version, which is not known before the
    data are there; a run looks at that too.

    Args:
        config: as `grid.cells` takes it; `results` says where records are.
        device: kind, as JAX names it.
        price: of an hour of one device.

    Raises:
        BobError: as `grid.cells`, or a record that cannot be read.
    """
    cells, root = grid.cells(config), config["data"]["root"]
    place = Path(root) if root else None
    top = Path(config["results"])
    records = [record for store in stores_in(top) for record in store.read_all()] if top.is_dir() else []
    done, seen = _found(cells, config)
    known = {cell: work.of(cell, place) for cell in cells}
    speeds = _Speeds(records, device)
    beside = _beside(seen, known, device)
    passes = _shared([cell for cell in cells if cell not in done], known)
    weights, data = _weights(cells, done), _data(cells, done, place)
    lines = []
    for cell in cells:
        then = _then(seen.get(cell), device)
        seconds = then or _seconds(cell, passes.get(cell), known[cell], speeds, beside)
        lines.append(
            Line(
                *(cell.benchmark, cell.backbone, cell.dataset, cell.protocol_name, cell.seed),
                done=cell in done,
                passes=0.0 if cell in done else passes.get(cell),
                seconds=0.0 if cell in done else seconds,
                measured=cell not in done and seconds is not None and bool(then or cell.backbone in speeds.measured),
                weights=weights.get(cell),
                data=data.get(cell),
            )
        )
    return Plan(device, price, tuple(lines))


def _found(cells: Sequence[Cell], config: Mapping[str, Any]) -> tuple[frozenset[Cell], dict[Cell, Record]]:
    """The cells that need not run, and a record of each cell that was ever judged, maybe with another seed."""
    sources = frozenset(cell.source for cell in cells if cell.source)
    by_name: dict[tuple[str, ...], list[tuple[Record, Store]]] = defaultdict(list)
    for benchmark in dict.fromkeys(cell.benchmark for cell in cells):
        store = Store(grid.folder(config, benchmark))
        for record in store.read_all():
            told = record.cell
            by_name[told.benchmark, told.backbone, told.dataset, told.protocol].append((record, store))
    done, seen = set(), {}
    for cell in cells:
        for record, store in by_name[cell.benchmark, cell.backbone, cell.dataset, cell.protocol_name]:
            twin = dataclasses.replace(cell, seed=record.cell.seed)
            if twin.id(record.dataset.version, record.source_cell) != record.cell.id:
                continue
            seen[cell] = record
            kept = store.has_weights(record.cell.id) or not grid.keeps_weights(cell, config, sources)
            if twin == cell and kept:
                done.add(cell)
    return frozenset(done), seen


def _shared(cells: Iterable[Cell], known: Mapping[Cell, work.Work | None]) -> dict[Cell, float]:
    """Passes of each cell when they run in this order: features that an earlier one has made are there."""
    made: set[Hashable] = set()
    found = {}
    for cell in cells:
        task = known[cell]
        if task is not None:
            found[cell] = task.passes + sum(passes for key, passes in task.features.items() if key not in made)
            made.update(task.features)
    return found


class _Speeds:
    """Passes a second of one device, by backbone: the median of what records say, else the card's FLOPs."""

    def __init__(self, records: Iterable[Record], device: str):
        seen = defaultdict(list)
        for record in records:
            speed = record.cost.images_per_second
            plain = record.protocol.name.startswith(PLAIN)
            if speed and plain and record.environment.device_kind == device:
                seen[record.cell.backbone].append(speed / record.environment.device_count)
        self.measured = {backbone: statistics.median(speeds) for backbone, speeds in seen.items()}
        self.reached = devices.speed(device)

    def of(self, backbone: str) -> float | None:
        """Passes a second; None where neither records nor the table know."""
        if backbone in self.measured:
            return self.measured[backbone]
        gflops = flops.known().get(backbone)
        return None if gflops is None or self.reached is None else self.reached / gflops


def _beside(seen: Mapping[Cell, Record], known: Mapping[Cell, work.Work | None], device: str) -> dict[str, float]:
    """Seconds beside the passes, by protocol: the median over the records of this grid."""
    passes = _shared(seen, known)
    left = defaultdict(list)
    for cell, record in seen.items():
        cost, where = record.cost, record.environment
        if where.device_kind != device or cost.wall_seconds is None or not cost.images_per_second:
            continue
        if record.protocol.name.startswith(PLAIN) and cell in passes:
            left[cell.protocol_name].append(max(0.0, cost.wall_seconds - passes[cell] / cost.images_per_second))
    return {name: statistics.median(seconds) for name, seconds in left.items()}


def _then(record: Record | None, device: str) -> float | None:
    """Seconds of one device that a cell took when it was judged, maybe with another seed."""
    if record is None or record.environment.device_kind != device or record.cost.wall_seconds is None:
        return None
    return record.cost.wall_seconds * record.environment.device_count


def _seconds(
    cell: Cell, passes: float | None, task: work.Work | None, speeds: _Speeds, beside: Mapping[str, float]
) -> float | None:
    speed = speeds.of(cell.backbone)
    if passes is None or task is None or speed is None or (task.gflops and speeds.reached is None):
        return None
    more = task.gflops / speeds.reached if speeds.reached else 0.0
    return passes / speed + more + beside.get(cell.protocol_name, BESIDE)


def _weights(cells: Sequence[Cell], done: Collection[Cell]) -> dict[Cell, Download]:
    """What has to be fetched for the first cell of each backbone that is not done."""
    from converters import cache  # it knows the zoo, and the zoo's neighbours do not know it

    found = {}
    for backbone, its in itertools.groupby((cell for cell in cells if cell not in done), lambda cell: cell.backbone):
        card = zoo.card(backbone)
        source = card.source
        if source is None or source.shipped or (source.url or "").startswith("file:"):
            continue
        if cache.read_receipt(card) is None:
            found[next(its)] = Download(backbone, math.ceil(card.parameters * 1e6 * BYTES), card.gated)
    return found


def _data(cells: Sequence[Cell], done: Collection[Cell], root: Path | None) -> dict[Cell, Download]:
    """What has to be had for the first cell that is not done and reads it."""
    found, told = {}, set[Hashable]()
    for cell in cells:
        if cell in done:
            continue
        key, download = _missing(cell.dataset, root)
        if download is not None and key not in told:
            found[cell] = download
        told.add(key)
    return found


def _missing(name: str, root: Path | None) -> tuple[Hashable, Download | None]:
    """What a data set lacks, and what tells it from the downloads of others."""
    prefix, _, path = name.partition(":")
    if f"{prefix}:" in catalog.OWN:
        return name, None if Path(path).expanduser().exists() else Download(name, None, by_hand=True)
    card = catalog.card(name)
    # Several data sets are read from one download: these have a home page and a size in common.
    key = (card.url, card.download_size) if card.download_size else card.name
    if card.access == "embedded" or catalog.locate(card.name, root) is not None:
        return (key, "there"), None
    return key, Download(card.name, card.download_size, card.access == "manual")
