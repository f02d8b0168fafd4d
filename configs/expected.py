"""Published figures that a run can be held against: `bob reproduce` lists them, `bob reproduce NAME` runs one."""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from bob_jax.errors import unknown_name

BENCHMARKS = ("digits", "classification", "fgvc", "ood", "retrieval")


@dataclasses.dataclass(frozen=True)
class Expected:
    """A figure, where it comes from, and how to have it again.

    Attributes:
        name: of the row.
        benchmark: the config file.
        argument: what stands after its colon: one cell, and the head that it judges.
        metric: of the record.
        value: published.
        tolerance: how far a good reproduction may be off.
        source: who says so.
        changes: keys of the config that the publisher's protocol has otherwise.
    """

    name: str
    benchmark: str
    argument: str
    metric: str
    value: float
    tolerance: float
    source: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def config(self) -> ConfigDict:
        """The config that runs it."""
        config = _module(self.benchmark).get_config(self.argument)
        config.update_from_flattened_dict(dict(self.changes))
        config.results = f"results/reproduce/{self.benchmark}"
        return config


def rows() -> dict[str, Expected]:
    """All rows of all benchmarks by name."""
    return {row.name: row for row in _rows()}


def row(name: str) -> Expected:
    """The row of this name.

    Raises:
        BobError: there is none; the nearest names are given.
    """
    known = rows()
    if name not in known:
        raise unknown_name("row", name, known)
    return known[name]


def _rows() -> Iterator[Expected]:
    for benchmark in BENCHMARKS:
        yield from _module(benchmark).EXPECTED


def _module(benchmark: str) -> Any:
    return importlib.import_module(f"configs.{benchmark}")
