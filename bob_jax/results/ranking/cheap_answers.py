"""How much of the answer cheap protocols give: do they order backbones on a data set as fine-tuning does?

Of each data set with both, the rank correlation over backbones, and the regret: the score that is lost by fine-tuning
the backbone that the cheap protocol calls best instead of the one that is.
"""

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np

from bob_jax.errors import BobError
from bob_jax.results.ranking.correlation import Correlation, correlate
from bob_jax.results.ranking.settings import Settings

TARGET = "finetune"
NEEDED = 2  # backbones with both


@dataclasses.dataclass(frozen=True)
class CheapAnswer:
    """A cheap protocol held against the dear one on one data set.

    Attributes:
        dataset: name.
        cheap: protocol whose order is judged; of transferability scores "transferability: " and the score's name.
        cheap_title, target_title: of the two boards.
        spearman, kendall: of the backbones that have both.
        regret: target score lost, at least 0, by the choice of the cheap protocol's best; of equals the worst choice.
        agrees: whether that choice is a best one.
    """

    dataset: str
    cheap: str
    cheap_title: str
    target_title: str
    spearman: Correlation
    kendall: Correlation
    regret: float
    agrees: bool


@dataclasses.dataclass(frozen=True)
class CheapSummary:
    """The same over data sets.

    Attributes:
        spearman: mean over data sets, by Fisher's transformation; None if no data set has one.
        low, high: as wide as a single data set's interval on average, for the same backbones make all of them: more
            data sets do not make it narrower.
        datasets: how many.
        comparisons: of boards: more than data sets where one has several with other hyper-parameters.
        backbones: the fewest in one of them.
        regret: their mean.
        agreeing: comparisons in which the cheap protocol's best is the best.
    """

    cheap: str
    spearman: float | None
    low: float
    high: float
    datasets: int
    comparisons: int
    backbones: int
    regret: float
    agreeing: int


def cheap_answers(table: Settings, target: str = TARGET) -> list[CheapAnswer]:
    """Holds every other protocol of the same task against the target, data set by data set.

    Args:
        table: backbones x settings, holes and all.
        target: name of the dear protocol.

    Returns:
        One for each pair of boards on the same test images, in the order of the table.

    Raises:
        BobError: no setting of the target, or none that another protocol shares two backbones with.
    """
    targets = [s for s, one in enumerate(table.settings) if one.protocol == target]
    if not targets:
        raise BobError(f"no record of protocol '{target}': nothing to hold the cheap protocols against; run it too")
    found = []
    for t in targets:
        for s, one in enumerate(table.settings):
            dear = table.settings[t]
            where = (one.dataset, one.images, one.task) == (dear.dataset, dear.images, dear.task)
            same = where and one.protocol != target
            both = np.isfinite(table.values[:, s]) & np.isfinite(table.values[:, t])
            if same and both.sum() >= NEEDED:
                found.append(_answer(table, s, t, both))
    if not found:
        raise BobError(
            f"no two backbones have a record of '{target}' and of another protocol on the same test images: run a "
            "cheap protocol on the data sets that were fine-tuned on"
        )
    return found


def _answer(table: Settings, s: int, t: int, both: np.ndarray) -> CheapAnswer:
    cheap, dear = (
        table.values[both, column] * (1 if table.settings[column].higher_is_better else -1) for column in (s, t)
    )
    regret = float(dear.max() - dear[cheap == cheap.max()].min())
    return CheapAnswer(
        dataset=table.settings[t].dataset,
        cheap=table.settings[s].protocol,
        cheap_title=table.settings[s].title,
        target_title=table.settings[t].title,
        spearman=correlate(cheap, dear, "spearman"),
        kendall=correlate(cheap, dear, "kendall"),
        regret=regret,
        agrees=regret == 0,
    )


def summaries(answers: Sequence[CheapAnswer]) -> list[CheapSummary]:
    """Over data sets, the most faithful protocol first."""
    groups: dict[str, list[CheapAnswer]] = {}
    for answer in answers:
        groups.setdefault(answer.cheap, []).append(answer)
    found = [_summary(cheap, group) for cheap, group in groups.items()]
    return sorted(found, key=lambda one: (-2.0 if one.spearman is None else -one.spearman, one.cheap))


def _summary(cheap: str, answers: Sequence[CheapAnswer]) -> CheapSummary:
    known = [one.spearman for one in answers if one.spearman.value is not None]
    mean, low, high = None, -1.0, 1.0
    if len(known) == 1:
        mean, low, high = known[0].value, known[0].low, known[0].high
    elif known:
        mean, low, high = _mean(known)
    return CheapSummary(
        cheap=cheap,
        spearman=mean,
        low=low,
        high=high,
        datasets=len({one.dataset for one in answers}),
        comparisons=len(answers),
        backbones=min(one.spearman.n for one in answers),
        regret=statistics.fmean(one.regret for one in answers),
        agreeing=sum(one.agrees for one in answers),
    )


def _mean(known: Sequence[Correlation]) -> tuple[float, float, float]:
    """The ends are the means of the ends: the standard deviation of a mean is at most the mean of theirs."""
    ends = np.array([[one.value, one.low, one.high] for one in known], dtype=np.float64)
    limit = np.nextafter(1.0, 0.0)
    value, low, high = np.tanh(np.arctanh(np.clip(ends, -limit, limit)).mean(axis=0))
    return float(value), float(low), float(high)
