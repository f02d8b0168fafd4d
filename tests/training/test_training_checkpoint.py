"""Checkpoints: whose they are, whether they are sound, where they are read to, and what a bad folder does."""

import dataclasses
import gc
import json
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bob_jax.errors import BobError
from bob_jax.training.checkpoint import Checkpointing, Checkpoints
from bob_jax.training.mesh import make_mesh
from bob_jax.training.state import abstract_state, create_state

# Where one array of a damaged checkpoint cannot be read, Orbax drops the coroutines that read the others, and Python
# says so when it collects them. They are collected here, test by test, so that no other test has to answer for them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TX = optax.adam(1e-3)
KEY = jax.random.key(5)


@pytest.fixture(autouse=True)
def collect():
    yield
    gc.collect()


def arrays() -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    params = {"a": {0: rng.standard_normal((64, 48)).astype(np.float32), 1: rng.standard_normal(7).astype(np.float32)}}
    return params, {"count": np.int32(3)}


def new(mesh, step: int):
    state = create_state(*arrays(), KEY, TX, mesh)
    return dataclasses.replace(state, step=jnp.int32(step), params=jax.tree.map(lambda leaf: leaf + step, state.params))


def abstract(mesh):
    return abstract_state(*arrays(), KEY, TX, mesh)


def save(folder: Path, steps, **options) -> None:
    with Checkpoints(Checkpointing(folder, every=1, **options)) as checkpoints:
        for step in steps:
            checkpoints.save(step, new(make_mesh(4), step), {"steps": step})


def assert_is(state, step: int) -> None:
    assert int(state.step) == step
    np.testing.assert_array_equal(state.params["a"][0], arrays()[0]["a"][0] + np.float32(step))
    assert jax.random.uniform(state.key) == jax.random.uniform(KEY)
    assert int(state.stats["count"]) == 3


def test_an_empty_folder_has_nothing(tmp_path):
    with Checkpoints(Checkpointing(tmp_path / "new" / "run", every=1)) as checkpoints:
        assert checkpoints.restore(abstract(make_mesh())) is None
        assert checkpoints.best_step is None


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_a_state_is_read_onto_any_mesh(tmp_path, fsdp):
    save(tmp_path, [3])
    mesh = make_mesh(fsdp)
    with Checkpoints(Checkpointing(tmp_path, every=1)) as checkpoints:
        saved = checkpoints.restore(abstract(mesh))
    assert_is(saved.state, 3)
    assert saved.cost == {"steps": 3}
    assert saved.state.params["a"][0].sharding == abstract(mesh).params["a"][0].sharding


def test_the_latest_and_the_best_are_kept(tmp_path):
    options = Checkpointing(tmp_path, every=1, keep=2, best="score")
    with Checkpoints(options) as checkpoints:
        for step, score in enumerate([0.1, 0.9, 0.9, float("nan"), 0.5, 0.2], 1):
            checkpoints.save(step, new(make_mesh(), step), {}, {"score": score})
        checkpoints.wait()
        assert checkpoints.best_step == 3
    with Checkpoints(options) as checkpoints:
        assert (checkpoints.steps, checkpoints.best_step) == ([3, 5, 6], 3)
        assert_is(checkpoints.load(3, abstract(make_mesh())).state, 3)


def test_another_runs_folder_is_refused(tmp_path):
    save(tmp_path, [1], identity={"rate": 0.1, "sizes": (1, 2), "seed": 0})
    save(tmp_path, [], identity={"rate": 0.1, "sizes": (1, 2), "seed": 0})
    with (
        Checkpoints(Checkpointing(tmp_path, every=1, identity={"rate": 0.2, "sizes": (1, 2)})) as checkpoints,
        pytest.raises(
            BobError, match=r"of another run \(rate is 0.1 there and 0.2 here, seed is 0 there and None here\)"
        ),
    ):
        checkpoints.restore(abstract(make_mesh()))
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def damage(folder: Path, file: str, how: str) -> None:
    (path,) = folder.glob(file)
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(content[: {"flip": len(content), "half": len(content) // 2, "empty": 0}[how]])


# The files of a checkpoint, and that a flipped bit in the data is found, which Orbax alone does not do.
DAMAGES = [
    ("_CHECKPOINT_METADATA", "half"),
    ("_CHECKPOINT_METADATA", "empty"),
    ("state/_METADATA", "half"),
    ("state/manifest.ocdbt", "flip"),
    ("state/ocdbt.process_0/d/*", "half"),
    ("state/ocdbt.process_0/d/*", "flip"),
]


# tensorstore's threads report a read error to an event loop that Orbax has already closed.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("file", "how"), DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog, file, how):
    save(tmp_path, [1, 2])
    damage(tmp_path / "2", file, how)
    with (
        caplog.at_level(logging.WARNING, logger="bob_jax"),
        Checkpoints(Checkpointing(tmp_path, every=1)) as checkpoints,
    ):
        assert_is(checkpoints.restore(abstract(make_mesh())).state, 1)
        assert checkpoints.steps == [1]
        checkpoints.save(2, new(make_mesh(), 2), {})
    (warning,) = [record.message for record in caplog.records if record.name.startswith("bob_jax")]
    assert warning.startswith(f"checkpoint 2 in {tmp_path} is damaged (") and "going on from 1" in warning
    with Checkpoints(Checkpointing(tmp_path, every=1)) as checkpoints:
        assert_is(checkpoints.restore(abstract(make_mesh())).state, 2)


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")  # as above
def test_nothing_sound_left_is_one_clear_line_and_nothing_is_removed(tmp_path):
    save(tmp_path, [1, 2])
    for step in ("1", "2"):
        damage(tmp_path / step, "state/ocdbt.process_0/d/*", "half")
    with Checkpoints(Checkpointing(tmp_path, every=1)) as checkpoints:
        with pytest.raises(
            BobError, match=r"no checkpoint in .* can be read \(step 2: .*\): delete the folder"
        ) as error:
            checkpoints.restore(abstract(make_mesh()))
        assert "\n" not in str(error.value)
        with pytest.raises(BobError, match=r"checkpoint 1 in .* is damaged"):
            checkpoints.load(1, abstract(make_mesh()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_what_a_killed_process_left_half_written_is_swept_away(tmp_path):
    save(tmp_path, [1])
    half = tmp_path / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "1", half)
    (half / "_CHECKPOINT_METADATA").write_text(json.dumps({"init_timestamp_nsecs": 1}))
    with Checkpoints(Checkpointing(tmp_path, every=1)) as checkpoints:
        assert_is(checkpoints.restore(abstract(make_mesh())).state, 1)
        checkpoints.save(2, new(make_mesh(), 2), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_model_that_changed_is_told(tmp_path):
    save(tmp_path, [1])
    mesh = make_mesh()
    other = abstract_state({"a": {0: np.zeros((64, 50), np.float32)}}, {}, KEY, TX, mesh)
    with Checkpoints(Checkpointing(tmp_path, every=1)) as checkpoints, pytest.raises(BobError, match="can be read"):
        checkpoints.restore(other)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BobError, match=r"file/run cannot be written to \(Not a directory\): choose another"):
        Checkpoints(Checkpointing(tmp_path / "file" / "run", every=1))
    # Nobody may make a folder there, whoever runs the tests.
    with pytest.raises(BobError, match="checkpoint folder /proc/run cannot be written to"):
        Checkpoints(Checkpointing(Path("/proc/run"), every=1))


def test_one_changed_bit_anywhere_changes_the_checksum():
    from bob_jax.training.checkpoint import _inspect

    state = new(make_mesh(), 0)
    finite, checksum = _inspect(state)
    assert finite
    assert all(_inspect(new(make_mesh(fsdp), 0))[1] == checksum for fsdp in (2, 8))
    kernel = np.array(state.params["a"][0])
    seen = {int(checksum)}
    for place, bit in [((0, 0), 0), ((0, 1), 0), ((1, 0), 0), ((63, 47), 31), ((63, 47), 30), ((5, 5), 7)]:
        bits = kernel.view(np.uint32).copy()
        bits[place] ^= np.uint32(1 << bit)
        params = {"a": {**state.params["a"], 0: jnp.asarray(bits.view(np.float32))}}
        seen.add(int(_inspect(dataclasses.replace(state, params=params))[1]))
    swapped = kernel.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    params = {"a": {**state.params["a"], 0: jnp.asarray(swapped)}}
    seen.add(int(_inspect(dataclasses.replace(state, params=params))[1]))
    assert len(seen) == 8
