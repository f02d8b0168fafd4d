"""Attempts at a cell: which are repeated, and what keeps two runs apart; the judging itself is replaced."""

import dataclasses
import fcntl
import threading
import types

import pytest
from synthetic_records import simulate

from bob_jax import grid
from bob_jax.errors import BobError
from bob_jax.launch import cell as single
from bob_jax.launch import local, settle
from bob_jax.results.store import Store
from configs import digits


def config_of(folder, protocols: str):
    config = digits.get_config(f"vit_nano8_random,dataset=digits,protocol={protocols}")
    config.results = str(folder)
    return config


def judged(job, *_) -> single.Judged:
    record, outputs = simulate(job.cell.backbone, n=20)
    return single.Judged(dataclasses.replace(record, cell=single.describe(job)), outputs, None, {})


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The seconds that were waited, in no time."""
    waited: list[float] = []
    monkeypatch.setattr(local, "time", types.SimpleNamespace(sleep=waited.append))
    return waited


@pytest.mark.parametrize("errors", [1, 2, 3])
def test_a_cell_that_dies_is_tried_three_times_with_growing_pauses(errors, pauses, monkeypatch, tmp_path, capsys):
    attempts = []

    def run(job, *rest):
        attempts.append(job.cell.protocol_name)
        if job.cell.protocol_name == "knn" and len(attempts) <= errors:
            raise MemoryError("too large")
        return judged(job)

    monkeypatch.setattr(single, "run", run)
    config = config_of(tmp_path, "knn+linear_probe")
    assert local.run(grid.cells(config), config) == (1 if errors == 3 else 0)
    assert attempts == ["knn"] * min(errors + 1, 3) + ["linear_probe"]
    assert pauses == [10.0, 20.0][:errors]
    store = Store(tmp_path)
    assert {record.cell.protocol for record in store.read_all()} == {"linear_probe", *(["knn"] if errors < 3 else [])}
    shown = capsys.readouterr().err
    assert "knn (seed 0): attempt 1 of 3 failed, the next one in 10 s: MemoryError: too large" in shown
    failures = store.failures()
    assert [failure.error for failure in failures] == ["MemoryError: too large"] * (errors == 3)
    assert all('raise MemoryError("too large")' in failure.traceback for failure in failures)


def test_a_mistake_of_the_user_is_not_tried_again(pauses, monkeypatch, tmp_path):
    attempts = []

    def run(job, *rest):
        attempts.append(job)
        raise BobError("k is too large: take a smaller one")

    monkeypatch.setattr(single, "run", run)
    config = config_of(tmp_path, "knn")
    assert local.run(grid.cells(config), config) == 1
    assert len(attempts) == 1 and pauses == []
    (failure,) = Store(tmp_path).failures()
    assert failure.error == "k is too large: take a smaller one"


def test_of_two_runs_without_a_common_lock_the_first_record_counts(monkeypatch, tmp_path, capsys):
    """As of two machines that share a bucket only: the files of two judgements must not mix."""
    config = config_of(tmp_path, "knn")
    cells = grid.cells(config)

    def run(job, *_):
        other = judged(job)
        Store(tmp_path).write(dataclasses.replace(other.record, notes={"by": "the other"}), other.per_example)
        return judged(job)

    monkeypatch.setattr(single, "run", run)
    assert local.run(cells, config) == 0
    (record,) = Store(tmp_path).read_all()
    assert record.notes == {"by": "the other"}
    assert "has a record, which another run has made at the same time" in capsys.readouterr().out


def test_the_folder_of_locks_may_be_taken_away_at_any_time(monkeypatch, tmp_path):
    path, made = tmp_path / "work" / "cell.lock", []
    mkdir = type(path).mkdir

    def taken_away(self, *arguments, **options):
        mkdir(self, *arguments, **options)
        if len(made) < 3:
            made.append(self.rmdir())

    monkeypatch.setattr(type(path), "mkdir", taken_away)
    with settle._opened(path) as file:
        assert path.exists() and file.writable()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        settle._opened(tmp_path / "file" / "cell.lock")


def test_a_cell_that_another_run_is_at_is_waited_for_and_not_judged_again(monkeypatch, tmp_path, capsys):
    config = config_of(tmp_path, "knn")
    cells = grid.cells(config)
    job = single.prepare(cells[0], None)
    ran, results = [], []
    monkeypatch.setattr(single, "run", lambda job, *_: ran.append(job) or judged(job))
    waiting = threading.Event()

    def noticed(file, how):
        if not how & fcntl.LOCK_NB:
            waiting.set()
        fcntl.flock(file, how)

    monkeypatch.setattr(settle, "fcntl", types.SimpleNamespace(**vars(fcntl) | {"flock": noticed}))
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / f"{job.id}.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: results.append(local.run(cells, config)))
        second.start()
        assert waiting.wait(300)
        done = judged(job)
        Store(tmp_path).write(done.record, done.per_example)
    second.join(300)
    assert results == [0] and ran == []
    shown = capsys.readouterr()
    assert "another run is at it; waiting for its record" in shown.err and "has a record" in shown.out
    assert not (tmp_path / "work").exists()
