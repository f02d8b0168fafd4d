"""The step: accumulation, masks, averages, randomness, donation and shardings, against one plain jax.grad."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from training_problem import FROZEN, GRAPHDEF, Net, flat, loss_fn, make_batch, make_tx, new_state

from bob_jax.errors import BobError
from bob_jax.training.mesh import make_mesh, place, put_batch
from bob_jax.training.state import TrainState, abstract_state, create_state
from bob_jax.training.step import Aux, make_train_step


def plain_loss(params, frozen, stats, batch, key):
    """Neither dropout nor batch statistics, so that a large batch and small ones must agree."""
    logits = nnx.merge(GRAPHDEF, params, stats)(batch["x"] * frozen["scale"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]) * batch["mask"]
    return losses.sum(), Aux(batch["mask"].sum(), stats, {})


def start(mesh, tx, loss=plain_loss, accumulate=1, ema_decay=None):
    params, stats = new_state()
    key = jax.random.key(3)
    ema = ema_decay is not None
    abstract = abstract_state(params, stats, key, tx, mesh, ema=ema)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    step = make_train_step(loss, tx, shardings, accumulate, ema_decay)
    return create_state(params, stats, key, tx, mesh, ema=ema), step


def uneven_batch() -> dict[str, np.ndarray]:
    """Micro-batches of 4 hold 16, 12, 9 and 5 rows that count."""
    batch = make_batch(0, 64)
    batch["mask"] = np.concatenate([np.arange(16) < kept for kept in (16, 12, 9, 5)]).reshape(4, 16).T.reshape(-1)
    batch["mask"] = batch["mask"].astype(np.float32)
    return batch


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_gradient_is_that_of_the_mean_over_unmasked_rows(accumulate):
    mesh, batch = make_mesh(), uneven_batch()
    state, step = start(mesh, optax.sgd(1.0), accumulate=accumulate)
    before = flat(state.params)
    kept = {name: value[batch["mask"] > 0] for name, value in batch.items()}

    def mean_loss(params):
        loss, _ = plain_loss(params, FROZEN, new_state()[1], kept, None)
        return loss / 42

    loss, grads = jax.value_and_grad(mean_loss)(new_state()[0])
    with jax.set_mesh(mesh):
        state, sums = step(state, place(FROZEN, mesh), put_batch(batch, mesh))
    assert sums["weight"] == 42
    np.testing.assert_allclose(sums["loss"] / 42, loss, rtol=1e-6)
    for name, value in flat(state.params).items():
        np.testing.assert_allclose(before[name] - value, flat(grads)[name], rtol=1e-5, atol=2e-7, err_msg=name)


def test_micro_batches_are_interleaved_and_each_has_its_key():
    seen = {}

    def spy(params, frozen, stats, batch, key):
        noise = jax.random.uniform(key)
        rows = batch["row"]
        return params["w"] * rows.sum(), Aux(jnp.float32(len(rows)), {"rows": rows.sum(), "noise": noise}, {"n": noise})

    mesh = make_mesh()
    params, stats = {"w": np.float32(1)}, {"rows": np.float32(0), "noise": np.float32(0)}
    for accumulate in (1, 2):
        key = jax.random.key(0)
        abstract = abstract_state(params, stats, key, optax.sgd(0.0), mesh)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        step = make_train_step(spy, optax.sgd(0.0), shardings, accumulate)
        state = create_state(params, stats, key, optax.sgd(0.0), mesh)
        batch = put_batch({"row": np.arange(16, dtype=np.float32)}, mesh)
        for number in range(2):
            state, sums = step(state, None, batch)
            seen[accumulate, number] = (float(sums["n"]), float(state.stats["rows"]), float(state.stats["noise"]))
    uniform = lambda *folds: float(jax.random.uniform(_folded(jax.random.key(0), folds)))  # noqa: E731
    for number in range(2):
        assert seen[1, number] == (uniform(number), 120.0, uniform(number))
        assert seen[2, number] == (pytest.approx(uniform(number, 0) + uniform(number, 1)), 64.0, uniform(number, 1))


def _folded(key, folds):
    for fold in folds:
        key = jax.random.fold_in(key, fold)
    return key


def test_average_follows_parameters_and_statistics():
    mesh = make_mesh()
    state, step = start(mesh, optax.sgd(0.1), loss=loss_fn, ema_decay=0.9)
    begun = flat(state.stats)
    expected = flat({"params": state.params, "stats": state.stats})
    for number in range(5):
        state, _ = step(state, place(FROZEN, mesh), put_batch(make_batch(number), mesh))
        now = flat({"params": state.params, "stats": state.stats})
        expected = {name: 0.9 * expected[name] + 0.1 * value for name, value in now.items()}
    averaged = flat(state.averaged)
    assert averaged.keys() == expected.keys()
    assert any((value != averaged[f"stats.{name}"]).any() for name, value in begun.items())
    for name, value in averaged.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_batch_without_weight_changes_nothing():
    mesh, batch = make_mesh(), make_batch(0)
    state, step = start(mesh, optax.sgd(1.0))
    before = flat(state.params)
    batch["mask"][:] = 0
    state, sums = step(state, place(FROZEN, mesh), put_batch(batch, mesh))
    assert sums["weight"] == 0
    for name, value in flat(state.params).items():
        np.testing.assert_array_equal(value, before[name])


def test_state_is_donated_keeps_its_layout_and_leaves_the_rest_alone():
    mesh = make_mesh(fsdp=4)
    params, stats = jax.tree.map(jnp.asarray, new_state())
    tx, key = make_tx(10), jax.random.key(0)
    frozen = place(FROZEN, mesh)
    state = create_state(params, stats, key, tx, mesh, ema=True)
    pointers = [s.data.unsafe_buffer_pointer() for x in jax.tree.leaves((state.params, state.ema)) for s in _shards(x)]
    assert len(set(pointers)) == len(pointers)
    layout = jax.tree.map(lambda leaf: leaf.sharding, state)
    assert layout.params["blocks"][0]["kernel"].spec == jax.P("fsdp")
    assert layout.opt_state[1].mu["blocks"][0]["kernel"].spec == jax.P("fsdp")
    assert state.params["blocks"][0]["kernel"].addressable_shards[0].data.shape == (16, 64)
    step = make_train_step(loss_fn, tx, layout, ema_decay=0.9)
    after, _ = step(state, frozen, put_batch(make_batch(0), mesh))
    assert state.params["head"]["kernel"].is_deleted()
    assert jax.tree.map(lambda leaf: leaf.sharding, after) == layout
    # The caller's arrays live on: the state was made of copies.
    assert float(frozen["scale"]) == 1.5
    for name, value in flat(new_state()[0]).items():
        np.testing.assert_array_equal(flat(params)[name], value)
    assert jax.random.uniform(key) == jax.random.uniform(jax.random.key(0))


def _shards(leaf):
    return leaf.addressable_shards if leaf.sharding.spec else leaf.addressable_shards[:1]


def test_batch_statistics_are_of_the_whole_batch_on_any_number_of_devices():
    batch = make_batch(0)
    net = Net(nnx.Rngs(0))
    net(batch["x"] * 1.5, jax.random.key(0))
    expected = flat(nnx.to_pure_dict(nnx.state(net, nnx.BatchStat)))
    mesh = make_mesh()
    state, step = start(mesh, optax.sgd(0.1), loss=loss_fn)
    state, _ = step(state, place(FROZEN, mesh), put_batch(batch, mesh))
    for name, value in flat(state.stats).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


def test_wrong_batch_sizes_are_one_clear_line():
    mesh = make_mesh()
    with pytest.raises(BobError, match="'x' has 12 rows in this process, which has 8 devices"):
        put_batch(make_batch(0, 12), mesh)
    state, step = start(mesh, optax.sgd(0.1), accumulate=3)
    with pytest.raises(BobError, match="a batch of 32 cannot be accumulated in 3 equal parts"):
        step(state, place(FROZEN, mesh), put_batch(make_batch(0), mesh))


def test_state_is_a_plain_tree():
    state = create_state(*new_state(), jax.random.key(0), make_tx(5), make_mesh())
    assert isinstance(state, TrainState)
    assert state.ema is None and state.averaged["params"] is state.params
    assert int(state.step) == 0
