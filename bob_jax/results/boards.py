"""Who is best, per question: records that answer the same question side by side, with ties to the best marked.

A question is everything in a record but backbone and seed: the data, byte for byte, and the protocol with all its
hyper-parameters. Records of different questions never share a board. Seeds of one backbone make one row.
"""

import dataclasses
import hashlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from bob_jax.metrics import bootstrap, transferability
from bob_jax.metrics.catalog import METRICS
from bob_jax.results.record import Cost, Record

PerExample = Callable[[str], Mapping[str, np.ndarray] | None]


@dataclasses.dataclass(frozen=True)
class Row:
    """One backbone on a board.

    Attributes:
        rank: 1 for the best and for all that are tied with it; else the position by score.
        tied: no difference to the best can be told from these test examples; true for the best itself.
        evidence: what `tied` rests on: "paired", the 95 % interval of the difference on the same test examples includes
            0; "overlap", the two intervals overlap, where the examples were not kept or differ. The latter calls more
            backbones tied.
        value: mean over seeds.
        low, high: means over seeds of the ends of the intervals.
        n: test examples (the fewest, if seeds differ).
        seeds: number of seeds.
        spread: standard deviation over seeds; None for one seed.
        parameters: millions, without head; None if the card does not say.
        cost: means over seeds.
        clean: of a shifted data set, the score on the source's own test images, mean over seeds; else None.
        gap: how much worse the shifted score is, with the ends of its interval, means over seeds.
        cells: ids of the records.
    """

    rank: int
    tied: bool
    evidence: Literal["paired", "overlap"]
    backbone: str
    value: float
    low: float
    high: float
    n: int
    seeds: int
    spread: float | None
    parameters: float | None
    cost: Cost
    clean: float | None
    gap: tuple[float, float, float] | None
    cells: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Board:
    """All answers to one question, best first.

    Attributes:
        title: data set and protocol, and what tells this question from others of the same data set and protocol.
        metric: what `Row.value` is.
        level: of the intervals.
    """

    title: str
    dataset: str
    protocol: str
    metric: str
    higher_is_better: bool
    level: float
    rows: tuple[Row, ...]

    @property
    def percent(self) -> bool:
        """Whether the scores read best in percent: shares of something, not losses."""
        shares = self.higher_is_better and self.metric not in transferability.NAMES
        return shares and all(0 <= row.value <= 1 for row in self.rows)


def boards(records: Sequence[Record], per_example: PerExample) -> list[Board]:
    """The boards of all records, by data set and protocol.

    Args:
        records: of any cells.
        per_example: cell id to the outputs behind the record, or None where they were not kept; `Store.per_example`.
    """
    answers: dict[str, list[Record]] = {}
    for record in records:  # as JSON without its types: 1 and 1.0 are the same hyper-parameter
        answers.setdefault(repr(_untyped(_question(record))), []).append(record)
    questions = {key: _question(group[0]) for key, group in answers.items()}
    found = [
        _board(_title(questions[key], list(questions.values())), group, per_example) for key, group in answers.items()
    ]
    return sorted(found, key=lambda board: (board.dataset, board.protocol, board.title))


def _untyped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _untyped(item) for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_untyped(item) for item in value]
    return float(value) if type(value) is int else value


def _question(record: Record) -> dict[str, Any]:
    """What was asked, flat, in an order that does not depend on the record."""
    drawn = () if record.dataset.draw is None else ("train", "validation")  # each draw is a seed of the same question
    data = {
        f"{split} {what}": value
        for split, facts in sorted(record.dataset.splits.items())
        if split not in drawn
        for what, value in (("images", facts.size), ("data", facts.fingerprint))
    }
    return {
        "dataset name": record.dataset.name,
        "protocol name": record.protocol.name,
        "main metric": record.main_metric,
        "data version": record.dataset.version,
        **data,
        **dict(sorted(record.protocol.hyperparameters.items())),
    }


def _title(question: Mapping[str, Any], questions: Sequence[Mapping[str, Any]]) -> str:
    """Data set, protocol, and those facts in which questions of the same two differ."""
    same = ("dataset name", "protocol name")
    title = " · ".join(question[key] for key in same)
    rivals = [other for other in questions if all(other[key] == question[key] for key in same)]
    different = [key for key in question if any(other.get(key) != question[key] for other in rivals)]
    facts = []
    for key in different:
        split, _, what = key.rpartition(" ")
        if what != "data":
            facts.append(f"{key} {question[key]}")
        elif f"{split} images" not in different:  # the same number of other images: only their hash tells
            facts.append(f"{key} {hashlib.sha256(question[key].encode()).hexdigest()[:8]}")
    return ", ".join([title, *facts])


def _board(title: str, records: Sequence[Record], per_example: PerExample) -> Board:
    first = records[0]
    metric = first.main_metric
    higher = first.metrics[metric].higher_is_better
    by_backbone: dict[str, dict[int, Record]] = {}
    for record in sorted(records, key=lambda record: record.created):  # of equal backbone and seed the newest counts
        by_backbone.setdefault(record.cell.backbone, {})[record.cell.seed] = record
    groups = [list(seeds.values()) for _, seeds in sorted(by_backbone.items())]
    groups.sort(key=lambda group: _mean_score(group, metric), reverse=higher)
    ties = _ties(groups, metric, higher, per_example)
    rows = (
        _row(group, metric, rank=1 if tied else position, tied=tied, evidence=evidence)
        for position, (group, (tied, evidence)) in enumerate(zip(groups, ties, strict=True), start=1)
    )
    return Board(title, first.dataset.name, first.protocol.name, metric, higher, first.interval.level, tuple(rows))


def _mean_score(group: Sequence[Record], metric: str) -> float:
    return statistics.fmean(record.metrics[metric].value for record in group)


def _mean_ends(group: Sequence[Record], metric: str) -> tuple[float, float, float]:
    """Value, low and high, each the mean over seeds."""
    scores = [record.metrics[metric] for record in group]
    value, low, high = (statistics.fmean(getattr(score, end) for score in scores) for end in ("value", "low", "high"))
    return value, low, high


def _row(group: Sequence[Record], metric: str, *, rank: int, tied: bool, evidence: Literal["paired", "overlap"]) -> Row:
    scores = [record.metrics[metric] for record in group]
    parameters = group[-1].backbone.card.get("parameters")
    clean, gap = _of_shift(metric)
    shifted = all({clean, gap} <= record.metrics.keys() for record in group)
    return Row(
        rank=rank,
        tied=tied,
        evidence=evidence,
        backbone=group[0].cell.backbone,
        **dict(zip(("value", "low", "high"), _mean_ends(group, metric), strict=True)),
        n=min(score.n for score in scores),
        seeds=len(group),
        spread=statistics.stdev(score.value for score in scores) if len(group) > 1 else None,
        parameters=float(parameters) if isinstance(parameters, int | float) else None,
        cost=_mean_cost([record.cost for record in group]),
        clean=_mean_score(group, clean) if shifted else None,
        gap=_mean_ends(group, gap) if shifted else None,
        cells=tuple(record.cell.id for record in group),
    )


def _of_shift(metric: str) -> tuple[str, str]:
    """Names of the score on clean images and of what the shift costs, as `ood` and as detection calls them."""
    source = metric.removeprefix("shifted_")
    return f"clean_{metric}" if source == metric else source, f"gap_{source}"


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    means: dict[str, Any] = {}
    for field in dataclasses.fields(Cost):
        known = [value for cost in costs if (value := getattr(cost, field.name)) is not None]
        means[field.name] = statistics.fmean(known) if known else None
    return Cost(**means)


def _ties(
    groups: Sequence[Sequence[Record]], metric: str, higher: bool, per_example: PerExample
) -> list[tuple[bool, Literal["paired", "overlap"]]]:
    """For each backbone, best first: whether it is tied with the best, and by what evidence.

    Each is compared with the best alone, at the level of one comparison; with many backbones some true differences of
    that size are expected by chance.
    """
    best = [record.metrics[metric] for record in groups[0]]
    paired = _by_images(groups, metric, per_example) if metric in METRICS else _by_draws(groups, metric, per_example)
    ties: list[tuple[bool, Literal["paired", "overlap"]]] = []
    for group, difference in zip(groups, paired, strict=True):
        if difference is not None:
            low, high = difference
            ties.append((bool(low <= 0 <= high), "paired"))
        else:
            low, high = (statistics.fmean(getattr(r.metrics[metric], end) for r in group) for end in ("low", "high"))
            best_low, best_high = (statistics.fmean(getattr(score, end) for score in best) for end in ("low", "high"))
            ties.append((high >= best_low if higher else low <= best_high, "overlap"))
    return ties


def _by_images(groups: Sequence[Sequence[Record]], metric: str, per_example: PerExample) -> list[np.ndarray | None]:
    """Ends [2] of the interval of each backbone's score less the best one's; None where the images of both differ."""
    outputs = [_outputs(group, metric, per_example) for group in groups]
    paired = [found is not None and outputs[0] is not None and _same(found, outputs[0]) for found in outputs]
    differences = iter(_differences([o for o, pairs in zip(outputs, paired, strict=True) if pairs and o], metric).T)
    return [next(differences) if pairs else None for pairs in paired]


def _by_draws(groups: Sequence[Sequence[Record]], metric: str, per_example: PerExample) -> list[np.ndarray | None]:
    """The same of a score that was drawn when its records were made, on the same images alike for every backbone."""
    drawn = [_mean_draws(group, metric, per_example) for group in groups]
    best = drawn[0]
    found: list[np.ndarray | None] = []
    for one in drawn:
        if one is None or best is None or one[1:] != best[1:]:
            found.append(None)
            continue
        difference = one[0] - best[0]
        found.append(bootstrap.percentiles(difference[np.isfinite(difference)]))
    return found


def _mean_draws(
    group: Sequence[Record], metric: str, per_example: PerExample
) -> tuple[np.ndarray, int, frozenset[int]] | None:
    """[R] means over seeds of the score on each draw, their number, and the numbers of images; None if not all kept."""
    drawn = [one for record in group if (one := drawn_score(per_example(record.cell.id), metric)) is not None]
    if len(drawn) < len(group) or len({len(one) for one in drawn}) > 1:
        return None
    return np.mean(drawn, axis=0)[1:], len(drawn[0]), frozenset(record.metrics[metric].n for record in group)


def drawn_score(outputs: Mapping[str, np.ndarray] | None, metric: str) -> np.ndarray | None:
    """[1 + R] a record's score and that on each bootstrap draw of its test images; None where they were not kept."""
    return None if outputs is None else outputs.get(f"{bootstrap.DRAWN}{metric}")


def _outputs(group: Sequence[Record], metric: str, per_example: PerExample) -> list[dict[str, np.ndarray]] | None:
    """What each seed said of the test examples, in the order of their ids; None if that was not kept."""
    found = []
    for record in group:
        outputs = per_example(record.cell.id)
        if outputs is None or not {"id", *METRICS[metric].inputs} <= outputs.keys():
            return None
        order = np.argsort(outputs["id"])
        found.append({name: outputs[name][order] for name in ("id", *METRICS[metric].inputs)})
    return found if _same(found, found) else None


def _same(seeds: Sequence[Mapping[str, np.ndarray]], others: Sequence[Mapping[str, np.ndarray]]) -> bool:
    """Whether all of them are about the same test examples."""
    return all(np.array_equal(outputs["id"], others[0]["id"]) for outputs in seeds)


def _differences(outputs: Sequence[Sequence[Mapping[str, np.ndarray]]], metric: str) -> np.ndarray:
    """[2, K] ends of the interval of each backbone's score (mean over seeds) minus the first one's."""
    if not outputs:
        return np.zeros((2, 0))

    def scores(weights: np.ndarray) -> np.ndarray:
        return np.stack(
            [np.mean([METRICS[metric].weighted(seed, weights) for seed in seeds], axis=0) for seeds in outputs], axis=1
        )

    drawn = bootstrap.replicates(scores, len(outputs[0][0]["id"]))
    return bootstrap.percentiles(drawn - drawn[:, :1])
