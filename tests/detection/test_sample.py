"""Sampling: exact numbers, a fair draw, keys of images, and independence of batch, padding and devices."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bob_jax.detection.sample import image_keys, sample

KEY = jax.random.key(0)


def masks(total: int, positives: int, negatives: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(total)
    positive, negative = np.zeros((2, total), bool)
    positive[order[:positives]] = True
    negative[order[positives : positives + negatives]] = True
    return positive, negative


def run(key, positive, negative, size, most_positive):
    return jax.jit(functools.partial(sample, size=size, most_positive=most_positive))(key, positive, negative)


@pytest.mark.parametrize(
    "positives, negatives, drawn, left_out, empty",
    [
        (100, 400, (16, 48), 84, 0),  # more than enough of both
        (5, 400, (5, 59), 0, 0),  # negative ones fill up
        (16, 48, (16, 48), 0, 0),  # just enough
        (100, 10, (16, 10), 84, 38),  # positive ones do not fill up
        (3, 2, (3, 2), 0, 59),
        (0, 400, (0, 64), 0, 0),
        (40, 0, (16, 0), 24, 48),
        (0, 0, (0, 0), 0, 64),
    ],
)
def test_numbers_are_exact(positives, negatives, drawn, left_out, empty):
    positive, negative = masks(600, positives, negatives)
    found = jax.tree.map(np.asarray, run(KEY, positive, negative, 64, 16))
    assert found.indices.shape == found.valid.shape == found.positive.shape == (64,)
    assert (found.positive.sum(), (found.valid & ~found.positive).sum()) == drawn
    assert (found.left_out, found.empty) == (left_out, empty)
    np.testing.assert_array_equal(found.positive, np.arange(64) < drawn[0])  # positive ones first
    np.testing.assert_array_equal(found.valid, np.arange(64) < sum(drawn))
    assert (
        positive[found.indices[found.positive]].all() and negative[found.indices[found.valid & ~found.positive]].all()
    )
    assert len(set(found.indices[found.valid].tolist())) == sum(drawn)  # none twice
    assert not found.indices[~found.valid].any()


@pytest.mark.parametrize("total", [0, 1, 5])
def test_fewer_boxes_than_slots(total):
    positive, negative = masks(total, min(total, 2), max(total - 2, 0))
    found = jax.tree.map(np.asarray, run(KEY, positive, negative, 64, 16))
    assert sorted(found.indices[found.valid].tolist()) == list(range(total)) and found.empty == 64 - total


def test_all_slots_may_be_positive():
    positive, negative = masks(50, 30, 20)
    assert np.asarray(run(KEY, positive, negative, 8, 8).positive).all()
    assert np.asarray(run(KEY, positive, negative, 8, 100).positive).all()
    assert not np.asarray(run(KEY, positive, negative, 8, 0).positive).any()


def test_positive_counts_where_both_are_set():
    both = np.ones(10, bool)
    found = run(KEY, both, both, 8, 4)
    assert np.asarray(found.positive).sum() == 4 and found.empty == 4


def test_every_box_is_drawn_equally_often():
    positive, negative = masks(40, 10, 30)
    draws = 4000
    keys = jax.random.split(KEY, draws)
    batched = jax.jit(jax.vmap(lambda key: sample(key, positive, negative, size=12, most_positive=4)))(keys)
    index, is_positive = np.asarray(batched.indices), np.asarray(batched.positive)
    for mask, drawn, each in ((positive, is_positive, 4 / 10), (negative, ~is_positive, 8 / 30)):
        counts = np.bincount(index[drawn], minlength=40)
        assert not counts[~mask].any()
        deviation = (counts[mask] - draws * each) / np.sqrt(draws * each * (1 - each))
        assert np.abs(deviation).max() < 4
    # A slot is no better than another: the first positive slot holds each positive box equally often.
    first = np.bincount(index[:, 0], minlength=40)[positive]
    assert np.abs((first - draws / 10) / np.sqrt(draws * 0.09)).max() < 4


def test_more_boxes_behind_change_nothing():
    """Padding of ground truth stands behind the proposals: with more of it, the same boxes are drawn."""
    positive, negative = masks(700, 80, 500)
    alone = run(KEY, positive, negative, 64, 16)
    padded = run(KEY, np.pad(positive, (0, 100)), np.pad(negative, (0, 100)), 64, 16)
    for one, other in zip(alone, padded, strict=True):
        np.testing.assert_array_equal(one, other)


def test_keys_depend_on_seed_step_and_image_alone():
    images = np.array([7, 2**31 - 1, 7, 0])
    keys = jax.random.key_data(image_keys(KEY, 3, images))
    np.testing.assert_array_equal(keys[0], keys[2])
    for n, number in enumerate(images):
        wanted = jax.random.fold_in(jax.random.fold_in(KEY, 3), int(number))
        np.testing.assert_array_equal(keys[n], jax.random.key_data(wanted))
    others = [
        keys[0],
        keys[1],
        keys[3],
        jax.random.key_data(image_keys(KEY, 4, images))[0],
        jax.random.key_data(image_keys(KEY, 7, np.array([3])))[0],  # step and number are not interchangeable
        jax.random.key_data(image_keys(jax.random.key(1), 3, images))[0],
    ]
    assert len({tuple(np.asarray(x).tolist()) for x in others}) == len(others)


def test_the_draw_does_not_depend_on_batch_order_or_devices():
    images = np.arange(100, 108)
    drawn = [masks(300, 10 * n, 200, seed=n) for n in range(8)]
    positive, negative = (np.stack(x) for x in zip(*drawn, strict=True))

    def step(images, positive, negative):
        keys = image_keys(KEY, 5, images)
        return jax.vmap(functools.partial(sample, size=32, most_positive=8))(keys, positive, negative)

    one = jax.jit(step)(images, positive, negative)
    order = np.array([3, 1, 7, 0, 2, 6, 5, 4])
    shuffled = jax.jit(step)(images[order], positive[order], negative[order])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        eight = jax.jit(step)(*jax.device_put((images, positive, negative), NamedSharding(mesh, P("data"))))
    alone = run(image_keys(KEY, 5, images[2:3])[0], positive[2], negative[2], 32, 8)
    for field in one._fields:
        np.testing.assert_array_equal(getattr(one, field), getattr(eight, field))
        np.testing.assert_array_equal(np.asarray(getattr(one, field))[order], getattr(shuffled, field))
        np.testing.assert_array_equal(getattr(alone, field), np.asarray(getattr(one, field))[2])


def test_one_program_for_any_masks():
    traces = []

    @jax.jit
    def step(key, positive, negative):
        traces.append(1)
        return sample(key, positive, negative, size=16, most_positive=4)

    for seed in range(3):
        step(jax.random.key(seed), *masks(100, 20 * seed, 30))
    assert len(traces) == step._cache_size() == 1
