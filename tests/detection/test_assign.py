"""Assignment: against plain loops and torchvision's matcher; ties, crowds, padding, empty images, batches, devices."""

import functools
import re

import jax
import numpy as np
import pytest
import torch
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bob_jax.backbones.pytorch import import_library
from bob_jax.detection.anchors import anchors
from bob_jax.detection.assign import assign

RPN = {"positive": 0.7, "negative": 0.3, "low_quality": 0.3}
ROI = {"positive": 0.5, "negative": 0.5}


def image(seed: int, boxes: int = 200, objects: int = 12, integers: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around objects, some equal to one, many with equal overlaps: coordinates are a few whole numbers."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 80, (objects, 2))
    truth = np.concatenate([low, low + rng.uniform(8, 40, (objects, 2))], axis=1)
    near = truth[rng.integers(objects, size=boxes)] + rng.normal(0, 5, (boxes, 4))
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 4)
    near[:objects:3] = truth[: len(near[:objects:3])]
    if integers:
        near, truth = 4 * np.round(near / 4), 4 * np.round(truth / 4)
        truth[1] = truth[0]  # the same place twice
    return near.astype(np.float32), truth.astype(np.float32)


def areas(box) -> np.float32:
    return np.float32(max(box[2] - box[0], 0)) * np.float32(max(box[3] - box[1], 0))


def common(a, b) -> np.float32:
    return areas((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def iou_by_hand(a, b) -> np.float32:
    union = areas(a) + areas(b) - common(a, b)
    return common(a, b) / union if union else np.float32(0)


def by_hand(boxes, objects, valid, positive, negative, low_quality=None, crowd=None, usable=None):
    """One box after the other, one object after the other. 0-based object, -1 background, -2 neither."""
    crowd = np.zeros(len(objects), bool) if crowd is None else crowd
    usable = np.ones(len(boxes), bool) if usable is None else usable.copy()
    for n, box in enumerate(boxes):
        for g, region in enumerate(objects):
            if valid[g] and crowd[g] and areas(box) and common(box, region) / areas(box) > 0.5:
                usable[n] = False
    real = [g for g in range(len(objects)) if valid[g] and not crowd[g]]
    overlap = {(n, g): iou_by_hand(boxes[n], objects[g]) for n in range(len(boxes)) for g in real if usable[n]}
    result, best = np.full(len(boxes), -2), np.zeros(len(boxes), np.float32)
    for n in range(len(boxes)):
        if not usable[n]:
            continue
        winner = None
        for g in real:
            if overlap[n, g] > best[n]:
                best[n], winner = overlap[n, g], g
        if best[n] >= np.float32(positive):
            result[n] = winner
        elif best[n] < np.float32(negative):
            result[n] = -1
    if low_quality is not None:
        for g in real:
            own = [overlap[n, g] for n in range(len(boxes)) if usable[n]]
            if own and max(own) >= np.float32(low_quality):
                for n in range(len(boxes)):
                    if usable[n] and overlap[n, g] == max(own):
                        result[n] = g
    return result, best


def coded(found) -> np.ndarray:
    assert not (np.asarray(found.positive) & np.asarray(found.negative)).any()
    return np.where(found.positive, found.match, np.where(found.negative, -1, -2))


def run(boxes, objects, valid, rule, **masks):
    return jax.jit(functools.partial(assign, **rule))(boxes, objects, valid, **masks)


@pytest.mark.parametrize("rule", [RPN, ROI, {**ROI, "low_quality": 0.5}])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_that_by_hand(rule, seed):
    boxes, objects = image(seed, integers=seed % 2 == 0)
    valid = np.arange(len(objects)) < 9
    usable = np.random.default_rng(seed).random(len(boxes)) < 0.9
    wanted, best = by_hand(boxes, objects, valid, usable=usable, **rule)
    found = run(boxes, objects, valid, rule, usable=usable)
    np.testing.assert_array_equal(coded(found), wanted)
    np.testing.assert_allclose(found.overlap, best, atol=1e-6)
    assert {-2, -1} < set(wanted.tolist()) and (wanted >= 9).sum() == 0


@pytest.mark.parametrize("seed", range(4))
def test_crowds_are_nobodys_target_and_no_background(seed):
    boxes, objects = image(seed)
    valid, crowd = np.arange(12) < 10, np.arange(12) % 4 == 2  # one of the crowds is padding
    wanted, _ = by_hand(boxes, objects, valid, crowd=crowd, **RPN)
    found = run(boxes, objects, valid, RPN, crowd=crowd)
    np.testing.assert_array_equal(coded(found), wanted)
    without, _ = by_hand(boxes, objects, valid & ~crowd, **RPN)
    assert ((wanted == -2) & (without != -2)).any()
    assert not np.isin(coded(found), np.flatnonzero(crowd)).any()


@pytest.mark.parametrize("seed", range(4))
def test_without_low_quality_it_is_torchvisions_matcher(seed):
    boxes, objects = image(seed, integers=False)
    matrix = import_library("torchvision.ops.boxes").box_iou(torch.from_numpy(objects), torch.from_numpy(boxes))
    matcher = import_library("torchvision.models.detection._utils").Matcher
    valid = np.ones(len(objects), bool)
    wanted = matcher(0.7, 0.3, allow_low_quality_matches=False)(matrix).numpy()
    np.testing.assert_array_equal(coded(run(boxes, objects, valid, {"positive": 0.7, "negative": 0.3})), wanted)
    # torchvision's low-quality matches choose the same boxes, each for the object that it overlaps most.
    wanted = matcher(0.7, 0.3, allow_low_quality_matches=True)(matrix).numpy()
    rule = {"positive": 0.7, "negative": 0.3, "low_quality": 1e-6}
    np.testing.assert_array_equal(coded(run(boxes, objects, valid, rule)) >= 0, wanted >= 0)


def test_ties():
    boxes = np.array([[0, 0, 4, 4], [4, 0, 8, 4], [0, 0, 8, 8], [100, 100, 104, 104]], np.float32)
    objects = np.array([[0, 0, 8, 4], [0, 0, 8, 4], [0, 0, 8, 8], [200, 0, 210, 9]], np.float32)
    valid = np.ones(4, bool)
    # The first two boxes overlap objects 0 and 1 by half: the first object counts, unless the last claims them.
    assert coded(run(boxes, objects, valid, ROI)).tolist() == [0, 0, 2, -1]
    assert coded(run(boxes, objects, valid, {**RPN, "positive": 0.9})).tolist() == [1, 1, 2, -1]
    # Objects below the least IoU claim nothing, and an object that touches no box never does.
    strict = {"positive": 0.9, "negative": 0.3, "low_quality": 0.51}
    assert coded(run(boxes, objects, valid, strict)).tolist() == [-2, -2, 2, -1]


def test_thresholds_are_reached_from_the_right_side():
    box = np.array([[0, 0, 10, 10]], np.float32)
    half = np.array([[0, 0, 5, 10]], np.float32)
    one = np.ones(1, bool)
    assert coded(run(box, half, one, {"positive": 0.5, "negative": 0.5})).tolist() == [0]  # at least: positive
    assert coded(run(box, half, one, {"positive": 0.7, "negative": 0.5})).tolist() == [-2]  # below: negative


@pytest.mark.parametrize("rule", [RPN, ROI])
def test_an_image_without_objects_is_background(rule):
    boxes, objects = image(0)
    usable = np.arange(len(boxes)) % 2 == 0
    found = run(boxes, objects, np.zeros(len(objects), bool), rule, usable=usable)
    np.testing.assert_array_equal(found.negative, usable)
    assert not np.asarray(found.positive).any() and not np.asarray(found.overlap).any()
    empty = run(boxes, objects[:0], np.zeros(0, bool), rule)
    assert np.asarray(empty.negative).all()
    crowd = np.arange(len(objects)) == 0  # only a crowd: what lies in it is still no background
    found = run(boxes, objects, crowd, rule, crowd=crowd)
    np.testing.assert_array_equal(coded(found), by_hand(boxes, objects, crowd, crowd=crowd, **rule)[0])
    assert 0 < np.asarray(found.negative).sum() < len(boxes)


def test_more_padding_changes_nothing_whatever_it_holds():
    boxes, objects = image(1)
    valid = np.ones(12, bool)
    alone = run(boxes, objects, valid, RPN)
    junk = np.concatenate([objects, objects + 1, np.full((8, 4), np.nan)]).astype(np.float32)
    padded = run(boxes, junk, np.arange(32) < 12, RPN, crowd=np.arange(32) >= 12)
    for one, other in zip(alone, padded, strict=True):
        np.testing.assert_array_equal(one, other)


def test_ties_of_a_whole_grid_are_exact():
    """Anchors of a regular grid overlap an object equally by the dozen; all with the best overlap are claimed."""
    grid = anchors([(32, 32)], [8], ratios=(1.0,)).boxes
    objects = np.array([[100.3, 90.7, 121.9, 111.1], [11.7, 13.3, 33.1, 40.9], [60, 60, 200, 68]], np.float32)
    rule = {"positive": 0.9, "negative": 0.02, "low_quality": 1e-3}
    found = run(grid, objects, np.ones(3, bool), rule)
    for g, box in enumerate(objects):
        # Anchors that contain an object overlap it equally but for rounding; the best are chosen to the bit.
        overlaps = np.array([iou_by_hand(anchor, box) for anchor in grid])
        claimed = np.asarray(found.positive) & (np.asarray(found.match) == g)
        assert claimed.any()
        np.testing.assert_allclose(overlaps[claimed], overlaps.max(), rtol=1e-5)
    assert np.asarray(found.positive).sum() >= 6


def test_a_batch_on_eight_devices_is_its_images_one_by_one():
    batch = [image(seed) for seed in range(8)]
    boxes, objects = (np.stack(x) for x in zip(*batch, strict=True))
    valid = np.arange(12)[None] < np.arange(2, 10)[:, None]
    crowd = np.broadcast_to(np.arange(12) == 1, (8, 12))

    def one(boxes, objects, valid, crowd):
        return assign(boxes, objects, valid, crowd=crowd, **RPN)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        spread = jax.device_put((boxes, objects, valid, crowd), NamedSharding(mesh, P("data")))
        program = jax.jit(jax.vmap(one)).lower(*spread).compile()
        together = program(*spread)
    assert not re.search(r"all-gather|all-reduce|all-to-all|collective-permute", program.as_text())
    for n in range(8):
        alone = one(boxes[n], objects[n], valid[n], crowd[n])
        for mine, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(mine, other[n])


def test_one_program_for_any_number_of_objects():
    traces = []

    @jax.jit
    def step(boxes, objects, valid):
        traces.append(1)
        return assign(boxes, objects, valid, **RPN)

    for seed in range(3):
        boxes, objects = image(seed)
        step(boxes, objects, np.arange(12) < 4 * seed)
    assert len(traces) == step._cache_size() == 1
