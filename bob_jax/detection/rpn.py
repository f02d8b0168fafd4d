"""The region proposal network (Ren et al. 2015, arXiv 1506.01497): where in the image there may be anything at all."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.layers import compute_dtype
from bob_jax.detection import boxes as box_arithmetic
from bob_jax.detection.anchors import Anchors
from bob_jax.detection.assign import assign
from bob_jax.detection.coder import RPN
from bob_jax.detection.convolutions import ConvNorm, convolution
from bob_jax.detection.nms import nms
from bob_jax.detection.objects import Boxes, Objects
from bob_jax.detection.sample import sample

POSITIVE, NEGATIVE, LOW_QUALITY = 0.7, 0.3, 0.3  # IoU of an anchor with an object
ANCHORS = 256  # of an image that learn
POSITIVE_ANCHORS = 128
BETA = 1 / 9  # of the smooth L1 loss
SMALLEST = 1e-3  # pixels, of a proposal's side

rpn_init = nnx.initializers.normal(0.01)


class RPNHead(nnx.Module):
    """Convolutions that all levels share, then a score and four deltas for each anchor of a cell.

    Args:
        width: channels of the levels.
        anchors: of each cell.
        convs: 3x3 convolutions, each with a ReLU.
        norm: of these, see `convolutions.ConvNorm`.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights.
    """

    def __init__(
        self, width: int, anchors: int, *, convs: int, norm: str, dtype: DTypeLike | None = None, rngs: nnx.Rngs
    ):
        dtype = compute_dtype(dtype)
        self.convs = nnx.List(
            ConvNorm(width, width, 3, norm, init=rpn_init, dtype=dtype, rngs=rngs) for _ in range(convs)
        )
        self.cls_logits = convolution(width, anchors, 1, bias=True, init=rpn_init, dtype=dtype, rngs=rngs)
        self.bbox_pred = convolution(width, 4 * anchors, 1, bias=True, init=rpn_init, dtype=dtype, rngs=rngs)

    def __call__(self, levels: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Levels [B, H, W, C] to scores before the sigmoid [B, N] and deltas [B, N, 4], both float32, as `anchors`."""
        logits, deltas = [], []
        for x in levels:
            for conv in self.convs:
                x = jax.nn.relu(conv(x))
            logits.append(self.cls_logits(x).reshape(len(x), -1))
            deltas.append(self.bbox_pred(x).reshape(len(x), -1, 4))
        joined = [jnp.concatenate(parts, axis=1).astype(jnp.float32) for parts in (logits, deltas)]
        return joined[0], joined[1]


class RPNTerms(NamedTuple):
    """Sums over the anchors of an image that learn, not yet divided by their number.

    Attributes:
        objectness: [] float32, binary cross-entropy.
        box: [] float32, smooth L1 of the deltas of positive anchors.
        learning: [] float32, anchors that learn.
        positive: [] float32, positive ones among them.
        left_out: [] float32, positive ones for which there was no room.
    """

    objectness: jax.Array
    box: jax.Array
    learning: jax.Array
    positive: jax.Array
    left_out: jax.Array


def rpn_terms(
    key: jax.Array, anchors: jax.Array, logits: jax.Array, deltas: jax.Array, objects: Objects, usable: jax.Array
) -> RPNTerms:
    """The two losses of one image.

    Args:
        key: of the image.
        anchors: [N, 4].
        logits: [N] float32.
        deltas: [N, 4] float32.
        objects: of the image.
        usable: [N] bool, anchors that may learn.
    """
    assignment = assign(
        anchors,
        objects.boxes,
        objects.valid,
        positive=POSITIVE,
        negative=NEGATIVE,
        low_quality=LOW_QUALITY,
        usable=usable,
    )
    drawn = sample(key, assignment.positive, assignment.negative, size=ANCHORS, most_positive=POSITIVE_ANCHORS)
    positive, valid = drawn.positive.astype(jnp.float32), drawn.valid.astype(jnp.float32)
    scores = optax.sigmoid_binary_cross_entropy(logits[drawn.indices], positive)
    targets = RPN.encode(anchors[drawn.indices], objects.boxes[assignment.match[drawn.indices]])
    distances = smooth_l1(deltas[drawn.indices], jnp.where(drawn.positive[:, None], targets, 0), BETA)
    return RPNTerms(
        objectness=jnp.sum(scores * valid),
        box=jnp.sum(distances * positive),
        learning=jnp.sum(valid),
        positive=jnp.sum(positive),
        left_out=drawn.left_out.astype(jnp.float32),
    )


def smooth_l1(values: jax.Array, targets: jax.Array, beta: float) -> jax.Array:
    """Girshick's loss (arXiv 1504.08083), a square up to `beta` and a line from there: summed over the four deltas.

    [..., 4] twice to [...].
    """
    return jnp.sum(optax.huber_loss(values, targets, delta=beta) / beta, axis=-1)


def propose(
    anchors: Anchors, logits: jax.Array, deltas: jax.Array, extent: jax.Array, *, before: int, size: int, overlap: float
) -> Boxes:
    """The proposals of one image: the best anchors of each level, moved, without those that overlap a better one.

    No gradient flows through them.

    Args:
        anchors: of the padded image.
        logits: [N].
        deltas: [N, 4].
        extent: [2], height and width of the image without padding; boxes are clipped to it.
        before: best anchors of each level that are compared with each other.
        size: slots of the result.
        overlap: greatest IoU of two proposals of a level.
    """
    logits, deltas = jax.lax.stop_gradient((logits, deltas))
    slots = min(before, max(anchors.counts))
    boxes, scores, start = [], [], 0
    for count in anchors.counts:
        best, index = jax.lax.top_k(logits[start : start + count], min(slots, count))
        moved = RPN.decode(jnp.asarray(anchors.boxes)[start + index], deltas[start + index])
        missing = slots - len(best)
        boxes.append(jnp.pad(box_arithmetic.clip(moved, extent[0], extent[1]), ((0, missing), (0, 0))))
        scores.append(jnp.pad(best, (0, missing), constant_values=-jnp.inf))
        start += count
    candidates, ranked = jnp.stack(boxes), jnp.stack(scores)  # [L, slots, 4] and [L, slots]
    sides = candidates[..., 2:] - candidates[..., :2]
    there = jnp.all(sides >= SMALLEST, axis=-1) & jnp.isfinite(ranked)
    kept = jax.vmap(lambda *level: nms(*level, threshold=overlap, size=slots))(candidates, ranked, there)
    chosen = jnp.take_along_axis(candidates, kept.indices[..., None], axis=1).reshape(-1, 4)
    score = jnp.where(kept.valid, jnp.take_along_axis(ranked, kept.indices, axis=1), -jnp.inf).reshape(-1)
    top, index = jax.lax.top_k(jnp.pad(score, (0, max(0, size - len(score))), constant_values=-jnp.inf), size)
    boxes_chosen = jnp.take(chosen, index, axis=0, mode="fill", fill_value=0)
    return Boxes(boxes_chosen, jnp.isfinite(top), top)
