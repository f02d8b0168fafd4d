"""RoIAlign: both back-ends against torchvision's Python definition and each other; levels, capacities, gradients."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from from_timm import FAST_COMPILE, relative_error
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bob_jax.backbones.pytorch import import_library
from bob_jax.detection.roi_align import assign_levels, interpolation_matrix, place, roi_align
from bob_jax.errors import BobError

STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH = 320, 448
# Its own code, without `torch.compile` around it.
reference = inspect.unwrap(import_library("torchvision.ops.roi_align")._roi_align)
BOTH = pytest.mark.parametrize("backend", ["gather", "matmul"])


def pyramid(seed: int = 0, channels: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((HEIGHT // s, WIDTH // s, channels), np.float32) for s in STRIDES]


def boxes_of_every_kind(seed: int = 0) -> np.ndarray:
    """Of every level, on every border, tiny, thin, the whole image, and reaching out of it."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform([0, 0], [WIDTH, HEIGHT], (40, 2))
    sides = np.exp(rng.uniform(np.log(2), np.log(400), (40, 2)))
    random = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    random = np.clip(random, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    special = [
        [0, 0, WIDTH, HEIGHT],
        [0, 0, 60, 60],
        [WIDTH - 60, HEIGHT - 60, WIDTH, HEIGHT],
        [0, HEIGHT - 3, 3, HEIGHT],
        [100, 100, 100.25, 100.25],
        [0, 50, WIDTH, 50.5],
        [WIDTH - 0.5, 0, WIDTH, HEIGHT],
        [10, 10, 66, 66],  # exactly 56: still the first level
        [10, 10, 122, 122],  # exactly 112: the second
        [7, 7, 231, 231],
        [-40, -30, 90, 500],
        [-500, -500, 1500, 1500],
    ]
    return np.concatenate([random, np.array(special)]).astype(np.float32)


def expected(maps, boxes, levels, size, samples, aligned=True) -> torch.Tensor:
    """Each box from its level, by the reference. [T, size, size, C]; `maps` are arrays or tensors [H, W, C].

    In float64: in float32 the reference itself is off by 4e-5 for the box that reaches far out of the image.
    """
    rows = []
    for box, level in zip(boxes, levels, strict=True):
        roi = torch.tensor([[0.0, *box.tolist()]], dtype=torch.float64)
        x = torch.as_tensor(maps[level]).double().permute(2, 0, 1)[None]
        rows.append(reference(x, roi, 1 / STRIDES[level], size, size, samples, aligned)[0].permute(1, 2, 0))
    return torch.stack(rows)


def levels_by_logarithm(boxes: np.ndarray) -> np.ndarray:
    area = np.prod(np.clip(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 1e-9, None), axis=1)
    return np.clip(np.floor(np.log2(np.sqrt(area) / 56)), 0, 3).astype(int)


def ours(maps, boxes, valid=None, **arguments):
    valid = np.ones(len(boxes), bool) if valid is None else valid
    run = jax.jit(functools.partial(roi_align, strides=STRIDES, **arguments), compiler_options=FAST_COMPILE)
    return jax.tree.map(np.asarray, run(maps, boxes=boxes, valid=valid))


def test_levels_are_those_of_the_logarithm():
    boxes = boxes_of_every_kind()
    levels = np.asarray(assign_levels(boxes, STRIDES))
    np.testing.assert_array_equal(levels, levels_by_logarithm(boxes))
    assert set(levels) == {0, 1, 2, 3}
    edges = np.array(
        [[0, 0, side, side] for side in (56, 111.99, 112, 223.99, 224, 447.99, 448, 10_000, 0)], np.float32
    )
    np.testing.assert_array_equal(assign_levels(edges, STRIDES), [0, 0, 1, 1, 2, 2, 3, 3, 0])
    assert not np.asarray(assign_levels(edges, (16,))).any()


@BOTH
@pytest.mark.parametrize("size, samples, aligned", [(7, 2, True), (14, 1, True), (3, 4, True), (7, 2, False)])
def test_equals_torchvision(backend, size, samples, aligned):
    maps, boxes = pyramid(), boxes_of_every_kind()
    capacities = (len(boxes),) * 4
    found, moved = ours(
        maps, boxes, size=size, samples=samples, aligned=aligned, backend=backend, capacities=capacities
    )
    wanted = expected(maps, boxes, levels_by_logarithm(boxes), size, samples, aligned).numpy()
    assert moved == 0
    assert relative_error(found, wanted) < 1e-5


def test_adaptive_sampling_equals_torchvision():
    maps, boxes = pyramid(), boxes_of_every_kind()[:-2]  # clipped to the image, as the detector's are
    found, moved = ours(maps, boxes, size=7, samples=None)
    wanted = expected(maps, boxes, levels_by_logarithm(boxes), 7, 0).numpy()
    assert moved == 0
    assert relative_error(found, wanted) < 1e-5
    assert relative_error(ours(maps, boxes, size=7)[0], wanted) > 0.1  # it does matter


@BOTH
def test_gradient_of_the_maps_equals_torchvisions(backend):
    maps, boxes = pyramid(), boxes_of_every_kind()
    weights = np.random.default_rng(1).standard_normal((len(boxes), 7, 7, 3), np.float32)

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(maps, boxes):
        valid = jnp.ones(len(boxes), bool)
        features, _ = roi_align(maps, STRIDES, boxes, valid, size=7, backend=backend, capacities=(len(boxes),) * 4)
        return jnp.vdot(features, weights)

    of_maps, of_boxes = gradients(maps, boxes)
    leaves = [torch.tensor(x, requires_grad=True) for x in maps]
    (expected(leaves, boxes, levels_by_logarithm(boxes), 7, 2) * torch.from_numpy(weights)).sum().backward()
    for mine, leaf in zip(of_maps, leaves, strict=True):
        assert relative_error(np.asarray(mine), leaf.grad.numpy()) < 1e-5
    assert not np.asarray(of_boxes).any()


@BOTH
def test_invalid_boxes_give_zeros_and_no_gradient(backend):
    maps, boxes = pyramid(), boxes_of_every_kind()
    valid = np.arange(len(boxes)) % 3 != 0
    found, _ = ours(maps, boxes, valid, size=2, backend=backend)
    assert not found[~valid].any()
    junk = np.where(valid[:, None], boxes, np.nan).astype(np.float32)
    np.testing.assert_array_equal(ours(maps, junk, valid, size=2, backend=backend)[0], found)

    def loss(maps, boxes):
        return jnp.sum(roi_align(maps, STRIDES, boxes, valid, size=2, backend=backend)[0] ** 2)

    gradient = jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)
    for one, other in zip(gradient(maps, boxes), gradient(maps, junk), strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).all()


def placed_one_by_one(levels, valid, capacities):
    """The rule in plain words: own level, else the next coarser with room, else the next finer one with room."""
    room = list(capacities)
    placed = np.full(len(levels), len(capacities))
    waiting = []
    for level in range(len(capacities)):
        queue = sorted(waiting + [t for t in range(len(levels)) if valid[t] and levels[t] == level])
        waiting = []
        for t in queue:
            if room[level]:
                placed[t], room[level] = level, room[level] - 1
            else:
                waiting.append(t)
    for level in reversed(range(len(capacities))):
        for t in list(waiting):
            if room[level]:
                placed[t], room[level] = level, room[level] - 1
                waiting.remove(t)
    assert not waiting
    return placed


@pytest.mark.parametrize("seed", range(20))
def test_every_box_finds_room(seed):
    rng = np.random.default_rng(seed)
    total = 24
    levels = rng.choice(4, total, p=rng.dirichlet(np.full(4, 0.5))).astype(np.int32)
    valid = rng.random(total) < 0.9
    capacities = tuple(rng.multinomial(total, rng.dirichlet(np.ones(4))).tolist())
    placed, moved = place(levels, valid, capacities)
    np.testing.assert_array_equal(placed, placed_one_by_one(levels, valid, capacities))
    assert (np.bincount(np.asarray(placed), minlength=5)[:4] <= capacities).all()
    assert moved == np.sum(valid & (np.asarray(placed) != levels))


def test_boxes_beyond_capacity_are_served_elsewhere_and_counted():
    maps, boxes = pyramid(), boxes_of_every_kind()
    levels = levels_by_logarithm(boxes)
    capacities = (20, 10, 12, 14)
    placed = placed_one_by_one(levels, np.ones(len(boxes), bool), capacities)
    found, moved = ours(maps, boxes, size=7, backend="matmul", capacities=capacities)
    assert moved == (placed != levels).sum() > 0
    assert relative_error(found, expected(maps, boxes, placed, 7, 2).numpy()) < 1e-5


@BOTH
def test_a_batch_is_its_images_one_by_one(backend):
    batch = [pyramid(seed) for seed in (1, 2)]
    boxes = np.stack([np.concatenate([boxes_of_every_kind(seed)] * 2) for seed in (1, 2)])  # more than one chunk
    valid = np.random.default_rng(0).random(boxes.shape[:2]) < 0.8
    maps = [np.stack(level) for level in zip(*batch, strict=True)]
    arguments = {"size": 3, "backend": backend, "capacities": (90, 70, 30, 30)}
    batched = jax.vmap(lambda maps, boxes, valid: roi_align(maps, STRIDES, boxes, valid, **arguments))
    run = jax.jit(batched, compiler_options=FAST_COMPILE)
    together = run(maps, boxes, valid)
    for image in range(2):
        alone = ours(batch[image], boxes[image], valid[image], **arguments)
        np.testing.assert_allclose(together[0][image], alone[0], atol=1e-6)
        assert together[1][image] == alone[1]


@BOTH
def test_images_on_eight_devices_stay_there(backend):
    """Forwards and backwards, no device needs another's features; and the features are those of one device."""
    batch = [pyramid(seed) for seed in range(8)]
    maps = [np.stack(level) for level in zip(*batch, strict=True)]
    boxes = np.stack([boxes_of_every_kind(seed) for seed in range(8)])

    def features(maps, boxes):
        valid = jnp.ones(len(boxes), bool)
        return roi_align(maps, STRIDES, boxes, valid, size=2, backend=backend)[0]

    def step(maps, boxes):
        found, pull = jax.vjp(lambda maps: jax.vmap(features)(maps, boxes), maps)
        return found, pull(found)[0]

    alone = jax.jit(step, compiler_options=FAST_COMPILE)(maps, boxes)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        spread = jax.device_put((maps, boxes), NamedSharding(mesh, P("data")))
        program = jax.jit(step).lower(*spread).compile()
        together = program(*spread)
    assert not re.search(r"all-gather|all-reduce|all-to-all|collective-permute", program.as_text())
    for one, eight in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        assert len(eight.sharding.device_set) == 8
        np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-5 * np.abs(one).max())


@BOTH
def test_bfloat16_maps_give_bfloat16_features(backend):
    maps, boxes = pyramid(), boxes_of_every_kind()
    half = [jnp.asarray(x, jnp.bfloat16) for x in maps]
    found, _ = ours(half, boxes, size=7, backend=backend, capacities=(len(boxes),) * 4)
    assert found.dtype == jnp.bfloat16
    wanted, _ = ours([x.astype(jnp.float32) for x in half], boxes, size=7, backend="gather")
    assert relative_error(found.astype(np.float32), wanted) < 0.015  # of 8 bits: the maps', the weights', the sum's


def test_strides_that_are_no_powers_of_two():
    """The levels of a plain transformer with patches of 14 pixels; a feature that grows linearly shows the place."""
    strides = (3.5, 7, 14, 28)
    maps = [np.mgrid[: round(448 / s), : round(448 / s)].transpose(1, 2, 0).astype(np.float32) for s in strides]
    maps = [(x + 0.5) * s for x, s in zip(maps, strides, strict=True)]  # the centre of each cell in pixels, y and x
    boxes = np.array([[30, 40, 60, 80], [100, 50, 300, 350], [20, 30, 420, 400]], np.float32)
    for backend in ("gather", "matmul"):
        run = functools.partial(roi_align, strides=strides, size=2, backend=backend, capacities=(3,) * 4)
        found, _ = jax.jit(run, compiler_options=FAST_COMPILE)(maps, boxes=boxes, valid=np.ones(3, bool))
        for box, bins in zip(boxes, np.asarray(found), strict=True):
            x = box[0] + (box[2] - box[0]) * np.array([0.25, 0.75])
            y = box[1] + (box[3] - box[1]) * np.array([0.25, 0.75])
            np.testing.assert_allclose(bins, np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1), rtol=1e-5)


def test_interpolation_is_numpys():
    points, values = np.linspace(-3, 12, 61, dtype=np.float32), np.random.default_rng(0).standard_normal(9)
    np.testing.assert_allclose(
        interpolation_matrix(points, 9) @ values.astype(np.float32), np.interp(points, np.arange(9), values), atol=1e-6
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"backend": "pallas"}, "unknown RoIAlign back-end 'pallas'"),
        ({"capacities": (1, 1, 1, 1)}, "room for 4 of 52 boxes"),
        ({"capacities": (60,)}, "4 maps, 4 strides and 1 capacities"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    boxes = boxes_of_every_kind()
    with pytest.raises(BobError, match=message):
        roi_align(pyramid(), STRIDES, boxes, np.ones(len(boxes), bool), size=7, **arguments)
