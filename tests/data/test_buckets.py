"""Batches of one canvas each: every image once an epoch, the same whatever the processes, workers and restarts."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bob_jax.data import coco
from bob_jax.data.buckets import Buckets
from bob_jax.data.coco import CocoSource
from bob_jax.data.detection_transforms import Slots
from bob_jax.data.loader import Loader
from bob_jax.data.multi_scale import MultiScale, SingleScale
from bob_jax.data.subset import Subset

SLOTS = Slots(2, 4)
TRAIN, EVAL = MultiScale(64, SLOTS), SingleScale(64, SLOTS)
SHAPES = ((24, 32), (20, 32), (24, 30), (32, 24), (16, 32), (24, 28), (24, 31))  # canvases 0 1 0 2 1 0 0, in turn


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> CocoSource:
    """23 pictures of five shapes; the file says an object in each."""
    root: Path = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    images, objects = [], []
    for number in range(23):
        height, width = SHAPES[number % len(SHAPES)]
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(root / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        objects.append({"id": number, "image_id": number, "category_id": 1, "bbox": [4, 4, 9, 9]})
    file = root / "objects.json"
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": [{"id": 1, "name": "one"}]}))
    return CocoSource(file, root)


CANVAS = np.array([(0, 1, 0, 2, 1, 0, 0)[number % 7] for number in range(23)])


def training(source, **options) -> Loader:
    return Loader(source, TRAIN, shuffle=True, **{"batch_size": 4, "seed": 5, "epochs": 2, "num_workers": 0, **options})


def evaluation(source, **options) -> Loader:
    return Loader(source, EVAL, shuffle=False, **{"batch_size": 4, "epochs": 1, "num_workers": 0, **options})


def take(loader: Loader, start_step: int = 0, count: int | None = None) -> list[dict[str, np.ndarray]]:
    batches = itertools.islice(loader.batches(start_step), count)
    return [{name: np.array(value) for name, value in batch.items()} for batch in batches]


def assert_equal(ours, theirs) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        for name in one.keys() | other.keys():
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_sizes_are_known_without_decoding(source, monkeypatch):
    monkeypatch.setattr(CocoSource, "__getitem__", None)
    np.testing.assert_array_equal(coco.sizes(source), [SHAPES[number % 7] for number in range(23)])
    half = Subset(Subset(source, np.arange(22, -1, -1)), np.arange(0, 23, 2))
    np.testing.assert_array_equal(coco.sizes(half), source.sizes[::-1][::2])
    assert len(training(source)) == 4 + 2 + 1
    np.testing.assert_array_equal([TRAIN.canvas(*size) for size in source.sizes.tolist()], CANVAS)


@pytest.mark.parametrize("make", [training, evaluation])
def test_a_batch_has_one_canvas(source, make):
    seen = Counter()
    for batch in take(make(source)):
        (canvas,) = set(CANVAS[batch["index"][batch["index"] >= 0]])
        assert batch["image"].shape == (4, *TRAIN.canvases[canvas], 3)
        seen[canvas] += 1
    assert seen == {canvas: batches * (2 if make is training else 1) for canvas, batches in ((0, 4), (1, 2), (2, 1))}


def test_evaluation_sees_every_image_once_and_fills_with_blanks(source):
    batches = take(evaluation(source))
    assert len(batches) == len(evaluation(source)) == 7
    index, mask = (np.concatenate([batch[name] for batch in batches]) for name in ("index", "mask"))
    np.testing.assert_array_equal(index[mask], np.argsort(CANVAS, kind="stable"))
    assert len(index) == 28 and (index[~mask] == -1).all()
    for batch in batches:
        for row, at in enumerate(batch["index"]):
            expected = EVAL(source[int(at)]) if at >= 0 else None
            if expected is None:
                assert not batch["image"][row].any() and not batch["valid"][row].any()
            else:
                np.testing.assert_array_equal(batch["image"][row], expected["image"])


def test_training_sees_every_image_each_epoch_and_fills_with_the_same_canvas(source):
    loader = training(source, epochs=3)
    batches = take(loader)
    assert len(batches) == 3 * len(loader)
    orders = set()
    for epoch in range(3):
        own = batches[7 * epoch : 7 * epoch + 7]
        index = np.concatenate([batch["index"] for batch in own])
        assert all(batch["mask"].all() for batch in own)
        counts = np.bincount(index, minlength=23)
        assert (counts >= 1).all() and counts.sum() == 28
        # 13 of canvas 0 in 16 rows, 7 of canvas 1 in 8, 3 of canvas 2 in 4
        assert [int((counts[canvas == CANVAS] - 1).sum()) for canvas in range(3)] == [3, 1, 1]
        orders.add(tuple(index))
    assert len(orders) == 3
    assert len({tuple(CANVAS[batch["index"][0]] for batch in batches[7 * epoch :][:7]) for epoch in range(3)}) > 1
    other = np.concatenate([batch["index"] for batch in take(training(source, seed=6), count=7)])
    assert tuple(other) not in orders


def test_an_image_that_comes_again_is_seen_otherwise(source):
    batch = next(batch for batch in take(training(source)) if CANVAS[batch["index"][0]] == 2)
    (twice,) = (at for at, count in Counter(batch["index"].tolist()).items() if count == 2)
    first, again = np.flatnonzero(batch["index"] == twice)
    expected = [TRAIN(source[twice], np.random.default_rng(seed)) for seed in ((5, 0, twice), (5, 0, 1, twice))]
    for row, view in zip((first, again), expected, strict=True):
        np.testing.assert_array_equal(batch["image"][row], view["image"])
    assert (batch["image"][first] != batch["image"][again]).any()


@pytest.mark.parametrize("make", [training, evaluation])
def test_processes_workers_and_restarts_change_nothing(source, make):
    expected = take(make(source))
    for start in (1, 6, len(expected) - 1):
        assert_equal(take(make(source), start), expected[start:])
    assert take(make(source), len(expected)) == []
    for count in (2, 4):
        parts = [take(make(source, process_index=index, process_count=count)) for index in range(count)]
        tiled = [
            {name: np.concatenate([part[name] for part in same]) for name in same[0]}
            for same in zip(*parts, strict=True)  # concatenation says that they share a canvas
        ]
        assert_equal(tiled, expected)
    assert_equal(take(make(source, num_workers=2)), expected)


def test_an_endless_loader_goes_on_from_far_away(source):
    loader = training(source, epochs=None)
    (batch,) = take(loader, 7 * 10**8 + 3, 1)
    assert batch["mask"].all()
    expected = Buckets(CANVAS, 4, 5, True)(4 * (7 * 10**8 + 3))
    assert expected.draw[0] == 10**8 and expected.index == batch["index"][0]


def test_a_corrupt_picture_is_blank_on_its_batchs_canvas(tmp_path, source):
    image = next(index for index in range(23) if CANVAS[index] == 2)
    broken = CocoSource(source.where, source._folder)
    broken._folder = tmp_path  # no picture is there
    loader = evaluation(broken, skip_corrupt=True)
    batches = take(loader)
    assert not any(batch["mask"].any() for batch in batches)
    assert sorted(loader.skipped, key=int) == [str(number) for number in range(23)]
    batch = next(batch for batch in batches if image in batch["index"])
    assert batch["image"].shape == (4, *EVAL.canvases[2], 3)


@pytest.mark.parametrize("seed", range(20))
def test_any_sizes_of_buckets_and_batches(seed):
    rng = np.random.default_rng(seed)
    bucket = rng.integers(0, rng.integers(1, 5), rng.integers(1, 60))
    size = int(rng.integers(1, 9))
    for shuffle in (False, True):
        order = Buckets(bucket, size, seed, shuffle)
        assert len(order) == sum(-(-int((bucket == one).sum()) // size) for one in set(bucket))
        for epoch in (0, 3):
            rows = [order(number) for number in range(epoch * len(order) * size, (epoch + 1) * len(order) * size)]
            first = [row.index for row in rows if row.index >= 0 and row.draw == (epoch,)]
            assert sorted(first) == list(range(len(bucket)))
            again = [row for row in rows if row.draw != (epoch,)]
            assert all((row.index >= 0) == shuffle for row in again)
            assert len({(row.index, row.draw) for row in again if row.index >= 0}) == len(again) * shuffle
            for start in range(0, len(rows), size):
                (one,) = {row.bucket for row in rows[start : start + size]}
                assert all(bucket[row.index] == one for row in rows[start : start + size] if row.index >= 0)
