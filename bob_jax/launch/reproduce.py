"""Whether a run gives the published figure."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bob_jax import grid
from bob_jax.errors import BobError
from bob_jax.launch import cell as single
from bob_jax.launch import local
from bob_jax.results.record import Score
from bob_jax.results.store import Store


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came out, beside what should.

    Attributes:
        obtained: the score with its interval.
        matches: whether it is within the tolerance of what was expected.
    """

    obtained: Score
    matches: bool


def judge(config: Mapping[str, Any], metric: str, expected: float, tolerance: float) -> Verdict:
    """Runs a config, unless its records are there, and holds its last cell against a figure.

    Args:
        config: that stands for one cell, and the cells whose head it judges.
        metric: of the record.
        expected: the figure.
        tolerance: how far off it may be.

    Raises:
        BobError: the cell failed (why stands on stderr), or its record has no such metric.
    """
    cells = grid.cells(config)
    if local.run(cells, config):
        raise BobError(f"{cells[-1]} has no record: see above why")
    record = Store(config["results"]).read(single.prepare(cells[-1], config["data"]["root"] or None).id)
    if metric not in record.metrics:
        raise BobError(f"{cells[-1]} has no {metric}: there is {', '.join(record.metrics)}")
    obtained = record.metrics[metric]
    return Verdict(obtained, abs(obtained.value - expected) <= tolerance)
