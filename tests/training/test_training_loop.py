"""The loop in one process: same numbers on any mesh, one trace, no growth, and what it does when things go wrong."""

import gc
import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import psutil
import pytest
from jax.sharding import AxisType
from training_problem import FROZEN, batches, flat, loss_fn, make_batch, new_state, train

from bob_jax.errors import BobError
from bob_jax.training.checkpoint import Checkpointing, Diverged
from bob_jax.training.loop import fit
from bob_jax.training.mesh import make_mesh, place
from bob_jax.training.step import Aux

ONE_DEVICE = jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1])


def losses_on(mesh, **options) -> tuple[list[float], dict]:
    reports: list[dict] = []
    result = train(20, mesh, on_log=reports.append, **options)
    assert [row["step"] for row in reports] == list(range(1, 21))
    return [row["loss"] for row in reports], flat(result.state.params)


def test_the_same_numbers_on_any_mesh():
    expected, params = losses_on(ONE_DEVICE)
    assert expected[-1] < 0.8 * expected[0]
    for mesh in (make_mesh(), make_mesh(4)):
        losses, sharded = losses_on(mesh)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        for name, value in sharded.items():
            np.testing.assert_allclose(value, params[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_one_trace_for_all_steps_and_frozen_arrays_as_they_were():
    traces = []

    def counted(*arguments):
        traces.append(1)
        return loss_fn(*arguments)

    frozen = place({"scale": np.float32(1.5), "unused": np.arange(2048, dtype=np.float32)}, make_mesh(4))
    train(6, make_mesh(4), loss_fn=counted, frozen=frozen, accumulate=2, ema_decay=0.9)
    assert len(traces) == 1
    np.testing.assert_array_equal(frozen["unused"], np.arange(2048))
    assert float(frozen["scale"]) == 1.5


def test_one_program_for_each_shape_and_no_more_than_allowed():
    traces = []

    def counted(*arguments):
        traces.append(1)
        return loss_fn(*arguments)

    def two_shapes(start):  # like two canvases, by turns
        for step, batch in enumerate(batches(start), start):
            yield {name: rows[: len(rows) // 2] for name, rows in batch.items()} if step % 2 else batch

    train(6, ONE_DEVICE, loss_fn=counted, batches=two_shapes, shapes=2)
    assert len(traces) == 2
    with pytest.raises(BobError, match=r"another shape than the 1 before: mask \[16\].*: pad all batches alike"):
        train(6, ONE_DEVICE, batches=two_shapes)


def test_callers_arrays_are_neither_donated_nor_changed():
    params, stats = jax.tree.map(jnp.asarray, new_state())
    train(3, ONE_DEVICE, params=params, stats=stats)
    for name, value in flat(new_state()[0]).items():
        np.testing.assert_array_equal(flat(params)[name], value)


def test_no_more_than_a_batch_ahead_and_none_too_many():
    asked = []

    def counted(start):
        for step, batch in zip(range(start, 5), batches(start), strict=False):
            asked.append(step)
            yield batch

    seen: list[tuple[int, list[int]]] = []
    train(5, make_mesh(), batches=counted, on_log=lambda row: seen.append((row["step"], list(asked))))
    assert seen == [(step, list(range(min(step + 1, 5)))) for step in range(1, 6)]


def test_reports_hold_means_over_their_interval(tmp_path):
    every, third = [], []
    train(7, make_mesh(), on_log=every.append)
    journal = tmp_path / "deep" / "journal.jsonl"
    train(7, make_mesh(), on_log=third.append, log_every=3, journal=journal)
    assert [row["step"] for row in third] == [3, 6, 7]
    for row, part in zip(third, (every[:3], every[3:6], every[6:]), strict=True):
        for name in ("loss", "accuracy"):
            np.testing.assert_allclose(row[name], np.mean([single[name] for single in part]), rtol=1e-6)
        assert row["steps_per_second"] > 0
    assert [json.loads(line) for line in journal.read_text().splitlines()] == third


def test_plain_lines_where_no_terminal_is(capsys):
    train(4, make_mesh(), log_every=2, description="probe")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("probe 4/4, ") and "steps/s" in lines[1] and "loss" in lines[1]


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    train(3, make_mesh(), description="probe")
    shown = capsys.readouterr().err
    assert "probe" in shown and "3/3" in shown


def test_evaluations_and_the_best_state(tmp_path):
    scores = iter([0.2, 0.9, float("nan"), 0.4, 0.3])
    evaluated, reports = [], []

    def evaluate(state):
        evaluated.append((int(state.step), flat(state.params)))
        return {"score": next(scores), "other": np.float32(1)}

    checkpointing = Checkpointing(tmp_path / "run", every=100, keep=1, best="score")
    result = train(10, make_mesh(), evaluate=evaluate, eval_every=2, checkpointing=checkpointing, on_log=reports.append)
    assert [step for step, _ in evaluated] == [2, 4, 6, 8, 10]
    assert (result.step, int(result.state.step), result.metrics) == (4, 4, {"score": 0.9, "other": 1.0})
    for name, value in flat(result.state.params).items():
        np.testing.assert_array_equal(value, evaluated[1][1][name])
    assert sorted(int(path.name) for path in (tmp_path / "run").iterdir()) == [4, 10]
    assert {"step": 4, "evaluation": {"score": 0.9, "other": 1.0}} in reports
    # A finished run is not run again, and knows its best state.
    again = train(10, make_mesh(), evaluate=evaluate, eval_every=2, checkpointing=checkpointing)
    assert (again.step, again.metrics, len(evaluated)) == (4, {"score": 0.9, "other": 1.0}, 5)


def test_the_last_state_and_its_evaluation_without_best(tmp_path):
    checkpointing = Checkpointing(tmp_path / "run", every=3)
    result = train(4, make_mesh(), evaluate=lambda state: {"n": state.step}, checkpointing=checkpointing)
    assert (result.step, result.metrics) == (4, {"n": 4.0})
    assert train(4, make_mesh(), checkpointing=checkpointing).metrics == {"n": 4.0}
    with pytest.raises(BobError, match="the best state by 'n' is wanted, but nothing evaluates"):
        train(4, make_mesh(), checkpointing=Checkpointing(tmp_path / "other", every=1, best="n"))


def test_going_on_with_more_steps_equals_one_long_run(tmp_path):
    def tx():
        return optax.adam(1e-3)

    once = train(6, make_mesh(), tx=tx(), ema_decay=0.9, accumulate=2)
    journal = tmp_path / "journal.jsonl"
    options = {
        "checkpointing": Checkpointing(tmp_path / "run", every=2),
        "journal": journal,
        "ema_decay": 0.9,
        "accumulate": 2,
    }
    train(3, make_mesh(), tx=tx(), **options)
    with journal.open("a") as file:
        file.write('{"step": 4}\n{"st')  # what a process that was killed after its last checkpoint leaves
    twice = train(6, make_mesh(), tx=tx(), **options)
    for name, value in flat(once.state).items():
        np.testing.assert_array_equal(flat(twice.state)[name], value, err_msg=name)
    assert [json.loads(line)["step"] for line in journal.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert twice.cost.steps == 6
    with pytest.raises(BobError, match="the checkpoint is of step 6, past the 5 steps asked for"):
        train(5, make_mesh(), tx=tx(), **options)


def test_cost_divides_the_wall_time(tmp_path):
    def slow(start):
        for batch in batches(start):
            time.sleep(0.05)
            yield batch

    def evaluate(state):
        time.sleep(0.3)
        return {}

    began = time.monotonic()
    cost = train(10, make_mesh(), batches=slow, evaluate=evaluate, eval_every=5).cost
    wall = time.monotonic() - began
    assert cost.steps == 10 and cost.compile_seconds > 0
    assert cost.step_seconds >= 0.45
    assert cost.other_seconds >= 0.6
    assert cost.device_seconds == pytest.approx(8 * cost.step_seconds)
    # Two clocks around the same work; a busy machine may pause between their readings.
    assert cost.wall_seconds == pytest.approx(wall, rel=0.1, abs=0.5)
    assert cost.steps_per_second == pytest.approx(10 / cost.step_seconds)


def poisoned(start):
    for step, batch in enumerate(batches(start), start):
        if step == 4:  # the fifth step
            batch["x"][3] = np.nan
        yield batch


@pytest.mark.parametrize(
    ("every", "log_every", "good"), [(2, 1, "step 4 in .*run is good"), (6, 50, "no checkpoint was written yet")]
)
def test_a_loss_that_is_not_finite_stops_and_is_never_saved(tmp_path, every, log_every, good):
    checkpointing = Checkpointing(tmp_path / "run", every=every)
    with pytest.raises(Diverged, match=rf"the loss of step 5 is nan: lower .* \({good}\)"):
        train(6, make_mesh(), batches=poisoned, checkpointing=checkpointing, log_every=log_every)
    # On better data it goes on from what is there, which is sound.
    result = train(6, make_mesh(), checkpointing=checkpointing)
    assert all(np.isfinite(value).all() for value in flat(result.state).values())


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    def exploding(params, frozen, stats, batch, key):
        # A finite loss with an infinite gradient.
        value = jnp.sqrt(params["w"] * 0).sum()
        return value, Aux(batch["mask"].sum(), stats, {})

    checkpointing = Checkpointing(tmp_path / "run", every=1)
    with pytest.raises(Diverged, match=r"the state after step 1 is not finite and is not saved: .*no checkpoint was"):
        fit(
            {"w": np.ones(3, np.float32)},
            exploding,
            optax.sgd(1.0),
            batches,
            total_steps=3,
            mesh=make_mesh(),
            key=jax.random.key(0),
            checkpointing=checkpointing,
        )
    assert list((tmp_path / "run").iterdir()) == []


def test_batches_that_end_too_soon():
    with pytest.raises(BobError, match="the batches ended after 3 of 5 steps"):
        train(5, make_mesh(), batches=lambda start: iter([make_batch(step) for step in range(start, 3)]))


def test_memory_does_not_grow():
    process, mesh = psutil.Process(os.getpid()), make_mesh(4)
    samples = []

    def sample(row):
        if row["step"] in (50, 100, 150, 200):
            gc.collect()
            samples.append((len(jax.live_arrays()), process.memory_info().rss))

    train(201, mesh, on_log=sample)
    arrays, resident = zip(*samples, strict=True)
    assert len(set(arrays)) == 1
    assert resident[-1] - resident[0] < 8 * 2**20
    assert FROZEN["scale"] == np.float32(1.5)
