import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from synthetic_records import ENVIRONMENT, simulate

from bob_jax.errors import BobError
from bob_jax.results import record
from bob_jax.results.store import Store, stores_in

TESTS = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def made():
    return simulate(n=50)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "deep" / "results")


def files(store):
    return sorted(path.name for path in store.folder.iterdir()) if store.folder.exists() else []


def failure_of(done):
    return record.Failure(done.cell, "it broke", "Traceback", ENVIRONMENT, record.now())


def test_what_is_written_is_read(store, made):
    done, outputs = made
    assert not store.exists(done.cell.id)
    assert store.read_all() == []
    store.write(done, outputs)
    assert store.exists(done.cell.id)
    assert store.read_all() == [done]
    assert store.read(done.cell.id) == done
    found = store.per_example(done.cell.id)
    assert found.keys() == outputs.keys()
    for name, values in outputs.items():
        np.testing.assert_array_equal(found[name], values, strict=True)
    assert files(store) == [f"{done.cell.id}.json", f"{done.cell.id}.npz"]


WEIGHTS = {"backbone.norm.scale": np.arange(3, dtype=np.float32), "head.kernel": np.eye(4, dtype=np.float32).T[:, 1:]}


def test_weights_are_kept_where_they_are_given(store, made):
    done = made[0]
    store.write(*made)
    assert not store.has_weights(done.cell.id)
    with pytest.raises(BobError, match=r"no weights at .*: run the cell with --config\.keep_weights=True"):
        store.weights(done.cell.id)
    store.write(*made, WEIGHTS)
    assert store.has_weights(done.cell.id)
    found = store.weights(done.cell.id)
    assert found.keys() == WEIGHTS.keys()
    for name, values in WEIGHTS.items():
        np.testing.assert_array_equal(found[name], values, strict=True)
    assert store.read_all() == [done]


def test_damaged_weights_are_named(store, made):
    store.write(*made, WEIGHTS)
    path = store.folder / f"{made[0].cell.id}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BobError, match=rf"{path.name}: cannot be read .*: delete it"):
        store.weights(made[0].cell.id)


def test_records_come_in_the_order_of_their_ids(store):
    for backbone in ("b", "a", "c"):
        store.write(*simulate(backbone, n=20))
    assert [done.cell.backbone for done in store.read_all()] == ["a", "b", "c"]


def test_a_failure_is_no_record_and_is_forgotten_after_success(store, made):
    done, outputs = made
    store.record_failure(failure_of(done))
    assert not store.exists(done.cell.id)
    assert store.read_all() == []
    assert [failure.cell for failure in store.failures()] == [done.cell]
    store.write(done, outputs)
    assert store.failures() == []
    assert files(store) == [f"{done.cell.id}.json", f"{done.cell.id}.npz"]


def test_a_late_failure_of_a_cell_with_a_record_does_not_count(store, made):
    store.write(*made)
    store.record_failure(failure_of(made[0]))
    assert store.failures() == []
    assert store.read_all() == [made[0]]


def test_examples_may_be_missing(store, made):
    store.write(*made)
    (store.folder / f"{made[0].cell.id}.npz").unlink()
    assert store.per_example(made[0].cell.id) is None
    assert store.read_all() == [made[0]]


@pytest.mark.parametrize("kept", [0, 10, 200, -30])
def test_a_damaged_example_file_is_named(store, made, kept):
    store.write(*made)
    path = store.folder / f"{made[0].cell.id}.npz"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BobError, match=rf"^{path}: cannot be read"):
        store.per_example(made[0].cell.id)


def test_flipped_bits_in_the_examples_are_found(store, made):
    store.write(*made)
    path = store.folder / f"{made[0].cell.id}.npz"
    content = bytearray(path.read_bytes())
    content[120] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(BobError, match="cannot be read"):
        store.per_example(made[0].cell.id)


@pytest.mark.parametrize("kept", [0, 1, 500, -3])
def test_a_truncated_record_is_named(store, made, kept):
    store.write(*made)
    path = store.folder / f"{made[0].cell.id}.json"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BobError, match=rf"^{path}: not a record"):
        store.read_all()


def test_a_record_that_is_not_text_is_named(store, made):
    store.write(*made)
    (store.folder / "noise.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(BobError, match=r"noise.json: cannot be read"):
        store.read_all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": None}, "need 'id'"),
        ({"correct": np.zeros(49)}, "of 50 rows"),
        ({"extra": np.array([{}] * 50)}, "not plain values"),
        ({"id": np.array(["same"] * 50)}, "stands twice"),
    ],
)
def test_outputs_that_could_not_be_paired_are_refused(store, made, change, words):
    outputs = {name: values for name, values in {**made[1], **change}.items() if values is not None}
    with pytest.raises(ValueError, match=words):
        store.write(made[0], outputs)
    assert files(store) == []


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_full_disk_leaves_nothing(store, made, monkeypatch, failing):
    """ENOSPC at the weights, at the examples, or between them and the record."""
    calls, fsync = [], os.fsync

    def full(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            return fsync(handle)
        calls.append(handle)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BobError, match=r"^cannot write .*: No space left on device; free space"):
        store.write(*made, WEIGHTS)
    assert len(calls) == failing
    assert files(store) == []


def test_a_full_disk_keeps_an_older_record(store, made, monkeypatch):
    store.write(*made)
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BobError, match="No space left"):
        store.write(*made)
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == before


def test_a_real_write_that_is_cut_short_leaves_nothing(tmp_path):
    """The kernel refuses bytes beyond a limit, in the middle of the file."""
    code = f"""
        import resource, sys
        sys.path.insert(0, {TESTS!r})
        from synthetic_records import simulate
        from bob_jax.errors import BobError
        from bob_jax.results.store import Store
        made = simulate(n=2000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            Store({str(tmp_path / "results")!r}).write(*made)
        except BobError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cannot write ")
    assert "File too large" in done.stdout
    assert list((tmp_path / "results").iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path, made):
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "results")
    for write in (store.prepare, lambda: store.write(*made), lambda: store.record_failure(failure_of(made[0]))):
        with pytest.raises(BobError, match=r"^cannot write .*; free space there or give another folder$"):
            write()


def test_a_folder_without_permission(store, made, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    store.prepare()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BobError, match="Permission denied"):
        store.prepare()
    assert files(store) == []


def test_prepare_leaves_an_empty_folder(store):
    store.prepare()
    store.prepare()
    assert files(store) == []


def test_many_writers_one_folder(store, made):
    """Writers of one cell and of different cells at once: every file is whole at every moment."""
    others = [simulate(f"b{i}", n=50) for i in range(3)]
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            seen.append(len(store.read_all()))

    reader = threading.Thread(target=read)
    writers = [
        threading.Thread(target=lambda pair=pair: [store.write(*pair) for _ in range(10)])
        for pair in [made, made, *others]
    ]
    reader.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert seen
    assert seen == sorted(seen)  # a reader that met a torn file would have died before its last look
    assert len(store.read_all()) == 4
    assert len(files(store)) == 8


def test_a_killed_writer_leaves_no_record(tmp_path):
    """Killed without warning between examples and record: the cell simply runs again."""
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {TESTS!r})
        from synthetic_records import simulate
        from bob_jax.results import store
        real = store.write_whole
        def write(path, content):
            if path.suffix == ".json":
                os.kill(os.getpid(), signal.SIGKILL)
            real(path, content)
        store.write_whole = write
        store.Store({str(tmp_path)!r}).write(*simulate(n=20))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -9
    store, made = Store(tmp_path), simulate(n=20)
    assert not store.exists(made[0].cell.id)
    assert store.read_all() == []
    store.write(*made)
    assert store.read_all() == [made[0]]


def test_stores_in_a_folder_of_folders(tmp_path, made):
    Store(tmp_path / "digits").write(*made)
    Store(tmp_path / "pets").record_failure(failure_of(made[0]))
    (tmp_path / "digits" / "work" / "cell").mkdir(parents=True)
    (tmp_path / "digits" / "work" / "cell" / "state.json").write_text("{}")
    assert [store.folder.name for store in stores_in(tmp_path)] == [tmp_path.name, "digits", "pets"]
    assert [store.folder.name for store in stores_in(tmp_path / "digits")] == ["digits"]
    with pytest.raises(BobError, match=r"^no results folder '.*none': `python main.py"):
        stores_in(tmp_path / "none")


def test_the_json_is_readable_by_anything(store, made):
    store.write(*made)
    data = json.loads((store.folder / f"{made[0].cell.id}.json").read_text())
    assert data["metrics"]["accuracy"]["n"] == 50


def test_results_are_read_without_jax():
    modules = ", ".join(f"bob_jax.results.{name}" for name in ("boards", "environment", "plot", "store", "table"))
    code = f"import {modules}, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_record_under_another_name_is_refused(store, made):
    """Its outputs and weights would be looked for in vain, and a merge would leave them behind."""
    done, outputs = made
    store.write(done, outputs)
    copy = store.folder / f"{done.cell.id} (copy).json"
    shutil.copy(store.folder / f"{done.cell.id}.json", copy)
    with pytest.raises(BobError, match=f"^{re.escape(str(copy))}: holds the record of cell '{done.cell.id}': is it a"):
        store.read_all()


def test_a_damaged_note_of_a_failure_is_named(store, made):
    store.record_failure(failure_of(made[0]))
    (note,) = store.folder.glob("*.failed.json")
    note.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BobError, match=f"^{re.escape(str(note))}: cannot be read"):
        store.failures()
