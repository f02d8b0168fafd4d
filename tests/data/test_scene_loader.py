"""The loader with scenes: whole batches of pictures and objects, the same whatever the workers and processes."""

import itertools

import coco_folder
import numpy as np
import pytest
from data_pictures import truncate

from bob_jax.data import scenes
from bob_jax.data.coco import CocoSource, load
from bob_jax.data.decode import CorruptImage
from bob_jax.data.detection_transforms import Fit, Jitter, Slots
from bob_jax.data.loader import Loader
from bob_jax.data.subset import Subset

SLOTS = Slots(6, 14)
EVAL, TRAIN = Fit(32, SLOTS), Jitter(32, SLOTS)
SHAPES = {
    "image": ((32, 32, 3), "uint8"),
    "extent": ((2,), "int32"),
    "scale": ((2,), "float32"),
    "boxes": ((6, 4), "float32"),
    "classes": ((6,), "int32"),
    "valid": ((6,), "bool"),
    "masks": ((6, 14, 14), "uint8"),
    "overflow": ((), "int32"),
    "mask": ((), "bool"),
    "index": ((), "int32"),
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> CocoSource:
    """Eleven pictures, some without objects."""
    root = tmp_path_factory.mktemp("digits") / "scenes"
    scenes.write(root, {"train": 11, "test": 1})
    return CocoSource(root / "annotations" / "instances_train.json", root / "train")


def training(source, **options) -> Loader:
    return Loader(source, TRAIN, shuffle=True, **{"batch_size": 4, "seed": 3, "epochs": 2, "num_workers": 0, **options})


def evaluation(source, **options) -> Loader:
    return Loader(source, EVAL, **{"batch_size": 4, "shuffle": False, "epochs": 1, "num_workers": 0, **options})


def take(loader: Loader, start_step: int = 0) -> list[dict[str, np.ndarray]]:
    batches = itertools.islice(loader.batches(start_step), 20)
    return [{name: np.array(value) for name, value in batch.items()} for batch in batches]


def assert_equal(ours, theirs) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys() == SHAPES.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("make", [training, evaluation])
def test_shapes_and_types(digits, make):
    for batch in take(make(digits)):
        assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
            name: ((4, *shape), dtype) for name, (shape, dtype) in SHAPES.items()
        }


def test_evaluation_sees_every_scene_once_and_fills_with_blanks(digits):
    batches = take(evaluation(digits))
    rows = [{name: value[row] for name, value in batch.items()} for batch in batches for row in range(4)]
    assert [int(row["index"]) for row in rows] == [*range(11), -1]
    assert sum(int(row["valid"].sum()) for row in rows) > 11
    for row, scene in zip(rows[:11], digits, strict=False):
        assert row.pop("mask") and row.pop("index") >= 0
        for name, value in EVAL(scene).items():
            np.testing.assert_array_equal(row[name], value)
    blank = rows[11]
    assert (blank["scale"] == 1).all()
    assert not any(blank[name].any() for name in SHAPES.keys() - {"scale", "index"})


def test_training_views_are_seeded_with_seed_epoch_and_position(digits):
    batches = take(training(digits))
    assert len(batches) == 6 and all(batch["mask"].all() for batch in batches)  # 22 rows
    index = np.concatenate([batch["index"] for batch in batches])[:22]
    np.testing.assert_array_equal(np.sort(index.reshape(2, 11), axis=1), np.tile(np.arange(11), (2, 1)))
    for place, at in enumerate(index):
        expected = TRAIN(digits[int(at)], np.random.default_rng((3, place // 11, at)))
        for name, value in expected.items():
            np.testing.assert_array_equal(batches[place // 4][name][place % 4], value, err_msg=name)


@pytest.mark.parametrize("make", [training, evaluation])
def test_workers_processes_and_restarts_change_nothing(digits, make):
    expected = take(make(digits))
    assert_equal(take(make(digits, num_workers=2)), expected)
    assert_equal(take(make(digits), start_step=2), expected[2:])
    parts = [take(make(digits, process_index=index, process_count=2)) for index in range(2)]
    tiled = [
        {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}
        for halves in zip(*parts, strict=True)
    ]
    assert_equal(tiled, expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_scene_stops_with_its_name_or_is_masked(tmp_path, num_workers):
    coco_folder.write(tmp_path)
    file = coco_folder.write(tmp_path, split="val2017")
    truncate(file.parents[1] / "val2017" / "000000000042.png")
    source = load(tmp_path).splits["test"]
    assert source.ids == ["7", "42", "139"]
    with pytest.raises(CorruptImage, match=r"000000000042\.png"):
        take(evaluation(source, num_workers=num_workers))
    loader = evaluation(Subset(source, np.array([2, 1, 0])), num_workers=num_workers, skip_corrupt=True)
    (batch,) = take(loader)
    assert batch["mask"].tolist() == [True, False, True, False]
    assert batch["index"].tolist() == [0, 1, 2, -1]
    assert loader.skipped == ("42",)
    assert not batch["valid"][1].any() and (batch["scale"][1] == 1).all() and batch["valid"][2].any()
