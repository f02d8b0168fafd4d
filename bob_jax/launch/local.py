"""All cells in order: those with a record are skipped, a failing one never takes the others with it."""

import dataclasses
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console
from rich.table import Table

from bob_jax import grid
from bob_jax.errors import BobError
from bob_jax.grid import Cell
from bob_jax.launch import cell as single
from bob_jax.launch import devices, estimate, twins
from bob_jax.results.record import Estimate, Failure, now
from bob_jax.results.store import Store
from bob_jax.training.mesh import initialize_distributed, make_mesh


def show(cells: Sequence[Cell], config: Mapping[str, Any]) -> int:
    """Prints what a run would do (`--dry_run`); needs neither weights nor data."""
    table = Table("backbone", "dataset", "protocol", "seed")
    for cell in cells:
        table.add_row(cell.backbone, cell.dataset, cell.protocol_name, str(cell.seed))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"{len(cells)} cells, records go to {config['results']}")
    return 0


def run(cells: Sequence[Cell], config: Mapping[str, Any]) -> int:
    """Runs the cells that have no record yet.

    Args:
        cells: in the order of running.
        config: of the benchmark; `results`, `keep_weights`, `data` and `mesh` are read here.

    Returns:
        0 if every cell has a record now, 1 if any failed.

    Raises:
        BobError: the results folder cannot be written.
        Preempted: SIGTERM came; the running cell has saved its state.
    """
    initialize_distributed()
    sources = grid.sources(cells, config)
    launcher = _Launcher(config, make_mesh(config["mesh"]["fsdp"]), sources, expected(cells, config))
    if launcher.leads:
        for benchmark in {cell.benchmark for cell in cells}:
            launcher.store(benchmark).prepare()
    failed = [cell for number, cell in enumerate(cells, 1) if not launcher.settle(cell, f"[{number}/{len(cells)}]")]
    launcher.say(f"{len(cells) - len(failed)} of {len(cells)} cells have a record in {config['results']}")
    for cell in failed:
        launcher.say(f"failed: {cell}")
    launcher.say(f"the table: bob results {config['results']}")
    return 1 if failed else 0


def expected(cells: Sequence[Cell], config: Mapping[str, Any]) -> dict[Cell, Estimate]:
    """What the cells that must run will take on this machine's devices; a record it cannot read stops no run."""
    try:
        return estimate.estimates(cells, config, devices.here())
    except BobError as error:
        print(f"no estimates: {error}", file=sys.stderr)
        return {}


@dataclasses.dataclass(frozen=True)
class _Launcher:
    config: Mapping[str, Any]
    mesh: jax.sharding.Mesh
    sources: frozenset[Cell]  # cells whose heads others judge
    expected: Mapping[Cell, Estimate]

    @property
    def leads(self) -> bool:
        """Only process 0 writes and speaks."""
        return jax.process_index() == 0

    def store(self, benchmark: str) -> Store:
        """Where the records of a benchmark are."""
        return Store(grid.folder(self.config, benchmark))

    def say(self, line: str) -> None:
        if self.leads:
            print(line, flush=True)

    def settle(self, cell: Cell, position: str) -> bool:
        """Sees to it that the cell has a record; says whether it has."""
        job = None
        try:
            job = single.prepare(cell, self.config["data"]["root"] or None)
            if self._done(job):
                self.say(f"{position} {cell}: has a record")
                return True
            self.say(f"{position} {cell}")
            self._judge(job)
        except Exception as error:
            if jax.process_count() > 1:
                raise  # the other processes wait for this one in their next collective: all must stop
            self._note_failure(cell, job, error)
            return False
        return True

    def _keeps_weights(self, cell: Cell) -> bool:
        return grid.keeps_weights(cell, self.config, self.sources)

    def _done(self, job: single.Job) -> bool:
        """Whether all that is asked for is there; process 0 looks, so that all processes go the same way."""
        there = self.leads and twins.settled(job, self.config, self._keeps_weights(job.cell))
        return bool(multihost_utils.broadcast_one_to_all(np.array(there)))

    def _judge(self, job: single.Job) -> None:
        workers = self.config["data"]["num_workers"]
        store = self.store(job.cell.benchmark)
        workdir = store.folder / "work" / job.id
        judged = single.run(job, self.mesh, workdir.absolute(), None if workers < 0 else workers, store)
        record = dataclasses.replace(judged.record, estimate=self.expected.get(job.cell))
        if self.leads:
            kept = judged.weights if self._keeps_weights(job.cell) else None
            store.write(record, judged.per_example, kept, judged.pictures)
            for checkpoints in workdir.glob("**/checkpoints"):  # nothing is left to resume; the journals stay
                shutil.rmtree(checkpoints)
        score = record.metrics[record.main_metric]
        self.say(
            f"    {record.main_metric} {score.value:.4f} [{score.low:.4f}, {score.high:.4f}]"
            f" in {record.cost.wall_seconds:.0f} s"
        )

    def _note_failure(self, cell: Cell, job: single.Job | None, error: Exception) -> None:
        line = str(error) if isinstance(error, BobError) else f"{type(error).__name__}: {error}"
        print(f"error: {cell}: {line}", file=sys.stderr, flush=True)
        if job is None:
            return  # without the data's version the cell has no id yet; the next start asks again
        self.store(cell.benchmark).record_failure(
            Failure(single.describe(job), line, traceback.format_exc(), single.where(), now())
        )
