"""The ranking itself: every backbone with the ranks it may have, its figures with intervals, and what was left out."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from bob_jax.errors import unknown_name
from bob_jax.metrics import bootstrap
from bob_jax.metrics.bootstrap import Estimate
from bob_jax.results.boards import Board, PerExample
from bob_jax.results.ranking import aggregates, settings, uncertainty
from bob_jax.results.ranking.aggregates import Weighting
from bob_jax.results.ranking.settings import Missing, Settings
from bob_jax.results.record import Record

Aggregate = Literal["mean_z", "mean_rank", "win_rate", "bradley_terry", "first_share"]
SMALLER_IS_BETTER = ("mean_rank",)


@dataclasses.dataclass(frozen=True)
class Standing:
    """One backbone.

    Attributes:
        position: by the figure that ranks; equals share the better place.
        best, worst: the ranks it may have: of all backbones' ranges together, all hold with 95 %.
        figures: each aggregate with its interval; `n` is the number of settings.
        tasks: mean z-score in each task, in the same way.
        parameters: millions, without head; None if the card does not say.
    """

    backbone: str
    position: int
    best: int
    worst: int
    figures: dict[Aggregate, Estimate]
    tasks: dict[str, Estimate]
    parameters: float | None

    @property
    def range(self) -> str:
        """The ranks it may have, as one writes them: "1" or "1-3"."""
        return f"{self.best}" if self.best == self.worst else f"{self.best}-{self.worst}"


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Backbones over settings, best first.

    Attributes:
        by: the aggregate that ranks.
        level: of intervals and of rank ranges.
        table: what was ranked, in the order of names.
        left_out: why a backbone or a setting is not in it, by name.
        missing: the rule by which.
        weighting: of the settings.
        without_images: cells whose draws came from their intervals, for want of per-image outputs.
        value: [B] the figure that ranks, its sign turned where smaller is better, in the order of `table.backbones`.
        drawn: [R, B] the same in bootstrap draws.
        task_z: [B, T] mean z-scores by task, in the order of `table.backbones`; NaN where there is none.
        task_drawn: [R, B, T] the same in bootstrap draws.
    """

    by: Aggregate
    level: float
    standings: tuple[Standing, ...]
    table: Settings
    left_out: dict[str, str]
    missing: Missing
    weighting: Weighting
    without_images: tuple[str, ...]
    value: np.ndarray
    drawn: np.ndarray
    task_z: np.ndarray
    task_drawn: np.ndarray

    @property
    def tasks(self) -> tuple[str, ...]:
        """[T] names of the tasks."""
        return tuple(dict.fromkeys(self.table.tasks))

    @property
    def data_sets(self) -> dict[str, int]:
        """Data sets of each task: of one no interval holds the choice, of fewer than five it holds too little of it."""
        sets = {task: {one.images for one in self.table.settings if one.task == task} for task in self.tasks}
        return {task: len(images) for task, images in sets.items()}


def rank(
    boards: Sequence[Board],
    records: Sequence[Record],
    per_example: PerExample,
    *,
    by: Aggregate = "mean_z",
    missing: Missing = "block",
    weighting: Weighting = "task",
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> Ranking:
    """Ranks all backbones that the boards allow to compare.

    Args:
        boards: of `records`; each is a setting.
        records: behind the boards.
        per_example: cell id to the outputs behind the record, or None; `Store.per_example`.
        by: which figure makes the order.
        missing: what is left out where cells are missing; see `settings.without_holes`.
        weighting: of the settings; see `aggregates.over_settings`.
        resamples: draws of the bootstrap.
        seed: of them.

    Raises:
        BobError: nothing to rank, or an unknown figure, rule or weighting.
    """
    if by not in get_args(Aggregate):
        raise unknown_name("figure to rank by", by, get_args(Aggregate))
    table, left_out = settings.without_holes(settings.from_boards(boards, records), missing)
    by_id = {record.cell.id: record for record in records}
    draws = uncertainty.draw(table, by_id, per_example, resamples=resamples, seed=seed)
    found = figures(table.values, table, weighting)
    drawn = figures(draws.values, table, weighting, draws.counts)
    task_z = _task_z(table.values, table)
    task_drawn = _task_z(draws.values, table, draws.counts)
    sign = -1.0 if by in SMALLER_IS_BETTER else 1.0
    ranges = uncertainty.rank_ranges(uncertainty.told_apart(sign * found[by], sign * drawn[by]))
    positions = aggregates.ranks(sign * found[by][:, None], np.array([True]))[:, 0]
    parameters = _parameters(records)
    standings = []
    for b, name in enumerate(table.backbones):
        n = int(np.isfinite(table.values[b]).sum())
        places = (positions < positions[b]).sum() + 1
        standings.append(
            Standing(
                backbone=name,
                position=int(places),
                best=int(ranges[b, 0]),
                worst=int(ranges[b, 1]),
                figures={key: _estimate(found[key][b], drawn[key][:, b], n) for key in found},
                tasks={
                    task: _estimate(task_z[b, t], task_drawn[:, b, t], n_task)
                    for t, task in enumerate(dict.fromkeys(table.tasks))
                    if (n_task := int(np.isfinite(table.values[b, [one == task for one in table.tasks]]).sum()))
                },
                parameters=parameters[name],
            )
        )
    standings.sort(key=lambda one: (one.position, one.best, one.worst, one.backbone))
    return Ranking(
        by=by,
        level=bootstrap.LEVEL,
        standings=tuple(standings),
        table=table,
        left_out=left_out,
        missing=missing,
        weighting=weighting,
        without_images=draws.without_images,
        value=sign * found[by],
        drawn=sign * drawn[by],
        task_z=task_z,
        task_drawn=task_drawn,
    )


def figures(
    values: np.ndarray, table: Settings, weighting: Weighting, counts: np.ndarray | None = None
) -> dict[Aggregate, np.ndarray]:
    """Every aggregate of a table or of draws of it.

    Args:
        values: [..., B, S].
        table: the settings behind.
        weighting: of the settings.
        counts: [..., S] how often each counts; once by default.

    Returns:
        [..., B] by name.
    """
    higher, tasks = table.higher_is_better, table.tasks
    each: dict[Aggregate, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "mean_z": aggregates.z_scores,
        "mean_rank": aggregates.ranks,
        "win_rate": aggregates.win_shares,
        "first_share": aggregates.first_shares,
    }
    found = {
        name: aggregates.over_settings(function(values, higher), tasks, weighting, counts)
        for name, function in each.items()
    }
    weights = aggregates.setting_weights(tasks, weighting, counts)
    found["bradley_terry"] = aggregates.bradley_terry(aggregates.wins(values, higher, weights))
    return found


def _task_z(values: np.ndarray, table: Settings, counts: np.ndarray | None = None) -> np.ndarray:
    return aggregates.task_means(aggregates.z_scores(values, table.higher_is_better), table.tasks, counts)


def _estimate(value: float, drawn: np.ndarray, n: int) -> Estimate:
    known = drawn[np.isfinite(drawn)]  # a draw may miss all settings of a backbone that has few
    low, high = bootstrap.percentiles(known) if len(known) else (value, value)
    return Estimate(float(value), float(low), float(high), n)


def _parameters(records: Sequence[Record]) -> Mapping[str, float | None]:
    found = {record.cell.backbone: record.backbone.card.get("parameters") for record in records}
    return {name: float(value) if isinstance(value, int | float) else None for name, value in found.items()}
