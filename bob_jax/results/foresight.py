"""How far the plan was from the truth: what cells took over what was expected of them before they ran."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from bob_jax.results.record import Record

SOURCES = {
    "cell": "the same cell with another seed",
    "speed": "the backbone's measured speed",
    "table": "FLOPs and the device table",
}


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Time taken over time expected, of `n` cells: the median and the quartiles. Above 1 the plan was too short."""

    n: int
    median: float
    low: float
    high: float


def ratios(records: Iterable[Record]) -> dict[str, Ratio]:
    """By the source of the estimate, those of which there are any; device seconds against device seconds."""
    found: dict[str, list[float]] = {}
    for record in records:
        expected, wall = record.estimate, record.cost.wall_seconds
        if expected is not None and expected.seconds > 0 and wall is not None:
            taken = wall * record.environment.device_count
            found.setdefault(expected.source, []).append(taken / expected.seconds)
    return {source: _ratio(found[source]) for source in SOURCES if source in found}


def _ratio(values: list[float]) -> Ratio:
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return Ratio(len(values), float(median), float(low), float(high))


def sentences(found: Mapping[str, Ratio]) -> Iterator[str]:
    """For people."""
    for source, ratio in found.items():
        cells = "1 cell" if ratio.n == 1 else f"{ratio.n} cells"
        spread = "" if ratio.n == 1 else f" (half of them {ratio.low:.2g} to {ratio.high:.2g})"
        yield f"{cells} took {ratio.median:.2g} times{spread} what was expected from {SOURCES[source]}"
