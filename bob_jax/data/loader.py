"""From a source to batches of numpy arrays, on Grain: deterministic, and resumable at any step.

What is in a batch is a pure function of (seed, step), whatever the number of worker processes, hosts or restarts; so
the position of a loader is the number of the next step, and nothing else needs to be saved.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np
from absl import flags

from bob_jax.data import coco
from bob_jax.data.arrays import ArraySource
from bob_jax.data.base import Source
from bob_jax.data.buckets import Buckets, Row
from bob_jax.data.decode import CorruptImage
from bob_jax.data.detection_transforms import SceneTransform
from bob_jax.data.subset import Subset
from bob_jax.data.transforms import Transform
from bob_jax.errors import BobError

MANY = 10_000  # images from which starting worker processes pays off
MOST_WORKERS = 16

ENDLESS = 1 << 62  # rows: Grain's own endless stream is too long for Python once batches hold one row

# A batch, or one process's part of it.
#   image: [B, H, W, 3] uint8.
#   label: [B] int32, or [B, C] float32; of scenes the other keys of `detection_transforms.Framed` instead, as [B, ...].
#   mask: [B] bool; false where a row only fills the batch, or its image could not be decoded.
#   index: [B] int32, position in the source; -1 in a row that only fills the batch.
Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Read:
    """The example of a row of the stream; what a worker process runs."""

    source: Source
    transform: Transform | SceneTransform
    no_label: np.ndarray | None  # of a row that only fills a batch; None where views have no label
    seed: int
    skip_corrupt: bool

    def __call__(self, row: Row) -> dict[str, Any]:
        if row.index < 0:
            return self._blank(row)
        try:
            example = self.source[row.index]
        except CorruptImage:
            if self.skip_corrupt:
                return self._blank(row)
            raise
        rng = np.random.default_rng((self.seed, *row.draw, row.index))
        return {**self._view(example, rng), "mask": np.bool_(True), "index": np.int32(row.index)}

    def _view(self, example: Any, rng: np.random.Generator) -> Mapping[str, Any]:
        if isinstance(self.transform, SceneTransform):
            return self.transform(example, rng)
        assert self.no_label is not None
        label = np.asarray(example["label"], self.no_label.dtype)
        return {"image": self.transform(example["image"], rng), "label": label}

    def _blank(self, row: Row) -> dict[str, Any]:
        view: Mapping[str, Any]
        if isinstance(self.transform, SceneTransform):
            view = self.transform.blank(row.bucket)
        else:
            side = self.transform.size
            view = {"image": np.zeros((side, side, 3), np.uint8), "label": self.no_label}
        return {**view, "mask": np.bool_(False), "index": np.int32(row.index)}


class Loader:
    """Batches of a source.

    Training (`shuffle=True`): every batch is full; an epoch's end and the next one's beginning share a batch, and each
    epoch has an order of its own. Evaluation (`shuffle=False`): the source's order; the last batch of an epoch is
    filled with blank rows, so that no example is dropped and every process makes the same number of steps.

    Where scenes come out on several canvases, each batch has one of them: `buckets`.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform | SceneTransform,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool,
        epochs: int | None,
        num_workers: int | None = None,
        process_index: int = 0,
        process_count: int = 1,
        skip_corrupt: bool = False,
    ):
        """
        Args:
            source: the examples; scenes for a `SceneTransform`.
            transform: what is done to each image, or to each scene with its objects; its generator is seeded with
                (seed, epoch, position in the source).
            batch_size: of all processes together.
            seed: of order and transforms.
            shuffle: whether this is training.
            epochs: how many; None never ends.
            num_workers: processes that read and transform; 0 does it in threads of this one; None decides by the size
                of the work and the machine.
            process_index: which part of each batch is wanted.
            process_count: number of parts.
            skip_corrupt: whether an image that cannot be decoded becomes a row with mask false, instead of an error.

        Raises:
            BobError: an empty source, or a batch that does not divide into parts.
        """
        if not len(source):
            raise BobError("the split is empty: a loader needs at least one image")
        if batch_size < 1 or batch_size % process_count:
            raise BobError(f"batch size {batch_size} does not divide among {process_count} processes: use a multiple")
        self.source = source
        self.transform = transform
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.epochs = epochs
        self.num_workers = _default_workers(source) if num_workers is None else num_workers
        self.process_index = process_index
        self.process_count = process_count
        self.skip_corrupt = skip_corrupt
        self._buckets = _buckets(source, transform, batch_size, seed, shuffle)
        self._skipped: dict[str, None] = {}  # in the order met

    def __len__(self) -> int:
        """Steps in which every example is seen once; in training the last of them may reach into the next epoch."""
        if self._buckets is not None:
            return len(self._buckets)
        return -(-len(self.source) // self.batch_size)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Ids of the images that could not be decoded, among this process's rows so far."""
        return tuple(self._skipped)

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """This process's part of every batch from `start_step` on; reaching it costs nothing.

        Raises:
            CorruptImage: an image cannot be decoded and `skip_corrupt` is not set.
            BobError: a worker process died.
        """
        iterator = iter(self._dataset(start_step))
        try:
            while True:
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                except RuntimeError as error:
                    if "terminated unexpectedly" not in str(error):
                        raise
                    raise BobError(f"a data worker died ({error}); if memory ran out, use fewer num_workers") from error
                if self.num_workers:  # arrays in shared memory: copied, or whoever keeps a label keeps a segment
                    batch = {name: np.array(value) for name, value in batch.items()}
                for index in batch["index"][~batch["mask"] & (batch["index"] >= 0)]:
                    self._skipped[self.source.ids[index]] = None
                yield batch
        finally:
            iterator.close()

    def _dataset(self, start_step: int) -> grain.IterDataset:
        no_label = None  # those of many images with many classes are no small array
        if not isinstance(self.transform, SceneTransform):
            no_label = np.zeros(self.source.labels.shape[1:], self.source.labels.dtype)
        read = _Read(self.source, self.transform, no_label, self.seed, self.skip_corrupt)
        parts = self._rows().map(read).batch(self.batch_size // self.process_count)
        stop = len(parts) if self.epochs is None else self._steps() * self.process_count
        start = start_step * self.process_count + self.process_index
        mine = parts[start : max(start, stop) : self.process_count]
        if self.num_workers == 0:
            threads = min(8, cpus())
            return mine.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
        if not flags.FLAGS.is_parsed():  # Grain reads its own flags; outside of absl.app nobody parses any
            flags.FLAGS.mark_as_parsed()
        one = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        workers = grain.MultiprocessingOptions(num_workers=self.num_workers, per_worker_buffer_size=1)
        return mine.to_iter_dataset(one).mp_prefetch(workers)

    def _rows(self) -> grain.MapDataset:
        """The endless stream of rows."""
        if self._buckets is not None:
            return grain.MapDataset.range(ENDLESS).map(self._buckets)
        size = len(self.source)
        if self.shuffle:
            # Grain shuffles epoch e with seed + e: spread the seeds, or seed 1 would be seed 0 an epoch later.
            seed = int(np.random.SeedSequence(self.seed).generate_state(1)[0])
            shuffled = grain.MapDataset.range(size).shuffle(seed=seed).repeat(ENDLESS // size)
            return shuffled.map_with_index(lambda place, index: Row(index, (place // size,)))
        rows = len(self) * self.batch_size
        return grain.MapDataset.range(rows).map(lambda row: Row(row if row < size else -1)).repeat(ENDLESS // rows)

    def _steps(self) -> int:
        assert self.epochs is not None
        if self.shuffle and self._buckets is None:
            return -(-self.epochs * len(self.source) // self.batch_size)
        return self.epochs * len(self)


def _buckets(
    source: Source, transform: Transform | SceneTransform, batch_size: int, seed: int, shuffle: bool
) -> Buckets | None:
    """The order of batches where there are several canvases; None where one order serves all."""
    if not isinstance(transform, SceneTransform) or len(transform.canvases) == 1:
        return None
    canvas = [transform.canvas(height, width) for height, width in coco.sizes(source).tolist()]
    return Buckets(np.array(canvas), batch_size, seed, shuffle)


def _default_workers(source: Source) -> int:
    while isinstance(source, Subset):
        source = source.parent
    if isinstance(source, ArraySource) or len(source) < MANY:
        return 0
    return min(MOST_WORKERS, cpus() - 1)


def cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
