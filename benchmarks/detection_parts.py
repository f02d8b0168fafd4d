"""The parts of a detector as functions that can be measured one by one; `benchmarks/detection.py` does so."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bob_jax.detection import box_head, mask_head, roi_align
from bob_jax.detection.cascade import draw
from bob_jax.detection.detect import find
from bob_jax.detection.objects import Boxes, Objects
from bob_jax.detection.rpn import propose, rpn_terms
from bob_jax.protocols.detector import Detector

CERTAIN = 5.0  # score of the first class over the others: its probability is 0.65, theirs are below the threshold


class Part(NamedTuple):
    """A part of the detector as a function of arrays that have names.

    Attributes:
        name: for the table.
        run: the function.
        needs: names of its arguments.
        gives: name of its result.
        learns: so many of the first arguments have a gradient.
    """

    name: str
    run: Callable[..., Any]
    needs: tuple[str, ...]
    gives: str
    learns: int = 0


def parts(detector: Detector, maps: Sequence[Any]) -> tuple[list[Part], dict[str, Any]]:
    """All parts in the order in which they run in training, and the weights that they need, by name.

    Args:
        detector: with its weights.
        maps: what the backbone gives, as shapes.
    """
    heads, design = detector.heads, detector.heads.design
    graphs, weights = {}, {}
    for name, module in {
        "neck": heads.neck,
        "rpn": heads.rpn,
        "box": heads.box_heads[0],
        "mask": heads.mask_heads[0],
    }.items():
        graphs[name], state = nnx.split(module)
        weights[name] = nnx.to_pure_dict(state)
    backbone: Any = nnx.split(detector.competitor.module, nnx.Param, nnx.BatchStat)
    weights |= {"backbone": nnx.to_pure_dict(backbone[1]), "stats": nnx.to_pure_dict(backbone[2])}
    anchors = heads.anchors(jax.eval_shape(heads.neck, maps))

    def apply(name: str) -> Callable[..., Any]:
        return lambda state, *arguments: nnx.merge(graphs[name], state)(*arguments)

    def see(params: Any, stats: Any, images: jax.Array) -> Any:
        return nnx.merge(backbone[0], params, stats)(images).maps

    def judge(said: Any, objects: Objects, keys: jax.Array) -> Any:
        terms = functools.partial(rpn_terms, usable=jnp.ones(len(anchors.boxes), bool))
        found = jax.vmap(terms, (0, None, 0, 0, 0))(keys, jnp.asarray(anchors.boxes), *said, objects)
        return found.objectness, found.box

    def suggest(said: Any, extents: jax.Array, *, training: bool) -> Boxes:
        before, size = design.proposals_before[not training], design.proposals[not training]
        one = functools.partial(propose, anchors, before=before, size=size, overlap=design.proposal_overlap)
        return jax.vmap(one)(*said, extents)

    def choose(proposals: Boxes, objects: Objects, keys: jax.Array) -> Any:
        one = functools.partial(draw, stage=0, classes=heads.classes, design=design)
        return jax.vmap(one)(keys, proposals.boxes, proposals.valid, objects)

    def align(levels: Any, rois: Any, *, size: int, most: int, backend: Any) -> jax.Array:
        one = functools.partial(roi_align.roi_align, size=size, samples=design.roi_samples, backend=backend)
        strides = heads.neck.strides[:-1]
        rows = (tuple(levels[:-1]), rois.boxes[:, :most], rois.valid[:, :most])
        return jax.vmap(lambda maps, boxes, valid: one(maps, strides, boxes, valid)[0])(*rows)

    def conclude(proposals: Boxes, extents: jax.Array) -> Any:
        scores = jnp.zeros((*proposals.valid.shape, heads.classes + 1)).at[..., 0].set(CERTAIN)
        rule = {"threshold": design.score_threshold, "overlap": design.detection_overlap, "size": design.detections}
        return jax.vmap(functools.partial(find, **rule))(proposals, scores, proposals.boxes[:, :, None], extents)

    def outline(state: Any, features: jax.Array, rois: Any) -> jax.Array:
        return apply("mask")(state, features, rois.classes[:, : design.most_positive])

    seven = {"size": box_head.SIZE, "most": design.rois}
    fourteen = {"size": mask_head.SIZE, "most": design.most_positive}
    levels = ("levels", "rois")
    return [
        Part("backbone", see, ("backbone", "stats", "images"), "maps", 1),
        Part("neck", apply("neck"), ("neck", "maps"), "levels", 2),
        Part("RPN", apply("rpn"), ("rpn", "levels"), "said", 2),
        Part("RPN: assignment, losses", judge, ("said", "objects", "keys"), "rpn_losses", 1),
        Part("proposals, training", functools.partial(suggest, training=True), ("said", "extents"), "proposals"),
        Part("proposals, use", functools.partial(suggest, training=False), ("said", "extents"), "fewer"),
        Part("draw of a stage", choose, ("proposals", "objects", "keys"), "rois"),
        Part("RoIAlign 7, gather", functools.partial(align, **seven, backend="gather"), levels, "boxes", 1),
        Part("RoIAlign 7, matmul", functools.partial(align, **seven, backend="matmul"), levels, "boxes", 1),
        Part(f"box head, 1 of {design.stages}", apply("box"), ("box", "boxes"), "scores", 2),
        Part("RoIAlign 14, gather", functools.partial(align, **fourteen, backend="gather"), levels, "insides", 1),
        Part("RoIAlign 14, matmul", functools.partial(align, **fourteen, backend="matmul"), levels, "insides", 1),
        Part(f"mask head, 1 of {design.mask_heads}", outline, ("mask", "insides", "rois"), "masks", 2),
        Part("detections, use", conclude, ("fewer", "extents"), "found"),
    ], weights


def with_backward(part: Part) -> Callable[..., Any]:
    """The gradient of the sum of squares of what a part gives."""

    def run(*arguments: Any) -> Any:
        def total(learned: Any) -> jax.Array:
            given = jax.tree.leaves(part.run(*learned, *arguments[part.learns :]))
            return jnp.sum(jnp.stack([jnp.sum(jnp.square(x.astype(jnp.float32))) for x in given]))

        return jax.grad(total)(arguments[: part.learns])

    return run
