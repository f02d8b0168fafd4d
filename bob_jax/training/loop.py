"""The training loop: from parameters, a loss and batches to trained parameters, whatever happens in between.

The order of one turn: step, next batch, check, report, evaluate, save.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from bob_jax.errors import BobError
from bob_jax.training.checkpoint import DIVERGED, Checkpointing, Checkpoints, Diverged
from bob_jax.training.mesh import place, put_batch
from bob_jax.training.preemption import Preempted, StopRequests
from bob_jax.training.reporting import Journal, Progress
from bob_jax.training.state import TrainState, abstract_state, create_state
from bob_jax.training.step import LossFn, make_train_step

# batches(step): an endless or long enough iterator over this process's part of the batches, from step `step` (0: the
# first) on. The same step must give the same batch, or a resumed run is another run.
Batches = Callable[[int], Iterator[Any]]


@dataclasses.dataclass
class Cost:
    """What a run took, added up over its interruptions (what a killed process did after its last save is lost).

    Attributes:
        steps: training steps made.
        compile_seconds: for the training step.
        step_seconds: for the steps, waiting for data included.
        other_seconds: for reading and writing checkpoints, and for evaluation.
        device_seconds: `step_seconds` times the number of devices.
    """

    steps: int = 0
    compile_seconds: float = 0.0
    step_seconds: float = 0.0
    other_seconds: float = 0.0
    device_seconds: float = 0.0

    @property
    def wall_seconds(self) -> float:
        """Of the whole run."""
        return self.compile_seconds + self.step_seconds + self.other_seconds

    @property
    def steps_per_second(self) -> float:
        """Mean rate of the steps alone."""
        return self.steps / self.step_seconds if self.step_seconds else 0.0


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What came out.

    Attributes:
        state: the best one by `Checkpointing.best` where that is set, else the last one.
        step: of that state.
        metrics: of the evaluation of that state; {} without one.
        cost: see `Cost`.
    """

    state: TrainState
    step: int
    metrics: dict[str, float]
    cost: Cost


def fit(
    params: Any,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    batches: Batches,
    *,
    total_steps: int,
    mesh: Mesh,
    key: jax.Array,
    stats: Any = None,
    frozen: Any = None,
    accumulate: int = 1,
    shapes: int = 1,
    ema_decay: float | None = None,
    checkpointing: Checkpointing | None = None,
    evaluate: Callable[[TrainState], Mapping[str, float]] | None = None,
    eval_every: int | None = None,
    journal: Path | None = None,
    log_every: int = 50,
    on_log: Callable[[dict[str, Any]], None] | None = None,
    description: str = "train",
) -> FitResult:
    """Trains `params` for `total_steps`, going on from the latest checkpoint where there is one.

    A run that is killed and started again ends with the same parameters: bit for bit on the same number of devices.

    Args:
        params: nested dicts of arrays, the same on every process; copied.
        loss_fn: see `training.step.LossFn`.
        tx: the optimizer.
        batches: see `Batches`. A batch that is not full is padded and masked by its maker.
        total_steps: where the run ends, counted from its very beginning.
        mesh: as of `make_mesh`.
        key: PRNG key of the run.
        stats: nested dicts of batch statistics; None for none.
        frozen: any tree of arrays that the loss needs and nobody changes, such as a frozen backbone.
        accumulate: micro-batches per step.
        shapes: in how many different shapes batches come; one program is compiled for each.
        ema_decay: decay of a moving average of parameters and statistics; None for none.
        checkpointing: where and how often to save; None: a killed run starts again from 0.
        evaluate: state -> metrics, at the end and every `eval_every` steps. It must not donate the state.
        eval_every: see `evaluate`; None: only at the end.
        journal: file for the reports, as JSON lines; None for none.
        log_every: steps between two reports, which hold means over the steps since the last one.
        on_log: is given every report, on every process: {"step", "loss", metrics..., "steps_per_second"} of training,
            {"step", "evaluation": metrics} of evaluations.
        description: what the progress bar says is being done.

    Raises:
        Diverged: the loss or the state is not finite. The last checkpoint is good.
        BobError: the batches end too soon, or have more shapes than `shapes`; or a checkpoint cannot be read or
            written. The last checkpoint is good.
        Preempted: SIGTERM or Ctrl-C came. The state is saved; the next start goes on from there.
    """
    if checkpointing and checkpointing.best and not evaluate:
        raise BobError(f"the best state by '{checkpointing.best}' is wanted, but nothing evaluates: give `evaluate`")
    clock = _Clock(mesh.size)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        stop = stack.enter_context(StopRequests(mesh))
        checkpoints = stack.enter_context(Checkpoints(checkpointing)) if checkpointing else None

        stats = {} if stats is None else stats
        abstract = abstract_state(params, stats, key, tx, mesh, ema=ema_decay is not None)
        saved = checkpoints.restore(abstract) if checkpoints else None
        state = saved.state if saved else create_state(params, stats, key, tx, mesh, ema=ema_decay is not None)
        metrics = saved.metrics if saved else {}
        if saved:
            clock.add(saved.cost)
        start = int(state.step)
        if start > total_steps:
            raise BobError(f"the checkpoint is of step {start}, past the {total_steps} steps asked for: ask for more")
        reports = _Reports(start, checkpoints, journal, on_log)
        progress = stack.enter_context(Progress(description, start, total_steps))

        frozen = place(frozen, mesh)
        feed = _feed(batches, start, total_steps, mesh)
        batch = next(feed, None)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        programs = _Programs(make_train_step(loss_fn, tx, shardings, accumulate, ema_decay), shapes)
        if batch is not None:
            clock.lap("other_seconds")
            programs.of(state, frozen, batch)
            clock.lap("compile_seconds")

        # The order matters. The next batch is fetched while the devices are busy; a state is checked before it is
        # evaluated, and evaluated before it is saved, so that a checkpoint holds its own score.
        for step in range(start + 1, total_steps + 1):  # `step`: steps finished when this one is
            if programs.lack(batch):
                reports.wait()
                clock.lap("step_seconds")
                programs.of(state, frozen, batch)
                clock.lap("compile_seconds")
            state, sums = programs.of(state, frozen, batch)(state, frozen, batch)
            batch = next(feed, None)
            reports.add(step, sums)
            signal_number = stop.pending()
            last = step == total_steps
            evaluating = evaluate is not None and (last or _is_multiple(step, eval_every))
            saving = checkpoints is not None and (last or bool(signal_number) or checkpoints.is_due(step, evaluating))
            if evaluating or saving:
                reports.check()
            clock.lap("step_seconds", steps=1)
            if last or _is_multiple(step, log_every):
                progress.report(reports.write(clock.recent_rate()))
            progress.advance(step)
            metrics = reports.write_evaluation(step, evaluate(state)) if evaluate and evaluating else {}
            if checkpoints and saving:
                checkpoints.save(step, state, dataclasses.asdict(clock.cost), metrics)
            clock.lap("other_seconds")
            if signal_number:
                if checkpoints:
                    checkpoints.wait()
                raise Preempted(signal_number, step if checkpoints else None)

        best_step = checkpoints.best_step if checkpoints else None
        if checkpoints is None or best_step is None or best_step == total_steps:
            return FitResult(state, total_steps, metrics, clock.cost)
        del state  # two states at once may not fit
        best = checkpoints.load(best_step, abstract)
        return FitResult(best.state, best_step, best.metrics, clock.cost)


def _is_multiple(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _feed(batches: Batches, start: int, total_steps: int, mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
    """The batches of the steps still to be made, on the devices."""
    iterator = batches(start)
    for step in range(start, total_steps):
        batch = next(iterator, None)
        if batch is None:
            raise BobError(
                f"the batches ended after {step} of {total_steps} steps: repeat the data, or ask for fewer steps"
            )
        yield put_batch(batch, mesh)


class _Programs:
    """The compiled training step, one for each shape of batch; compiled ahead, so that a shape too many is an error."""

    def __init__(self, step: jax.stages.Wrapped, shapes: int) -> None:
        self._step, self._shapes = step, shapes
        self._compiled: dict[Any, Any] = {}

    def lack(self, batch: Any) -> bool:
        """Whether this batch's program has yet to be compiled."""
        return self._key(batch) not in self._compiled

    def of(self, state: TrainState, frozen: Any, batch: Any) -> Any:
        """The program for this batch."""
        if self.lack(batch):
            if len(self._compiled) == self._shapes:
                found = ", ".join(f"{name} {list(shape)}" for name, shape, _ in self._key(batch))
                raise BobError(
                    f"a batch of another shape than the {self._shapes} before: {found}: pad all batches alike"
                )
            self._compiled[self._key(batch)] = self._step.lower(state, frozen, batch).compile()
        return self._compiled[self._key(batch)]

    def _key(self, batch: Any) -> Any:
        return tuple((name, value.shape, value.dtype) for name, value in sorted(batch.items()))


class _Reports:
    """Collects the sums of the steps since the last report, watches the loss, and writes the means."""

    def __init__(
        self,
        start: int,
        checkpoints: Checkpoints | None,
        journal: Path | None,
        on_log: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._journal = Journal(journal, start)
        self._checkpoints, self._on_log = checkpoints, on_log
        self._window: list[tuple[int, dict[str, Any]]] = []

    def add(self, step: int, sums: dict[str, jax.Array]) -> None:
        """Takes the sums of a step, and waits for the step before: with more than two in flight, batches pile up."""
        self.wait()
        self._window.append((step, sums))

    def wait(self) -> None:
        """Waits for the steps that were taken."""
        if self._window:
            jax.block_until_ready(self._window[-1][1])

    def check(self) -> None:
        """Waits for all steps. BobError with the first step whose loss is not finite."""
        self._window = [(step, jax.device_get(sums)) for step, sums in self._window]
        for step, sums in self._window:
            if not math.isfinite(sums["loss"]):
                advice = self._checkpoints.advice() if self._checkpoints else DIVERGED
                raise Diverged(f"the loss of step {step} is {sums['loss']}: {advice}")

    def write(self, rate: float) -> dict[str, float]:
        """Reports the means since the last report."""
        self.check()
        totals = {name: sum(float(sums[name]) for _, sums in self._window) for name in self._window[0][1]}
        weight = totals.pop("weight")
        means = {name: total / weight if weight else 0.0 for name, total in totals.items()}
        row = {"step": self._window[-1][0], **means, "steps_per_second": rate}
        self._window.clear()
        self._publish(row)
        return row

    def write_evaluation(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Reports an evaluation and returns it as plain floats."""
        plain = {name: float(value) for name, value in metrics.items()}
        self._publish({"step": step, "evaluation": plain})
        return plain

    def _publish(self, row: dict[str, Any]) -> None:
        self._journal.write(row)
        if self._on_log:
            self._on_log(row)


class _Clock:
    """Divides the wall time among the parts of a run."""

    def __init__(self, devices: int) -> None:
        self.cost = Cost()
        self._devices = devices
        self._last = time.monotonic()
        self._recent = [0, 0.0]  # steps and their seconds since `recent_rate`

    def add(self, before: Mapping[str, Any]) -> None:
        """Adds what the run took before it was interrupted."""
        for name, value in before.items():
            setattr(self.cost, name, getattr(self.cost, name) + value)

    def lap(self, part: str, steps: int = 0) -> None:
        """Gives the time since the last lap to a field of `Cost`."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self.add({part: seconds})
        if part == "step_seconds":
            self.add({"steps": steps, "device_seconds": seconds * self._devices})
            self._recent = [self._recent[0] + steps, self._recent[1] + seconds]

    def recent_rate(self) -> float:
        """Steps per second since this was last asked."""
        (steps, seconds), self._recent = self._recent, [0, 0.0]
        return steps / max(seconds, 1e-9)
