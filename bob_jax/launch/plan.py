"""What a grid will take before it runs: what is done, what is missing, hours (`estimate`), downloads, and the price."""

import dataclasses
import itertools
import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bob_jax import grid
from bob_jax.backbones import zoo
from bob_jax.data import catalog
from bob_jax.grid import Cell
from bob_jax.launch import devices, estimate
from bob_jax.results.foresight import Ratio, ratios

BYTES = 4  # of a published parameter: most checkpoints are float32


@dataclasses.dataclass(frozen=True)
class Download:
    """Something that is not there yet.

    Attributes:
        name: of the backbone or data set; of the first of several data sets that share a download.
        bytes: about; of weights 4 for each parameter; None where it is not known.
        by_hand: the user must bring it, or accept terms first.
    """

    name: str
    bytes: int | None
    by_hand: bool


@dataclasses.dataclass(frozen=True)
class Line:
    """One cell of the plan.

    Attributes:
        benchmark, backbone, dataset, protocol, seed: which.
        done: it has a record where the run will look; nothing more is asked of it.
        passes: images forward through the backbone that no earlier cell of the plan makes; None where not known.
        seconds: of one device; 0 for a cell that is done, None where it is not known.
        measured: from records of this backbone on this kind of device: of this very cell, or its speed.
        weights, data: what must be had first, and no earlier cell needs.
    """

    benchmark: str
    backbone: str
    dataset: str
    protocol: str
    seed: int
    done: bool
    passes: float | None
    seconds: float | None
    measured: bool
    weights: Download | None
    data: Download | None

    @property
    def hours(self) -> float | None:
        """Of one device."""
        return None if self.seconds is None else self.seconds / 3600


@dataclasses.dataclass(frozen=True)
class Plan:
    """All cells, and the device they are planned for.

    Attributes:
        device: kind, as JAX names it.
        price: of an hour of one device, in whatever currency; None when not given.
        lines: in the order of running.
        foresight: how near estimates came in the past: records beside these cells, of this kind of device.
    """

    device: str
    price: float | None
    lines: tuple[Line, ...]
    foresight: Mapping[str, Ratio]

    @property
    def hours(self) -> float:
        """Of one device, over all cells whose time is known."""
        return sum(line.seconds or 0.0 for line in self.lines) / 3600

    @property
    def totals(self) -> dict[str, Any]:
        """The figures of the whole: what is not known is left out of the sums and counted beside them."""
        weights = [line.weights for line in self.lines if line.weights]
        data = [line.data for line in self.lines if line.data]
        open_ = [line for line in self.lines if not line.done]
        return {
            "cells": len(self.lines),
            "done": len(self.lines) - len(open_),
            "measured": sum(line.measured for line in open_),
            "unknown": sum(line.seconds is None for line in open_),
            "hours": self.hours,
            "bytes_weights": sum(one.bytes or 0 for one in weights),
            "bytes_data": sum(one.bytes or 0 for one in data),
            **self.cost(self.hours),
        }

    def cost(self, hours: float | None) -> dict[str, float | None]:
        """Money and energy of so many hours of one device; None where time, price or power is not known."""
        watts = devices.power(self.device)
        return {
            "money": None if self.price is None or hours is None else self.price * hours,
            "kilowatt_hours": None if watts is None or hours is None else watts * hours / 1000,
        }


def make(config: Mapping[str, Any], device: str, price: float | None = None) -> Plan:
    """The plan of a config.

    Args:
        config: as `grid.cells` takes it; `results` says where records are.
        device: kind, as JAX names it.
        price: of an hour of one device.

    Raises:
        BobError: as `grid.cells`, or a record that cannot be read.
    """
    cells, root = grid.cells(config), config["data"]["root"]
    outlook = estimate.outlook(cells, config, device)
    done, passes, expected = outlook.done, outlook.passes(), outlook.estimates()
    weights, data = _weights(cells, done), _data(cells, done, Path(root) if root else None)
    lines = []
    for cell in cells:
        one = expected.get(cell)
        lines.append(
            Line(
                *(cell.benchmark, cell.backbone, cell.dataset, cell.protocol_name, cell.seed),
                done=cell in done,
                passes=0.0 if cell in done else passes.get(cell),
                seconds=0.0 if cell in done else (one.seconds if one else None),
                measured=one is not None and one.source != "table",
                weights=weights.get(cell),
                data=data.get(cell),
            )
        )
    past = ratios(record for record in outlook.records if record.environment.device_kind == device)
    return Plan(device, price, tuple(lines), past)


def _weights(cells: Sequence[Cell], done: Collection[Cell]) -> dict[Cell, Download]:
    """What has to be fetched for the first cell of each backbone that is not done."""
    from converters import cache  # it knows the zoo, and the zoo's neighbours do not know it

    found = {}
    for backbone, its in itertools.groupby((cell for cell in cells if cell not in done), lambda cell: cell.backbone):
        card = zoo.card(backbone)
        source = card.source
        if source is None or source.shipped or (source.url or "").startswith("file:"):
            continue
        if cache.read_receipt(card) is None:
            found[next(its)] = Download(backbone, math.ceil(card.parameters * 1e6 * BYTES), card.gated)
    return found


def _data(cells: Sequence[Cell], done: Collection[Cell], root: Path | None) -> dict[Cell, Download]:
    """What has to be had for the first cell that is not done and reads it."""
    found, told = {}, set[Hashable]()
    for cell in cells:
        if cell in done:
            continue
        key, download = _missing(cell.dataset, root)
        if download is not None and key not in told:
            found[cell] = download
        told.add(key)
    return found


def _missing(name: str, root: Path | None) -> tuple[Hashable, Download | None]:
    """What a data set lacks, and what tells it from the downloads of others."""
    prefix, _, path = name.partition(":")
    if f"{prefix}:" in catalog.OWN:
        return name, None if Path(path).expanduser().exists() else Download(name, None, by_hand=True)
    card = catalog.card(name)
    # Several data sets are read from one download: these have a home page and a size in common.
    key = (card.url, card.download_size) if card.download_size else card.name
    if card.access == "embedded" or catalog.locate(card.name, root) is not None:
        return (key, "there"), None
    return key, Download(card.name, card.download_size, card.access == "manual")
