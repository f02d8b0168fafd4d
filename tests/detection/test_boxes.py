"""Boxes: against plain loops, torchvision's Python definitions and PyTorch's gradients; boxes without area."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bob_jax.backbones.pytorch import import_library
from bob_jax.detection import boxes as ours

vision = import_library("torchvision.ops.boxes")


def random_boxes(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(-20, 100, (count, 2))
    return np.concatenate([low, low + rng.uniform(0.5, 60, (count, 2))], axis=1).astype(np.float32)


def overlap_by_hand(a, b) -> tuple[float, float]:
    """IoU and GIoU of two boxes in float64; 0 where a ratio has no denominator."""
    ax1, ay1, ax2, ay2, bx1, by1, bx2, by2 = (float(x) for x in (*a, *b))
    common = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    union = max(0.0, ax2 - ax1) * max(0.0, ay2 - ay1) + max(0.0, bx2 - bx1) * max(0.0, by2 - by1) - common
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    value = common / union if union else 0.0
    return value, value - ((hull - union) / hull if hull else 0.0)


SPECIAL = np.array(
    [
        [0, 0, 10, 10],
        [0, 0, 10, 10],  # a duplicate
        [10, 0, 20, 10],  # touches
        [0, 0, 5, 10],  # half of it
        [2, 2, 4, 4],  # inside
        [5, 5, 5, 9],  # a line
        [0, 0, 0, 0],  # padding
    ],
    np.float32,
)


@pytest.mark.parametrize(
    "index, pairwise, paired", [(0, ours.pairwise_iou, ours.iou), (1, ours.pairwise_giou, ours.giou)]
)
def test_overlaps_are_those_by_hand(index, pairwise, paired):
    first = np.concatenate([random_boxes(30, 0), SPECIAL])
    second = np.concatenate([random_boxes(20, 1), SPECIAL])
    wanted = np.array([[overlap_by_hand(a, b)[index] for b in second] for a in first])
    found = np.asarray(pairwise(first, second))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    np.testing.assert_allclose(paired(first[:20], second[:20]), np.diag(wanted[:20, :20]), atol=2e-6)
    assert (wanted[:30, :20] > 0.1).sum() > 10 and (wanted[:30, :20] <= 0).sum() > 10


def test_overlaps_are_torchvisions():
    first, second = random_boxes(40, 2), random_boxes(30, 3)
    a, b = torch.from_numpy(first), torch.from_numpy(second)
    np.testing.assert_allclose(ours.pairwise_iou(first, second), vision.box_iou(a, b), atol=1e-6)
    np.testing.assert_allclose(ours.pairwise_giou(first, second), vision.generalized_box_iou(a, b), atol=1e-6)
    np.testing.assert_allclose(ours.area(first), vision.box_area(a), rtol=1e-6)


def test_exact_values():
    box = jnp.array([0.0, 0, 10, 10])
    assert ours.iou(box, box) == 1 and ours.giou(box, box) == 1
    assert ours.iou(box, jnp.array([0.0, 0, 5, 10])) == 0.5
    assert ours.giou(box, jnp.array([20.0, 0, 30, 10])) == pytest.approx(-1 / 3)
    assert ours.area(jnp.array([5.0, 5, 2, 9])) == 0
    assert ours.coverage(jnp.array([0.0, 0, 4, 4]), jnp.array([2.0, 0, 100, 100])) == 0.5


def test_gradient_of_giou_is_pytorchs():
    """Of both boxes, overlapping ones and ones that lie apart."""
    predicted, targets = random_boxes(200, 4), random_boxes(200, 5)
    apart = np.asarray(ours.iou(predicted, targets)) == 0
    assert 20 < apart.sum() < 180
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (predicted, targets)]
    loss = import_library("torchvision.ops.giou_loss").generalized_box_iou_loss(*leaves, eps=0.0)
    loss.sum().backward()
    valid = np.ones(200, bool)
    found = ours.giou_loss(predicted, targets, valid)
    np.testing.assert_allclose(found, loss.detach(), atol=2e-6)
    gradients = jax.grad(lambda a, b: jnp.sum(ours.giou_loss(a, b, valid)), argnums=(0, 1))(predicted, targets)
    for mine, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(mine, leaf.grad, atol=1e-5 * leaf.grad.abs().max().item())
        assert np.abs(np.asarray(mine)[apart]).max() > 0


def test_gradient_of_giou_is_the_finite_difference():
    predicted, targets = random_boxes(20, 6), random_boxes(20, 7)
    found = jax.grad(lambda a: jnp.sum(ours.giou_loss(a, targets, np.ones(20, bool))))(predicted)
    step = 1e-6
    for row in range(20):
        for column in range(4):
            ends = []
            for sign in (1, -1):
                box = predicted[row].astype(np.float64)
                box[column] += sign * step
                ends.append(1 - overlap_by_hand(box, targets[row])[1])
            assert found[row, column] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-6)


def test_boxes_without_area_and_junk_have_finite_gradients():
    everything = np.concatenate([SPECIAL, random_boxes(3, 8)])
    first, second = np.repeat(everything, len(everything), axis=0), np.tile(everything, (len(everything), 1))
    for function in (ours.iou, ours.giou):
        value, gradient = jax.value_and_grad(lambda a, f=function: jnp.sum(f(a, second)))(first)
        assert np.isfinite(value) and np.isfinite(gradient).all()
    valid = np.arange(len(first)) % 3 > 0
    junk = np.where(valid[:, None], first, np.nan).astype(np.float32)
    value, gradient = jax.value_and_grad(lambda a: jnp.sum(ours.giou_loss(a, second, valid)))(junk)
    clean = jax.grad(lambda a: jnp.sum(ours.giou_loss(a, second, valid)))(first)
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient, clean)
    assert not np.asarray(gradient)[~valid].any()


def test_formats_are_torchvisions_and_come_back():
    corners = random_boxes(50, 9)
    for name, there, back in (("cxcywh", ours.to_centres, ours.from_centres), ("xywh", ours.to_coco, ours.from_coco)):
        wanted = vision.box_convert(torch.from_numpy(corners), "xyxy", name)
        np.testing.assert_allclose(there(corners), wanted, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(back(there(corners)), corners, rtol=1e-6, atol=1e-5)


def test_clip_scale_flip():
    boxes = np.array([[[-5, -3, 50, 200], [10, 20, 30, 40]]], np.float32)
    np.testing.assert_array_equal(ours.clip(boxes, 100, 40), [[[0, 0, 40, 100], [10, 20, 30, 40]]])
    np.testing.assert_array_equal(
        ours.clip(random_boxes(50, 10), 60, 90),
        vision.clip_boxes_to_image(torch.tensor(random_boxes(50, 10)), (60, 90)),
    )
    np.testing.assert_array_equal(ours.scale(boxes, y=0.5, x=2), [[[-10, -1.5, 100, 100], [20, 10, 60, 20]]])
    np.testing.assert_array_equal(ours.flip(boxes, 64), [[[14, -3, 69, 200], [34, 20, 54, 40]]])
    np.testing.assert_array_equal(ours.flip(ours.flip(boxes, 64), 64), boxes)


def test_flipping_and_scaling_keep_overlaps():
    first, second = random_boxes(20, 11), random_boxes(20, 12)
    before = ours.pairwise_giou(first, second)
    for change in (lambda x: ours.flip(x, 128), lambda x: ours.scale(x, 2, 0.25)):
        np.testing.assert_allclose(ours.pairwise_giou(change(first), change(second)), before, atol=5e-6)


def test_sizes_of_images_may_be_traced_and_integers_become_floats():
    boxes = np.array([[[0, 0, 50, 50]], [[0, 0, 50, 50]]], np.int32)
    sizes = np.array([[30, 20], [10, 40]], np.int32)
    clipped = jax.jit(jax.vmap(lambda boxes, size: ours.clip(boxes, size[0], size[1])))(boxes, sizes)
    np.testing.assert_array_equal(clipped, [[[0, 0, 20, 30]], [[0, 0, 40, 10]]])
    assert clipped.dtype == np.float32
    assert ours.iou(jnp.asarray(boxes, jnp.bfloat16), jnp.asarray(boxes, jnp.bfloat16)).dtype == np.float32
