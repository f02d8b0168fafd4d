"""One cell from start to record: weights, data, protocol, scores with intervals, cost."""

import dataclasses
import functools
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bob_jax.backbones import zoo
from bob_jax.data import catalog, duplicates
from bob_jax.data.base import Dataset
from bob_jax.errors import BobError
from bob_jax.grid import Cell
from bob_jax.launch.memory import forget_programs
from bob_jax.metrics import bootstrap
from bob_jax.metrics.catalog import METRICS
from bob_jax.protocols import trained
from bob_jax.protocols.base import Competitor, Context, Result, Trained
from bob_jax.protocols.scoring import TEMPERATURE
from bob_jax.results import environment, record
from bob_jax.results.store import Store
from bob_jax.training import mesh as meshes


class Judged(NamedTuple):
    """What a cell leaves behind: its record, what it knows of each test image, the weights it trained, and pictures."""

    record: record.Record
    per_example: dict[str, np.ndarray]
    weights: Mapping[str, np.ndarray] | None
    pictures: Mapping[str, np.ndarray]


@functools.lru_cache(maxsize=1)
def _turn_to(name: str) -> None:
    """Programs and weights of the backbone before are of no use to this one, and would pile up cell by cell."""
    load_competitor.cache_clear()
    forget_programs()


@functools.lru_cache(maxsize=1)
def load_competitor(name: str, drop_path: float, window: int, mesh: jax.sharding.Mesh) -> Competitor:
    """The backbone with its weights on the mesh; the last one is kept, since the cells of one backbone stand together.

    Raises:
        BobError: unknown name, or weights that cannot be had.
    """
    loaded = zoo.load(name, drop_path=drop_path, window=window, place=functools.partial(meshes.place, mesh=mesh))
    return Competitor(zoo.card(name), loaded.module, loaded.weights_sha256)


@functools.lru_cache(maxsize=4)  # a cell and the source of its head
def load_dataset(name: str, root: str | None, limit: int | None, draw: int) -> Dataset:
    """The splits of a data set; the last ones are kept.

    Args:
        name: in the catalogue.
        root: where data sets are kept.
        limit: images of each split.
        draw: seed that chooses the training images of a low-data variant.

    Raises:
        BobError: unknown name, or data that are not there.
    """
    return catalog.load(name, root=Path(root) if root else None, limit=limit, draw=draw)


@dataclasses.dataclass(frozen=True)
class Job:
    """A cell with its data, and the names that follow from them.

    Attributes:
        cell: what to judge.
        dataset: the cell's, loaded.
        source: that of the cell which leaves the head, loaded; None without such a cell.
    """

    cell: Cell
    dataset: Dataset
    source: Dataset | None

    @property
    def source_id(self) -> str | None:
        """Name of the record of the cell that leaves the head."""
        return self.cell.source.id(self.source.version) if self.cell.source and self.source else None

    @property
    def id(self) -> str:
        """Name of the cell's record."""
        return self.cell.id(self.dataset.version, self.source_id)


def prepare(cell: Cell, root: str | None) -> Job:
    """Loads what a cell is about.

    Raises:
        BobError: data that are not there.
    """
    source = load_dataset(cell.source.dataset, root, cell.limit, cell.seed) if cell.source else None
    return Job(cell, load_dataset(cell.dataset, root, cell.limit, cell.seed), source)


def run(job: Job, mesh: jax.sharding.Mesh, workdir: Path, num_workers: int | None, store: Store) -> Judged:
    """Judges one backbone on one data set.

    Args:
        job: what to judge.
        mesh: devices.
        workdir: folder of the cell's checkpoints and logs.
        num_workers: data worker processes; None lets the loader decide.
        store: where the cell that leaves the head has its record.

    Raises:
        BobError: that cell has none.
    """
    started = time.perf_counter()
    cell, dataset = job.cell, job.dataset
    protocol = cell.protocol
    _turn_to(cell.backbone)
    competitor = load_competitor(cell.backbone, protocol.drop_path_rate(), protocol.attention_window(), mesh)
    head = _trained(job, competitor, mesh, store)
    context = Context(mesh, workdir, cell.seed, num_workers, cell.skip_corrupt, head)
    result = cell.protocol.run(competitor, dataset, context)
    main = result.main_metric or dataset.metric
    scores, twins = _scores(result), _known_duplicates(dataset)
    if twins is not None:
        scores |= _without(twins, main, result)
    done = record.Record(
        cell=describe(job),
        backbone=record.BackboneUsed(dataclasses.asdict(competitor.card), competitor.weights_sha256),
        dataset=_dataset_used(dataset, result),
        protocol=record.ProtocolUsed(cell.protocol_name, cell.hyperparameters),
        source_cell=job.source_id,
        metrics=scores,
        main_metric=main,
        interval=record.Interval(bootstrap.LEVEL, bootstrap.METHOD, bootstrap.RESAMPLES, 0),
        selection=(
            record.Selection("validation", dataset.metric, tuple(map(dict, result.grid)), result.chosen)
            if result.grid
            else None
        ),
        notes=_notes(result, twins),
        cost=record.Cost(
            wall_seconds=time.perf_counter() - started,
            **dataclasses.asdict(result.cost),
            peak_memory_bytes=peak_memory_bytes(),
        ),
        environment=where(),
        created=record.now(),
    )
    return Judged(done, dict(result.outputs), result.weights, result.pictures)


def _trained(job: Job, competitor: Competitor, mesh: jax.sharding.Mesh, store: Store) -> Trained | None:
    """The head that the source cell left."""
    source = job.source_id
    if job.source is None or source is None:
        return None
    if not store.exists(source):
        raise BobError(f"its head is missing: {job.cell.source} has no record; see why it failed")
    temperature = float(store.read(source).notes[TEMPERATURE])
    return trained.restore(competitor, store.weights(source), job.source, temperature, source, mesh)


def _scores(result: Result) -> dict[str, record.Score]:
    """Every score that the outputs allow, and those the protocol made itself."""
    metrics = {name: metric for name, metric in METRICS.items() if set(metric.inputs) <= set(result.outputs)}
    better = {name: metric.higher_is_better for name, metric in metrics.items()} | dict(result.higher_is_better)
    estimates = (bootstrap.intervals(metrics, result.outputs) if metrics else {}) | dict(result.scores)
    return {
        name: record.Score(**dataclasses.asdict(estimate), higher_is_better=better[name])
        for name, estimate in estimates.items()
    }


def _known_duplicates(dataset: Dataset) -> frozenset[str] | None:
    """Test images that are also in train, as far as `bob data check` has found out; None where it has not looked."""
    if not {"train", "test"} <= dataset.splits.keys():
        return None
    return duplicates.known(dataset.splits["train"], dataset.splits["test"])


def _without(twins: frozenset[str], main: str, result: Result) -> dict[str, record.Score]:
    """The score that ranks backbones, on the test images that are not in train; none where all of them are."""
    kept = ~np.isin(result.outputs["id"], sorted(twins))
    if main not in METRICS or not kept.any():
        return {}
    outputs = {name: result.outputs[name][kept] for name in METRICS[main].inputs}
    estimate = bootstrap.intervals({main: METRICS[main]}, outputs)[main]
    better = METRICS[main].higher_is_better
    return {f"{main}_without_duplicates": record.Score(**dataclasses.asdict(estimate), higher_is_better=better)}


def _notes(result: Result, twins: frozenset[str] | None) -> dict[str, Any]:
    notes = dict(result.notes)
    if twins is not None:
        notes["test_images_also_in_train"] = len(twins)
    return notes | ({"pictures": sorted(result.pictures)} if result.pictures else {})


def describe(job: Job) -> record.Cell:
    """The cell as the record names it."""
    cell = job.cell
    return record.Cell(job.id, cell.benchmark, cell.backbone, cell.dataset, cell.protocol_name, cell.seed)


def where() -> record.Environment:
    """The environment of this process, with its devices."""
    return environment.collect(
        device_kind=jax.devices()[0].device_kind,
        device_count=jax.device_count(),
        process_count=jax.process_count(),
    )


def peak_memory_bytes() -> int | None:
    """Most memory in use on one device since the process started; on CPU the process's largest resident size."""
    if jax.default_backend() == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    statistics: list[dict[str, Any]] = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [entry["peak_bytes_in_use"] for entry in statistics if "peak_bytes_in_use" in entry]
    return max(peaks) if peaks else None


def _dataset_used(dataset: Dataset, result: Result) -> record.DatasetUsed:
    splits = {
        name: record.Split(
            len(source), source.fingerprint, dataset.split_notes[name], tuple(result.skipped.get(name, ()))
        )
        for name, source in dataset.splits.items()
    }
    return record.DatasetUsed(
        dataset.name, dataset.version, len(dataset.classes), dataset.metric, dataset.licence, dataset.draw, splits
    )
