"""Cells on real Ray clusters: machines, workers and drivers die, and each cell has one record or one failure."""

import json
import os
import subprocess
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from misbehaving import GOOD, KILLED_ONCE, RAISES, WAITS
from running import ROOT, environment, run_main
from synthetic_records import ENVIRONMENT

from bob_jax import grid
from bob_jax.errors import BobError
from bob_jax.launch import cluster, settle
from bob_jax.launch.board import Board
from bob_jax.launch.worker import Worker
from configs import digits

HERE = Path(__file__).parent
pytest.importorskip("ray")


def until(condition: Callable[[], object], *, alive: subprocess.Popen[str]) -> None:
    """Waits as long as a slow machine may take."""
    deadline = time.monotonic() + 300
    while not condition():
        assert alive.poll() is None, alive.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def start(script: str, *arguments: str, env: dict[str, str]) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, HERE / script, *arguments], cwd=ROOT, env=env, text=True, **pipes)


def user(folder: Path) -> dict[str, str]:
    return environment(folder / "cache", PYTHONPATH=f"{ROOT}:{HERE}", RAY_USAGE_STATS_ENABLED="0")


class Machines:
    """The cluster of `two_machines.py`."""

    def __init__(self, folder: Path, *arguments: str):
        self.process = start("two_machines.py", *arguments, env=user(folder))
        assert self.process.stdin and self.process.stdout
        self.commands, self.answers = self.process.stdin, self.process.stdout
        self.address = self._answer("address ").split()[1]

    def lose_one(self) -> None:
        self.commands.write("lose\n")
        self.commands.flush()
        self._answer("gone")

    def end(self) -> None:
        self.process.communicate(timeout=120)

    def _answer(self, word: str) -> str:
        line = ""
        while not line.startswith(word):  # Ray may say something of its own
            line = self.answers.readline()
            assert line, "the cluster has ended"
        return line


@pytest.fixture
def machines(tmp_path) -> Iterator[Machines]:
    both = Machines(tmp_path)
    yield both
    both.end()


class Run:
    """A driver of `misbehaving.py`, what its cells have left, and its results."""

    def __init__(self, folder: Path, seeds: tuple[int, ...], machines: Machines):
        self.folder, self.results, self.marks = folder, folder / "results", folder / "marks"
        self.marks.mkdir(exist_ok=True)
        asked = "+".join(map(str, seeds))
        arguments = (str(self.results), str(self.marks), asked, machines.address)
        self.driver = start("misbehaving.py", *arguments, env=user(folder))

    def attempts(self) -> dict[int, list[int]]:
        """Process ids of the attempts at each seed."""
        found: dict[int, list[int]] = {}
        for path in self.marks.glob("*.*"):
            seed, pid, _ = path.name.split(".")
            found.setdefault(int(seed), []).append(int(pid))
        return found

    def go(self) -> None:
        (self.marks / "go").touch()

    def notes(self, status: str) -> dict[int, dict]:
        """What the results folder has, by seed."""
        read = [json.loads(path.read_text()) for path in self.results.glob("*.json")]
        found = [note for note in read if note["status"] == status]
        assert max(Counter(note["cell"]["seed"] for note in found).values(), default=1) == 1
        return {note["cell"]["seed"]: note for note in found}


@pytest.mark.slow
def test_a_lost_machine_a_killed_worker_and_a_failing_cell_take_no_other_cell_with_them(machines, tmp_path):
    run = Run(tmp_path, (WAITS, WAITS + 1, GOOD, RAISES, KILLED_ONCE), machines)
    until(lambda: len(run.attempts()) == 2, alive=run.driver)  # one on each machine
    pids = {seed: pids[0] for seed, pids in run.attempts().items()}
    machines.lose_one()
    until(lambda: not all(map(alive, pids.values())), alive=run.driver)
    (lost,) = (seed for seed, pid in pids.items() if not alive(pid))
    run.go()
    out, err = run.driver.communicate(timeout=500)
    assert run.driver.returncode == 1, err
    assert "4 of 5 cells have a record" in out
    assert run.notes("ok").keys() == {WAITS, WAITS + 1, GOOD, KILLED_ONCE}
    (failure,) = run.notes("failed").values()
    assert failure["cell"]["seed"] == RAISES and failure["error"] == "RuntimeError: it always fails"
    assert 'raise RuntimeError("it always fails")' in failure["traceback"]
    tried = {seed: len(pids) for seed, pids in run.attempts().items()}
    assert tried == {WAITS: 1, WAITS + 1: 1, GOOD: 1, RAISES: 3, KILLED_ONCE: 2} | {lost: 2}
    assert len(set(run.attempts()[RAISES])) == 3  # each in a process of its own
    assert "(seed 1): attempt 2 of 3 failed, the next one in 0 s: RuntimeError: it always fails" in err
    assert "Traceback" not in err
    left = [*run.results.glob(".*"), *run.results.glob("work/*")]
    assert [path.name for path in left] == [f"{failure['cell']['id']}.lock"]  # for the next try


@pytest.mark.slow
def test_cells_take_all_accelerators_of_a_machine_and_leave_machines_without_alone(tmp_path):
    machines = Machines(tmp_path, "2")
    try:
        run = Run(tmp_path, (GOOD, WAITS), machines)
        run.go()
        _, err = run.driver.communicate(timeout=500)
    finally:
        machines.end()
    assert run.driver.returncode == 0, err
    assert len({pid for pids in run.attempts().values() for pid in pids}) == 1  # one worker, one cell at a time
    assert [path.read_text() for path in run.marks.glob("*.*")] == ["0,1"] * 2


@pytest.mark.parametrize(
    ("offered", "rank", "asked"),
    [
        ({"CPU": 64.0, "GPU": 8.0, "accelerator_type:H200": 1.0}, 2, {"num_cpus": 1, "num_gpus": 8}),
        ({"CPU": 112.0, "TPU": 4.0, "TPU-v4-8-head": 1.0}, 3, {"num_cpus": 1, "resources": {"TPU": 4}}),
        ({"CPU": 16.0, "memory": 1e10}, 1, {"num_cpus": 16}),
        ({"GPU": 1.0}, 2, {"num_cpus": 0, "num_gpus": 1}),
        ({"memory": 1e10}, 0, {"num_cpus": 0}),
    ],
)
def test_a_worker_has_its_machine_to_itself(offered, rank, asked):
    assert cluster._needs(offered) == (rank, asked)


@pytest.mark.slow
def test_a_killed_driver_is_started_again_and_repeats_nothing(machines, tmp_path):
    seeds = (GOOD, WAITS)
    run = Run(tmp_path, seeds, machines)
    until(lambda: run.notes("ok") and WAITS in run.attempts(), alive=run.driver)
    (record,) = run.results.glob("*.json")
    before = record.stat().st_mtime_ns
    run.driver.kill()
    run.driver.communicate()
    stopped = Run(tmp_path, seeds, machines)  # at once: the worker of the first run may still be there
    until(lambda: len(run.attempts()[WAITS]) == 2, alive=stopped.driver)
    stopped.driver.terminate()
    _, err = stopped.driver.communicate(timeout=120)
    assert stopped.driver.returncode == 143, err
    again = Run(tmp_path, seeds, machines)
    again.go()
    out, err = again.driver.communicate(timeout=500)
    assert again.driver.returncode == 0, err
    assert "2 of 2 cells have a record" in out and out.count("has a record") >= 1
    assert again.notes("ok").keys() == set(seeds) and not again.notes("failed")
    assert record.stat().st_mtime_ns == before and len(run.attempts()[GOOD]) == 1
    until(lambda: not any(alive(pid) for pids in run.attempts().values() for pid in pids), alive=machines.process)


@pytest.mark.slow
def test_on_one_machine_ray_is_started_and_ended_by_the_run(tmp_path):
    mine = f"BOB_RUN_{os.getpid()}_{tmp_path.name}"
    command = ("--config=configs/digits.py:vit_micro8_random,protocol=knn", "--limit=40")
    env = environment(tmp_path / "cache", **{mine: "1"})
    env.pop("RAY_ADDRESS", None)
    done = run_main(*command, "--launcher=ray", f"--results={tmp_path / 'ray'}", env=env)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 cells have a record" in done.stdout
    deadline = time.monotonic() + 120
    while left := marked(mine):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    local = run_main(*command, f"--results={tmp_path / 'local'}", env=env)
    assert local.returncode == 0, local.stderr
    scores = [
        {path.name: json.loads(path.read_text())["metrics"]["accuracy"] for path in sorted(folder.glob("*.json"))}
        for folder in (tmp_path / "ray", tmp_path / "local")
    ]
    assert len(scores[0]) == 1 and scores[0] == scores[1]


def marked(name: str) -> list[str]:
    """Processes that have a variable in their environment; none where the system does not say."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{name}=".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


@pytest.mark.slow
def test_what_no_machine_can_do_is_said_in_one_line(tmp_path):
    env = environment(tmp_path / "cache")
    env.pop("RAY_ADDRESS", None)
    done = run_main(
        "--config=configs/digits.py:vit_micro8_random,protocol=knn",
        *("--config.mesh.fsdp=3", "--launcher=ray", f"--results={tmp_path / 'results'}"),
        env=env,
    )
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and said[0].startswith("error: no machine can judge a cell; ")
    assert said[0].endswith("fsdp=3 does not divide the 1 devices of this run: choose a divisor of 1")
    assert list((tmp_path / "results").iterdir()) == []


def test_a_chain_outlives_a_machine_that_goes_between_two_of_its_cells(tmp_path):
    """The worker has answered for the first cell, and Ray says that its machine is gone before it is asked again."""
    config = digits.get_config("vit_micro8_random,dataset=digits,protocol=knn+linear_probe")
    config.results = str(tmp_path)
    cells = grid.cells(config)
    nodes = [{"NodeID": "one", "Alive": True, "Resources": {"CPU": 2.0}, "NodeManagerHostname": "host"}]
    ray = types.SimpleNamespace(
        nodes=lambda: nodes, get=lambda answer: answer, exceptions=types.SimpleNamespace(RayError=OSError)
    )
    with Board(cells, config.results, shown=False) as board:
        driver = cluster._Driver(ray, cells, config, str(tmp_path / "mark"), board)
        driver._look_around()
        (machine,) = driver._machines.values()
        board.join(machine.name, 1, "cpu")
        machine.worker, machine.environment = object(), ENVIRONMENT
        machine.chain, machine.asked = driver._waiting.pop(), settle.Outcome("judged", "well")
        driver._hear(machine)
        assert list(machine.chain.cells) == cells[1:]
        nodes.clear()
        driver._look_around()
    assert driver._machines == {} and [list(chain.cells) for chain in driver._waiting] == [cells[1:]]


def test_a_worker_that_sees_another_results_folder_judges_nothing(tmp_path):
    config = digits.get_config("vit_micro8_random,protocol=knn")
    answer = Worker(config, frozenset(), ROOT, str(tmp_path / "mark.tmp")).ready()
    assert isinstance(answer, BobError) and "is not the same there: give one that all machines share" in str(answer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--launcher=ray",), "--launcher=ray needs Ray: pip install 'bob_jax[ray]'"),
        (("--ray_address=auto",), "--ray_address is of --launcher=ray: give both"),
        (
            ("--launcher=ray", "--ray_address=127.0.0.1:9"),
            "cannot join the Ray cluster at 127.0.0.1:9: Connection refused",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, arguments, message):
    env = environment(tmp_path / "cache", PYTHONPATH=str(tmp_path))
    if "pip install" in message:
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ray'] = None\n")
    done = run_main("--config=configs/digits.py", *arguments, f"--results={tmp_path / 'results'}", env=env)
    assert done.returncode == 2
    assert done.stderr == f"error: {message}\n"
    assert not (tmp_path / "results").exists()
