"""One evaluation pass: every image of a split through a function on the devices, each exactly once."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bob_jax.data.base import Source
from bob_jax.data.loader import Loader
from bob_jax.data.transforms import Transform
from bob_jax.protocols.base import Context, Cost
from bob_jax.training import mesh as meshes
from bob_jax.training.reporting import Progress


@dataclasses.dataclass(frozen=True)
class Rows:
    """What a function said of the images of one split, in the order of the source.

    Attributes:
        values: [N, K] float32.
        labels: [N] int32, or [N, C] where an image has several.
        index: [N] positions in the source; undecodable images are left out of all three.
        skipped: ids of undecodable images.
        cost: of the pass.
    """

    values: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    skipped: tuple[str, ...]
    cost: Cost


def infer(
    apply: Callable[[Any, jax.Array], jax.Array],
    state: Any,
    source: Source,
    transform: Transform,
    context: Context,
    batch_size: int,
    title: str,
) -> Rows:
    """Runs `apply(state, images)` over a split.

    Args:
        apply: jitted; images [B, H, W, 3] uint8 -> [B, K] float32.
        state: pytree that lies on the mesh.
        source: the images.
        transform: from picture to input, the checkpoint's own.
        context: mesh and workers.
        batch_size: images on all devices together; changes the speed, not the result.
        title: what the progress bar says.

    Raises:
        CorruptImage: an image cannot be decoded and `context.skip_corrupt` is not set.
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
    values: list[Any] = []
    kept = []
    flops, seconds, timed = None, 0.0, 0
    with jax.set_mesh(context.mesh), Progress(title, 0, len(loader)) as progress:
        for step, batch in enumerate(loader.batches(), 1):
            images = meshes.put_batch({"image": batch["image"]}, context.mesh)["image"]
            if not values:
                flops = flops_per_image(apply, state, images)
                jax.block_until_ready(apply(state, images))  # the compilation is not part of the speed
            started = time.perf_counter()
            values.append(apply(state, images))
            if len(values) > 1:  # one batch stays in flight: the device does not wait for the copy to the host
                values[-2] = rows_to_host(values[-2])
            seconds += time.perf_counter() - started
            timed += images.shape[0]
            kept.append((batch["mask"], batch["index"], batch["label"]))
            progress.advance(step)
        started = time.perf_counter()
        values[-1] = rows_to_host(values[-1])
        seconds += time.perf_counter() - started
    rows = np.concatenate([value[mask] for value, (mask, _, _) in zip(values, kept, strict=True)])
    index = np.concatenate([index[mask] for mask, index, _ in kept])
    labels = np.concatenate([label[mask] for mask, _, label in kept])
    if jax.process_count() > 1:
        index, rows, labels = _gather(index, rows, labels)
    cost = Cost(seconds * jax.device_count(), timed / seconds, flops)
    # The loader knows of this process's images alone; every image of the split that is not here was skipped.
    skipped = tuple(source.ids[i] for i in np.setdiff1d(np.arange(len(source)), index))
    return Rows(rows, labels, index, skipped, cost)


def rows_to_host(rows: jax.Array) -> np.ndarray:
    """This process's rows of a batch-sharded array."""
    if jax.process_count() == 1:
        return np.asarray(rows)
    shards = {shard.index[0].start or 0: np.asarray(shard.data) for shard in rows.addressable_shards}
    return np.concatenate([shards[start] for start in sorted(shards)])


def _gather(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows of all processes, in the order of the first array; processes may hold different numbers of rows."""
    counts = np.asarray(multihost_utils.process_allgather(np.array([len(arrays[0])]))).reshape(-1)
    most = int(counts.max())
    gathered = []
    for array in arrays:
        padded = np.pad(array, [(0, most - len(array))] + [(0, 0)] * (array.ndim - 1))
        everyone = np.asarray(multihost_utils.process_allgather(padded))
        gathered.append(np.concatenate([part[:count] for part, count in zip(everyone, counts, strict=True)]))
    order = np.argsort(gathered[0], kind="stable")
    return tuple(array[order] for array in gathered)


def flops_per_image(apply: Any, state: Any, images: jax.Array, *more: jax.Array) -> float | None:
    """What the compiler counts for one image; None where the platform does not count."""
    analysis = apply.lower(state, images, *more).cost_analysis()
    flops = analysis.get("flops") if isinstance(analysis, dict) else None
    return flops / images.shape[0] if flops and flops > 0 else None
