"""Checkpoints of a run: written beside the training, never half, never non-finite, checked when read, on any mesh.

Orbax writes and reads the arrays. What it does not do is here: to whom a checkpoint belongs, whether its bytes are
those that were written (a flipped bit in an array's data passes Orbax unnoticed), and what to do when they are not.
"""

import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from bob_jax.errors import BobError
from bob_jax.training.state import TrainState

log = logging.getLogger(__name__)

DIVERGED = "lower the learning rate, clip the gradient, or look at the data of that step"


class Diverged(BobError):  # noqa: N818 (an outcome, not a mistake)
    """The loss or the state is NaN or infinite; a grid goes on with its other points."""


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """Where and how often to save, and what to keep.

    Attributes:
        folder: of this run alone; made if it is missing.
        every: steps between two checkpoints. The last step, and a stop on request, are saved as well.
        keep: how many of the latest to keep.
        best: name of a metric of the evaluation, higher is better: every evaluation is saved, the best one is kept too.
        identity: what makes the run this run, as JSON: a folder that holds another one's checkpoints is refused.
        finite: whether a state that is not finite is refused; not where parts of it, that share nothing, may diverge.
    """

    folder: Path
    every: int
    keep: int = 2
    best: str | None = None
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    finite: bool = True


class Saved(NamedTuple):
    """A checkpoint that was read.

    Attributes:
        state: on the devices.
        metrics: of the evaluation at its step; {} where there was none.
        cost: as it was given to `save`.
    """

    state: TrainState
    metrics: dict[str, float]
    cost: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder; a context manager, which waits for the last save at its end."""

    def __init__(self, options: Checkpointing) -> None:
        """Opens the folder.

        Raises:
            BobError: it cannot be made or written to.
        """
        self._options = options
        self._folder = Path(options.folder).expanduser().absolute()
        # As JSON gives it back: tuples as lists, so that it compares equal to what is on disk.
        self._identity = json.loads(json.dumps(dict(options.identity)))
        self._scores: dict[int, float] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise BobError(
                f"checkpoint folder {self._folder} cannot be written to ({error.strerror}): choose another"
            ) from error
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            preservation_policy=_LatestAndBest(options.keep, lambda: self.best_step),
            cleanup_tmp_directories=True,  # what a killed process left half-written
        )
        for step in self.steps:
            self._remember_score(step, self._metadata(step).get("metrics", {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *exception: object) -> None:
        try:
            self._checkpointer.close()
        except Exception as error:  # whatever the file system and the libraries below raise
            if kind is None:
                raise self._write_error(error) from error
            log.warning("%s", self._write_error(error))

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    @property
    def best_step(self) -> int | None:
        """The step with the best score so far, the latest of equals; None where nothing was scored."""
        return max(self._scores, key=lambda step: (self._scores[step], step), default=None)

    def is_due(self, step: int, evaluated: bool) -> bool:
        """Whether a checkpoint is wanted at this step."""
        return step % self._options.every == 0 or (evaluated and self._options.best is not None)

    def save(
        self, step: int, state: TrainState, cost: Mapping[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Starts to write a checkpoint and returns; the state may be donated at once. Does nothing for a step on disk.

        Raises:
            Diverged: the state is not finite; it is not saved.
            BobError: this or an earlier checkpoint could not be written.
        """
        if step in self.steps:
            return
        finite, checksum = _inspect(state)
        if self._options.finite and not finite:
            raise Diverged(f"the state after step {step} is not finite and is not saved: {self.advice()}")
        metrics = {name: float(value) for name, value in (metrics or {}).items()}
        self._remember_score(step, metrics)
        about = {"identity": self._identity, "checksum": int(checksum), "metrics": metrics, "cost": dict(cost)}
        try:
            self._checkpointer.save_async(step, state, force=True, custom_metadata=about)
        except Exception as error:  # whatever the file system and the libraries below raise
            raise self._write_error(error) from error

    def restore(self, abstract: TrainState) -> Saved | None:
        """The latest checkpoint that can be read; None in an empty folder.

        Later ones that cannot be read are removed with a warning.

        Args:
            abstract: shapes, dtypes and shardings to read into, as of `abstract_state`: of any mesh.

        Raises:
            BobError: the folder belongs to another run, or nothing in it can be read.
        """
        damaged: list[tuple[int, str]] = []
        for step in reversed(self.steps):
            try:
                saved = self._read(step, abstract)
            except _DamagedError as error:
                damaged.append((step, str(error)))
                continue
            for bad, why in damaged:
                log.warning(
                    "checkpoint %d in %s is damaged (%s): removed, going on from %d", bad, self._folder, why, step
                )
                self._checkpointer.delete(bad)
                self._scores.pop(bad, None)
            return saved
        if damaged:
            raise BobError(
                f"no checkpoint in {self._folder} can be read (step {damaged[0][0]}: {damaged[0][1]}): "
                "delete the folder to start again, or choose another"
            )
        return None

    def load(self, step: int, abstract: TrainState) -> Saved:
        """The checkpoint of one step.

        Raises:
            BobError: it cannot be read, or belongs to another run.
        """
        self.wait()
        try:
            return self._read(step, abstract)
        except _DamagedError as error:
            raise BobError(
                f"checkpoint {step} in {self._folder} is damaged ({error}): delete it and run again"
            ) from error

    def wait(self) -> None:
        """Returns when everything is on disk. BobError if it could not be written."""
        try:
            self._checkpointer.wait()
        except Exception as error:  # whatever the file system and the libraries below raise
            raise self._write_error(error) from error

    def advice(self) -> str:
        """What to do after training has diverged, and where the last good state is."""
        good = f"step {self.steps[-1]} in {self._folder} is good" if self.steps else "no checkpoint was written yet"
        return f"{DIVERGED} ({good})"

    def _read(self, step: int, abstract: TrainState) -> Saved:
        about = self._metadata(step)
        if not about.keys() >= {"identity", "checksum", "metrics", "cost"}:
            raise _DamagedError("its metadata cannot be read")
        self._check_identity(about["identity"])
        try:
            state = self._checkpointer.load(step, abstract)
        except Exception as error:  # Orbax and its storage raise KeyError, ValueError, OSError ... for damaged files
            raise _DamagedError(_cause(error)) from error
        if int(_inspect(state)[1]) != about["checksum"]:
            raise _DamagedError("its checksum is wrong")
        return Saved(state, about["metrics"], about["cost"])

    def _metadata(self, step: int) -> dict[str, Any]:
        try:
            return self._checkpointer.metadata(step).custom_metadata or {}
        except Exception:  # as in `_read`; no metadata is what a damaged checkpoint has
            return {}

    def _check_identity(self, identity: dict[str, Any]) -> None:
        names = sorted(identity.keys() | self._identity.keys())
        differing = [name for name in names if identity.get(name) != self._identity.get(name)]
        if differing:
            told = ", ".join(f"{n} is {identity.get(n)!r} there and {self._identity.get(n)!r} here" for n in differing)
            raise BobError(
                f"{self._folder} holds the checkpoints of another run ({told}): choose another folder, or delete it"
            )

    def _remember_score(self, step: int, metrics: Mapping[str, float]) -> None:
        best = self._options.best
        if best is not None and best in metrics:
            score = metrics[best]
            self._scores[step] = score if score == score else -float("inf")  # nan is the worst

    def _write_error(self, error: Exception) -> BobError:
        return BobError(
            f"a checkpoint could not be written to {self._folder} ({_cause(error)}): "
            "free space there or choose another folder; earlier checkpoints are good"
        )


class _DamagedError(Exception):
    """A checkpoint that cannot be used; the message says why."""


class _LatestAndBest:
    """Orbax preservation policy: the latest few, and the best."""

    def __init__(self, keep: int, best_step: Callable[[], int | None]) -> None:
        self._keep, self._best_step = keep, best_step

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One bool per checkpoint, which come in ascending order."""
        best = self._best_step()
        latest = {checkpoint.step for checkpoint in checkpoints[-self._keep :]}
        return [checkpoint.step == best or checkpoint.step in latest for checkpoint in checkpoints]


@jax.jit
def _inspect(state: TrainState) -> tuple[jax.Array, jax.Array]:
    """Whether all floats are finite, and a position-dependent sum of all bits, the same on any mesh."""
    finite, checksum = jnp.array(True), jnp.uint32(0)
    for number, leaf in enumerate(jax.tree.leaves(state)):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        elif leaf.dtype == bool:
            leaf = leaf.astype(jnp.uint8)
        elif jnp.issubdtype(leaf.dtype, jnp.floating):
            finite &= jnp.isfinite(leaf).all()
        bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}").astype(jnp.uint32)
        # Odd multipliers that differ from place to place: integers wrap, so neither the order of the sum nor the
        # number of devices can change it, and no change of a single element can leave it as it was.
        position = sum(
            (
                jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(0x9E3779B1 + 2 * axis)
                for axis in range(bits.ndim)
            ),
            jnp.uint32(2 * number + 1),
        )
        checksum = checksum * jnp.uint32(31) + jnp.sum(bits * (2 * position + 1), dtype=jnp.uint32)
    return finite, checksum


def _cause(error: BaseException) -> str:
    """What went wrong at the bottom, in one short line: Orbax wraps it in a page about handlers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
