"""One attempt at one cell in this process: what every launcher does, wherever it does it, and how often it tries."""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

from bob_jax import grid
from bob_jax.cache import cache_dir
from bob_jax.errors import BobError
from bob_jax.grid import Cell
from bob_jax.launch import cell as single
from bob_jax.launch import estimate, twins
from bob_jax.results import record
from bob_jax.results.files import in_bucket
from bob_jax.results.store import Store

ATTEMPTS = 3  # at a cell that dies; then it is recorded as failed
PAUSE = 10.0  # seconds before the second attempt; each further one waits twice as long as the one before


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an attempt.

    Attributes:
        status: "judged"; "known", where there was a record already; or "failed".
        line: the score with its interval, or what went wrong.
        failure: the note for the results folder; None where nothing failed, or where the data could not be read: the
            cell's id contains their version.
        lasting: the user must act; a further attempt would fail in the same way.
    """

    status: Literal["judged", "known", "failed"]
    line: str
    failure: record.Failure | None = None
    lasting: bool = False


def pause(outcome: Outcome, attempt: int) -> float | None:
    """Seconds to wait before the next attempt at a cell; None where the outcome is final.

    Args:
        outcome: of the last attempt.
        attempt: its number, from 1.
    """
    if outcome.status != "failed" or outcome.lasting or attempt >= ATTEMPTS:
        return None
    return PAUSE * 2.0 ** (attempt - 1)


def expected(cells: Sequence[Cell], config: Mapping[str, Any], device: str) -> dict[Cell, record.Estimate]:
    """What the cells that must run will take on this kind of device; a record it cannot read stops no run."""
    try:
        return estimate.estimates(cells, config, device)
    except BobError as error:
        print(f"no estimates: {error}", file=sys.stderr)
        return {}


@dataclasses.dataclass(frozen=True)
class Settler:
    """Sees to it that cells have records.

    Attributes:
        config: of the benchmark; `results`, `keep_weights` and `data` are read here.
        mesh: devices.
        sources: as of `grid.sources`.
    """

    config: Mapping[str, Any]
    mesh: jax.sharding.Mesh
    sources: frozenset[Cell]

    def look(self, cell: Cell) -> record.Cell | Outcome:
        """The cell as its record will name it, or what became of it where there is nothing to judge."""
        job = None
        try:
            job = self._prepare(cell)
            return Outcome("known", "has a record") if self._done(job) else single.describe(job)
        except Exception as error:
            return _failed(job, error)

    def judge(self, cell: Cell, expected: record.Estimate | None) -> Outcome:
        """One attempt. Of two processes that try the same cell the second one waits, and finds the first one's record.

        Args:
            cell: to judge.
            expected: of it, for its record.

        Raises:
            Preempted: SIGTERM came; the cell has saved its state.
        """
        job = None
        try:
            job = self._prepare(cell)
            with self._alone(job):
                if self._done(job):
                    return Outcome("known", "has a record")
                return self._judge(job, expected)
        except Exception as error:
            return _failed(job, error)

    def store(self, benchmark: str) -> Store:
        """Where the records of a benchmark are."""
        return Store(grid.folder(self.config, benchmark))

    def _prepare(self, cell: Cell) -> single.Job:
        return single.prepare(cell, self.config["data"]["root"] or None)

    def _keeps_weights(self, cell: Cell) -> bool:
        return grid.keeps_weights(cell, self.config, self.sources)

    def _done(self, job: single.Job) -> bool:
        """Whether all that is asked for is there; process 0 looks, so that all processes go the same way."""
        there = jax.process_index() == 0 and twins.settled(job, self.config, self._keeps_weights(job.cell))
        return bool(multihost_utils.broadcast_one_to_all(np.array(there)))

    def _workdir(self, job: single.Job) -> Path:
        """Where a cell keeps checkpoints and journals: beside the results, or here if these are in a bucket."""
        folder = self.store(job.cell.benchmark).folder
        if not in_bucket(folder):
            return folder.absolute() / "work" / job.id
        return cache_dir("work").absolute() / hashlib.sha256(str(folder).encode()).hexdigest()[:12] / job.id

    @contextlib.contextmanager
    def _alone(self, job: single.Job) -> Iterator[None]:
        """Keeps other runs on this folder off the cell and its checkpoints; the system lets go of it if we are killed.

        There is another for a moment where a run was killed and started again, and Ray has not yet ended its workers.
        """
        if jax.process_index() != 0:
            yield
            return
        path = self._workdir(job).with_name(f"{job.id}.lock")
        with _opened(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{job.cell}: another run is at it; waiting for its record", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks, as some buckets are that are mounted as folders
            yield
            # Whoever has waited for this file finds a record, and is done too: nobody needs it any more.
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: journals, or another cell
            path.parent.rmdir()

    def _judge(self, job: single.Job, expected: record.Estimate | None) -> Outcome:
        workers = self.config["data"]["num_workers"]
        store, workdir = self.store(job.cell.benchmark), self._workdir(job)
        judged = single.run(job, self.mesh, workdir, None if workers < 0 else workers, store)
        done = dataclasses.replace(judged.record, estimate=expected)
        late = self._done(job)  # another run, where no lock keeps it off: its files must not mix with ours
        if jax.process_index() == 0:
            if not late:
                kept = judged.weights if self._keeps_weights(job.cell) else None
                store.write(done, judged.per_example, kept, judged.pictures)
            for checkpoints in workdir.glob("**/checkpoints"):  # nothing is left to resume; the journals stay
                shutil.rmtree(checkpoints)
        if late:
            return Outcome("known", "has a record, which another run has made at the same time")
        score = done.metrics[done.main_metric]
        interval = f"[{score.low:.4f}, {score.high:.4f}]"
        took = f"in {done.cost.wall_seconds:.0f} s"
        return Outcome("judged", f"{done.main_metric} {score.value:.4f} {interval} {took}")


def _opened(path: Path) -> IO[str]:
    """A file to lock; its folder, which a run takes away when it was the last one there, is made."""
    for attempt in itertools.count(1):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("a")
        except (FileNotFoundError, FileExistsError):  # taken away in between
            if attempt == 100:
                raise
    raise AssertionError


def _failed(job: single.Job | None, error: Exception) -> Outcome:
    """The exception that is being handled, as an outcome."""
    if jax.process_count() > 1:
        raise error  # the other processes wait for this one in their next collective: all must stop
    known = isinstance(error, BobError)
    line = str(error) if known else f"{type(error).__name__}: {error}"
    failure = None
    if job is not None:
        failure = record.Failure(single.describe(job), line, traceback.format_exc(), single.where(), record.now())
    return Outcome("failed", line, failure, lasting=known)
