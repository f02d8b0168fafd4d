"""Everything that records say about backbones as a whole, in one call: `bob rank --json` and the report show it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import get_args

from bob_jax.errors import BobError
from bob_jax.results.boards import Board, PerExample
from bob_jax.results.ranking import aggregates, cheap_answers, correlation, factors, settings, standings
from bob_jax.results.ranking.aggregates import Weighting
from bob_jax.results.ranking.cheap_answers import CheapAnswer, CheapSummary
from bob_jax.results.ranking.correlation import Agreement, Correlation
from bob_jax.results.ranking.factors import Contrast, Facts, Match, Quantity
from bob_jax.results.ranking.settings import Missing
from bob_jax.results.ranking.standings import Aggregate, Ranking
from bob_jax.results.record import Record


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The ranking and what explains it.

    Attributes:
        between_tasks: agreement of the tasks' mean z-scores; none for one task.
        between_settings: of the z-scores of all ranked settings.
        facts: of each backbone.
        against: correlation of the figure that ranks with each quantity, by quantity and family.
        matches: backbones that differ in method alone.
        contrasts: self-supervised against supervised among them.
        cheap_answers: cheap protocols held against fine-tuning, on all records, data set by data set; none without
            records of fine-tuning.
        cheap: the same over data sets.
    """

    ranking: Ranking
    between_tasks: list[Agreement]
    between_settings: list[Agreement]
    facts: dict[str, Facts]
    against: dict[Quantity, dict[str, Correlation]]
    matches: list[Match]
    contrasts: list[Contrast]
    cheap_answers: list[CheapAnswer]
    cheap: list[CheapSummary]


def analyse(
    boards: Sequence[Board],
    records: Sequence[Record],
    per_example: PerExample,
    pretraining_images: Callable[[str], int | None],
    *,
    by: Aggregate = "mean_z",
    missing: Missing = "block",
    weighting: Weighting = "task",
    seed: int = 0,
) -> Analysis:
    """Ranks and explains.

    Args:
        boards: of `records`.
        records: of any cells.
        per_example: cell id to the outputs behind the record, or None; `Store.per_example`.
        pretraining_images: distinct images in the data that a card names; `backbones.pretraining.images`.
        by: which figure makes the order.
        missing: what is left out where cells are missing; see `settings.without_holes`.
        weighting: of the settings; see `aggregates.over_settings`.
        seed: of the bootstrap.

    Raises:
        BobError: nothing to rank, or an unknown figure, rule or weighting.
    """
    ranking = standings.rank(boards, records, per_example, by=by, missing=missing, weighting=weighting, seed=seed)
    table = ranking.table
    known = factors.facts(records, pretraining_images)
    z = aggregates.z_scores(table.values, table.higher_is_better)
    answers = _cheap(boards, records)
    return Analysis(
        ranking=ranking,
        between_tasks=correlation.between(ranking.tasks, ranking.task_z),
        between_settings=correlation.between([one.title for one in table.settings], z),
        facts={name: known[name] for name in table.backbones},
        against={quantity: factors.against(ranking, known, quantity) for quantity in get_args(Quantity)},
        matches=factors.apples_to_apples(ranking, known),
        contrasts=factors.contrasts(ranking, known),
        cheap_answers=answers,
        cheap=cheap_answers.summaries(answers),
    )


def _cheap(boards: Sequence[Board], records: Sequence[Record]) -> list[CheapAnswer]:
    try:
        return cheap_answers.cheap_answers(settings.from_boards(boards, records, predictions=True))
    except BobError:  # nothing was fine-tuned: there is no such answer, and nothing wrong
        return []
