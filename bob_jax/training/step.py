"""One training step: gradient of a masked sum, summed over micro-batches, divided once, applied, averaged."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bob_jax.errors import BobError
from bob_jax.training.mesh import replicated
from bob_jax.training.state import TrainState


class Aux(NamedTuple):
    """What a loss function gives beside the loss.

    Attributes:
        weight: [] float; the sum of the mask, i.e. over how many examples the loss is summed.
        stats: the new batch statistics, of the structure that came in.
        metrics: name -> [] sum over the same examples, reported divided by the weight.
    """

    weight: jax.Array
    stats: Any
    metrics: dict[str, jax.Array]


# loss_fn(params, frozen, stats, batch, key) -> (sum over the batch of mask * loss per example, Aux).
LossFn = Callable[[Any, Any, Any, dict[str, jax.Array], jax.Array], tuple[jax.Array, Aux]]
TrainStep = Callable[[TrainState, Any, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    shardings: Any,
    accumulate: int = 1,
    ema_decay: float | None = None,
) -> jax.stages.Wrapped:
    """The jitted step `(state, frozen, batch) -> (state, sums)`.

    The gradient is that of the sum of losses over the whole batch, divided by the sum of weights over the whole batch.
    So accumulation equals one large batch, also where micro-batches hold different numbers of masked rows. Only batch
    statistics see micro-batches one by one. A batch without weight leaves a gradient of zero.

    The state is donated: the one passed in is dead afterwards. `frozen` is neither differentiated, changed nor donated.

    Args:
        loss_fn: see `LossFn`. Its key is `fold_in(state.key, step)`, folded with the micro-batch's index too when there
            are several. It is traced once.
        tx: the optimizer, over `params`.
        shardings: a `TrainState` of shardings, as of `state_shardings`; the new state keeps them.
        accumulate: micro-batches per step. Micro-batch i is made of the rows i, i + accumulate, ... so that no row has
            to leave its device; the batch size must be a multiple of accumulate x devices.
        ema_decay: decay of the moving averages in `state.ema`, which must be there: ema = decay * ema + (1 - decay) *
            (params, stats) after each update, as in timm's ModelEmaV2.

    Returns:
        `jax.jit` of the step. Its second output holds the sums "loss" and "weight" and those of `Aux.metrics`.
    """

    def train_step(state: TrainState, frozen: Any, batch: dict[str, jax.Array]) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(state.key, state.step)
        grads, stats, sums = _gradients(loss_fn, accumulate, state.params, frozen, state.stats, batch, key)
        scale = 1 / jnp.where(sums["weight"] > 0, sums["weight"], 1)
        grads = jax.tree.map(lambda grad: grad * scale, grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay is not None:
            ema = jax.tree.map(functools.partial(_average, decay=ema_decay), ema, {"params": params, "stats": stats})
        return TrainState(state.step + 1, state.key, params, stats, opt_state, ema), sums

    mesh = shardings.step.mesh
    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))


def _average(old: jax.Array, new: jax.Array, decay: float) -> jax.Array:
    """One step of a moving average, in which what stays as it is stays to the bit; counters are not averaged."""
    return old + (1 - decay) * (new - old) if jnp.issubdtype(new.dtype, jnp.floating) else new


def _gradients(
    loss_fn: LossFn, accumulate: int, params: Any, frozen: Any, stats: Any, batch: Any, key: jax.Array
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """Gradient of the summed loss over all micro-batches, the last statistics, and the sums."""
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def micro_step(stats: Any, micro_batch: Any, key: jax.Array) -> tuple[Any, Any, dict[str, jax.Array]]:
        (loss, aux), grads = value_and_grad(params, frozen, stats, micro_batch, key)
        return grads, aux.stats, {"loss": loss, "weight": aux.weight, **aux.metrics}

    if accumulate == 1:
        return micro_step(stats, batch, key)

    def body(carry: Any, indexed: Any) -> tuple[Any, dict[str, jax.Array]]:
        total, stats = carry
        index, micro_batch = indexed
        grads, stats, sums = micro_step(stats, micro_batch, jax.random.fold_in(key, index))
        return (jax.tree.map(jnp.add, total, grads), stats), sums

    zeros = jax.tree.map(jnp.zeros_like, params)
    micro_batches = jax.tree.map(lambda rows: _interleaved(rows, accumulate), batch)
    (grads, stats), sums = jax.lax.scan(body, (zeros, stats), (jnp.arange(accumulate), micro_batches))
    return grads, stats, jax.tree.map(lambda values: values.sum(0), sums)


def _interleaved(rows: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...]; part i holds the rows i, i + parts, ..."""
    if len(rows) % parts:
        raise BobError(
            f"a batch of {len(rows)} cannot be accumulated in {parts} equal parts: choose a multiple of {parts}"
        )
    return rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1)
