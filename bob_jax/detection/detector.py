"""Cascade Mask R-CNN on any backbone (arXiv 1712.00726, 1703.06870): the parts put together, for learning and for use.

Everything is done per image, on the device that holds it, so an image's result depends neither on its batch nor on the
devices. Shapes are fixed: padding is marked, never cut off.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from bob_jax.backbones.base import Backbone
from bob_jax.detection import anchors as anchor_boxes
from bob_jax.detection import box_head, mask_head
from bob_jax.detection.box_head import BoxHead
from bob_jax.detection.boxes import iou
from bob_jax.detection.cascade import Rois, draw, refine, stage_terms
from bob_jax.detection.coder import CASCADE
from bob_jax.detection.design import Design
from bob_jax.detection.detect import find
from bob_jax.detection.fpn import neck
from bob_jax.detection.losses import mask_loss
from bob_jax.detection.mask_head import MaskHead
from bob_jax.detection.mask_targets import mask_targets
from bob_jax.detection.objects import Boxes, Found, Objects
from bob_jax.detection.roi_align import roi_align
from bob_jax.detection.rpn import RPNHead, RPNTerms, propose, rpn_terms

RECALLED = 0.5  # IoU from which a proposal counts as having found an object


class Learning(NamedTuple):
    """What a batch teaches.

    Attributes:
        losses: [] float32 by name; each is the mean over what learns in the whole batch, weighted as the design says.
        counters: [B] float32 by name: what happened in each image, nothing of it differentiated.
    """

    losses: dict[str, jax.Array]
    counters: dict[str, jax.Array]


class Heads(nnx.Module):
    """Everything of a detector but the backbone: neck, proposal network, box heads, mask heads.

    Args:
        backbone: whose maps are read; only its strides and widths matter here.
        classes: C, without background.
        design: of the detector.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU. Boxes are float32 always.
        rngs: for the initial weights.

    Raises:
        BobError: a design whose parts do not fit, or a backbone without maps.
    """

    def __init__(
        self, backbone: Backbone, classes: int, design: Design, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs
    ):
        design.check()
        self.design, self.classes = design, classes
        self.neck = neck(backbone, width=design.width, norm=design.neck_norm, dtype=dtype, rngs=rngs)
        self.rpn = RPNHead(
            design.width,
            len(anchor_boxes.RATIOS),
            convs=design.rpn_convs,
            norm=design.rpn_norm,
            dtype=dtype,
            rngs=rngs,
        )
        self.box_heads = nnx.List(
            BoxHead(
                design.width,
                classes,
                convs=design.box_convs,
                fcs=design.box_fcs,
                hidden=design.box_hidden,
                norm=design.box_norm,
                class_agnostic=design.class_agnostic,
                dtype=dtype,
                rngs=rngs,
            )
            for _ in range(design.stages)
        )
        self.mask_heads = nnx.List(
            MaskHead(design.width, classes, convs=design.mask_convs, norm=design.mask_norm, dtype=dtype, rngs=rngs)
            for _ in range(design.mask_heads)
        )

    def learn(
        self, maps: Sequence[jax.Array], objects: Objects, extents: jax.Array, there: jax.Array, keys: jax.Array
    ) -> Learning:
        """The losses of a batch.

        Args:
            maps: of the backbone, [B, H/s, W/s, C].
            objects: of the images, with a leading axis.
            extents: [B, 2] int, height and width of each image without padding.
            there: [B] bool, whether a row holds an image; others teach nothing.
            keys: [B], of the images: the same image and step draw the same boxes, whatever else is in the batch.
        """
        design = self.design
        objects = objects._replace(valid=objects.valid & there[:, None])
        levels = self.neck(maps)
        anchors = self.anchors(levels)
        logits, deltas = self.rpn(levels)
        first, *rest = (jax.vmap(jax.random.fold_in, (0, None))(keys, part) for part in range(1 + design.stages))
        with jax.named_scope("rpn"):
            rpn = each_image(functools.partial(self._learn_anchors, anchors))(
                first, logits, deltas, objects, extents, there
            )
            proposals = self._propose(anchors, logits, deltas, extents, training=True)
        total = jnp.maximum(jnp.sum(rpn.learning), 1)
        losses = {"rpn_score": jnp.sum(rpn.objectness) / total, "rpn_box": jnp.sum(rpn.box) / total}
        counters = {
            "rpn_positive": rpn.positive,
            "rpn_positive_left_out": rpn.left_out,
            "proposals": jnp.sum(proposals.valid, axis=1, dtype=jnp.float32),
            "proposal_recall": each_image(_recall)(proposals, objects),
        }
        boxes, valid = proposals.boxes, proposals.valid & there[:, None]
        for stage, keys in enumerate(rest):
            with jax.named_scope(f"stage{stage + 1}"):
                choose = functools.partial(draw, stage=stage, classes=self.classes, design=design)
                rois = each_image(choose)(keys, boxes, valid, objects)
                learned, scores, deltas = self._learn_stage(stage, levels, rois, objects)
                move = functools.partial(refine, coder=CASCADE[stage])
                boxes = each_image(move)(rois.boxes, scores, deltas, extents, rois.classes)
                valid = rois.valid & ~rois.is_object & _has_area(boxes)
            losses |= learned.losses
            counters |= learned.counters
        return Learning(losses, counters)

    def detect(self, maps: Sequence[jax.Array], extents: jax.Array) -> Found:
        """What is found in a batch, with a leading axis.

        Args:
            maps: of the backbone, [B, H/s, W/s, C].
            extents: [B, 2] int, height and width of each image without padding.
        """
        design = self.design
        levels = self.neck(maps)
        proposals = self._propose(self.anchors(levels), *self.rpn(levels), extents, training=False)
        boxes, total = proposals.boxes, jnp.zeros((*proposals.valid.shape, self.classes + 1))
        for stage, head in enumerate(self.box_heads):
            features, _ = self._features(levels, boxes, proposals.valid, box_head.SIZE)
            scores, deltas = head(features)
            total = total + scores
            if stage + 1 < design.stages:
                move = functools.partial(refine, coder=CASCADE[stage])
                boxes = each_image(move)(boxes, scores, deltas, extents)
        final = CASCADE[design.stages - 1].decode(jnp.broadcast_to(boxes[:, :, None], deltas.shape), deltas)
        among = functools.partial(
            find, threshold=design.score_threshold, overlap=design.detection_overlap, size=design.detections
        )
        found = each_image(among)(proposals, total / design.stages, final, extents)
        if not self.mask_heads:
            return found
        features, _ = self._features(levels, found.boxes, found.valid, mask_head.SIZE)
        masks = [jax.nn.sigmoid(head(features, found.classes)) for head in self.mask_heads]
        mean = sum(masks[1:], masks[0]) / len(masks)
        return found._replace(masks=jnp.where(found.valid[..., None, None], mean, 0))

    def anchors(self, levels: Sequence[jax.Array]) -> anchor_boxes.Anchors:
        """The anchors of levels [B, H, W, C]."""
        sizes = [(x.shape[1], x.shape[2]) for x in levels]
        design = self.design
        return anchor_boxes.anchors(sizes, self.neck.strides, (design.anchor_scale,), rounded=design.anchors_rounded)

    def _learn_anchors(
        self,
        anchors: anchor_boxes.Anchors,
        key: jax.Array,
        logits: jax.Array,
        deltas: jax.Array,
        objects: Objects,
        extent: jax.Array,
        there: jax.Array,
    ) -> RPNTerms:
        border = self.design.anchor_border
        usable = anchor_boxes.usable(anchors, extent[0], extent[1], None if border < 0 else border) & there
        return rpn_terms(key, jnp.asarray(anchors.boxes), logits, deltas, objects, usable)

    def _propose(
        self, anchors: anchor_boxes.Anchors, logits: jax.Array, deltas: jax.Array, extents: jax.Array, *, training: bool
    ) -> Boxes:
        design, when = self.design, 0 if training else 1
        choose = functools.partial(
            propose,
            anchors,
            before=design.proposals_before[when],
            size=design.proposals[when],
            overlap=design.proposal_overlap,
        )
        return each_image(choose)(logits, deltas, extents)

    def _features(
        self, levels: Sequence[jax.Array], boxes: jax.Array, valid: jax.Array, size: int
    ) -> tuple[jax.Array, jax.Array]:
        """[B, T, size, size, C] of boxes [B, T, 4], and [B] how many found no room in their level."""
        read, strides = tuple(levels[:-1]), self.neck.strides[:-1]  # the coarsest level only proposes
        design = self.design

        def one(maps: tuple[jax.Array, ...], boxes: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
            samples = design.roi_samples or None
            return roi_align(maps, strides, boxes, valid, size=size, samples=samples, aligned=design.roi_aligned)

        return each_image(one)(read, boxes, valid)

    def _learn_stage(
        self, stage: int, levels: Sequence[jax.Array], rois: Rois, objects: Objects
    ) -> tuple[Learning, jax.Array, jax.Array]:
        """Losses and counters of a stage, and what its box head said."""
        design, weight, name = self.design, self.design.stage_weights[stage], f"stage{stage + 1}"
        features, moved = self._features(levels, rois.boxes, rois.valid, box_head.SIZE)
        scores, deltas = self.box_heads[stage](features)
        measure = functools.partial(stage_terms, coder=CASCADE[stage], design=design)
        terms = each_image(measure)(scores, deltas, rois, objects)
        total = jnp.maximum(jnp.sum(terms.learning), 1)
        losses = {
            f"{name}_score": weight * jnp.sum(terms.score) / total,
            f"{name}_box": weight * jnp.sum(terms.box) / total,
        }
        positive = jnp.sum(rois.positive, axis=1, dtype=jnp.float32)
        counters = {
            f"{name}_rois": terms.learning,
            f"{name}_positive": positive,
            f"{name}_positive_left_out": rois.left_out.astype(jnp.float32),
            f"{name}_positive_right": terms.right / jnp.maximum(positive, 1),
            f"{name}_overlap": jnp.sum(rois.overlap * rois.positive, axis=1) / jnp.maximum(positive, 1),
            f"{name}_moved_level": moved.astype(jnp.float32),
        }
        if stage < len(self.mask_heads):
            loss, moved = self._mask_loss(self.mask_heads[stage], levels, rois, objects)
            losses[f"{name}_mask"] = weight * loss
            counters[f"{name}_mask_moved_level"] = moved.astype(jnp.float32)
        return Learning(losses, counters), scores, deltas

    def _mask_loss(
        self, head: MaskHead, levels: Sequence[jax.Array], rois: Rois, objects: Objects
    ) -> tuple[jax.Array, jax.Array]:
        slots = slice(0, self.design.most_positive)
        boxes, positive, match, classes = (
            array[:, slots] for array in (rois.boxes, rois.positive, rois.match, rois.classes)
        )
        features, moved = self._features(levels, boxes, positive, mask_head.SIZE)
        logits = head(features, classes)
        targets = each_image(mask_targets)(boxes, objects.boxes, objects.masks, match)
        return mask_loss(logits, targets, positive.astype(jnp.float32)), moved


def each_image(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one image made one of a batch: `jax.vmap`, but no device sees or awaits another's images.

    Left to itself the compiler copies the scores of all images to all devices, of which each then sorts all, and in
    every round of non-maximum suppression they ask each other whether they are done.

    Args:
        function: of arrays, or trees of them, to a tree of arrays.

    Returns:
        The same with a leading axis on all of them, split over all axes of the mesh that is set, if one is.
    """
    mapped = jax.vmap(function)

    def apply(*arguments: Any) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or len(jax.tree.leaves(arguments)[0]) % mesh.size:
            return mapped(*arguments)
        rows = P(mesh.axis_names)
        # The check asks that constants in a loop's state are marked as differing between devices.
        return jax.shard_map(mapped, in_specs=rows, out_specs=rows, check_vma=False)(*arguments)

    return apply


def _has_area(boxes: jax.Array) -> jax.Array:
    return jnp.all(boxes[..., 2:] > boxes[..., :2], axis=-1)


def _recall(proposals: Boxes, objects: Objects) -> jax.Array:
    """Share of an image's objects that a proposal overlaps by half; 1 where there is none."""

    def best(box: jax.Array) -> jax.Array:
        return jnp.max(jnp.where(proposals.valid, iou(proposals.boxes, box[None]), 0))

    hit = (jax.lax.map(best, objects.boxes) >= RECALLED) & objects.valid
    count = jnp.sum(objects.valid)
    return jnp.where(count > 0, jnp.sum(hit) / jnp.maximum(count, 1), 1.0)


def total_loss(losses: dict[str, jax.Array]) -> jax.Array:
    """The sum of all losses. [] float32."""
    return jnp.sum(jnp.stack(list(losses.values())))
