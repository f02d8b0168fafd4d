"""Batches whose pictures all come out on the same canvas, so that nothing is compiled but once for each canvas.

An epoch is so many whole batches of each bucket. In training they come in an order of their own each epoch, and what
the last batch of a bucket lacks is filled with images of the same bucket, seen once more in another view. In evaluation
they come bucket by bucket in the source's order, filled with blank rows. Any row of the stream is found without those
before it, so what a step holds does not depend on processes, workers or restarts.
"""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the stream that batches are cut from.

    Attributes:
        index: position in the source; -1 where the row only fills a batch.
        draw: with the seed and the index, what an example's view is drawn from: the epoch, and behind it, where an
            image comes more than once in an epoch, how often it came before.
        bucket: which canvas the batch is on.
    """

    index: int
    draw: tuple[int, ...] = (0,)
    bucket: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Buckets:
    """The stream of rows; `buckets(number)` is a row of it.

    Attributes:
        bucket: [N] int, which bucket each image of the source is in.
        batch_size: of all processes together.
        seed: of the order.
        shuffle: whether this is training.
    """

    bucket: np.ndarray
    batch_size: int
    seed: int
    shuffle: bool

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._steps

    @functools.cached_property
    def _steps(self) -> int:
        return int((-(-np.bincount(self.bucket) // self.batch_size)).sum())

    def __call__(self, number: int) -> Row:
        """Row `number` of the endless stream."""
        step, place = divmod(number, self.batch_size)
        epoch, step = divmod(step, len(self))
        index, before = _epoch(self, epoch if self.shuffle else 0)[step]
        return Row(
            index=int(index[place]),
            draw=(epoch, int(before[place])) if before[place] else (epoch,),
            bucket=int(self.bucket[index[0]]),  # the first row of a batch never only fills it
        )


@functools.lru_cache(maxsize=4)  # the end of an epoch and the beginning of the next are read side by side
def _epoch(order: Buckets, epoch: int) -> np.ndarray:
    """[steps, 2, B] positions in the source, and how often the image came before in this epoch."""
    rng = np.random.default_rng(np.random.SeedSequence((order.seed, epoch), spawn_key=(0,)))
    batches = []
    for bucket in np.unique(order.bucket):
        members = np.flatnonzero(order.bucket == bucket)
        if order.shuffle:
            members = rng.permutation(members)
        place = np.arange(-(-len(members) // order.batch_size) * order.batch_size)
        before, within = np.divmod(place, len(members))
        index = np.where(before > 0, -1, members[within]) if not order.shuffle else members[within]
        batches.append(np.stack([index, before]).reshape(2, -1, order.batch_size).transpose(1, 0, 2))
    table = np.concatenate(batches)
    return rng.permutation(table) if order.shuffle else table
