"""A proposal for a budget, for people and for programs."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bob_jax.grid import Cell
from bob_jax.launch.budget import Proposal, Setting
from bob_jax.launch.durations import words

COLUMNS = ("task", "protocol", "kept", "cells", "time", "keeps", "drops")


def plain(proposal: Proposal, seconds: float) -> dict[str, Any]:
    """Everything, nothing rounded."""
    return {
        "budget_hours": seconds / 3600,
        "hours": proposal.seconds / 3600,
        "whole_hours": proposal.whole / 3600,
        "tau": proposal.tau,
        "tau_now": proposal.now,
        "settings_with_records": proposal.evidence,
        "cells": [cell.names for cell in proposal.cells],
        "kept": [_named(one) for one in proposal.kept],
        "dropped": [_named(one) for one in proposal.dropped],
        "unknown": [_named(one) for one in proposal.unknown],
    }


def rows(proposal: Proposal, seconds: Mapping[Cell, float]) -> list[tuple[Any, ...]]:
    """A row for each protocol.

    Args:
        proposal: to show.
        seconds: of each cell of the proposal that must run.
    """
    kept, dropped = _by_protocol(proposal.kept), _by_protocol(proposal.dropped + proposal.unknown)
    cells: dict[str, list[Cell]] = {}
    for cell in proposal.cells:
        cells.setdefault(cell.protocol_name, []).append(cell)
    found = []
    for name in kept.keys() | dropped.keys():
        have, lack, its = kept.get(name, []), dropped.get(name, []), cells.get(name, [])
        share = f"{len(have)} of {len(have) + len(lack)}"
        time = words(sum(seconds.get(cell, 0.0) for cell in its)) if its else None
        found.append(((have or lack)[0].column.task, name, share, len(its), time, _names(have), _names(lack)))
    return sorted(found, key=lambda row: row[:2])


def sentences(proposal: Proposal, seconds: float) -> Iterator[str]:
    """What the choice takes and what it is worth."""
    settings = len(proposal.kept) + len(proposal.dropped) + len(proposal.unknown)
    yield (
        f"{len(proposal.kept)} of {settings} settings, {len(proposal.cells)} cells: {words(proposal.seconds)} of the "
        f"budget of {words(seconds)}; the whole grid takes {words(proposal.whole)}"
    )
    source = f"records of {proposal.evidence} settings and a prior" if proposal.evidence else "a prior alone"
    yield (
        f"expected agreement with the ranking of the whole grid: Kendall's tau {proposal.tau:.2f}, that is "
        f"{(1 + proposal.tau) / 2:.1%} of the pairs of backbones in the same order (from {source}, docs/plan.md)"
    )
    lost = {one.column.task for one in proposal.dropped + proposal.unknown} - {one.column.task for one in proposal.kept}
    if lost:
        yield f"nothing is left of the task {', '.join(sorted(lost))}"
    if proposal.now:
        yield f"what is done already gives {proposal.now:.2f}"
    if proposal.unknown:
        yield f"{len(proposal.unknown)} settings are left out: nobody knows how long they take"
    if proposal.guesses:
        yield f"{proposal.guesses} cells are left out: no ranking counts their protocol"


def _by_protocol(settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    found: dict[str, list[Setting]] = {}
    for one in settings:
        found.setdefault(one.column.protocol, []).append(one)
    return found


def _names(settings: Sequence[Setting]) -> str | None:
    return ", ".join(one.name for one in settings) or None


def _named(setting: Setting) -> dict[str, Any]:
    first = setting.cells[0]
    return dataclasses.asdict(setting.column) | {"dataset": first.dataset, "cells": len(setting.cells)}
