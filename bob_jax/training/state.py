"""What a training run carries from step to step: one frozen dataclass over plain nested dicts of arrays."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bob_jax.training.mesh import place, state_shardings


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "key", "params", "stats", "opt_state", "ema"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that decides how a run goes on; all of it is in a checkpoint, and all of it is donated to the step.

    Attributes:
        step: [] int32; finished steps, and so the position in the data.
        key: [] PRNG key of the run; the key of a step is `fold_in(key, step)`.
        params: what is trained, plain nested dicts of float arrays.
        stats: batch statistics (`nnx.BatchStat`), plain nested dicts; {} for a model without.
        opt_state: the optimizer's.
        ema: {"params", "stats"}: exponential moving averages of both, of the same structures; or None.
    """

    step: jax.Array
    key: jax.Array
    params: Any
    stats: Any
    opt_state: Any
    ema: Any = None

    @property
    def averaged(self) -> dict[str, Any]:
        """ "params" and "stats" to evaluate: the moving averages where there are some.

        Statistics are averaged too, as in timm: those of the last steps belong to other parameters than the average.
        """
        return {"params": self.params, "stats": self.stats} if self.ema is None else self.ema


def _new_state(params: Any, stats: Any, key: jax.Array, *, tx: optax.GradientTransformation, ema: bool) -> TrainState:
    # The average starts as a copy: a state that holds one buffer twice cannot be donated.
    average = jax.tree.map(jnp.copy, {"params": params, "stats": stats}) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), key, params, stats, tx.init(params), average)


def abstract_state(
    params: Any, stats: Any, key: jax.Array, tx: optax.GradientTransformation, mesh: Mesh, ema: bool = False
) -> TrainState:
    """The state's shapes, dtypes and shardings on this mesh, without an array: what a checkpoint is read into."""
    abstract = jax.eval_shape(functools.partial(_new_state, tx=tx, ema=ema), params, stats, key)
    shardings = state_shardings(abstract, mesh)
    return jax.tree.map(lambda leaf, sharding: leaf.update(sharding=sharding), abstract, shardings)


def create_state(
    params: Any, stats: Any, key: jax.Array, tx: optax.GradientTransformation, mesh: Mesh, ema: bool = False
) -> TrainState:
    """A new state on the mesh; no device ever holds more of it than its own part.

    Args:
        params: nested dicts of arrays on the host or on devices, the same on every process. They are copied: the caller
            may use them again.
        stats: batch statistics, likewise; {} for none.
        key: PRNG key of the run.
        tx: the optimizer.
        mesh: as of `make_mesh`.
        ema: whether to keep moving averages of parameters and statistics.
    """
    new = functools.partial(_new_state, tx=tx, ema=ema)
    shardings = state_shardings(jax.eval_shape(new, params, stats, key), mesh)
    return jax.jit(new, out_shardings=shardings)(place(params, mesh), place(stats, mesh), place(key, mesh))
