"""The features of every candidate on the first images of an order, made once and kept while the command runs."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np

from bob_jax.backbones import zoo
from bob_jax.data.base import Source
from bob_jax.data.subset import Subset
from bob_jax.errors import BobError
from bob_jax.pick.budget import START, Budget
from bob_jax.pick.candidates import Candidate
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.features import extract, working_memory
from bob_jax.protocols.inference import Rows
from bob_jax.training import mesh as meshes

BATCH_CPU, BATCH = 64, 256  # images through a backbone at a time
KEPT = 200.0  # millions of parameters that stay loaded


@dataclasses.dataclass
class _Seen:
    """What is known of a candidate: features of the first images, and the speed of the largest part.

    Attributes:
        values: [M, D] of those that could be read.
        index: [M] their places in the order.
        size: how many images of the order were looked at.
        rate: images a second through the backbone, and `timed`, on how many that was measured.
    """

    values: np.ndarray
    index: np.ndarray
    size: int
    rate: float | None
    timed: int


class Bench:
    """Candidates on one set of images."""

    def __init__(self, source: Source, order: np.ndarray, mesh: jax.sharding.Mesh, budget: Budget):
        """
        Args:
            source: the images.
            order: [N] positions in the source, of which the beginnings are looked at.
            mesh: devices.
            budget: the clock.
        """
        self.source, self.order, self.mesh, self.budget = source, order, mesh, budget
        self.context = Context(mesh, Path(), skip_corrupt=True)  # nothing is written to the folder of a cell
        self.batch = BATCH_CPU if jax.default_backend() == "cpu" else BATCH
        self.unread: dict[str, None] = {}  # ids of images that cannot be decoded, in the order met
        self._seen: dict[str, _Seen] = {}
        self._loaded: dict[str, Competitor] = {}

    def size_for(self, one: Candidate, size: int) -> int:
        """How many images to look at where `size` are asked for: all, where they cost less than a backbone's start."""
        whole = len(self.order)
        return whole if self.budget.extraction(one, whole) < START else size

    def new(self, one: Candidate, size: int) -> int:
        """Images of the first `size` that the candidate has not seen."""
        return max(0, size - self._seen[one.name].size) if one.name in self._seen else size

    def fresh(self, one: Candidate) -> bool:
        """Whether it must be loaded first."""
        return one.name not in self._loaded and self.new(one, 1) > 0

    def features(self, one: Candidate, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Features [M, D] of the first `size` images but those that cannot be read, and their places [M] in the order.

        Raises:
            BobError: its weights cannot be had, or no image can be read.
        """
        known = self._seen.get(one.name)
        if known is None or known.size < size:
            start, stop = known.size if known else 0, self.size_for(one, size)
            part = Subset(self.source, self.order[start:stop])
            rows = extract(self.competitor(one), part, "the images", self.context, self.batch)
            self.unread |= dict.fromkeys(rows.skipped)
            known = self._seen[one.name] = _joined(known, rows, start, stop)
        if not len(known.values):
            raise BobError(f"none of the {known.size} images can be decoded, first {next(iter(self.unread))}")
        inside = known.index < size
        return known.values[inside], known.index[inside]

    def competitor(self, one: Candidate) -> Competitor:
        """The candidate with its weights; small ones stay loaded.

        Raises:
            BobError: they cannot be had.
        """
        if one.name not in self._loaded:
            loaded = zoo.load(one.name, place=functools.partial(meshes.place, mesh=self.mesh))
            while self._loaded and self._weight() + one.card.parameters > KEPT:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[one.name] = Competitor(one.card, loaded.module, loaded.weights_sha256)
        return self._loaded[one.name]

    def _weight(self) -> float:
        return sum(one.card.parameters for one in self._loaded.values())

    def rate(self, one: Candidate) -> float | None:
        """Images a second through the backbone on this machine's devices; None before it ran."""
        return self._seen[one.name].rate if one.name in self._seen else None

    def memory(self, one: Candidate) -> int | None:
        """Bytes on each device while a batch goes through; None where nobody counts."""
        return working_memory(self.competitor(one), self.mesh, min(self.batch, len(self.order)))


def _joined(known: _Seen | None, rows: Rows, start: int, stop: int) -> _Seen:
    rate, timed = rows.cost.images_per_second, len(rows.values)
    if known is None:
        return _Seen(rows.values, rows.index + start, stop, rate, timed)
    if known.timed > timed:
        rate, timed = known.rate, known.timed
    values = np.concatenate([known.values, rows.values]) if len(rows.values) else known.values
    return _Seen(values, np.concatenate([known.index, rows.index + start]), stop, rate, timed)
