"""What to run when there is no time for everything: the settings that tell most of the ranking in the time there is.

A setting is kept for all backbones or for none, since a ranking compares backbones by the settings that they have in
common: a hole in one row is a hole in all (`ranking.settings`, rule "block"). What a choice is worth is the agreement
to be expected with the ranking of the whole grid (`ranking.information`). What it costs is the time of its cells that
have no record (`estimate`): features that two of them share, and the head that one judges and another trains, count
once, so that a setting may cost little beside another.

Among all subsets the best for every budget is a hard problem (a knapsack whose weights and values both depend on what
is in it). `frontier` grows subsets setting by setting, as the list of Nemhauser and Ullmann does (1969, Management
Science 15, 494-505), but goes on from the few best of those that take about the same time, since here the dearer and
poorer of two may grow into the better. It knows no budget; a budget picks its best subset from all that were seen. So
more time never buys less.
"""

import dataclasses
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from bob_jax.errors import BobError
from bob_jax.grid import Cell
from bob_jax.launch.durations import words
from bob_jax.launch.estimate import Outlook, asked
from bob_jax.results.ranking import information
from bob_jax.results.ranking.information import Agreement, Column
from bob_jax.results.ranking.settings import PREDICTIONS, task_of
from bob_jax.results.record import Record
from bob_jax.results.schema import plain

# Of each of so many intervals of seconds, even in their logarithm, so many subsets are kept while they grow. With 9
# settings the best of all subsets is found, with 13 one within 0.3 % of it (30 random grids); twice as many of either
# move tau of the gauntlet by 0.001.
INTERVALS, DEPTH = 60, 4
ROUNDS = 2  # through all settings


@dataclasses.dataclass(frozen=True)
class Setting:
    """One column of the ranking's table: a data set, a protocol and a seed, and the cells of all its backbones."""

    column: Column
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Of the data set, with the seed where it is not 0: for people, beside the protocol."""
        first = self.cells[0]
        return first.dataset if first.seed == 0 else f"{first.dataset} (seed {first.seed})"


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A part of a grid.

    Attributes:
        cells: of it, in the order of running, those that are done among them.
        kept, dropped: settings.
        unknown: settings that are dropped because nobody knows how long they take.
        guesses: cells left out because no ranking counts them.
        seconds: of one device, for what is not done.
        whole: the same of all cells whose time is known.
        tau: Kendall's tau to be expected between its ranking and that of the whole grid.
        now: the same of what is done already.
        evidence: settings with records whose correlations were looked at.
    """

    cells: tuple[Cell, ...]
    kept: tuple[Setting, ...]
    dropped: tuple[Setting, ...]
    unknown: tuple[Setting, ...]
    guesses: int
    seconds: float
    whole: float
    tau: float
    now: float
    evidence: int


def propose(outlook: Outlook, seconds: float) -> Proposal:
    """The part of a grid that fits the time and loses least of the ranking.

    Args:
        outlook: of the whole grid.
        seconds: of one device.

    Raises:
        BobError: no setting fits the time.
    """
    settings, guesses = settings_of(outlook.cells)
    prices = Prices(settings, outlook)
    agreement, evidence = _agreement(settings, outlook.records)
    start = prices.closed(np.zeros((1, len(settings)), dtype=bool))[0]
    found = frontier(start, prices.possible, prices.seconds, agreement.tau, prices.closed)
    within = found[prices.seconds(found) <= seconds * (1 + 1e-9)]  # sums in another order
    best = within[np.argmax(agreement.tau(within))]
    if not best.any():
        cost = prices.seconds(np.eye(len(settings), dtype=bool)[prices.possible])
        least = f"the cheapest takes {words(cost.min())}: give more" if len(cost) else "no time is known"
        raise BobError(f"the budget of {words(seconds)} buys no setting for all backbones; {least}")
    chosen = {cell for keep, one in zip(best, settings, strict=True) if keep for cell in one.cells}
    chosen |= {cell.source for cell in chosen if cell.source}

    def those(mask: np.ndarray) -> tuple[Setting, ...]:
        return tuple(one for keep, one in zip(mask, settings, strict=True) if keep)

    return Proposal(
        cells=tuple(cell for cell in outlook.cells if cell in chosen),
        kept=those(best),
        dropped=those(~best & prices.possible),
        unknown=those(~best & ~prices.possible),
        guesses=guesses,
        seconds=float(prices.seconds(best[None])[0]),
        whole=sum(one.seconds for one in outlook.estimates().values()),
        tau=float(agreement.tau(best)),
        now=float(agreement.tau(start)),
        evidence=evidence,
    )


def settings_of(cells: Sequence[Cell]) -> tuple[list[Setting], int]:
    """The columns of the ranking's table, and the number of cells that are in none: guesses of how good one will be."""
    found: dict[Hashable, list[Cell]] = {}  # whichever benchmark asks
    guesses = 0
    for cell in cells:
        if cell.protocol_name in PREDICTIONS:
            guesses += 1
            continue
        head = cell.source.protocol if cell.source else None
        found.setdefault((cell.dataset, cell.protocol, head, cell.seed), []).append(cell)
    return [
        Setting(_column(cell.dataset, cell.protocol_name, plain(cell.hyperparameters, ""), cell.seed), tuple(its))
        for its in found.values()
        for cell in its[:1]
    ], guesses


def _column(dataset: str, protocol: str, hyperparameters: Mapping[str, Any], seed: int) -> Column:
    setting = json.dumps([dataset, protocol, hyperparameters], sort_keys=True)
    return Column(task_of(protocol), protocol, dataset.partition("@")[0], setting, seed)


def _agreement(settings: Sequence[Setting], records: Sequence[Record]) -> tuple[Agreement, int]:
    """With correlations between the prior and those of the records, and the number of columns that these have."""
    columns = [one.column for one in settings]
    backbones = list(dict.fromkeys(cell.backbone for one in settings for cell in one.cells))
    judged = np.array([[name in {cell.backbone for cell in one.cells} for one in settings] for name in backbones])
    scores: dict[Column, dict[str, float]] = {column: {} for column in columns}
    for record in records:
        if record.cell.protocol not in PREDICTIONS:
            told, score = record.cell, record.metrics[record.main_metric]
            column = _column(told.dataset, told.protocol, record.protocol.hyperparameters, told.seed)
            value = score.value if score.higher_is_better else -score.value
            scores.setdefault(column, {})[told.backbone] = value
    names = sorted({name for row in scores.values() for name in row})
    values = np.array([[row.get(name, np.nan) for row in scores.values()] for name in names])
    r, count = information.seen(values.reshape(len(names), len(scores)))
    modelled = information.model(columns, information.fit(list(scores), r, count))
    mine = slice(len(columns))
    correlations = information.blend(modelled, r[mine, mine], count[mine, mine])
    return Agreement(columns, correlations, judged), int((count > 0).any(axis=0).sum())


class Prices:
    """Seconds of subsets of settings.

    Args:
        settings: S of them.
        outlook: of the grid that they are of.

    Attributes:
        possible: [S] bool, those whose time is known.
    """

    def __init__(self, settings: Sequence[Setting], outlook: Outlook):
        needs: list[dict[Hashable, float]] = []
        self.possible = np.ones(len(settings), dtype=bool)
        for s, one in enumerate(settings):
            need: dict[Hashable, float] = {}
            for cell in filter(None, (each for own in one.cells for each in (own.source, own))):
                if cell in outlook.done:
                    continue
                time = outlook.times.get(cell)
                if time is None:
                    self.possible[s] = False
                    continue
                need[asked(cell)] = max(time.fixed, need.get(asked(cell), 0.0))  # of a twin the first one's
                need |= time.features
            needs.append(need)
        # Things that the same settings need are one thing.
        users: dict[Hashable, list[int]] = {}
        prices: dict[Hashable, float] = {}
        for s, need in enumerate(needs):
            for thing, seconds in need.items():
                users.setdefault(thing, []).append(s)
                prices[thing] = max(seconds, prices.get(thing, 0.0))
        together: dict[tuple[int, ...], float] = {}
        for thing, those in users.items():
            together[tuple(those)] = together.get(tuple(those), 0.0) + prices[thing]
        self._needs = np.zeros((len(settings), len(together)), dtype=np.float32)
        for i, members in enumerate(together):
            self._needs[list(members), i] = 1.0
        self._prices = np.array(list(together.values()))

    def seconds(self, kept: np.ndarray) -> np.ndarray:
        """[N, S] bool -> [N]."""
        return np.asarray((kept.astype(np.float32) @ self._needs > 0) @ self._prices)

    def closed(self, kept: np.ndarray) -> np.ndarray:
        """[N, S] bool with the settings that come along: all they need is there, or is made for others."""
        lacking = (kept.astype(np.float32) @ self._needs == 0).astype(np.float32)
        return kept | ((lacking @ self._needs.T == 0) & self.possible)


Subsets = Callable[[np.ndarray], np.ndarray]


def frontier(start: np.ndarray, possible: np.ndarray, seconds: Subsets, worth: Subsets, closed: Subsets) -> np.ndarray:
    """Subsets of settings [N, S], cheapest first, of which each is worth more than all that are cheaper.

    Args:
        start: [S] bool, what is there for nothing.
        possible: [S] bool, what may be added.
        seconds: [N, S] bool -> [N].
        worth: likewise.
        closed: [N, S] bool -> the same with what comes along.
    """
    singles = closed(start | np.eye(len(start), dtype=bool)[possible])
    dearer = np.maximum(seconds(singles) - seconds(start[None]), 1e-9)
    order = np.flatnonzero(possible)[np.argsort(-worth(singles) / dearer, kind="stable")]
    grown = np.stack([start, closed((start | possible)[None])[0]])
    cost, value = seconds(grown), worth(grown)
    best, best_cost, best_value = grown, cost, value
    edges = np.geomspace(max(dearer.min(initial=cost[1]), 1e-3), cost[1] + 1.0, INTERVALS)
    for _ in range(ROUNDS):
        for s in order:
            more = grown[~grown[:, s]]
            if not len(more):
                continue
            more[:, s] = True
            more = closed(more)
            more_cost, more_value = seconds(more), worth(more)
            grown, cost, value = np.concatenate([grown, more]), np.append(cost, more_cost), np.append(value, more_value)
            kept = _thinned(grown, cost, value, edges)
            grown, cost, value = grown[kept], cost[kept], value[kept]
            best_cost, best_value = np.append(best_cost, more_cost), np.append(best_value, more_value)
            kept = _unbeaten(best_cost, best_value)
            best = np.concatenate([best, more])[kept]
            best_cost, best_value = best_cost[kept], best_value[kept]
    return best


def _unbeaten(cost: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Positions of those that are worth more than all that are cheaper, by cost."""
    order = np.lexsort((-value, cost))
    better = np.append(True, value[order][1:] > np.maximum.accumulate(value[order])[:-1] + 1e-12)
    return np.asarray(order[better])


def _thinned(subsets: np.ndarray, cost: np.ndarray, value: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Positions of those that are worth most in each interval of seconds; no subset twice."""
    _, kept = np.unique(np.packbits(subsets, axis=1), axis=0, return_index=True)
    interval = np.searchsorted(edges, cost[kept])
    order = np.lexsort((cost[kept], -value[kept], interval))  # the best of each interval first
    first = np.searchsorted(interval[order], interval[order])
    return np.asarray(kept[order[np.arange(len(order)) - first < DEPTH]])
