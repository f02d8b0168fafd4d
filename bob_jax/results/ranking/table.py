"""A ranking as a table for the terminal, as CSV and as JSON."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bob_jax.metrics.bootstrap import Estimate
from bob_jax.results.ranking.analysis import Analysis
from bob_jax.results.ranking.cheap_answers import CheapSummary
from bob_jax.results.ranking.correlation import Correlation
from bob_jax.results.ranking.settings import counted
from bob_jax.results.ranking.standings import SMALLER_IS_BETTER, Aggregate, Ranking
from bob_jax.results.schema import plain

# How the figures are called, and with how many digits; shares in percent.
NAMES: dict[Aggregate, str] = {
    "mean_z": "mean z",
    "mean_rank": "mean rank",
    "win_rate": "win rate %",
    "bradley_terry": "Bradley-Terry",
    "first_share": "first %",
}
PERCENT: tuple[Aggregate, ...] = ("win_rate", "first_share")
ENOUGH = 5  # data sets of a task, for a bootstrap over them


def tables(analysis: Analysis) -> Group:
    """For `rich.print`: the ranking, how the tasks agree, what the cheap protocols tell, and what to bear in mind."""
    parts: list[Table | Text] = [_standings(analysis.ranking)]
    if analysis.between_tasks:
        rows = [
            (one.first, one.second, _correlation(one.spearman), _correlation(one.kendall), f"{one.spearman.n}")
            for one in analysis.between_tasks
        ]
        parts.append(
            _table("do the tasks agree?", ("task", "and", "Spearman [95 %]", "Kendall [95 %]", "backbones"), rows)
        )
    if analysis.cheap:
        columns = ("cheap protocol", "Spearman [95 %]", "data sets", "backbones", "best found", "lost by its choice")
        parts.append(_table("does it order backbones as fine-tuning does?", columns, map(_cheap, analysis.cheap)))
    return Group(*parts, *map(Text, notes(analysis.ranking)))


def _table(title: str, columns: Sequence[str], rows: Any) -> Table:
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _standings(ranking: Ranking) -> Table:
    order = [ranking.by, *(name for name in NAMES if name != ranking.by)]
    several = len(ranking.tasks) > 1
    title = f"{counted(len(ranking.standings), 'backbone')} over {counted(len(ranking.table.settings), 'setting')}"
    title += f" of {counted(len(ranking.tasks), 'task')}, by {NAMES[ranking.by].removesuffix(' %')}"
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("backbone", no_wrap=True)
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column(NAMES[ranking.by], justify="right")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    for name in order[1:]:
        table.add_column(NAMES[name], justify="right")
    for task in ranking.tasks if several else ():
        table.add_column(f"z {task}", justify="right")
    for one in ranking.standings:
        main = one.figures[ranking.by]
        table.add_row(
            one.range,
            one.backbone,
            "-" if one.parameters is None else f"{one.parameters:.3g} M",
            show(ranking.by, main.value),
            f"[{show(ranking.by, main.low)}, {show(ranking.by, main.high)}]",
            *(show(name, one.figures[name].value) for name in order[1:]),
            *([_z(one.tasks.get(task)) for task in ranking.tasks] if several else []),
            style="bold" if one.best == 1 else "",
        )
    return table


def show(name: Aggregate, value: float) -> str:
    """A figure as it is written: signed where 0 is the middle, shares in percent."""
    if name in PERCENT:
        return f"{100 * value:.0f}"
    return f"{value:.2f}" if name in SMALLER_IS_BETTER else f"{round(value, 2) + 0.0:+.2f}"  # never -0.00


def _z(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:+.2f}"


def _correlation(one: Correlation | CheapSummary) -> str:
    value = one.value if isinstance(one, Correlation) else one.spearman
    return "-" if value is None else f"{value:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"


def _cheap(one: CheapSummary) -> tuple[str, ...]:
    found = f"{one.agreeing} of {one.comparisons}"
    return (
        one.cheap,
        _correlation(one),
        f"{one.datasets}",
        f"{one.backbones}",
        found,
        f"{100 * one.regret:.2f} points",
    )


def notes(ranking: Ranking) -> list[str]:
    """What a reader of the ranking must know, a line each."""
    lines = ["rank: all these ranges together hold the true ranks with 95 %; in bold: who may be first"]
    one = [task for task, count in ranking.data_sets.items() if count == 1]
    few = [task for task, count in ranking.data_sets.items() if 1 < count < ENOUGH]
    if one:
        lines.append(f"one data set in {', '.join(one)}: the intervals do not say what others would do there")
    if few:
        lines.append(f"fewer than {ENOUGH} data sets in {', '.join(few)}: intervals and ranges are somewhat too narrow")
    if ranking.without_images:
        lines.append(
            f"{counted(len(ranking.without_images), 'cell')} without per-image outputs: drawn from their intervals"
        )
    if ranking.missing == "available" and any(len(other.tasks) < len(ranking.tasks) for other in ranking.standings):
        lines.append("some backbones lack whole tasks: theirs are means over other questions")
    lines += [f"left out: {name}: {why}" for name, why in ranking.left_out.items()]
    return lines


def to_csv(ranking: Ranking) -> str:
    """One line a backbone, nothing rounded; figures and tasks with the ends of their intervals."""
    ends = ("", "_low", "_high")
    figures = [f"{name}{end}" for name in NAMES for end in ends]
    tasks = [f"z_{task.replace(' ', '_')}{end}" for task in ranking.tasks for end in ends]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("position", "best_rank", "worst_rank", "backbone", "parameters_millions", "settings", *figures, *tasks)
    )
    for one in ranking.standings:
        values = [_ends(one.figures[name]) for name in NAMES] + [_ends(one.tasks.get(task)) for task in ranking.tasks]
        head = (one.position, one.best, one.worst, one.backbone, one.parameters, one.figures[ranking.by].n)
        writer.writerow((*head, *(number for three in values for number in three)))
    return text.getvalue()


def _ends(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)


def to_json(analysis: Analysis) -> str:
    """The whole analysis but the draws, nothing rounded."""
    ranking = analysis.ranking
    data = {
        **{name: getattr(ranking, name) for name in ("by", "level", "missing", "weighting", "standings", "left_out")},
        "settings": ranking.table.settings,
        "without_images": ranking.without_images,
        "data_sets": ranking.data_sets,
        **{
            name: getattr(analysis, name)
            for name in (
                *("between_tasks", "between_settings", "facts", "against", "matches", "contrasts"),
                *("cheap_answers", "cheap"),
            )
        },
    }
    return json.dumps(plain(data, ""), indent=2, ensure_ascii=False) + "\n"
