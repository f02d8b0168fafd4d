"""A plan for people: a table, what must be had first, and what all of it takes; and for programs, whole."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from bob_jax.launch import devices
from bob_jax.launch.durations import words
from bob_jax.launch.plan import Download, Line, Plan
from bob_jax.results import foresight

COLUMNS = ("benchmark", "protocol", "cells", "done", "measured", "time", "money", "kWh", "download")
CELL_COLUMNS = ("benchmark", "backbone", "dataset", "protocol", "seed", "state", "time", "money", "kWh", "download")


def plain(plan: Plan) -> dict[str, Any]:
    """Everything, nothing rounded."""
    return {
        "device": plan.device,
        "utilisation_assumed": None if plan.device == devices.CPU else devices.UTILISATION,
        "price": plan.price,
        "totals": plan.totals,
        "foresight": {source: dataclasses.asdict(ratio) for source, ratio in plan.foresight.items()},
        "cells": [dataclasses.asdict(line) | plan.cost(line.hours) for line in plan.lines],
    }


def by_protocol(plan: Plan) -> Iterator[tuple[Any, ...]]:
    """A row for each protocol of each benchmark."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in plan.lines:
        groups.setdefault((line.benchmark, line.protocol), []).append(line)
    for (benchmark, protocol), lines in sorted(groups.items(), key=lambda item: item[0][0]):
        done, measured = sum(line.done for line in lines), sum(line.measured for line in lines)
        yield benchmark, protocol, len(lines), done, measured, *_taken(plan, lines), _bytes(_downloads(lines))


def by_cell(plan: Plan) -> Iterator[tuple[Any, ...]]:
    """A row for each cell."""
    for line in plan.lines:
        state = "done" if line.done else "measured" if line.measured else "estimated"
        names = (line.benchmark, line.backbone, line.dataset, line.protocol, line.seed)
        state = state if line.seconds is not None else "unknown"
        yield *names, state, *_taken(plan, [line]), _bytes(_downloads([line]))


def sentences(plan: Plan) -> Iterator[str]:
    """What must be had first, and the totals."""
    totals = plan.totals
    for kind, found in (
        ("weights", [line.weights for line in plan.lines if line.weights]),
        ("data", [line.data for line in plan.lines if line.data]),
    ):
        if found:
            names = ", ".join(_named(one) for one in found)
            yield f"missing {kind}: {len(found)}, {_bytes(found) or 'of unknown size'}: {names}"
    yield f"{totals['cells']} cells, {totals['done']} of them done; the others take {_hours(plan)} of one {plan.device}"
    open_ = totals["cells"] - totals["done"]
    if totals["unknown"]:
        yield f"{totals['unknown']} of these {open_} are left out: neither records nor the table say how long they take"
    if estimated := open_ - totals["measured"] - totals["unknown"]:
        how = "what 2 cores were seen to reach" if plan.device == devices.CPU else "the assumed share"
        share = "" if plan.device == devices.CPU else f" ({devices.UTILISATION:.0%} of the published peak)"
        yield f"{estimated} are estimates from FLOPs and {how}{share}: a factor of two either way is no surprise"
    yield from foresight.sentences(plan.foresight)
    if totals["money"] is not None:
        yield f"money: {totals['money']:.2f} at {plan.price:g} an hour"
    if totals["kilowatt_hours"] is not None:
        yield f"energy: {totals['kilowatt_hours']:.2f} kWh at {devices.power(plan.device):g} W, the device alone"


def _hours(plan: Plan) -> str:
    return words(plan.hours * 3600)


def _taken(plan: Plan, lines: Iterable[Line]) -> tuple[str | None, str | None, str | None]:
    """Time, money and energy."""
    known = [line.hours for line in lines if line.hours is not None]
    cost = plan.cost(sum(known) if known else None)
    money, energy = (None if value is None else f"{value:,.2f}" for value in cost.values())
    return words(3600 * sum(known)) if known else None, money, energy


def _downloads(lines: Iterable[Line]) -> list[Download]:
    return [one for line in lines for one in (line.weights, line.data) if one]


def _bytes(found: Iterable[Download]) -> str | None:
    """In decimal units; None where nothing is to be fetched, or nothing whose size is known."""
    sizes = [one.bytes for one in found if one.bytes is not None]
    if not sizes:
        return None
    billions = sum(sizes) / 1e9
    return f"{1000 * billions:.0f} MB" if billions < 1 else f"{billions:,.{1 if billions < 10 else 0}f} GB"


def _named(one: Download) -> str:
    return f"{one.name} (by hand)" if one.by_hand else one.name
