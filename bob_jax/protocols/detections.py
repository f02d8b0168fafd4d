"""One evaluation pass of a detector: every image of a split looked at once, what is found given back in its own pixels.

Masks are pasted and run-length coded on the host, for large splits in processes beside this one. Several hosts look at
a part each and exchange what they found.
"""

import contextlib
import dataclasses
import functools
import io
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bob_jax.data.base import Source
from bob_jax.data.detection_transforms import SceneTransform
from bob_jax.data.loader import Loader
from bob_jax.data.masks import encode
from bob_jax.detection.mask_targets import paste
from bob_jax.detection.objects import Found
from bob_jax.errors import BobError
from bob_jax.metrics.coco import Detections, merge
from bob_jax.protocols.base import Context, Cost
from bob_jax.protocols.inference import flops_per_image, rows_to_host
from bob_jax.training import mesh as meshes
from bob_jax.training.reporting import Progress

MANY = 1000  # images from which pasting masks is worth processes of its own
AHEAD = 8  # batches whose masks may wait to be pasted: more would fill the memory

Codes = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Looked:
    """What was found on a split.

    Attributes:
        found: on all images that could be decoded, in the order of the source; masks are None where there are none.
        index: [N] positions in the source of these images.
        skipped: ids of undecodable images.
        uncertain: images on which more candidates might have changed what was found.
        cost: of the pass.
    """

    found: Detections
    index: np.ndarray
    skipped: tuple[str, ...]
    uncertain: int
    cost: Cost


def look(
    apply: Callable[[Any, jax.Array, jax.Array], Found],
    state: Any,
    source: Source,
    transform: SceneTransform,
    context: Context,
    batch_size: int,
    title: str,
) -> Looked:
    """Runs `apply(state, images, extents)` over a split.

    Args:
        apply: jitted; images [B, H, W, 3] uint8 and extents [B, 2] to what is found, with a leading axis.
        state: pytree that lies on the mesh.
        source: the images.
        transform: from scene to input; nothing in it is random.
        context: mesh and workers.
        batch_size: images on all devices together; changes the speed, not the result.
        title: what the progress bar says.

    Raises:
        CorruptImage: an image cannot be decoded and `context.skip_corrupt` is not set.
        BobError: none of them can be decoded.
    """
    loader = Loader(
        source,
        transform,
        batch_size=meshes.round_up(min(batch_size, len(source)), context.mesh),
        shuffle=False,
        epochs=1,
        num_workers=context.num_workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        skip_corrupt=context.skip_corrupt,
    )
    parts: list[_Part] = []
    flops, seconds, timed = None, 0.0, 0
    with jax.set_mesh(context.mesh), _pool(len(source)) as pool, Progress(title, 0, len(loader)) as progress:
        for step, batch in enumerate(loader.batches(), 1):
            placed = meshes.put_batch({name: batch[name] for name in ("image", "extent")}, context.mesh)
            arguments = (state, placed["image"], placed["extent"])
            if not parts:
                flops = flops_per_image(apply, *arguments)
            started = time.perf_counter()
            said = {name: rows_to_host(rows) for name, rows in apply(*arguments)._asdict().items()}
            if parts:  # the first batch compiles
                seconds += time.perf_counter() - started
                timed += placed["image"].shape[0]
            parts.append(_kept(said, batch, pool))
            if len(parts) > AHEAD:
                parts[-AHEAD].codes()
            progress.advance(step)
        merged = _joined(parts, source)
    index = np.sort(np.concatenate([part.index for part in parts]))
    uncertain = sum(part.uncertain for part in parts)
    if jax.process_count() > 1:
        counts = np.asarray(multihost_utils.process_allgather(np.array([uncertain])))
        everyone = _exchanged(index.astype(np.int64).tobytes())
        index = np.sort(np.concatenate([np.frombuffer(part, np.int64) for part in everyone]))
        uncertain = int(counts.sum())
        merged = merge([_unpacked(part) for part in _exchanged(_packed(merged))], [source.ids[row] for row in index])
    if not len(index):
        raise BobError(f"{title}: none of the {len(source)} images can be decoded")
    speed = timed / seconds if seconds else None
    return Looked(
        found=merge([merged], [source.ids[row] for row in index]),
        index=index,
        skipped=tuple(source.ids[row] for row in np.setdiff1d(np.arange(len(source)), index)),  # of every host
        uncertain=uncertain,
        cost=Cost(seconds * jax.device_count() or None, speed, flops),
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """What was found on the images of a batch.

    Attributes:
        index: [b] positions of the images in the source.
        image: [n] int, position in `index` of each detection.
        boxes: [n, 4] in pixels of the file.
        labels: [n] int.
        scores: [n].
        uncertain: images on which more candidates might have changed something.
        codes: waits for the masks; empty where there are none.
    """

    index: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    uncertain: int
    codes: Callable[[], Codes]


@contextlib.contextmanager
def _pool(images: int) -> Iterator[Executor | None]:
    workers = min(8, (os.cpu_count() or 1) - 1)
    if images < MANY or workers < 2:
        yield None
        return
    # Not forked: a copy of a process with JAX's threads may hang.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield pool


def _kept(said: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray], pool: Executor | None) -> _Part:
    """The rows of a batch that hold an image, in pixels of the file; `said` has the arrays of a `Found`."""
    rows = batch["mask"]
    valid = said["valid"][rows]
    image, _ = np.nonzero(valid)
    scale = batch["scale"][rows]
    boxes = (said["boxes"][rows] / scale[:, None, [1, 0, 1, 0]])[valid]
    masks = said["masks"][rows][valid].astype(np.float16)  # half of the bytes; an edge moves by a thousandth of a cell
    codes: Callable[[], Codes] = list
    if masks.shape[-1]:
        work = (masks, boxes, np.round(batch["extent"][rows] / scale).astype(int)[image])
        codes = pool.submit(pasted, *work).result if pool else functools.partial(_same, pasted(*work))
    return _Part(
        index=batch["index"][rows],
        image=image,
        boxes=boxes,
        labels=said["classes"][rows][valid],
        scores=said["scores"][rows][valid],
        uncertain=int(said["uncertain"][rows].sum()),
        codes=codes,
    )


def _same(codes: Codes) -> Codes:
    return codes


def pasted(masks: np.ndarray, boxes: np.ndarray, sizes: np.ndarray) -> Codes:
    """Run-length codes of masks in their images.

    Args:
        masks: [N, m, m] probabilities.
        boxes: [N, 4] in pixels of the image.
        sizes: [N, 2] height and width of the image.
    """
    return [encode(paste(mask, box, *size)) for mask, box, size in zip(masks, boxes, sizes.tolist(), strict=True)]


def _joined(parts: list[_Part], source: Source) -> Detections:
    """What this process found."""
    starts = np.cumsum([0, *(len(part.index) for part in parts)])
    codes = [code for part in parts for code in part.codes()]
    boxes, labels, scores = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "labels", "scores")
    )
    return Detections(
        images=tuple(source.ids[row] for part in parts for row in part.index),
        image=np.concatenate([part.image + start for part, start in zip(parts, starts, strict=False)]),
        label=labels,
        score=scores,
        boxes=boxes,
        masks=codes if codes or not len(labels) else None,
    )


def _exchanged(mine: bytes) -> list[bytes]:
    """The bytes of every process, on every process."""
    lengths = np.asarray(multihost_utils.process_allgather(np.array([len(mine)]))).reshape(-1)
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(mine)] = np.frombuffer(mine, np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [row[:length].tobytes() for row, length in zip(gathered, lengths, strict=True)]


def _packed(found: Detections) -> bytes:
    buffer = io.BytesIO()
    codes = found.masks or ()
    np.savez_compressed(
        buffer,
        images=np.array(found.images, np.str_),
        image=found.image,
        label=found.label,
        score=found.score,
        boxes=found.boxes,
        has_masks=np.array(found.masks is not None),
        # One text: as an array of texts each would take the room of the longest.
        counts=np.frombuffer("\n".join(code["counts"] for code in codes).encode(), np.uint8),
        sizes=np.array([code["size"] for code in codes], np.int64).reshape(-1, 2),
    )
    return buffer.getvalue()


def _unpacked(content: bytes) -> Detections:
    with np.load(io.BytesIO(content), allow_pickle=False) as held:
        codes = [
            {"size": size, "counts": counts}
            for size, counts in zip(held["sizes"].tolist(), held["counts"].tobytes().decode().splitlines(), strict=True)
        ]
        return Detections(
            tuple(map(str, held["images"])),
            held["image"],
            held["label"],
            held["score"],
            held["boxes"],
            codes if held["has_masks"] else None,
        )
