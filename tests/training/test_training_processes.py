"""What takes processes of their own: death and resume, several processes, and a full disk."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training_problem import batches, train

from bob_jax.training.mesh import make_mesh
from bob_jax.training.preemption import Preempted

PROGRAM = Path(__file__).with_name("training_problem.py")
RUN = {"devices": 8, "fsdp": 2, "steps": 10, "every": 3, "accumulate": 2, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def straight(tmp_path_factory, cache) -> Path:
    """The folder of a run to which nothing happened."""
    folder = tmp_path_factory.mktemp("straight")
    finish(start(folder, cache))
    return folder


def start(folder: Path, cache: str, variables: dict[str, str] | None = None, **options) -> subprocess.Popen:
    options = RUN | options | {"folder": str(folder), "cache": cache}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"JAX_PLATFORMS": "cpu"} | (variables or {})
    command = [sys.executable, str(PROGRAM), json.dumps(options)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors[-3000:]
    return errors


def result(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "result.npz") as arrays:
        return dict(arrays)


def saved_steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


def losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in json.loads((folder / "result.json").read_text())["reports"]}


def assert_equal(folder: Path, reference: Path, **tolerance) -> None:
    actual, expected = result(folder), result(reference)
    assert actual.keys() == expected.keys() and len(expected) >= 20
    for name, value in expected.items():
        if tolerance:
            np.testing.assert_allclose(actual[name], value, **tolerance, err_msg=name)
        else:
            np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -9), ("SIGTERM", 143)])
def test_a_run_that_dies_goes_on_as_if_it_had_not(tmp_path, cache, straight, name, code):
    finish(start(tmp_path, cache, trouble_at=7, signal=name), code)
    # The eighth batch is asked for while step 7 runs: a run that is asked to stop finishes that step and saves it. A
    # killed one has what was saved by then: step 3, and step 6 if there was time.
    assert saved_steps(tmp_path) in ([[6, 7]] if name == "SIGTERM" else [[3], [3, 6]])
    assert not (tmp_path / "result.npz").exists()
    finish(start(tmp_path, cache))
    assert_equal(tmp_path, straight)
    lines = [json.loads(line)["step"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 11))


def start_two(folder: Path, cache: str, **options) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        start(
            folder,
            cache,
            {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)},
            devices=4,
            **options,
        )
        for index in range(2)
    ]


def test_two_processes_give_the_numbers_of_one_and_stop_together(tmp_path, cache, straight):
    # Only process 1 is asked to stop.
    for process in start_two(tmp_path, cache, trouble_at=5, trouble_in=1, signal="SIGTERM"):
        finish(process, 143)
    stopped = saved_steps(tmp_path)[-1]
    assert stopped in (5, 6, 7)
    shutil.copytree(tmp_path / "checkpoints", tmp_path / "one" / "checkpoints")
    for process in start_two(tmp_path, cache):
        finish(process)
    assert_equal(tmp_path, straight, rtol=1e-5, atol=1e-6)
    together, alone = losses(tmp_path), losses(straight)
    assert list(together) == list(range(stopped + 1, 11))
    np.testing.assert_allclose([together[step] for step in together], [alone[step] for step in together], rtol=1e-5)
    # What two processes with 4 devices each saved, one process with 2 devices reads.
    finish(start(tmp_path / "one", cache, devices=2, fsdp=1))
    assert_equal(tmp_path / "one", straight, rtol=1e-5, atol=1e-6)


def test_twenty_steps_have_the_same_losses_on_one_device_eight_devices_and_two_processes(tmp_path, cache):
    one, eight, two = (tmp_path / name for name in ("one", "eight", "two"))
    for folder in (one, eight, two):
        folder.mkdir()
    finish(start(one, cache, steps=20, devices=1, fsdp=1))
    finish(start(eight, cache, steps=20, devices=8, fsdp=1))
    for process in start_two(two, cache, steps=20):
        finish(process)
    alone = losses(one)
    assert list(alone) == list(range(1, 21))
    for folder in (eight, two):
        others = losses(folder)
        np.testing.assert_allclose([others[step] for step in alone], list(alone.values()), rtol=1e-5)


def test_a_full_disk_is_one_clear_line_and_leaves_the_last_checkpoint(tmp_path, cache, straight):
    # A limit on the size of files makes the same system call fail, in the same library, as a full disk does, and needs
    # no disk to fill. It comes while step 8 runs: then step 3 is on disk, and step 6 most likely.
    errors = finish(start(tmp_path, cache, trouble_at=8), 1)
    (line,) = [line for line in errors.splitlines() if line.startswith("bob_jax.errors.BobError")]
    assert f"a checkpoint could not be written to {tmp_path}/checkpoints (" in line
    assert "free space there or choose another folder" in line
    assert saved_steps(tmp_path)[0] == 3 and 9 not in saved_steps(tmp_path)
    finish(start(tmp_path, cache))
    assert_equal(tmp_path, straight)


def test_ctrl_c_stops_after_the_step_and_a_second_one_at_once(tmp_path):
    def interrupted(start):
        for step, batch in enumerate(batches(start), start):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    def impatient(start):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        yield from batches(start)

    before, reports = signal.getsignal(signal.SIGINT), []
    with pytest.raises(Preempted) as stopped:
        train(6, make_mesh(), batches=interrupted, on_log=reports.append)
    assert (stopped.value.code, stopped.value.step, len(reports)) == (130, None, 3)
    with pytest.raises(KeyboardInterrupt):
        train(6, make_mesh(), batches=impatient)
    assert signal.getsignal(signal.SIGINT) == before
