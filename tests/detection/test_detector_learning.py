"""The detector put together: what must not change its losses, on one device and eight; every design; what it finds."""

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tiny_backbones import TINY
from tiny_detector import FAST, design, objects

from bob_jax.detection import detector
from bob_jax.detection.cascade import refine
from bob_jax.detection.coder import CASCADE
from bob_jax.detection.design import Design
from bob_jax.detection.detect import find
from bob_jax.detection.detector import Heads, Learning, total_loss
from bob_jax.detection.objects import Found, Objects
from bob_jax.detection.roi_align import roi_align
from bob_jax.detection.rpn import propose
from bob_jax.errors import BobError

CLASSES, SIDE, SLOTS = 3, 64, 6
COLLECTIVES = r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
# Two stages, so that boxes are handed on, and a mask head.
TWO = design(stage_overlaps=(0.5, 0.6), stage_weights=(1.0, 0.5))
ONE = {"stage_overlaps": (0.5,), "stage_weights": (1.0,)}


class Batch(NamedTuple):
    """What `Heads.learn` is given."""

    maps: tuple[Any, ...]
    objects: Objects
    extents: Any
    there: Any
    keys: Any


def batch(rows: int, side: int = SIDE, backbone: str = "convnext", scale: float = 1.0) -> Batch:
    """Images with 0 to 3 objects each, the first with none; half of them are narrower than the canvas."""
    model, rng = skeleton(backbone), np.random.default_rng(0)
    sizes = zip(model.strides, model.widths, strict=True)
    maps = [scale * rng.standard_normal((rows, side // s, side // s, w), np.float32) for s, w in sizes]
    things = [objects(n % 4, SLOTS, CLASSES, seed=n, side=SIDE - 16) for n in range(rows)]
    return Batch(
        tuple(maps),
        jax.tree.map(lambda *x: np.stack(x), *things),
        np.array([[SIDE, SIDE], [SIDE, SIDE - 16]] * rows)[:rows],
        np.ones(rows, bool),
        jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), np.arange(rows)),
    )


@functools.cache
def skeleton(backbone: str):
    return nnx.eval_shape(TINY[backbone])


@functools.cache
def new(recipe: Design, backbone: str = "convnext") -> tuple[nnx.GraphDef, Any]:
    """Heads and their weights: all of a size that makes what the layers say matter."""
    heads = nnx.eval_shape(
        lambda: Heads(skeleton(backbone), CLASSES, recipe, dtype=jnp.float32, rngs=nnx.Rngs(0)),
    )
    graph, params = nnx.split(heads)
    rng = np.random.default_rng(0)

    def draw(path: Any, x: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        noise = rng.standard_normal(x.shape).astype(np.float32)
        if "scale" in name:
            return 1 + 0.2 * noise
        if "bias" in name:
            return 0 * noise
        return noise * np.float32(np.sqrt(2 * x.shape[-1] / x.size)) * np.float32(0.3 if "bbox_pred" in name else 1)

    return graph, jax.tree.map_with_path(draw, params)


def losses(graph, params, *rows) -> tuple[jax.Array, Learning]:
    learned = nnx.merge(graph, params).learn(*rows)
    return total_loss(learned.losses), learned


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def taught(graph, params, *rows) -> Learning:
    return losses(graph, params, *rows)[1]


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def taught_and_gradients(graph, params, *rows) -> tuple[Learning, Any, Any]:
    """With the gradients of weights and maps."""
    maps, *others = rows

    def loss(params, maps):
        return losses(graph, params, maps, *others)

    (_, learned), (of_params, of_maps) = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, maps)
    return learned, of_params, of_maps


def by_name(tree: Any) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(tree)}


def check_close(found: dict[str, Any], wanted: dict[str, Any], rtol: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-7, err_msg=name)


def rows_of(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


@pytest.fixture(scope="module")
def one_device() -> tuple[Learning, dict[str, np.ndarray]]:
    """Eight images on one device."""
    learned, gradients, _ = taught_and_gradients(*new(TWO), *batch(8))
    return learned, by_name(gradients)


def test_losses_and_counters_are_what_they_should_be(one_device):
    learned, gradients = one_device
    assert set(learned.losses) == {"rpn_score", "rpn_box", "stage1_score", "stage1_box", "stage1_mask"} | {
        "stage2_score",
        "stage2_box",
    }
    counters = {name: np.asarray(x) for name, x in learned.counters.items()}
    for name, value in [*learned.losses.items(), *counters.items(), *gradients.items()]:
        assert np.isfinite(value).all(), name
    assert all(value > 0 for value in learned.losses.values())
    some = np.arange(8) % 4 > 0  # images with objects
    for stage in ("stage1", "stage2"):
        assert ((counters[f"{stage}_positive"] > 0) == some).all()
        assert (counters[f"{stage}_positive"] <= TWO.most_positive).all()
        assert (counters[f"{stage}_rois"] <= TWO.rois).all() and counters[f"{stage}_rois"].min() > 8
        assert ((counters[f"{stage}_overlap"] > (0.5, 0.6)[stage == "stage2"]) == some).all()
        assert 0 < counters[f"{stage}_positive_right"].mean() < 1
    assert ((counters["rpn_positive"] > 0) == some).all()
    assert (counters["proposals"] > 10).all() and (counters["proposal_recall"][~some] == 1).all()
    assert all(value.shape == (8,) and value.dtype == np.float32 for value in counters.values())


def test_every_weight_learns(one_device):
    assert not [name for name, gradient in one_device[1].items() if not gradient.any()]


def test_order_of_the_images_does_not_matter(one_device):
    order = np.array([5, 0, 7, 2, 1, 6, 4, 3])
    learned, _, _ = taught_and_gradients(*new(TWO), *rows_of(batch(8), order))
    check_close(learned.losses, one_device[0].losses, 1e-6)
    check_close(learned.counters, rows_of(one_device[0].counters, order), 1e-6)


def test_padding_changes_nothing():
    """Rows without an image, as if they were not there, and more room for objects, both full of junk."""
    given = batch(8)
    given.there[[2, 7]] = False
    learned, gradients, of_maps = taught_and_gradients(*new(TWO), *given)
    left = np.array([0, 1, 3, 4, 5, 6])
    less = rows_of(given, left)
    wider = jax.tree.map(lambda x: np.concatenate([x, x], axis=1), less.objects)
    wider.valid[:, SLOTS:] = False
    without = taught(*new(TWO), *less._replace(objects=wider))
    check_close(learned.losses, without.losses, 1e-6)
    check_close(rows_of(learned.counters, left), without.counters, 1e-6)
    assert all(np.isfinite(x).all() for x in by_name(gradients).values())
    for x in of_maps:
        assert not x[np.array([2, 7])].any() and np.asarray(x[left]).any(axis=(1, 2, 3)).all()
    assert not any(learned.counters[f"stage{n}_rois"][np.array([2, 7])].any() for n in (1, 2))


@pytest.mark.parametrize("images", [0, 8])
def test_batches_without_objects_or_images_are_finite(images):
    given = batch(8)
    given.objects.valid[:] = False
    given.there[:] = images > 0
    learned, gradients, _ = taught_and_gradients(*new(TWO), *given)
    assert all(np.isfinite(x).all() for x in [*learned.losses.values(), *by_name(gradients).values()])
    taught_something = {name for name, value in learned.losses.items() if value != 0}
    assert taught_something == ({"rpn_score", "stage1_score", "stage2_score"} if images else set())
    assert any(x.any() for x in by_name(gradients).values()) == bool(images)


def on_eight_devices(step: Callable, params: Any, *rows) -> tuple[Any, list[str]]:
    """The outputs of a step whose rows are split, and the collectives in its program."""
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, NamedSharding(mesh, P()))
        rows = jax.device_put(rows, NamedSharding(mesh, P(("data", "fsdp"))))
        program = jax.jit(step).lower(params, *rows).compile(compiler_options=FAST)
        return program(params, *rows), re.findall(COLLECTIVES, program.as_text())


def test_eight_devices_learn_the_same_and_exchange_sums_alone(one_device):
    """Sums of losses, their divisors and gradients: no maps, no scores, and no waiting in a loop's condition."""
    graph, params = new(TWO)
    (learned, gradients), collectives = on_eight_devices(
        lambda *rows: taught_and_gradients.__wrapped__(graph, *rows)[:2], params, *batch(8)
    )
    check_close(learned.losses, one_device[0].losses, 1e-5)
    check_close(learned.counters, one_device[0].counters, 1e-5)
    found = by_name(gradients)
    for name, gradient in one_device[1].items():
        assert np.linalg.norm(found[name] - gradient) < 1e-5 * np.linalg.norm(gradient), name
    assert set(collectives) == {"all-reduce"} and len(collectives) <= 4


def test_a_larger_canvas_changes_nothing():
    """Convolutions that see their own cell alone do not see where the padding ends; all boxes learn, none is drawn."""
    recipe = design(
        neck_norm="none",
        anchor_border=0.0,  # 174 anchors at most lie in the image, of 256 that may learn
        rois=80,
        positive_share=0.5,
        proposals_before=(64, 64),
        **ONE,
    )
    graph, params = new(recipe)
    params = jax.tree.map_with_path(_local, params)
    small = batch(2, side=96)
    maps = []
    for x, stride in zip(small.maps, skeleton("convnext").strides, strict=True):
        starts = np.arange(x.shape[1]) * stride
        inside = starts[None] < small.extents[:, :, None]  # [B, 2, cells]
        maps.append(x * inside[:, 0, :, None, None] * inside[:, 1, None, :, None])
    larger = [np.pad(x, ((0, 0), (0, x.shape[1] // 3), (0, x.shape[2] // 3), (0, 0))) for x in maps]
    assert larger[0].shape[1:3] == (32, 32)
    wanted = taught(graph, params, *small._replace(maps=tuple(maps)))
    assert (wanted.counters["proposals"] == recipe.proposals[0]).all() and (wanted.losses["stage1_box"] > 0)
    assert not any(x.any() for name, x in wanted.counters.items() if name.endswith("left_out"))
    found = taught(graph, params, *small._replace(maps=tuple(larger)))
    check_close(found.losses, wanted.losses, 1e-6)
    check_close(found.counters, wanted.counters, 1e-6)


def _local(path: Any, x: np.ndarray) -> np.ndarray:
    """3x3 kernels that are 0 but in their middle; every score of an anchor in the image is above that of padding, 0."""
    if "cls_logits" in jax.tree_util.keystr(path):
        return np.abs(x)
    middle = np.zeros((3, 3, 1, 1), np.float32)
    middle[1, 1] = 1
    return x * middle if x.shape[:2] == (3, 3) else x


def test_overflows_are_counted(monkeypatch):
    """More positive anchors and boxes than may learn, and more boxes of a level than the product on a TPU serves."""
    monkeypatch.setattr(detector, "roi_align", functools.partial(roi_align, backend="matmul"))
    monkeypatch.setattr("bob_jax.detection.roi_align.SMALL", 0)  # as on maps that are not
    recipe = design(anchor_scale=64.0, rois=8, **ONE)
    given = batch(2)
    given.objects.boxes[:] = [-96, -96, 160, 160]  # all of them one place, in which most anchors of stride 4 lie
    given.objects.valid[:] = [[True] * SLOTS, [False] * SLOTS]
    graph, params = new(recipe)
    counters = jax.jit(lambda *rows: losses(graph, *rows)[1].counters, compiler_options=FAST)(params, *given)
    assert counters["rpn_positive"].tolist() == [128, 0] and counters["rpn_positive_left_out"][0] > 0
    assert counters["rpn_positive_left_out"][1] == 0
    assert counters["stage1_positive_left_out"].tolist() == [SLOTS - 2, 0]
    # Each level serves 4 of 8 boxes, and 1 of 2 positive ones. Of the first image 2 objects are in a coarse level.
    assert counters["stage1_moved_level"].tolist() == [2, 4]
    assert counters["stage1_mask_moved_level"].tolist() == [1, 0]


@pytest.mark.parametrize(
    "backbone, changes",
    [
        ("convnext", {"mask_heads": 3, "low_quality": True, "rpn_convs": 2, "rpn_norm": "layer", "neck_norm": "none"}),
        ("vit", {"class_agnostic": False, "box_loss": "giou", "box_convs": 1, "box_norm": "group", **ONE}),
    ],
)
def test_other_designs_learn(backbone, changes):
    recipe = design(**changes)
    learned, gradients, of_maps = taught_and_gradients(*new(recipe, backbone), *batch(4, backbone=backbone))
    assert all(np.isfinite(x) and x > 0 for x in learned.losses.values())
    assert len(learned.losses) == 2 + 2 * recipe.stages + recipe.mask_heads
    for name, gradient in by_name(gradients).items():
        assert np.isfinite(gradient).all() and gradient.any(), name
    assert all(np.isfinite(x).all() for x in of_maps) and np.asarray(of_maps[-1]).any()


DESIGNS = list(itertools.product((True, False), ("smooth_l1", "giou"), ((1, 0), (1, 1), (3, 0), (3, 1), (3, 3))))


@pytest.mark.parametrize("number", range(len(DESIGNS)))
def test_every_design_can_be_traced(number):
    """Every combination of heads; the necks, which give the same levels, take turns, and each meets every choice."""
    agnostic, box_loss, parts = DESIGNS[number]
    backbone = ("convnext", "vit")[number % 2]
    stages, masks = parts
    recipe = design(
        class_agnostic=agnostic,
        box_loss=box_loss,
        stage_overlaps=(0.5, 0.6, 0.7)[:stages],
        stage_weights=(1.0, 0.5, 0.25)[:stages],
        mask_heads=masks,
    )

    def both(maps, *others):
        heads = Heads(skeleton(backbone), CLASSES, recipe, dtype=jnp.float32, rngs=nnx.Rngs(0))
        # The box loss plays no part in use: half as many traces show it.
        return heads.learn(maps, *others), heads.detect(maps, others[1]) if box_loss == "giou" else None

    learned, found = jax.eval_shape(both, *batch(2, backbone=backbone))
    names = {"rpn_score", "rpn_box"} | {f"stage{n + 1}_{part}" for n in range(stages) for part in ("score", "box")}
    assert set(learned.losses) == names | {f"stage{n + 1}_mask" for n in range(masks)}
    assert {x.shape for x in learned.losses.values()} == {()} and {x.shape for x in learned.counters.values()} == {(2,)}
    if found is None:
        return
    slots = recipe.detections
    mask = (28, 28) if masks else (0, 0)
    wanted = Found((2, slots, 4), (2, slots), (2, slots), (2, slots), (2, slots, *mask), (2,))
    assert Found(*(x.shape for x in found)) == wanted
    assert found.classes.dtype == jnp.int32 and found.valid.dtype == found.uncertain.dtype == bool


FINDS = design(
    stage_overlaps=(0.5, 0.6), stage_weights=(1.0, 0.5), mask_heads=2, class_agnostic=False, score_threshold=0.3
)


def test_what_is_found_is_what_the_parts_say_one_after_the_other():
    """For each of eight images on eight devices, which exchange nothing."""
    graph, params = new(FINDS)
    given = batch(8, scale=3)
    together, collectives = on_eight_devices(
        lambda params, *rows: nnx.merge(graph, params).detect(*rows), params, given.maps, given.extents
    )
    assert not collectives and not together.uncertain.any()
    assert 8 < together.valid.sum() < together.valid.size
    alone = jax.jit(functools.partial(one_after_the_other, graph), compiler_options=FAST)
    for row in range(3):
        wanted = alone(params, rows_of(given.maps, slice(row, row + 1)), given.extents[row])
        assert wanted.valid.sum() > 1
        assert (wanted.boxes[:, 2] <= given.extents[row, 1]).all()
        for mine, reference in zip(rows_of(together, row), wanted, strict=True):
            np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=1e-4)  # boxes are in pixels
    masks = np.asarray(together.masks)
    assert ((masks > 0) == np.asarray(together.valid)[..., None, None]).all() and masks.max() < 1


def one_after_the_other(graph, params, maps, extent) -> Found:
    """One image, whose stages' logits and heads' masks are averaged."""
    heads = nnx.merge(graph, params)
    levels = heads.neck(maps)
    logits, deltas = heads.rpn(levels)
    proposals = propose(heads.anchors(levels), logits[0], deltas[0], extent, before=40, size=24, overlap=0.7)

    def features(boxes, valid, size):
        return roi_align([x[0] for x in levels[:4]], (4, 8, 16, 32), boxes, valid, size=size)[0]

    first, deltas = heads.box_heads[0](features(proposals.boxes, proposals.valid, 7))
    boxes = refine(proposals.boxes, first, deltas, extent, coder=CASCADE[0])
    second, deltas = heads.box_heads[1](features(boxes, proposals.valid, 7))
    final = jnp.stack([CASCADE[1].decode(boxes, deltas[:, c]) for c in range(CLASSES)], axis=1)
    found = find(proposals, (first + second) / 2, final, extent, threshold=0.3, overlap=0.5, size=10)
    views = features(found.boxes, found.valid, 14)
    masks = [1 / (1 + jnp.exp(-head(views, found.classes))) for head in heads.mask_heads]
    return found._replace(masks=found.valid[:, None, None] * (masks[0] + masks[1]) / 2)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stage_weights": (1.0, 0.5)}, "3 stage_overlaps and 2 stage_weights: give one each for 1 to 3 stages"),
        ({"stage_overlaps": (), "stage_weights": ()}, "0 stage_overlaps and 0 stage_weights: give one each"),
        ({"stage_overlaps": (0.5,) * 4, "stage_weights": (1.0,) * 4}, "4 stage_overlaps and 4 stage_weights"),
        ({"mask_heads": 2}, "2 mask_heads for 3 stages: take 0, 1 or one each"),
        ({"box_loss": "iou"}, "box_loss 'iou': take smooth_l1 or giou"),
        ({"positive_share": 0.01}, "32 rois with a positive_share of 0.01 leave no room"),
        ({"positive_share": 1.0}, "32 rois with a positive_share of 1.0 leave no room"),
        ({"box_convs": 1, "box_norm": "batch"}, "norm of a detector's convolutions 'batch'"),
        ({"width": 48}, "group norm: width 48 is not divisible by the 32 groups"),
    ],
)
def test_designs_that_do_not_fit_together_are_told(changes, message):
    with pytest.raises(BobError, match=re.escape(message)):
        nnx.eval_shape(lambda: Heads(skeleton("convnext"), CLASSES, design(**changes), rngs=nnx.Rngs(0)))


def test_a_design_of_one_stage_is_whole():
    recipe = design(**ONE)
    recipe.check()
    assert (recipe.stages, recipe.most_positive) == (1, 8)
