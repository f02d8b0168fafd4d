"""The proposal network: its head and losses against PyTorch, its proposals against plain loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from from_timm import randomise, relative_error, renamed, to_torch
from greedy_nms import greedy
from test_assign import by_hand as assigned_by_hand
from tiny_detector import FAST, objects

from bob_jax.backbones import parameters
from bob_jax.backbones.pytorch import import_library
from bob_jax.detection.anchors import anchors
from bob_jax.detection.coder import RPN
from bob_jax.detection.objects import Boxes
from bob_jax.detection.rpn import RPNHead, propose, rpn_terms

KEY = jax.random.key(0)
PYRAMID = anchors([(6, 8), (3, 4), (2, 2)], (16, 32, 64), (2.0,))  # 192 anchors of the 256 that may learn: all do
EXTENT = np.array([90, 120])


@pytest.mark.parametrize("convs", [1, 2])
def test_head_is_torchvisions(convs):
    rpn = import_library("torchvision.models.detection.rpn")
    theirs = randomise(rpn.RPNHead(32, 3, conv_depth=convs))
    ours = nnx.eval_shape(lambda: RPNHead(32, 3, convs=convs, norm="none", dtype=jnp.float32, rngs=nnx.Rngs(0)))
    names = [(r"conv\.(\d)\.0\.", r"convs.\1.conv.")]
    parameters.assign(ours, renamed(theirs.state_dict().items(), names), "torchvision")
    rng = np.random.default_rng(0)
    levels = [rng.standard_normal((2, *size, 32), np.float32) for size in ((6, 8), (3, 4), (2, 2))]
    with torch.no_grad():
        wanted = rpn.concat_box_prediction_layers(*(list(x) for x in theirs([to_torch(x) for x in levels])))
    logits, deltas = jax.jit(lambda head, levels: head(levels), compiler_options=FAST)(ours, levels)
    assert relative_error(np.asarray(logits), wanted[0].reshape(2, -1).numpy()) < 1e-5
    assert relative_error(np.asarray(deltas), wanted[1].reshape(2, -1, 4).numpy()) < 1e-5


def test_head_with_norms_is_its_pytorch_twin():
    class LayerNorm2d(torch.nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    layers: dict[str, torch.nn.Module] = {}
    for n in range(2):
        layers[f"convs_{n}_conv"] = torch.nn.Conv2d(32, 32, 3, padding=1, bias=False)
        layers[f"convs_{n}_norm"] = LayerNorm2d(32, eps=1e-6)
    layers |= {"cls_logits": torch.nn.Conv2d(32, 3, 1), "bbox_pred": torch.nn.Conv2d(32, 12, 1)}
    theirs = randomise(torch.nn.ModuleDict(layers))
    ours = nnx.eval_shape(lambda: RPNHead(32, 3, convs=2, norm="layer", dtype=jnp.float32, rngs=nnx.Rngs(0)))
    names = [(r"convs_(\d)_(\w+)", r"convs.\1.\2")]
    parameters.assign(ours, renamed(theirs.state_dict().items(), names), "twin")
    x = np.random.default_rng(0).standard_normal((1, 5, 7, 32), np.float32)
    with torch.no_grad():
        y = to_torch(x)
        for n in range(2):
            y = torch.relu(layers[f"convs_{n}_norm"](layers[f"convs_{n}_conv"](y)))
        scores, boxes = (layers[name](y).permute(0, 2, 3, 1) for name in ("cls_logits", "bbox_pred"))
    logits, deltas = jax.jit(lambda head, x: head([x]), compiler_options=FAST)(ours, x)
    assert relative_error(np.asarray(logits), scores.reshape(1, -1).numpy()) < 1e-5
    assert relative_error(np.asarray(deltas), boxes.reshape(1, -1, 4).numpy()) < 1e-5


def head_outputs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = len(PYRAMID.boxes)
    logits, deltas = rng.standard_normal(count), 0.3 * rng.standard_normal((count, 4))
    return (3 * logits).astype(np.float32), deltas.astype(np.float32)


@functools.partial(jax.jit, compiler_options=FAST)
def terms_and_gradients(logits, deltas, things, usable):
    def loss(logits, deltas):
        terms = rpn_terms(KEY, jnp.asarray(PYRAMID.boxes), logits, deltas, things, usable)
        return terms.objectness + 3 * terms.box, terms

    (_, terms), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(logits, deltas)
    return terms, gradients


@pytest.mark.parametrize("count", [0, 1, 5])
def test_losses_and_gradients_are_pytorchs(count):
    things = objects(count, slots=7, classes=3, seed=count, side=90)
    usable = (PYRAMID.centres < EXTENT[::-1]).all(axis=1) & (np.arange(len(PYRAMID.boxes)) % 9 != 0)
    assigned = assigned_by_hand(PYRAMID.boxes, things.boxes, things.valid, 0.7, 0.3, 0.3, usable=usable)[0]
    learning, positive = assigned > -2, assigned >= 0
    assert 50 < learning.sum() < usable.sum() or count == 0
    assert positive.sum() >= count

    arrays = head_outputs(count)
    logits, deltas = (torch.tensor(x, requires_grad=True) for x in arrays)
    labels = torch.from_numpy(positive.astype(np.float32))
    objectness = F.binary_cross_entropy_with_logits(logits[learning], labels[learning], reduction="sum")
    targets = torch.from_numpy(np.array(RPN.encode(PYRAMID.boxes[positive], things.boxes[assigned[positive]])))
    box = F.smooth_l1_loss(deltas[positive], targets, reduction="sum", beta=1 / 9)
    wanted = torch.autograd.grad(objectness + 3 * box, (logits, deltas))

    found, gradients = terms_and_gradients(*arrays, things, usable)
    np.testing.assert_allclose(found.objectness, objectness.detach(), rtol=1e-5)
    np.testing.assert_allclose(found.box, box.detach(), rtol=1e-5)
    assert (found.learning, found.positive, found.left_out) == (learning.sum(), positive.sum(), 0)
    for mine, reference in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=1e-6)


def test_positive_anchors_without_room_are_counted():
    boxes = jnp.tile(jnp.array([[0.0, 0, 32, 32]]), (300, 1))
    things = objects(1, slots=1, classes=1, seed=0)._replace(boxes=np.array([[0, 0, 32, 32]], np.float32))
    step = jax.jit(functools.partial(rpn_terms, KEY, boxes), compiler_options=FAST)
    terms = step(jnp.zeros(300), jnp.ones((300, 4)), things, jnp.ones(300, bool))
    assert (terms.learning, terms.positive, terms.left_out) == (128, 128, 300 - 128)
    np.testing.assert_allclose(terms.objectness, 128 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(terms.box, 128 * 4 * (1 - 0.5 / 9), rtol=1e-6)


def test_no_anchor_may_learn():
    terms, gradients = terms_and_gradients(*head_outputs(), objects(3, 5, 2, 0), np.zeros(len(PYRAMID.boxes), bool))
    assert not any(np.asarray(x).any() for x in (*terms, *gradients))


def proposed_by_hand(logits, deltas, before, size, overlap) -> list[tuple[float, np.ndarray]]:
    """Score and box of all proposals: each level for itself, then the best of all."""
    boxes = np.asarray(RPN.decode(PYRAMID.boxes, deltas))
    boxes = np.clip(boxes, 0, np.tile(EXTENT[::-1], 2)).astype(np.float32)
    whole = (boxes[:, 2:] - boxes[:, :2] >= 1e-3).all(axis=1)
    found, start = [], 0
    for count in PYRAMID.counts:
        level = slice(start, start + count)
        best = sorted(range(count), key=lambda n, level=level: (-logits[level][n], n))[:before]
        among = np.isin(np.arange(count), best) & whole[level]
        found += [(logits[level][n], boxes[level][n]) for n in greedy(boxes[level], logits[level], among, overlap)]
        start += count
    return sorted(found, key=lambda one: -one[0])[:size]  # stable: equals by level, then by anchor


@functools.partial(jax.jit, static_argnames=("before", "size", "overlap"), compiler_options=FAST)
def proposed(logits, deltas, before, size, overlap) -> Boxes:
    return propose(PYRAMID, logits, deltas, EXTENT, before=before, size=size, overlap=overlap)


def check(logits, deltas, before, size, overlap) -> int:
    found = jax.tree.map(np.asarray, proposed(logits, deltas, before, size, overlap))
    wanted = proposed_by_hand(logits, deltas, before, size, overlap)
    assert found.boxes.shape == (size, 4)
    np.testing.assert_array_equal(found.valid, np.arange(size) < len(wanted))
    assert found.scores[found.valid].tolist() == [score for score, _ in wanted]
    np.testing.assert_allclose(
        found.boxes[found.valid], np.array([box for _, box in wanted]).reshape(-1, 4), rtol=1e-6, atol=1e-5
    )
    assert (found.scores[~found.valid] == -np.inf).all()
    return len(wanted)


@pytest.mark.parametrize("overlap", [0.3, 0.7])
@pytest.mark.parametrize("before, size", [(1000, 40), (1000, 300), (20, 20), (20, 100)])
def test_proposals_equal_plain_loops(overlap, before, size):
    """More and fewer anchors than are compared, more and fewer proposals than there are slots."""
    count = check(*head_outputs(1), before, size, overlap)
    assert count == size if size in (20, 40) else 20 < count < size
    logits, deltas = head_outputs(2)
    check(np.round(logits) + 0.0, deltas, before, size, overlap)  # equal scores; -0 would not equal 0


def test_levels_without_proposals():
    logits, deltas = head_outputs(3)
    first, second, _ = PYRAMID.counts
    for level in (slice(0, first), slice(first, first + second), slice(first + second, None)):
        away = deltas.copy()
        away[level, :2] = 20  # twenty sides to the right of the image
        assert 10 < check(logits, away, 1000, 300, 0.7) < 250
    deltas[:, :2] = 20
    assert check(logits, deltas, 1000, 30, 0.7) == 0


def test_a_box_thinner_than_the_smallest_is_none():
    logits, deltas = head_outputs(4)
    deltas[:, 0] = (EXTENT[1] + PYRAMID.boxes[:, 2] - PYRAMID.boxes[:, 0] - PYRAMID.boxes[:, 2]) / (
        PYRAMID.boxes[:, 2] - PYRAMID.boxes[:, 0]
    )
    deltas[:, 2] = 0
    boxes = np.asarray(RPN.decode(PYRAMID.boxes, deltas))
    np.testing.assert_allclose(boxes[:, 0], EXTENT[1], atol=1e-3)  # they start where the image ends
    deltas[::2, 0] -= 0.05
    count = check(logits, deltas, 1000, 300, 0.7)
    assert 5 < count <= len(deltas) / 2


def test_no_gradient_flows_through_proposals():
    def total(logits, deltas):
        return jnp.sum(propose(PYRAMID, logits, deltas, EXTENT, before=10, size=10, overlap=0.7).boxes)

    gradients = jax.jit(jax.grad(total, (0, 1)), compiler_options=FAST)(*head_outputs(5))
    assert not any(x.any() for x in gradients)


def test_a_batch_proposes_what_each_image_does():
    logits, deltas = (np.stack(x) for x in zip(head_outputs(6), head_outputs(7), strict=True))
    one = functools.partial(propose, PYRAMID, extent=EXTENT, before=30, size=40, overlap=0.7)
    together = jax.jit(jax.vmap(lambda *row: one(*row)), compiler_options=FAST)(logits, deltas)
    for n in range(2):
        alone = proposed(logits[n], deltas[n], 30, 40, 0.7)
        np.testing.assert_array_equal(together.scores[n], alone.scores)
        np.testing.assert_allclose(together.boxes[n], alone.boxes, rtol=1e-6)
