"""What is found: against plain loops over all boxes and classes; ties, padding, nothing, and too few candidates."""

import functools

import jax
import numpy as np
import pytest
from greedy_nms import greedy
from tiny_detector import FAST

from bob_jax.detection.detect import find
from bob_jax.detection.objects import Boxes, Found

CLASSES, EXTENT = 4, np.array([90, 120])
JUNK = np.nan


def crowded(seed: int, boxes: int, agnostic: bool, ties: bool) -> tuple[Boxes, np.ndarray, np.ndarray]:
    """Proposals around a few places, some reaching out of the image and some out of it; a fifth of them is padding."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 100, (8, 2))[rng.integers(8, size=boxes)]
    low = places[:, None] + rng.normal(0, 4, (boxes, 1 if agnostic else CLASSES, 2))
    found = np.concatenate([low, low + rng.uniform(20, 40, low.shape)], axis=-1).astype(np.float32)
    found[::17] += 150  # right of the image and below it
    logits = 3 * rng.standard_normal((boxes, CLASSES + 1)).astype(np.float32)
    if ties:
        logits = logits[rng.integers(12, size=boxes)]  # between boxes
        logits[:, 1] = logits[:, 2]  # and between classes
    valid = rng.random(boxes) < 0.8
    found[~valid], logits[~valid] = JUNK, JUNK
    empty = np.zeros((boxes, 4), np.float32)
    return Boxes(empty, valid, np.zeros(boxes, np.float32)), logits, found


def by_hand(valid, logits, boxes, threshold, overlap) -> list[tuple[float, int, np.ndarray]]:
    """Score, class and box of all that stay, the best first."""
    candidates = []
    for row in range(len(logits)):
        if not valid[row]:
            continue
        powers = np.exp(logits[row].astype(np.float64) - logits[row].max())
        for label in range(CLASSES):
            box = boxes[row, min(label, boxes.shape[1] - 1)]
            box = np.clip(box, 0, [EXTENT[1], EXTENT[0], EXTENT[1], EXTENT[0]]).astype(np.float32)
            score = powers[label] / powers.sum()
            if score > threshold and (box[2:] - box[:2] >= 1e-2).all():
                candidates.append((score, label, box))
    if not candidates:
        return []
    scores, labels, found = zip(*candidates, strict=True)
    kept = greedy(np.array(found), np.round(scores, 9), np.ones(len(found), bool), overlap, labels)
    return [candidates[n] for n in kept]


_run = jax.jit(find, static_argnames=("overlap", "size", "candidates"), compiler_options=FAST)


def run(proposals, logits, boxes, **arguments) -> Found:
    return jax.tree.map(np.asarray, _run(proposals, logits, boxes, EXTENT, **arguments))


def check(found: Found, wanted: list, size: int) -> None:
    wanted = wanted[:size]
    np.testing.assert_array_equal(found.valid, np.arange(size) < len(wanted))
    assert found.classes[found.valid].tolist() == [label for _, label, _ in wanted]
    np.testing.assert_allclose(found.scores[found.valid], [score for score, _, _ in wanted], rtol=1e-5)
    np.testing.assert_array_equal(found.boxes[found.valid], np.array([b for _, _, b in wanted]).reshape(-1, 4))
    assert not found.scores[~found.valid].any() and not found.boxes[~found.valid].any()
    assert not found.classes[~found.valid].any() and found.masks.shape == (size, 0, 0)


@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("size", [12, 400])
def test_equals_plain_loops(agnostic, ties, size):
    proposals, logits, boxes = crowded(1, 120, agnostic, ties)
    found = run(proposals, logits, boxes, threshold=0.05, overlap=0.5, size=size)
    wanted = by_hand(proposals.valid, logits, boxes, 0.05, 0.5)
    assert 12 < len(wanted) < 0.5 * np.sum(proposals.valid) * CLASSES
    check(found, wanted, size)
    assert not found.uncertain


@pytest.mark.parametrize("overlap", [0.3, 0.7])
def test_threshold_and_overlap_are_those_that_are_asked_for(overlap):
    proposals, logits, boxes = crowded(2, 100, False, False)
    counts = set()
    for threshold in (0.0, 0.2, 0.6):
        wanted = by_hand(proposals.valid, logits, boxes, threshold, overlap)
        check(run(proposals, logits, boxes, threshold=threshold, overlap=overlap, size=300), wanted, 300)
        counts.add(len(wanted))
    assert len(counts) == 3


def test_nothing_is_found_where_all_scores_are_low_or_all_boxes_padding():
    proposals, logits, boxes = crowded(3, 50, True, False)
    for valid, threshold in ((proposals.valid, 0.99999), (np.zeros(50, bool), 0.05)):
        found = run(proposals._replace(valid=valid), logits, boxes, threshold=threshold, overlap=0.5, size=10)
        check(found, [], 10)
        assert not found.uncertain


def test_few_candidates_give_the_start_of_the_result_and_say_when_it_is_not_all():
    proposals, logits, boxes = crowded(4, 120, False, False)
    arguments = {"threshold": 0.05, "overlap": 0.5}
    wanted = by_hand(proposals.valid, logits, boxes, 0.05, 0.5)
    filled = run(proposals, logits, boxes, size=8, candidates=60, **arguments)
    check(filled, wanted, 8)  # as many as there are slots: no other candidate could change it
    assert not filled.uncertain
    short = run(proposals, logits, boxes, size=60, candidates=60, **arguments)
    count = int(short.valid.sum())
    assert 8 < count < len(wanted) and short.uncertain
    check(short, wanted[:count], 60)
    possible = (proposals.valid[:, None] & (softmax(logits) > 0.05) & in_image(boxes)).sum()
    just = run(proposals, logits, boxes, size=400, candidates=int(possible), **arguments)
    check(just, wanted, 400)  # slots are empty, but all candidates were looked at
    assert not just.uncertain
    assert run(proposals, logits, boxes, size=400, candidates=int(possible) - 1, **arguments).uncertain


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True))[:, :-1]


def in_image(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 0] < EXTENT[1] - 1e-2) & (boxes[..., 1] < EXTENT[0] - 1e-2)


def test_a_batch_finds_what_each_image_finds():
    images = [crowded(seed, 60, True, False) for seed in (5, 6)]
    among = functools.partial(find, threshold=0.05, overlap=0.5, size=20)
    batch = jax.tree.map(lambda *rows: np.stack(rows), *images)
    together = jax.jit(jax.vmap(lambda *row: among(*row, EXTENT)), compiler_options=FAST)(*batch)
    for n, image in enumerate(images):
        check(
            jax.tree.map(lambda x, n=n: np.asarray(x[n]), together), by_hand(image[0].valid, *image[1:], 0.05, 0.5), 20
        )
