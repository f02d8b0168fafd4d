"""Non-maximum suppression: equal to the greedy rule for every threshold, tie, duplicate, padding, chain and block."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from greedy_nms import greedy, overlap
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bob_jax.detection.nms import nms

THRESHOLDS = pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])


def clusters(count: int, seed: int, places: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Boxes that crowd around a few places, as proposals do."""
    rng = np.random.default_rng(seed)
    low, sides = rng.uniform(0, 300, (places, 2)), rng.uniform(20, 90, (places, 2))
    place = rng.integers(places, size=count)
    low = low[place] + rng.normal(0, 8, (count, 2))
    boxes = np.concatenate([low, low + sides[place] * np.exp(rng.normal(0, 0.2, (count, 2)))], axis=1)
    return boxes.astype(np.float32), rng.random(count).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("threshold", "size", "block"))
def run(boxes, scores, valid, threshold, size, classes=None, block=512):
    return nms(boxes, scores, valid, threshold=threshold, size=size, classes=classes, block=block)


def check(boxes, scores, valid=None, threshold=0.5, size=None, **arguments) -> list[int]:
    """Compares with the greedy rule, and gives what it keeps."""
    valid = np.ones(len(boxes), bool) if valid is None else valid
    size = len(boxes) if size is None else size
    found = jax.tree.map(np.asarray, run(boxes, scores, valid, threshold, size, **arguments))
    wanted = greedy(boxes, scores, valid, threshold, arguments.get("classes"))
    assert found.indices.shape == found.valid.shape == (size,)
    assert found.indices[found.valid].tolist() == wanted[:size]
    np.testing.assert_array_equal(found.valid, np.arange(size) < len(wanted))
    assert not found.indices[~found.valid].any()
    assert found.overflow == max(len(wanted) - size, 0)
    return wanted


@THRESHOLDS
@pytest.mark.parametrize("block", [16, 37, 256, 1000])
@pytest.mark.parametrize("count", [1, 256, 300])
def test_equals_the_greedy_rule(threshold, block, count):
    kept = check(*clusters(count, seed=count), threshold=threshold, block=block)
    assert count == 1 or 5 < len(kept) < 0.75 * count


@THRESHOLDS
def test_equal_scores_go_by_index(threshold):
    boxes, _ = clusters(300, seed=1)
    scores = np.random.default_rng(1).integers(3, size=300).astype(np.float32)
    check(boxes, scores, threshold=threshold, block=64)
    check(boxes, np.zeros(300, np.float32), threshold=threshold, block=64)


@THRESHOLDS
def test_of_duplicates_one_stays(threshold):
    boxes, scores = clusters(40, seed=2)
    repeated = np.tile(boxes, (6, 1))
    kept = check(repeated, np.tile(scores, 6), threshold=threshold, block=64)
    assert max(kept) < 40  # the first of each, as scores are equal
    same = np.tile(np.array([[3, 4, 50, 60]], np.float32), (300, 1))
    assert check(same, np.linspace(0, 1, 300, dtype=np.float32), threshold=threshold, block=64) == [299]


@THRESHOLDS
def test_an_overlap_of_just_the_threshold_lets_both_stay(threshold):
    """Overlaps of 3/10, 5/10 and 7/10 between boxes of whole pixels, with neighbours just above and below."""
    share = round(threshold * 1000)
    boxes = np.array(
        [[0, 0, 1000, 10]] + [[0, 0, share + more, 10] for more in (0, 1, -1)], np.float32
    )  # inside the first: their IoU with it is their share of its area
    scores = np.array([1, 0.9, 0.8, 0.7], np.float32)
    for only, stays in ((1, True), (2, False), (3, True)):
        kept = check(boxes[[0, only]], scores[[0, only]], threshold=threshold)
        assert (1 in kept) == stays


@THRESHOLDS
def test_padding_neither_stays_nor_suppresses_whatever_it_holds(threshold):
    boxes, scores = clusters(300, seed=3)
    valid = np.random.default_rng(3).random(300) < 0.6
    check(boxes, scores, valid, threshold=threshold, block=64)
    wanted = run(boxes, scores, valid, threshold, 300, block=64)
    for junk in (np.nan, np.inf, -np.inf):
        found = run(
            np.where(valid[:, None], boxes, junk), np.where(valid, scores, junk), valid, threshold, 300, block=64
        )
        for one, other in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(one, other)


@THRESHOLDS
def test_all_padded(threshold):
    boxes, scores = clusters(300, seed=4)
    assert check(boxes, scores, np.zeros(300, bool), threshold=threshold, size=50) == []
    assert check(boxes[:0], scores[:0], threshold=threshold, size=5) == []


def test_scores_may_be_anything_that_is_ordered():
    boxes, scores = clusters(100, seed=5)
    for other in (scores - 5, np.log(scores), np.where(scores < 0.3, -np.inf, scores).astype(np.float32)):
        check(boxes, other, block=32)


def test_boxes_without_area_overlap_nothing():
    boxes = np.array([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10], [5, 0, 5, 10]], np.float32)
    assert check(boxes, np.array([4, 3, 2, 1], np.float32)) == [0, 1, 2, 3]


@THRESHOLDS
@pytest.mark.parametrize("block", [16, 64, 256])
def test_a_long_chain_of_suppression(threshold, block):
    """Each box overlaps just the next one too much: every second stays, and r rounds settle the first r alone."""
    start = np.arange(200, dtype=np.float32) * round(100 * (1 - threshold) / (1 + threshold) - 4)
    boxes = np.stack([start, 0 * start, start + 100, 0 * start + 10], axis=1)
    kept = check(boxes, np.linspace(1, 0, 200, dtype=np.float32), threshold=threshold, block=block)
    assert kept == list(range(0, 200, 2))


@THRESHOLDS
def test_classes_do_not_suppress_each_other(threshold):
    boxes, scores = clusters(300, seed=6)
    classes = np.random.default_rng(6).integers(5, size=300)
    kept = check(boxes, scores, threshold=threshold, classes=classes, block=64)
    by_class = []
    for name in range(5):
        (own,) = np.nonzero(classes == name)
        by_class += own[greedy(boxes[own], scores[own], np.ones(len(own), bool), threshold)].tolist()
    assert sorted(kept) == sorted(by_class)
    assert len(kept) > len(check(boxes, scores, threshold=threshold))


def test_classes_keep_every_bit_of_the_coordinates():
    """With class 80 moved by 80 x 1025 pixels, these two boxes would have another overlap."""
    boxes = np.array([[0.001, 0, 10.001, 10], [0.004, 0, 10.004, 10]], np.float32)
    exact = float(overlap(boxes[0], boxes[1]))
    moved = boxes + np.float32(80 * 1025)
    assert overlap(moved[0], moved[1]) != exact
    scores, classes = np.array([1, 0.5], np.float32), np.array([80, 80])
    for threshold, wanted in ((exact - 1e-5, [0]), (exact + 1e-5, [0, 1])):
        assert check(boxes, scores, threshold=threshold, classes=classes) == wanted


@pytest.mark.parametrize("size", [1, 10, 400])
def test_what_has_no_slot_is_counted(size):
    boxes, scores = clusters(300, seed=7)
    kept = check(boxes, scores, threshold=0.7, size=size)
    assert 10 < len(kept) < 400


def test_a_batch_on_eight_devices_is_its_images_one_by_one():
    """Images need different numbers of rounds. With `shard_map` no device waits for another."""
    batch = [clusters(200, seed, places=1 + seed) for seed in range(8)]
    boxes, scores = (np.stack(x) for x in zip(*batch, strict=True))
    valid = np.arange(200)[None] < np.arange(0, 200, 25)[:, None] + 1

    @jax.vmap
    def suppress(boxes, scores, valid):
        return nms(boxes, scores, valid, threshold=0.5, size=40, block=64)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        spread = jax.device_put((boxes, scores, valid), NamedSharding(mesh, P("data")))
        by_compiler = jax.jit(suppress)(*spread)
        mapped = jax.shard_map(suppress, in_specs=P("data"), out_specs=P("data"))
        program = jax.jit(mapped).lower(*spread).compile()
        by_hand = program(*spread)
    assert not re.search(r"all-gather|all-reduce|all-to-all|collective-permute", program.as_text())
    together = jax.jit(suppress)(boxes, scores, valid)
    for n in range(8):
        wanted = greedy(boxes[n], scores[n], valid[n], 0.5)
        for found in (by_compiler, by_hand, together):
            assert np.asarray(found.indices[n])[np.asarray(found.valid[n])].tolist() == wanted[:40]
            assert found.overflow[n] == max(len(wanted) - 40, 0)


def test_one_program_for_any_boxes_and_no_gradient():
    traces = []

    @jax.jit
    def step(boxes, scores, valid):
        traces.append(1)
        return nms(boxes, scores, valid, threshold=0.5, size=20)

    for seed in range(3):
        step(*clusters(100, seed), np.arange(100) < 30 * seed)
    assert len(traces) == step._cache_size() == 1

    def loss(boxes, scores):
        kept = nms(boxes, scores, jnp.ones(100, bool), threshold=0.5, size=20)
        return jnp.sum(boxes[kept.indices] * kept.valid[:, None])

    boxes, scores = clusters(100, 1)
    gradient = jax.grad(loss)(boxes, scores)
    assert set(np.unique(gradient)) == {0, 1}  # of the boxes that were chosen, and not through the choice
