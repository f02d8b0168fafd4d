"""main.py stopped in mid-training and started again, and main.py on two hosts: the same records as one quiet run."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from running import environment, run_main, start_main

CELL = (
    "--config=configs/digits.py:vit_nano8_random,protocol=finetune",
    "--config.protocols.finetune.learning_rates=(0.005,)",
    "--config.protocols.finetune.epochs=8",
    "--config.protocols.finetune.evaluations=4",
    "--limit=200",
)
# Not the printed digits: of forty of them a random backbone tells so little apart that the last bit of a sum decides
# which regularisation is best on validation.
SHORT = (
    "--config=configs/digits.py:vit_nano8_random,dataset=digits+digits_c+digits_retrieval",
    "--limit=40",
    "--config.protocols.finetune.epochs=2",
    "--config.protocols.augmented_probe.epochs=2",
)
SCENES = (
    "--config=configs/digits.py:vit_nano8_random,protocol=detection",
    "--limit=12",
    "--config.protocols.detection.epochs=1",
    "--config.protocols.detection.evaluations=1",
    "--config.protocols.detection.score_threshold=0.0",
    "--config.protocols.detection.batch_size=4",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def outputs(results: Path) -> dict[str, dict[str, np.ndarray]]:
    return {path.name: dict(np.load(path)) for path in sorted(results.glob("*.npz"))}


@pytest.fixture(scope="module")
def straight(cache, tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    results = tmp_path_factory.mktemp("straight")
    done = run_main(*CELL, f"--results={results}", env=environment(cache))
    assert done.returncode == 0, done.stderr
    return outputs(results)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_run_goes_on_bit_for_bit(cache, straight, tmp_path, number, code):
    running = start_main(*CELL, f"--results={tmp_path}", env=environment(cache))
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("work/*/point_00/checkpoints/[0-9]*")):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(number)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == code
    assert not list(tmp_path.glob("*.json"))
    if number == signal.SIGTERM:
        assert "the same command goes on from there" in errors
    done = run_main(*CELL, f"--results={tmp_path}", env=environment(cache))
    assert done.returncode == 0, done.stderr
    found = outputs(tmp_path)
    assert found.keys() == straight.keys()
    for name, arrays in straight.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(found[name][key], array)


def test_ctrl_c_outside_of_a_training_is_one_line(cache, tmp_path):
    attack = ("--config=configs/digits.py:vit_nano8_random,protocol=adversarial", "--limit=40")
    running = start_main(*attack, f"--results={tmp_path}", env=environment(cache))
    assert running.stdout is not None
    assert any("adversarial_linear_probe" in line for line in running.stdout)  # it has begun
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130, errors
    assert errors == "stopped on request: the same command goes on with the cell that was running\n"
    assert len(list(tmp_path.glob("*.json"))) == 1


def on_two_hosts(arguments: tuple[str, ...], results: Path, cache: Path, port: int) -> list[str]:
    """Runs `main.py` as two processes of one run, each with a cache of its own; what each printed."""
    hosts = [
        start_main(
            *arguments,
            f"--results={results}",
            env=environment(
                cache / str(number),
                JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(number),
            ),
        )
        for number in range(2)
    ]
    printed = [host.communicate(timeout=400) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], printed
    return [out for out, _ in printed]


@pytest.mark.slow
def test_two_hosts_write_the_records_of_one(cache, tmp_path, unused_tcp_port):
    alone = run_main(*SHORT, f"--results={tmp_path / 'one'}", env=environment(cache))
    assert alone.returncode == 0, alone.stderr
    printed = on_two_hosts(SHORT, tmp_path / "two", tmp_path / "cache", unused_tcp_port)
    assert "7 of 7 cells have a record" in printed[0]
    assert "record" not in printed[1]  # only the first one speaks
    one, two = outputs(tmp_path / "one"), outputs(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, arrays in one.items():
        np.testing.assert_array_equal(two[name]["id"], arrays["id"])
        for key in {"prediction", "clean_correct"} & arrays.keys():
            np.testing.assert_array_equal(two[name][key], arrays[key])
        if "ap" in arrays:  # retrieval
            np.testing.assert_allclose(two[name]["ap"], arrays["ap"], rtol=1e-4)


@pytest.mark.slow
def test_two_hosts_find_what_one_does(cache, tmp_path, unused_tcp_port):
    alone = run_main(*SCENES, f"--results={tmp_path / 'one'}", env=environment(cache))
    assert alone.returncode == 0, alone.stderr
    on_two_hosts(SCENES, tmp_path / "two", tmp_path / "cache", unused_tcp_port)
    (one,), (two,) = (outputs(tmp_path / name).values() for name in ("one", "two"))
    np.testing.assert_array_equal(two["id"], one["id"])  # every image once, in the order of the split
    assert one["detection_valid"].all()
    # A few steps of training end in other last bits, in the order in which two processes add gradients.
    np.testing.assert_allclose(two["detection_score"], one["detection_score"], atol=1e-3)


@pytest.fixture
def unused_tcp_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
