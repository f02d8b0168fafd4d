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
from bob_jax.data import catalog
from bob_jax.data.base import Dataset
from bob_jax.grid import Cell
from bob_jax.metrics import bootstrap
from bob_jax.metrics.classification import METRICS, per_example
from bob_jax.protocols.base import Competitor, Context, Result
from bob_jax.results import environment, record
from bob_jax.training import mesh as meshes


class Judged(NamedTuple):
    """What a cell leaves behind: its record, what it knows of each test image, and the weights it trained if any."""

    record: record.Record
    per_example: dict[str, np.ndarray]
    weights: Mapping[str, np.ndarray] | None


@functools.lru_cache(maxsize=1)
def load_competitor(name: str, drop_path: float, mesh: jax.sharding.Mesh) -> Competitor:
    """The backbone with its weights on the mesh; the last one is kept, since the cells of one backbone stand together.

    Raises:
        BobError: unknown name, or weights that cannot be had.
    """
    loaded = zoo.load(name, drop_path=drop_path, place=functools.partial(meshes.place, mesh=mesh))
    return Competitor(zoo.card(name), loaded.module, loaded.weights_sha256)


@functools.lru_cache(maxsize=1)
def load_dataset(name: str, root: str | None, limit: int | None) -> Dataset:
    """The splits of a data set; the last one is kept.

    Raises:
        BobError: unknown name, or data that are not there.
    """
    return catalog.load(name, root=Path(root) if root else None, limit=limit)


def run(cell: Cell, dataset: Dataset, mesh: jax.sharding.Mesh, workdir: Path, num_workers: int | None) -> Judged:
    """Judges one backbone on one data set.

    Args:
        cell: what to judge.
        dataset: the cell's, loaded.
        mesh: devices.
        workdir: folder of the cell's checkpoints and logs.
        num_workers: data worker processes; None lets the loader decide.
    """
    started = time.perf_counter()
    competitor = load_competitor(cell.backbone, cell.protocol.drop_path_rate(), mesh)
    context = Context(mesh, workdir, cell.seed, num_workers, cell.skip_corrupt)
    result = cell.protocol.run(competitor, dataset, context)
    outputs = per_example(result.logits, result.labels)
    metrics = {name: metric for name, metric in METRICS.items() if set(metric.inputs) <= set(outputs)}
    scores = {
        name: record.Score(**dataclasses.asdict(estimate), higher_is_better=metrics[name].higher_is_better)
        for name, estimate in bootstrap.intervals(metrics, outputs).items()
    }
    done = record.Record(
        cell=describe(cell, dataset),
        backbone=record.BackboneUsed(dataclasses.asdict(competitor.card), competitor.weights_sha256),
        dataset=_dataset_used(dataset, result),
        protocol=record.ProtocolUsed(cell.protocol.name, dataclasses.asdict(cell.protocol)),
        metrics=scores,
        main_metric=dataset.metric,
        interval=record.Interval(bootstrap.LEVEL, bootstrap.METHOD, bootstrap.RESAMPLES, 0),
        selection=record.Selection("validation", dataset.metric, tuple(map(dict, result.grid)), result.chosen),
        cost=record.Cost(
            wall_seconds=time.perf_counter() - started,
            **dataclasses.asdict(result.cost),
            peak_memory_bytes=peak_memory_bytes(),
        ),
        environment=where(),
        created=record.now(),
    )
    return Judged(done, {"id": np.array(result.ids), **outputs}, result.weights)


def describe(cell: Cell, dataset: Dataset) -> record.Cell:
    """The cell as the record names it."""
    return record.Cell(
        cell.id(dataset.version), cell.benchmark, cell.backbone, cell.dataset, cell.protocol.name, cell.seed
    )


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
        dataset.name, dataset.version, len(dataset.classes), dataset.metric, dataset.licence, splits
    )
