"""The loader: the same batches whatever the workers, processes and restarts."""

import itertools
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data_pictures import picture, truncate, write_classes

from bob_jax.backbones.card import Preprocessing
from bob_jax.data import folder
from bob_jax.data.arrays import ArraySource
from bob_jax.data.decode import CorruptImage
from bob_jax.data.loader import Loader
from bob_jax.data.subset import Subset
from bob_jax.data.transforms import Eval, Train
from bob_jax.errors import BobError

SIDE = 16
EVAL, TRAIN = Eval(Preprocessing(SIDE)), Train(Preprocessing(SIDE), randaugment=9)


def memory(count: int) -> ArraySource:
    """Image i is recognisable in its index; labels repeat every 5."""
    return ArraySource(np.stack([picture(seed) for seed in range(count)]), np.arange(count) % 5)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> folder.FolderSource:
    root = tmp_path_factory.mktemp("files")
    for split, seed in (("train", 0), ("test", 50)):
        write_classes(root / split, {"a": 7, "b": 7, "c": 9}, suffix=".jpg", seed=seed)
    return folder.load(root).splits["test"]


def training(source, **options) -> Loader:
    options = {"batch_size": 8, "seed": 3, "epochs": None, "num_workers": 0, **options}
    return Loader(source, TRAIN, shuffle=True, **options)


def evaluation(source, **options) -> Loader:
    return Loader(source, EVAL, **{"batch_size": 8, "shuffle": False, "epochs": 1, "num_workers": 0, **options})


def take(loader: Loader, count: int | None, start_step: int = 0) -> list[dict]:
    return [
        {name: np.array(value) for name, value in batch.items()}
        for batch in itertools.islice(loader.batches(start_step), count)
    ]


def assert_equal(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys() == {"image", "label", "mask", "index"}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_batches_have_the_documented_shapes_and_types():
    (batch,) = take(training(memory(10)), 1)
    assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
        "image": ((8, SIDE, SIDE, 3), "uint8"),
        "label": ((8,), "int32"),
        "mask": ((8,), "bool"),
        "index": ((8,), "int32"),
    }


def test_evaluation_sees_every_example_once_in_order():
    source = memory(21)
    loader = evaluation(source)
    batches = take(loader, None)
    assert len(batches) == len(loader) == 3
    mask = np.concatenate([batch["mask"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(mask, np.arange(24) < 21)
    np.testing.assert_array_equal(index[mask], np.arange(21))
    np.testing.assert_array_equal(np.concatenate([batch["label"] for batch in batches])[mask], source.labels)
    assert (index[~mask] == -1).all() and not batches[-1]["image"][5:].any()
    for row in range(8):
        np.testing.assert_array_equal(batches[1]["image"][row], EVAL(source[8 + row]["image"]))


def test_each_training_epoch_is_another_permutation():
    source = memory(12)
    stream = np.concatenate([batch["index"] for batch in take(training(source), 6)])  # 48 rows, 4 epochs
    epochs = stream.reshape(4, 12)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(12), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = np.concatenate([batch["index"] for batch in take(training(source, seed=4), 6)])
    assert len({tuple(epoch) for epoch in [*epochs, *other.reshape(4, 12)]}) == 8  # seed 4 is not seed 3 an epoch later


def test_training_views_differ_between_epochs_and_repeat_with_the_seed():
    source = memory(8)
    first, second = take(training(source), 2)
    order = np.argsort(first["index"]), np.argsort(second["index"])
    assert (first["image"][order[0]] != second["image"][order[1]]).any(axis=(1, 2, 3)).sum() >= 7
    assert_equal(take(training(source), 2), [first, second])
    row = int(np.flatnonzero(second["index"] == 5)[0])
    expected = TRAIN(source[5]["image"], np.random.default_rng((3, 1, 5)))  # (seed, epoch, position)
    np.testing.assert_array_equal(second["image"][row], expected)


def test_training_batches_are_full_and_finite_epochs_end():
    batches = take(training(memory(12), epochs=3), None)  # 36 rows
    assert len(batches) == 5 and all(batch["mask"].all() and len(batch["mask"]) == 8 for batch in batches)
    seen = np.concatenate([batch["index"] for batch in batches])[:36]
    assert (np.bincount(seen) == 3).all()


def test_a_source_smaller_than_the_batch_fills_it_over_epochs():
    (batch,) = take(training(memory(3), batch_size=8), 1)
    assert batch["mask"].all() and set(batch["index"]) == {0, 1, 2}
    (batch,) = take(evaluation(memory(3), batch_size=8), None)
    assert batch["mask"].sum() == 3


@pytest.mark.parametrize("num_workers", [1, 2])
def test_worker_processes_change_nothing(files, num_workers):
    expected = take(training(files), 7)
    assert_equal(take(training(files, num_workers=num_workers), 7), expected)
    assert_equal(take(training(files, num_workers=num_workers), 4, start_step=3), expected[3:])


def test_worker_processes_change_nothing_in_evaluation(files):
    assert_equal(take(evaluation(files, num_workers=2), None), take(evaluation(files), None))


@pytest.mark.parametrize("make", [training, evaluation])
def test_start_step_goes_on_where_it_stopped(files, make):
    expected = take(make(files, epochs=2), None)
    for start in (1, 2, len(expected) - 1):
        assert_equal(take(make(files, epochs=2), None, start_step=start), expected[start:])
    assert take(make(files, epochs=2), None, start_step=len(expected)) == []


def test_a_far_start_step_costs_no_more_than_a_near_one():
    loader = training(memory(8))
    started = time.perf_counter()
    (batch,) = take(loader, 1, start_step=10**9)
    assert time.perf_counter() - started < 2 and batch["mask"].all()


@pytest.mark.parametrize("process_count", [2, 4])
@pytest.mark.parametrize("make", [training, evaluation])
def test_processes_tile_the_global_batch(files, make, process_count):
    expected = take(make(files), 3)
    parts = [take(make(files, process_index=index, process_count=process_count), 3) for index in range(process_count)]
    assert {len(part) for part in parts} == {3}
    tiled = [
        {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        for batches in zip(*parts, strict=True)
    ]
    assert_equal(tiled, expected)


def test_a_process_with_nothing_but_padding_makes_the_same_steps():
    parts = [take(evaluation(memory(5), process_index=index, process_count=4), None) for index in range(4)]
    assert [len(part) for part in parts] == [1, 1, 1, 1]
    assert [int(part[0]["mask"].sum()) for part in parts] == [2, 2, 1, 0]


def test_many_labels_per_image():
    labels = np.random.default_rng(0).random((5, 4))
    source = ArraySource(np.stack([picture(seed) for seed in range(5)]), labels)
    (batch,) = take(evaluation(source), None)
    np.testing.assert_array_equal(batch["label"][:5], labels.astype(np.float32))
    assert batch["label"].shape == (8, 4) and not batch["label"][5:].any()


@pytest.fixture
def damaged(tmp_path) -> Subset:
    for split, seed in (("train", 0), ("test", 50)):
        write_classes(tmp_path / split, {"a": 6, "b": 6}, suffix=".jpg", seed=seed)
    source = folder.load(tmp_path).splits["test"]
    for index in (4, 9):
        truncate(tmp_path / source.ids[index])
    return Subset(source, np.arange(12)[::-1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_corrupt_image_stops_with_its_name(damaged, num_workers):
    with pytest.raises(CorruptImage, match=r"cannot decode image '.*test/b/3\.jpg'") as caught:
        take(evaluation(damaged, num_workers=num_workers), None)
    assert isinstance(caught.value, BobError) and "\n" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_corrupt_image_can_be_masked_and_is_counted(damaged, num_workers):
    loader = evaluation(damaged, num_workers=num_workers, skip_corrupt=True)
    assert loader.skipped == ()
    batches = take(loader, None)
    index, mask = (np.concatenate([batch[name] for batch in batches]) for name in ("index", "mask"))
    np.testing.assert_array_equal(index, [*range(12), -1, -1, -1, -1])
    np.testing.assert_array_equal(np.flatnonzero(~mask), [2, 7, 12, 13, 14, 15])
    assert not batches[0]["image"][2].any()
    assert loader.skipped == ("test/b/3.jpg", "test/a/4.jpg")
    take(loader, None)
    assert len(loader.skipped) == 2  # counted once


class Deadly(ArraySource):
    """Kills the process that reads it, as the kernel does when memory runs out."""

    def __getitem__(self, index: int):
        os._exit(9)


def test_a_dead_worker_is_one_line():
    source = Deadly(np.zeros((8, 4, 4, 3), np.uint8), np.zeros(8, np.int32))
    with pytest.raises(BobError, match="a data worker died"):
        take(evaluation(source, num_workers=1), None)


def test_errors():
    with pytest.raises(BobError, match="batch size 9 does not divide among 2 processes"):
        evaluation(memory(4), batch_size=9, process_count=2)
    with pytest.raises(BobError, match="empty"):
        evaluation(Subset(memory(4), np.array([], np.int64)))


def test_workers_are_chosen_by_the_work(files):
    assert Loader(memory(4), EVAL, batch_size=2, shuffle=False, epochs=1).num_workers == 0
    assert Loader(files, EVAL, batch_size=2, shuffle=False, epochs=1).num_workers == 0  # few files: not worth starting
    many = Subset(files, np.zeros(20_000, np.int64))
    assert Loader(many, EVAL, batch_size=2, shuffle=False, epochs=1).num_workers == 0
    files_in_many = folder.FolderSource(files.root, [(files.ids[0], 1)] * 20_000, files.classes, 1)
    chosen = Loader(Subset(files_in_many, np.arange(3)), EVAL, batch_size=2, shuffle=False, epochs=1).num_workers
    assert chosen == min(16, len(os.sched_getaffinity(0)) - 1)


def test_stopping_early_leaves_no_process(files):
    batches = training(files, num_workers=2).batches()
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_memory_does_not_grow(num_workers):
    source = memory(64)
    wide = Eval(Preprocessing(128))
    loader = Loader(source, wide, batch_size=16, shuffle=True, epochs=None, num_workers=num_workers)
    sizes = []
    for step, _ in enumerate(itertools.islice(loader.batches(), 81)):
        if step in (20, 80):
            sizes.append(resident_bytes())
    # 60 batches of 0.8 MB: a loader that kept them would have grown by 47 MB.
    assert sizes[1] - sizes[0] < 12e6


def test_data_room_imports_no_jax_of_its_own():
    """All but `on_device` work without JAX in sight; Grain is the only one that may bring it along."""
    code = (
        "import sys, bob_jax.data.catalog, bob_jax.data.prepare, bob_jax.data.transforms;"
        "heavy = {'jax', 'tensorflow', 'tensorflow_datasets', 'sklearn', 'scipy', 'torch'} & sys.modules.keys();"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_single_image_and_batches_of_one(shuffle):
    source = ArraySource(np.zeros((1, 8, 8, 3), np.uint8), np.array([3]))
    loader = Loader(source, EVAL, batch_size=1, seed=0, shuffle=shuffle, epochs=1, num_workers=0)
    assert [batch["label"].tolist() for batch in loader.batches()] == [[3]]
