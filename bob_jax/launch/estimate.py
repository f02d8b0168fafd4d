"""How long each cell of a grid will take, before it runs.

A cell that was judged on the same kind of device with another seed takes what it took then. Any other takes its passes
through the backbone (`work`) over the speed of that, and the time beside them: reading weights, compiling, training
heads on known features, bootstrap intervals. Both are measured where records of the same kind of device say so, and
otherwise estimated: the speed from the card's FLOPs and a table (`devices`), the time beside passes as constants.
"""

import dataclasses
import functools
import statistics
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bob_jax import grid
from bob_jax.backbones import flops
from bob_jax.grid import Cell
from bob_jax.launch import devices, work
from bob_jax.protocols.adversarial import Adversarial
from bob_jax.results.files import is_folder, located
from bob_jax.results.ranking.settings import PLAIN
from bob_jax.results.record import Estimate, Record
from bob_jax.results.schema import plain
from bob_jax.results.store import Store, stores_in

# Seconds of a cell beside all that is counted, where no record of its protocol says otherwise: reading, compiling,
# heads on features, intervals. Of an accelerator assumed. Of a processor what the cells of configs/digits.py took on
# two cores: those that look through a backbone, and those that compile its gradient too.
BESIDE, BESIDE_CPU, BESIDE_CPU_GRADIENT = 20.0, 4.0, 15.0


@dataclasses.dataclass(frozen=True)
class Time:
    """What a cell takes, apart from what others may spare it.

    Attributes:
        fixed: seconds of one device, whatever has run before.
        features: seconds of making each of the features that it shares with others, if nobody has made them.
        source: as in `Estimate`.
    """

    fixed: float
    features: Mapping[Hashable, float]
    source: Literal["cell", "speed", "table"]


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What is known of the cells of a grid before they run.

    Attributes:
        cells: in the order of running.
        records: all that lie where the run puts its own.
        done: cells that need not run.
        work: of each cell; None where the size of its data is not known.
        times: of the cells that must run, as far as they are known.
    """

    cells: tuple[Cell, ...]
    records: tuple[Record, ...]
    done: frozenset[Cell]
    work: Mapping[Cell, work.Work | None]
    times: Mapping[Cell, Time]

    def part(self, cells: Collection[Cell]) -> "Outlook":
        """The same of some of the cells alone."""
        times = {cell: time for cell, time in self.times.items() if cell in cells}
        return dataclasses.replace(self, cells=tuple(cell for cell in self.cells if cell in cells), times=times)

    def passes(self) -> dict[Cell, float]:
        """Images forward of each cell that must run; features that an earlier one has made are there."""
        return _shared((cell for cell in self.cells if cell not in self.done), self.work)

    def estimates(self) -> dict[Cell, Estimate]:
        """Of each cell that must run when all of them run in this order; none of those whose time is not known."""
        passes, made, found = self.passes(), set[Hashable](), {}
        for cell, time in self.times.items():
            seconds = time.fixed + sum(seconds for key, seconds in time.features.items() if key not in made)
            task = self.work[cell]
            if task is None:
                found[cell] = Estimate(seconds, time.source, None, 0.0)
                continue
            made.update(task.features)
            whole = task.passes + sum(task.features.values())
            found[cell] = Estimate(seconds, time.source, passes[cell], whole - passes[cell])
        return found


def outlook(cells: Sequence[Cell], config: Mapping[str, Any], device: str) -> Outlook:
    """What is known of the cells. Nothing is fetched, no backbone built; only the user's own data are looked at.

    A cell counts as done where its record fits it in everything but the data's version, which is not known before the
    data are there; a run looks at that too.

    Args:
        cells: of the config, in the order of running.
        config: as `grid.cells` takes it; `results` says where records are.
        device: kind, as JAX names it.

    Raises:
        BobError: a record that cannot be read.
    """
    root, top = Path(config["data"]["root"]) if config["data"]["root"] else None, located(config["results"])
    there = {store: store.read_all() for store in stores_in(top)} if is_folder(top) else {}
    records = [record for its in there.values() for record in its]
    done, seen = _found(cells, config, there, device)
    count = functools.cache(work.sizes)
    known = {cell: work.of(cell, root, count) for cell in cells}
    speeds = _Speeds(records, device)
    beside = _beside(seen, known, speeds)
    times, first = dict[Cell, Time](), dict[Cell, Cell]()
    for cell in cells:
        if cell not in done and (twin := first.setdefault(asked(cell), cell)) is not cell:
            if twin in times:  # the record will be its own, without any work
                times[cell], known[cell] = Time(0.0, {}, times[twin].source), work.Work({})
            continue
        time = None if cell in done else _time(cell, seen.get(cell), known[cell], speeds, beside)
        if time is not None:
            times[cell] = time
    return Outlook(tuple(cells), tuple(records), done, known, times)


def asked(cell: Cell) -> Cell:
    """What a cell asks, whichever benchmark asks it: equal for those that take over each other's records."""
    return cell if cell.source else dataclasses.replace(cell, benchmark="")


def estimates(cells: Sequence[Cell], config: Mapping[str, Any], device: str) -> dict[Cell, Estimate]:
    """What each cell that must run will take: for progress, and for its record. Arguments and errors as `outlook`."""
    return outlook(cells, config, device).estimates()


def _found(
    cells: Sequence[Cell], config: Mapping[str, Any], there: Mapping[Store, Sequence[Record]], device: str
) -> tuple[frozenset[Cell], dict[Cell, Record]]:
    """The cells that need not run, and a record of each one judged on such a device, maybe with another seed."""
    sources = grid.sources(cells, config)
    by_name: dict[tuple[str, ...], list[tuple[Record, Store]]] = defaultdict(list)
    benchmarks = config.get("parts", dict.fromkeys(cell.benchmark for cell in cells))
    folders = {grid.folder(config, benchmark) for benchmark in benchmarks}
    for store, records in there.items():
        for record in records if store.folder in folders else ():
            told = record.cell
            by_name[told.benchmark, told.backbone, told.dataset, told.protocol].append((record, store))
    done, seen = set(), {}
    for cell in cells:
        for same in (*grid.twins(cell, config), cell):
            for record, store in by_name[same.benchmark, same.backbone, same.dataset, same.protocol_name]:
                then = dataclasses.replace(same, seed=record.cell.seed)
                if then.id(record.dataset.version, record.source_cell) != record.cell.id:
                    continue
                if cell.source and record.protocol.hyperparameters != plain(cell.hyperparameters, ""):
                    continue  # of another head: the id names it by a hash alone
                if record.environment.device_kind == device:
                    seen[cell] = record
                kept = store.has_weights(record.cell.id) or not grid.keeps_weights(cell, config, sources)
                if then == same and kept:
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
    """What one device reaches: passes a second by backbone, the median of what records say, else the card's FLOPs."""

    def __init__(self, records: Iterable[Record], device: str):
        seen = defaultdict(list)
        for record in records:
            speed = record.cost.images_per_second
            plain = record.protocol.name.startswith(PLAIN)
            if speed and plain and record.environment.device_kind == device:
                seen[record.cell.backbone].append(speed / record.environment.device_count)
        self.measured = {backbone: statistics.median(speeds) for backbone, speeds in seen.items()}
        self.device, self._reached, self._float32 = device, devices.speed(device), devices.float32_cost(device)

    def of(self, backbone: str) -> float | None:
        """Passes a second; None where neither records nor the table know."""
        if backbone in self.measured:
            return self.measured[backbone]
        gflops = flops.known().get(backbone)
        return None if gflops is None or self._reached is None else self._reached / gflops

    def beside(self, task: work.Work) -> float | None:
        """Seconds of what is not a pass; None where that is most of the cell and the table does not know the device."""
        if self._reached is None:
            return None if task.gflops else 0.0
        return (task.gflops + self._float32 * task.float32) / self._reached


def _beside(seen: Mapping[Cell, Record], known: Mapping[Cell, work.Work | None], speeds: _Speeds) -> dict[str, float]:
    """Seconds beside all that is counted, by protocol: the median over the records of this grid."""
    first: dict[Cell, Cell] = {}  # a record that was taken over is a copy
    for cell in seen:
        first.setdefault(asked(cell), cell)
    seen = {cell: seen[cell] for cell in first.values()}
    passes = _shared(seen, known)
    left = defaultdict(list)
    for cell, record in seen.items():
        cost = record.cost
        if cost.wall_seconds is None or not cost.images_per_second:
            continue
        task = known[cell]
        if record.protocol.name.startswith(PLAIN) and task is not None:
            counted = passes[cell] / cost.images_per_second
            counted += (speeds.beside(task) or 0.0) / record.environment.device_count
            left[cell.protocol_name].append(max(0.0, cost.wall_seconds - counted))
    return {name: statistics.median(seconds) for name, seconds in left.items()}


def _assumed(cell: Cell, device: str) -> float:
    """Seconds beside all that is counted, where no record tells them."""
    if device != devices.CPU:
        return BESIDE
    gradient = cell.protocol.trains_backbone or isinstance(cell.protocol, Adversarial)
    return BESIDE_CPU_GRADIENT if gradient else BESIDE_CPU


def _time(
    cell: Cell, record: Record | None, task: work.Work | None, speeds: _Speeds, beside: Mapping[str, float]
) -> Time | None:
    if record is not None and record.cost.wall_seconds is not None:
        return Time(record.cost.wall_seconds * record.environment.device_count, {}, "cell")
    speed = speeds.of(cell.backbone)
    more = speeds.beside(task) if task is not None else None
    if task is None or speed is None or more is None:
        return None
    return Time(
        task.passes / speed + more + beside.get(cell.protocol_name, _assumed(cell, speeds.device)),
        {key: passes / speed for key, passes in task.features.items()},
        "speed" if cell.backbone in speeds.measured else "table",
    )
