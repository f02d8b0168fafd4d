"""Cells on a cluster through Ray, or on this machine with each cell outside of this process (docs/ray.md).

One worker process for each machine, with all devices of it. Chains of cells (`chains`) are handed to idle workers; a
cell whose worker dies is tried again in a new one, after a pause and wherever one is idle first. This process judges
nothing, so it dies of no cell: it asks, waits, and notes failures.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from bob_jax import grid
from bob_jax.errors import BobError
from bob_jax.grid import Cell
from bob_jax.launch import settle
from bob_jax.launch.board import Board
from bob_jax.launch.chains import chains
from bob_jax.launch.settle import Outcome
from bob_jax.launch.worker import Worker
from bob_jax.results import record
from bob_jax.results.files import absolute, write_whole
from bob_jax.results.store import Store
from bob_jax.training.preemption import SIGNALS, Preempted

MISSING = "--launcher=ray needs Ray: pip install 'bob_jax[ray]'"
START = 120.0  # seconds after which it is said that a worker has not started
PATIENCE = 1.0  # seconds between two looks at who has joined and who has gone
OBJECTS = 128 << 20  # bytes of Ray's shared memory: names and scores pass through it, no arrays


def run(cells: Sequence[Cell], config: Mapping[str, Any], address: str | None = None) -> int:
    """Runs the cells that have no record yet, one at a time on each machine.

    Args:
        cells: in the order of the grid.
        config: as `local.run` takes it.
        address: of the cluster to join; `$RAY_ADDRESS` when None, and Ray is started here where that is not set.

    Returns:
        0 if every cell has a record now, 1 if any failed.

    Raises:
        BobError: no Ray, no such cluster, a results folder that cannot be written or that no machine shares.
        Preempted: SIGTERM or Ctrl-C came.
    """
    ray = _joined(address)
    try:
        for benchmark in {cell.benchmark for cell in cells}:
            Store(grid.folder(config, benchmark)).prepare()
        with _mark(config) as mark, Board(cells, config["results"]) as board:
            driver = _Driver(ray, cells, config, mark, board)
            for number in SIGNALS:
                signal.signal(number, driver.stop)
            driver.run()
        return board.finish()
    finally:
        ray.shutdown()


def _joined(address: str | None) -> Any:
    """Ray, connected."""
    try:
        import ray
    except ImportError as error:
        raise BobError(MISSING) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers of every start
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray is going to do, and warns of until then
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECTS}
    try:
        if host := re.fullmatch(r"([^:/]+):(\d+)", where):  # Ray itself would try for minutes
            socket.create_connection((host[1], int(host[2])), timeout=10).close()
        # Workers' output stays in Ray's log files: what counts of it comes back with each cell.
        ray.init(where, log_to_driver=False, logging_level=logging.ERROR, **(own if where == "local" else {}))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = "start Ray here" if where == "local" else f"join the Ray cluster at {where}"
        told = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
        raise BobError(f"cannot {what}: {told}") from error
    return ray


@contextlib.contextmanager
def _mark(config: Mapping[str, Any]) -> Iterator[str]:
    """A file in the results folder by which workers know that they see the same one."""
    path = absolute(Store(config["results"]).folder) / f".{secrets.token_hex(8)}.tmp"
    write_whole(path, b"")
    try:
        yield str(path)
    finally:
        path.unlink(missing_ok=True)


@dataclasses.dataclass
class _Chain:
    """Cells that one machine should judge, the first of which is next.

    Attributes:
        cells: that are left.
        attempt: at the first one, from 1.
        not_before: on the monotonic clock.
        machine: id of the one that has worked on it.
    """

    cells: collections.deque[Cell]
    attempt: int = 1
    not_before: float = 0.0
    machine: str | None = None


@dataclasses.dataclass
class _Machine:
    """A machine of the cluster, and the worker on it.

    Attributes:
        id, name: Ray's, and for people.
        resources: what the worker is given: all of the machine's accelerators.
        worker: the actor; None before it is made and when it has died.
        asked: what the worker has been asked and not answered yet.
        environment: devices and versions, as the worker says; None until it is ready.
        chain: it works on.
        since: on the monotonic clock, when its worker was asked for; None once it is said that it does not start.
        told: the chain's first cell as its record names it, once the worker knows.
        backbone: of the last chain, whose weights and programs the worker still has.
        starts: of workers that died before they were ready.
        not_before: on the monotonic clock, of the next start.
        unfit: why nothing can be judged here.
    """

    id: str
    name: str
    resources: dict[str, Any]
    worker: Any = None
    asked: Any = None
    environment: record.Environment | None = None
    chain: _Chain | None = None
    since: float | None = None
    told: record.Cell | None = None
    backbone: str | None = None
    starts: int = 0
    not_before: float = 0.0
    unfit: str | None = None

    def distance(self, chain: _Chain) -> tuple[int, bool]:
        """How far a chain is from here, to be compared: its features may be here, nowhere, or on another machine."""
        features = 0 if chain.machine == self.id else 1 if chain.machine is None else 2
        return features, chain.cells[0].backbone != self.backbone


class _Driver:
    """The loop: see who is there, give work to the idle, hear what became of it."""

    def __init__(self, ray: Any, cells: Sequence[Cell], config: Mapping[str, Any], mark: str, board: Board):
        self._ray, self._cells, self._config, self._board = ray, cells, config, board
        self._expected: dict[str, dict[Cell, record.Estimate]] = {}  # by kind of device
        arguments = (config, grid.sources(cells, config), Path.cwd(), mark)
        self._new_worker = lambda options: ray.remote(Worker).options(**options).remote(*arguments)
        self._waiting = [_Chain(collections.deque(chain)) for chain in chains(cells)]
        self._machines: dict[str, _Machine] = {}
        self._signal = 0
        self._alone = False  # whether it has been said that nobody is there

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Answers a signal: the run ends before long, and its workers with it; their cells have their checkpoints."""
        self._signal = number

    def run(self) -> None:
        """Until every cell has a record or has failed.

        Raises:
            Preempted: it was stopped.
        """
        while self._waiting or any(machine.chain for machine in self._machines.values()):
            if self._signal:
                raise Preempted(self._signal, None)
            self._look_around()
            for machine in self._machines.values():
                if machine.asked is None and machine.unfit is None:
                    self._ask(machine)
            asked = {machine.asked: machine for machine in self._machines.values() if machine.asked is not None}
            if asked:
                answered, _ = self._ray.wait(list(asked), timeout=PATIENCE)
                for question in answered:
                    self._hear(asked[question])
            else:
                time.sleep(PATIENCE)
        for machine in self._machines.values():
            self._retire(machine)

    def _look_around(self) -> None:
        """Machines that have joined, and those that have gone; once one has accelerators, those without count no more.

        Raises:
            BobError: nothing can be judged on any of them.
        """
        alive = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        needs = {key: _needs(node["Resources"]) for key, node in alive.items()}
        best = max((rank for rank, _ in needs.values()), default=0)
        names = collections.Counter(node["NodeManagerHostname"] for node in alive.values())
        for key, node in alive.items():
            rank, resources = needs[key]
            if key not in self._machines and rank == best > 0:
                name = node["NodeManagerHostname"]
                name = name if names[name] == 1 else f"{name}-{key[:6]}"
                self._machines[key] = _Machine(key, name, resources)
        for key in list(self._machines):
            if key not in alive and self._machines[key].asked is None:
                gone = self._machines.pop(key)
                self._board.leave(gone.name)
                if gone.chain is not None:  # it had answered, and not been asked for its next cell
                    self._waiting.insert(0, gone.chain)
        if not self._machines and not self._alone:
            self._board.warn("no machine is there: waiting for one to join")
        self._alone = not self._machines
        for machine in self._machines.values():
            late = machine.since is not None and time.monotonic() - machine.since > START
            if late and machine.asked is not None and machine.environment is None:
                self._board.warn(f"{machine.name} has not started its worker yet: is other work of Ray there?")
                machine.since = None
        unfit = [machine for machine in self._machines.values() if machine.unfit]
        if unfit and len(unfit) == len(self._machines):
            raise BobError(f"no machine can judge a cell; {unfit[0].name}: {unfit[0].unfit}")

    def _ask(self, machine: _Machine) -> None:
        """Gives an idle machine something to do: to start a worker, or to look at the next cell."""
        if machine.worker is None:
            if time.monotonic() < machine.not_before:
                return
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            there = NodeAffinitySchedulingStrategy(machine.id, soft=False)
            machine.worker = self._new_worker(machine.resources | {"scheduling_strategy": there})
            machine.asked, machine.since = machine.worker.ready.remote(), time.monotonic()
            return
        if machine.chain is None:
            ready = [chain for chain in self._waiting if chain.not_before <= time.monotonic()]
            if not ready:
                return
            machine.chain = min(ready, key=machine.distance)
            self._waiting.remove(machine.chain)
            machine.chain.machine, machine.backbone = machine.id, machine.chain.cells[0].backbone
        machine.told = None
        machine.asked = machine.worker.look.remote(machine.chain.cells[0])

    def _hear(self, machine: _Machine) -> None:
        """Takes what a worker has answered."""
        try:
            answer = self._ray.get(machine.asked)
        except self._ray.exceptions.RayError as error:
            answer = error
        machine.asked = None
        if machine.environment is None:
            self._welcome(machine, answer)
        elif isinstance(answer, record.Cell):
            machine.told = answer
            assert machine.chain is not None
            cell = machine.chain.cells[0]
            self._board.start(cell, machine.name)
            expected = self._expected[machine.environment.device_kind].get(cell)
            machine.asked = machine.worker.judge.remote(cell, expected)
        else:
            self._conclude(machine, answer if isinstance(answer, Outcome) else _death(machine, answer))

    def _welcome(self, machine: _Machine, answer: Any) -> None:
        """A worker is ready, or has died before it was."""
        if isinstance(answer, record.Environment):
            machine.environment, machine.starts = answer, 0
            kind = answer.device_kind
            if kind not in self._expected:
                self._expected[kind] = settle.expected(self._cells, self._config, kind)
                self._board.expect(self._expected[kind])
            self._board.join(machine.name, answer.device_count, kind)
            return
        outcome = Outcome("failed", str(answer).strip().splitlines()[-1], lasting=isinstance(answer, BobError))
        machine.starts += 1
        pause = settle.pause(outcome, machine.starts)
        self._retire(machine)
        if pause is None:
            machine.unfit = outcome.line
            if len(self._machines) > 1:
                self._board.warn(f"error: nothing can be judged on {machine.name}: {outcome.line}")
        else:
            machine.not_before = time.monotonic() + pause

    def _conclude(self, machine: _Machine, outcome: Outcome) -> None:
        """Goes on to the chain's next cell, or puts the chain back for another attempt at this one."""
        chain, machine.chain = machine.chain, None
        assert chain is not None
        cell = chain.cells[0]
        pause = settle.pause(outcome, chain.attempt)
        if outcome.status == "failed" and not outcome.lasting:
            self._retire(machine)  # whatever it was, it may have left the process or its devices in a bad way
        if pause is not None:
            self._board.again(cell, outcome, chain.attempt, pause)
            chain.attempt, chain.not_before = chain.attempt + 1, time.monotonic() + pause
            self._waiting.append(chain)
            return
        if outcome.failure is not None:
            Store(grid.folder(self._config, cell.benchmark)).record_failure(outcome.failure)
        self._board.settle(cell, outcome)
        chain.cells.popleft()
        chain.attempt = 1
        if chain.cells:
            machine.chain = chain
            if machine.worker is None:  # any other will do as well
                machine.chain = None
                self._waiting.insert(0, chain)

    def _retire(self, machine: _Machine) -> None:
        """Ends the worker, and with it all that it holds."""
        if machine.worker is not None:
            self._ray.kill(machine.worker)
        machine.worker = machine.asked = machine.environment = None
        self._board.leave(machine.name)


def _needs(resources: Mapping[str, float]) -> tuple[int, dict[str, Any]]:
    """How a machine ranks, and the request for a worker that has it to itself; rank 0 where it offers nothing."""
    cores = int(resources.get("CPU", 0))
    for rank, kind in ((3, "TPU"), (2, "GPU")):
        if count := int(resources.get(kind, 0)):
            held = {"num_gpus": count} if kind == "GPU" else {"resources": {kind: count}}
            return rank, {"num_cpus": min(1, cores)} | held
    return min(1, cores), {"num_cpus": cores}


def _death(machine: _Machine, error: Exception) -> Outcome:
    """What is left to say where the worker itself could say nothing."""
    line = f"its process on {machine.name} died ({type(error).__name__}); out of memory, or the machine is gone?"
    failure = None
    if machine.told is not None and machine.environment is not None:
        failure = record.Failure(machine.told, line, str(error), machine.environment, record.now())
    return Outcome("failed", line, failure)
