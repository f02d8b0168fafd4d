"""A pass over a split by two hosts: both hold all that was found, and know what neither could decode."""

import threading
import tracemalloc

import jax
import numpy as np
import pytest

from bob_jax.data.arrays import ArraySource
from bob_jax.data.decode import CorruptImage
from bob_jax.data.detection_transforms import Fit, Slots
from bob_jax.data.masks import encode
from bob_jax.detection.objects import Found
from bob_jax.errors import BobError
from bob_jax.metrics.coco import Detections
from bob_jax.protocols import detections
from bob_jax.protocols.base import Context
from bob_jax.training.mesh import make_mesh

IMAGES, SIDE, HOSTS = 7, 16, 2


class Pictures(ArraySource):
    """Pictures of one grey each, some of them damaged."""

    def __init__(self, damaged: set[int]):
        greys = np.arange(IMAGES, dtype=np.uint8)[:, None, None, None]
        ids = [f"picture {number}" for number in range(IMAGES)]
        super().__init__(np.broadcast_to(greys, (IMAGES, SIDE, SIDE, 3)), np.zeros(IMAGES, np.int32), ids)
        self.damaged = damaged

    def __getitem__(self, index):
        if index in self.damaged:
            raise CorruptImage(f"picture {index}")
        nothing = np.zeros(0)
        return {
            **super().__getitem__(index),
            "boxes": nothing.reshape(0, 4),
            "classes": nothing,
            "crowd": nothing.astype(bool),
            "shapes": [],
        }


def with_masks(side: int, found: int) -> Detections:
    """So many masks of noise on pictures of this side, the second of them large and the others one pixel."""
    noise = np.random.default_rng(0).random((side, side)) < 0.5
    one = np.zeros((side, side), bool)
    one[0, 0] = True
    codes = [encode(noise if number == 1 else one) for number in range(found)]
    zeros = np.zeros(found, np.int64)
    return Detections(("a",), zeros, zeros, zeros.astype(float), np.zeros((found, 4)), codes)


@pytest.mark.parametrize("found", [0, 1, 5])
def test_what_hosts_exchange_comes_back(found):
    sent = with_masks(60, found)
    back = detections._unpacked(detections._packed(sent))
    assert back.images == sent.images and back.masks == sent.masks
    np.testing.assert_array_equal(back.boxes, sent.boxes)


def test_one_long_mask_does_not_make_all_of_them_long():
    sent = with_masks(200, 1000)
    tracemalloc.start()
    detections._packed(sent)
    assert tracemalloc.get_traced_memory()[1] < 100 * sum(len(code["counts"]) for code in sent.masks)
    tracemalloc.stop()


def find(state, images, extents) -> Found:
    """A box in each picture, whose score is the picture's grey."""
    count = len(images)
    return Found(
        boxes=np.tile(np.array([1.0, 2, 9, 8], np.float32), (count, 1, 1)),
        classes=np.zeros((count, 1), np.int32),
        scores=images[:, 0, 0, :1].astype(np.float32),
        valid=np.ones((count, 1), bool),
        masks=np.zeros((count, 1, 0, 0), np.float32),
        uncertain=np.zeros(count, bool),
    )


@pytest.fixture
def two_hosts(monkeypatch):
    """Threads that take themselves for the processes of two hosts."""
    host, meeting, said = threading.local(), threading.Barrier(HOSTS, timeout=60), {}

    def gathered(mine):
        said[host.number] = mine
        meeting.wait()
        everyone = [said[number] for number in range(HOSTS)]
        meeting.wait()
        return everyone

    monkeypatch.setattr(jax, "process_count", lambda: HOSTS)
    monkeypatch.setattr(jax, "process_index", lambda: getattr(host, "number", 0))
    monkeypatch.setattr(detections.multihost_utils, "process_allgather", lambda mine: np.stack(gathered(mine)))
    monkeypatch.setattr(detections.meshes, "put_batch", lambda batch, mesh: batch)
    monkeypatch.setattr(detections, "rows_to_host", lambda rows: rows)
    monkeypatch.setattr(detections, "flops_per_image", lambda *_: None)
    monkeypatch.setattr(detections, "Progress", Silent)

    def run(work):
        results = {}

        def one(number):
            host.number = number
            try:
                results[number] = work()
            except BobError as error:
                results[number] = error

        threads = [threading.Thread(target=one, args=(number,)) for number in range(HOSTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [results[number] for number in range(HOSTS)]

    return run


class Silent:
    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, step):
        pass


def look(source, tmp_path):
    context = Context(make_mesh(), tmp_path, num_workers=0, skip_corrupt=True)
    return detections.look(find, None, source, Fit(SIDE, Slots(1, 4)), context, 8, "test")


@pytest.mark.parametrize("damaged", [set(), {1}, {6}, {1, 2, 6}])
def test_every_host_has_what_all_found_and_skipped(two_hosts, tmp_path, damaged):
    there = [number for number in range(IMAGES) if number not in damaged]
    for seen in two_hosts(lambda: look(Pictures(damaged), tmp_path)):
        assert seen.found.images == tuple(f"picture {number}" for number in there)
        np.testing.assert_array_equal(seen.found.score, there)
        np.testing.assert_array_equal(seen.index, there)
        assert seen.skipped == tuple(f"picture {number}" for number in sorted(damaged))


def test_a_split_of_which_nothing_can_be_decoded_is_one_line(two_hosts, tmp_path):
    for error in two_hosts(lambda: look(Pictures(set(range(IMAGES))), tmp_path)):
        assert str(error) == f"test: none of the {IMAGES} images can be decoded"
