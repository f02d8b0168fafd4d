"""The cascade's stages: which boxes they draw, what they learn (against PyTorch), and how they move boxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from greedy_nms import overlap
from test_assign import by_hand as assigned_by_hand
from tiny_detector import FAST, design, objects

from bob_jax.backbones.pytorch import import_library
from bob_jax.detection.cascade import Rois, draw, own_deltas, refine, stage_terms
from bob_jax.detection.coder import CASCADE, MOST
from bob_jax.detection.objects import Objects

CLASSES, SIDE = 5, 90
KEY = jax.random.key(0)
STAGES = pytest.mark.parametrize("stage", [0, 1, 2])


def proposals_near(things: Objects, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around the objects, of all overlaps with them; a fifth of them is padding that lies just as near."""
    rng = np.random.default_rng(seed)
    near = things.boxes[rng.integers(len(things.boxes), size=count)]
    boxes = near + rng.uniform(0, 12, (count, 1)) * rng.standard_normal((count, 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
    return boxes.astype(np.float32), rng.random(count) < 0.8


def drawn(things: Objects, boxes, valid, stage: int = 0, key=KEY, **changes) -> Rois:
    choose = functools.partial(draw, stage=stage, classes=CLASSES, design=design(**changes))
    return jax.tree.map(np.array, jax.jit(choose, compiler_options=FAST)(key, boxes, valid, things))


@STAGES
def test_all_candidates_are_drawn_where_there_is_room(stage):
    """Then each box's fate is that of a plain loop, and objects are found by themselves."""
    things = objects(4, 6, CLASSES, seed=stage, side=SIDE)
    boxes, valid = proposals_near(things, 50, seed=stage)
    rois = drawn(things, boxes, valid, stage, rois=128, positive_share=0.5)
    limit = (0.5, 0.6, 0.7)[stage]
    assigned = assigned_by_hand(boxes, things.boxes, things.valid, limit, limit, usable=valid)[0]
    count, positives = int(valid.sum()) + 4, int((assigned >= 0).sum()) + 4
    assert 8 < positives < count - 8

    np.testing.assert_array_equal(rois.valid, np.arange(128) < count)
    np.testing.assert_array_equal(rois.positive, np.arange(128) < positives)  # positive ones first
    assert rois.left_out == 0
    candidates = [(*boxes[n], assigned[n], False) for n in np.flatnonzero(valid)]
    candidates += [(*things.boxes[g], g, True) for g in np.flatnonzero(things.valid)]
    found = [
        (*box, match if positive else -1, is_object)
        for box, match, positive, is_object in zip(rois.boxes, rois.match, rois.positive, rois.is_object, strict=True)
    ]
    assert sorted(found[:count]) == sorted(candidates)
    for n in range(count):
        if rois.positive[n]:
            assert rois.classes[n] == things.classes[rois.match[n]]
            np.testing.assert_allclose(rois.overlap[n], overlap(rois.boxes[n], things.boxes[rois.match[n]]), rtol=1e-5)
            assert rois.overlap[n] >= limit
        else:
            assert rois.classes[n] == CLASSES and rois.overlap[n] < limit
    assert not rois.boxes[count:].any() and not rois.is_object[count:].any() and not rois.overlap[count:].any()
    assert (rois.classes[count:] == CLASSES).all()


def test_a_quarter_is_positive_at_most_and_the_others_are_counted():
    things = objects(5, 5, CLASSES, seed=0, side=SIDE)
    boxes = np.concatenate([np.tile(things.boxes, (8, 1)), np.tile([[0, 0, 3, 3]], (60, 1))]).astype(np.float32)
    rois = drawn(things, boxes, np.ones(100, bool))
    assert (rois.positive.sum(), rois.valid.sum(), rois.left_out) == (8, 32, 45 - 8)
    others = drawn(things, boxes, np.ones(100, bool), key=jax.random.key(1))
    assert not np.array_equal(rois.match, others.match)  # by chance


def test_few_boxes_leave_slots_empty():
    things = objects(1, 3, CLASSES, seed=0, side=SIDE)
    rois = drawn(things, np.zeros((4, 4), np.float32), np.zeros(4, bool))
    assert (rois.positive.sum(), rois.valid.sum(), rois.is_object.sum()) == (1, 1, 1)


def test_an_image_without_objects_has_background_alone():
    things = objects(0, 5, CLASSES, seed=0, side=SIDE)
    boxes, valid = proposals_near(things, 50, seed=0)
    rois = drawn(things, boxes, valid)
    assert not rois.positive.any() and not rois.is_object.any() and rois.valid.all()
    assert (rois.classes == CLASSES).all() and not rois.overlap.any()


def test_equal_objects_are_found_by_themselves_each():
    """Two classes in one place: both are taught."""
    things = objects(2, 2, CLASSES, seed=0, side=SIDE)
    things = things._replace(boxes=things.boxes[[0, 0]], classes=np.array([1, 3], np.int32))
    rois = drawn(things, np.zeros((4, 4), np.float32), np.zeros(4, bool))
    assert sorted(rois.classes[rois.is_object].tolist()) == [1, 3]


def test_low_quality_gives_an_object_the_proposal_that_overlaps_it_most():
    """Though that overlaps another object still more; what joins the proposals, the objects themselves, is no rival."""
    things = Objects(
        boxes=np.array([[0, 0, 40, 40], [0, 0, 40, 52]], np.float32),
        classes=np.array([1, 2], np.int32),
        valid=np.ones(2, bool),
        masks=np.zeros((2, 16, 16), np.uint8),
    )
    boxes, valid = np.array([[0, 0, 40, 42], [0, 0, 40, 12]], np.float32), np.ones(2, bool)
    for low_quality, wanted in ((False, 1), (True, 2)):
        rois = drawn(things, boxes, valid, low_quality=low_quality)
        (near,) = np.flatnonzero((rois.boxes == boxes[0]).all(axis=1))
        assert rois.positive[near] and rois.classes[near] == wanted
        assert sorted(rois.classes[rois.is_object].tolist()) == [1, 2]
    far = np.array([[0, 0, 40, 12], [0, 0, 40, 10]], np.float32)
    assert drawn(things, far, valid, low_quality=True).positive.sum() == 2  # the objects; no box overlaps one by half


def decoded_by_torch(boxes: torch.Tensor, deltas: torch.Tensor, stds: tuple[float, ...]) -> torch.Tensor:
    deltas = deltas * torch.tensor(stds)
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 + deltas[:, :2] * sides
    half = sides * torch.exp(deltas[:, 2:].clamp(-np.log(MOST), np.log(MOST))) / 2
    return torch.cat([centres - half, centres + half], dim=1)


@pytest.mark.parametrize("box_loss, beta", [("smooth_l1", 1.0), ("smooth_l1", 0.2), ("giou", 1.0)])
@pytest.mark.parametrize("agnostic", [True, False])
def test_losses_and_gradients_are_pytorchs(box_loss, beta, agnostic):
    stage, things = 1, objects(4, 6, CLASSES, seed=1, side=SIDE)
    boxes, valid = proposals_near(things, 60, seed=1)
    recipe = design(box_loss=box_loss, box_beta=beta, rois=80)
    rois = drawn(things, boxes, valid, stage, rois=80)
    positive = np.flatnonzero(rois.positive)
    assert 8 < len(positive) < rois.valid.sum() < 80
    rng = np.random.default_rng(0)
    arrays = 2 * rng.standard_normal((80, CLASSES + 1)), rng.standard_normal((80, 1 if agnostic else CLASSES, 4))
    scores, deltas = (torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in arrays)

    classes = torch.from_numpy(rois.classes).long()
    score = F.cross_entropy(scores[rois.valid], classes[rois.valid], reduction="sum")
    own = deltas[positive, 0] if agnostic else deltas[positive, classes[positive]]
    targets = torch.from_numpy(things.boxes[rois.match[positive]])
    starts = torch.from_numpy(rois.boxes[positive])
    if box_loss == "giou":
        giou = import_library("torchvision.ops.giou_loss").generalized_box_iou_loss
        box = 10 * giou(decoded_by_torch(starts, own, CASCADE[stage].stds), targets, reduction="sum")
    else:
        wanted_deltas = torch.from_numpy(np.array(CASCADE[stage].encode(starts.numpy(), targets.numpy())))
        box = F.smooth_l1_loss(own, wanted_deltas, reduction="sum", beta=beta)
    wanted = torch.autograd.grad(score + 3 * box, (scores, deltas))

    def loss(scores, deltas):
        terms = stage_terms(scores, deltas, rois, things, coder=CASCADE[stage], design=recipe)
        return terms.score + 3 * terms.box, terms

    step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), compiler_options=FAST)
    (_, found), gradients = step(*(x.astype(np.float32) for x in arrays))
    np.testing.assert_allclose(found.score, score.detach(), rtol=1e-5)
    np.testing.assert_allclose(found.box, box.detach(), rtol=1e-5)
    assert found.learning == rois.valid.sum()
    right = arrays[0][positive, :-1].argmax(axis=1) == rois.classes[positive]
    assert found.right == right.sum() and 0 < right.sum() < len(positive)
    for mine, reference in zip(gradients, wanted, strict=True):
        reference = reference.numpy()
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=1e-5 * np.abs(reference).max())


def test_a_stage_without_boxes_learns_nothing():
    things = objects(0, 3, CLASSES, seed=0, side=SIDE)
    rois = drawn(things, np.zeros((4, 4), np.float32), np.zeros(4, bool))
    assert not rois.valid.any()
    for box_loss in ("smooth_l1", "giou"):
        recipe = design(box_loss=box_loss)

        def loss(scores, deltas, recipe=recipe):
            terms = stage_terms(scores, deltas, rois, things, coder=CASCADE[0], design=recipe)
            return terms.score + terms.box, terms

        step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), compiler_options=FAST)
        (_, terms), gradients = step(np.ones((32, CLASSES + 1), np.float32), np.full((32, 1, 4), 9, np.float32))
        assert not any(np.asarray(x).any() for x in (*terms, *gradients))


@pytest.mark.parametrize("agnostic", [True, False])
def test_boxes_move_as_their_class_says_and_stay_in_the_image(agnostic):
    rng = np.random.default_rng(0)
    boxes, _ = proposals_near(objects(4, 4, CLASSES, seed=2, side=SIDE), 40, seed=2)
    scores = rng.standard_normal((40, CLASSES + 1)).astype(np.float32)
    scores[::3, -1] = 9  # background is likeliest, and yet no class to move by
    deltas = rng.standard_normal((40, 1 if agnostic else CLASSES, 4)).astype(np.float32)
    classes = rng.integers(CLASSES + 1, size=40)
    extent = np.array([70, 80])
    for known in (None, classes):
        move = jax.jit(functools.partial(refine, coder=CASCADE[0]), compiler_options=FAST)
        found = np.asarray(move(boxes, scores, deltas, extent, known))
        for n in range(40):
            label = scores[n, :-1].argmax()
            if known is not None and known[n] < CLASSES:
                label = known[n]
            own = torch.from_numpy(deltas[n, None, 0 if agnostic else label])
            wanted = decoded_by_torch(torch.from_numpy(boxes[n, None]), own, CASCADE[0].stds)[0].numpy()
            np.testing.assert_allclose(found[n], np.clip(wanted, 0, [80, 70, 80, 70]), rtol=1e-5, atol=1e-4)
    assert (found == [80, 70, 80, 70]).any() and (found == 0).any()


def test_no_gradient_flows_through_moved_boxes():
    def total(boxes, scores, deltas):
        return jnp.sum(refine(boxes, scores, deltas, jnp.array([90, 90]), coder=CASCADE[0]))

    arguments = jnp.array([[10.0, 10, 20, 30]]), jnp.ones((1, CLASSES + 1)), jnp.ones((1, CLASSES, 4))
    assert not any(x.any() for x in jax.jit(jax.grad(total, (0, 1, 2)))(*arguments))


def test_deltas_of_background_are_some_classs():
    deltas = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(own_deltas(deltas, np.array([1, 3])), [deltas[0, 1], deltas[1, 2]])
    np.testing.assert_array_equal(own_deltas(deltas[:, :1], np.array([1, 3])), deltas[:, 0])
