"""Images without labels: what can be said of them, and what cannot."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from bob_jax.errors import BobError
from bob_jax.pick import geometry
from bob_jax.pick.bench import Bench
from bob_jax.pick.budget import Budget
from bob_jax.pick.candidates import Candidate
from bob_jax.pick.geometry import Clusters, Geometry

MOST = 2000  # images that are looked at


@dataclasses.dataclass(frozen=True)
class Row:
    """A backbone on images without labels.

    Attributes:
        backbone: its name.
        geometry: of its features.
        agreement: mean linear CKA with the other backbones but random twins; None where there is no other.
        shared: mean share of nearest neighbours that it has in common with them.
        rate, gflops, parameters: images a second, GFLOPs an image, millions; None where not known.
        licence, commercial: of the weights.
        random: whether it is a random twin.
    """

    backbone: str
    geometry: Geometry
    agreement: float | None
    shared: float | None
    rate: float | None
    gflops: float | None
    parameters: float
    licence: str
    commercial: bool
    random: bool


@dataclasses.dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        rows: those that agree best with the others first, random twins last.
        chosen: the first; its clusters and copies are shown.
        features: [N, D] of the chosen.
        places: [N] positions in the source.
        clusters: of the chosen.
        left_out: a line for each that could not be had.
        not_tried: names of those that there was no time for.
    """

    rows: tuple[Row, ...]
    chosen: str
    features: np.ndarray
    places: np.ndarray
    clusters: Clusters
    left_out: tuple[str, ...]
    not_tried: tuple[str, ...]


class Looker:
    """Looks at the images through one backbone after the other; it may be interrupted between them."""

    def __init__(self, candidates: Sequence[Candidate], bench: Bench, budget: Budget, say: Callable[[str], None]):
        self.candidates, self.bench, self.budget, self.say = candidates, bench, budget, say
        self.size = min(MOST, len(bench.order))
        self.features: dict[str, np.ndarray] = {}
        self.places = np.zeros(0, np.int64)
        self.left_out: list[str] = []
        self.not_tried: list[str] = []

    def run(self) -> None:
        """All candidates that there is time for."""
        for number, one in enumerate(self.candidates):
            expected = self.budget.step(one, self.size, True)
            if number and expected > self.budget.left():
                self.not_tried.append(one.name)
                continue
            before = self.budget.spent()
            try:
                values, places = self.bench.features(one, self.size)
            except BobError as error:
                if len(self.bench.unread) >= self.size:
                    raise
                self.left_out.append(f"{one.name} is left out: {error}")
                continue
            except (ImportError, RuntimeError, ValueError) as error:
                words = (str(error).strip().splitlines() or [type(error).__name__])[0]
                self.left_out.append(f"{one.name} is left out, it cannot be run here: {words[:200]}")
                continue
            if len(values) < 4:
                raise BobError(f"{len(values)} images can be decoded: nothing can be told from so few")
            self.say(f"{one.name}: features of {len(values):,} images ({self.budget.spent():.0f} s)")
            self.features[one.name], self.places = values, self.bench.order[places]
            self.budget.learn(expected, self.budget.spent() - before)

    def look(self) -> Look:
        """What is to be said of what was seen.

        Raises:
            BobError: nothing was.
        """
        if not self.features:
            raise BobError("no backbone could be tried: " + ("; ".join(self.left_out) or "there was no time"))
        tried = [one for one in self.candidates if one.name in self.features]
        real = [one.name for one in tried if not one.random]
        alike: dict[str, list[tuple[float, float]]] = {one.name: [] for one in tried}
        for first, second in itertools.combinations(self.features, 2):
            if first in real or second in real:
                found = geometry.agreement(self.features[first], self.features[second])
                for name, other in ((first, second), (second, first)):
                    if other in real:
                        alike[name].append(found)
        rows = [self._row(one, alike[one.name]) for one in tried]
        rows.sort(key=lambda row: (row.random, -(row.agreement or 0.0)))
        chosen = rows[0].backbone
        return Look(
            tuple(rows),
            chosen,
            self.features[chosen],
            self.places,
            geometry.clusters(self.features[chosen]),
            tuple(self.left_out),
            tuple(self.not_tried),
        )

    def _row(self, one: Candidate, alike: list[tuple[float, float]]) -> Row:
        cka, shared = np.mean(alike, axis=0).tolist() if alike else (None, None)
        return Row(
            one.name,
            geometry.geometry(self.features[one.name]),
            cka,
            shared,
            self.bench.rate(one),
            one.gflops,
            one.card.parameters,
            one.card.licence,
            one.card.commercial,
            one.random,
        )
