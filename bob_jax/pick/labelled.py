"""Labelled images: the race of the backbones, and what it says."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from bob_jax.errors import BobError
from bob_jax.metrics.base import Metric, mean
from bob_jax.metrics.bootstrap import Estimate, paired
from bob_jax.metrics.calibration import fit_temperature
from bob_jax.pick import evidence, folds, heads
from bob_jax.pick.bench import Bench
from bob_jax.pick.budget import Budget
from bob_jax.pick.candidates import Candidate
from bob_jax.pick.evidence import Share
from bob_jax.pick.heads import Outcome
from bob_jax.pick.images import Images
from bob_jax.pick.race import Race, Runner, Verdict, rungs

SAME_COST = 1.25  # costs up to so many times the least are no reason to take a worse one
RIGHT = Metric(("right",), mean)


@dataclasses.dataclass(frozen=True)
class Row:
    """A backbone in the answer.

    Attributes:
        backbone: its name.
        verdict: how its race ended.
        images: it was judged on.
        probe: share that linear probes got right out of fold, less what choosing lambda and k adds.
        knn: the same of k-NN.
        behind: how much the best is better on the same images, with the 95 % interval of the difference; None for the
            best itself, and for those that were judged on fewer images.
        p: of being as good as the leader of its last rung.
        rate, gflops, parameters, memory: images a second, GFLOPs an image, millions, and bytes while a batch goes
            through; None where not known.
        licence, commercial: of the weights.
        random: whether it is a random twin.
        transferability: scores by name, of the images it was judged on; empty where there was no time.
    """

    backbone: str
    verdict: Verdict
    images: int
    probe: Share
    knn: Share
    behind: Estimate | None
    p: float
    rate: float | None
    gflops: float | None
    parameters: float
    memory: int | None
    licence: str
    commercial: bool
    random: bool
    transferability: dict[str, Estimate] = dataclasses.field(default_factory=dict)


class Judge:
    """Judges candidates on the first images of an order, and remembers what it found."""

    def __init__(self, images: Images, candidates: Sequence[Candidate], bench: Bench, budget: Budget, seed: int = 0):
        self.images, self.bench, self.budget = images, bench, budget
        self.candidates = {one.name: one for one in candidates}
        self.labels = np.asarray(images.source.labels)[bench.order]
        groups = images.groups[bench.order]
        count = folds.repeats(len(self.labels))
        self.folds = np.stack([folds.assign(self.labels, groups, seed + i) for i in range(count)])
        self._outcomes: dict[tuple[str, int], tuple[Outcome, np.ndarray]] = {}
        self.left_out: list[str] = []

    def __call__(self, name: str, size: int) -> np.ndarray | None:
        """What the candidate gets right of the first `size` images; None where its weights cannot be had."""
        one = self.candidates[name]
        expected, before = self.seconds(name, size), self.budget.spent()
        try:
            values, place = self.bench.features(one, size)
        except BobError as error:
            if self.bench.unread and len(self.bench.unread) >= size:
                raise  # no backbone can help that
            self.left_out.append(f"{name} is left out: {error}")
            return None
        except (ImportError, RuntimeError, ValueError) as error:  # a library that is missing, memory that is not enough
            words = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self.left_out.append(f"{name} is left out, it cannot be run here: {words[:200]}")
            return None
        if not np.isfinite(values).all():
            self.left_out.append(f"{name} is left out: its features are not finite")
            return None
        classes = len(self.images.classes)
        self._can_be_judged(self.labels[place], self.folds[:, place])
        outcome = heads.cross_validate(values, self.labels[place], classes, self.folds[:, place], self.bench.mesh)
        self._outcomes[name, size] = outcome, place[outcome.index]
        self.budget.learn(expected, self.budget.spent() - before)
        return outcome.first

    def _can_be_judged(self, labels: np.ndarray, fold: np.ndarray) -> None:
        """Raises BobError where damaged images leave too little."""
        for each in fold:
            judged = np.unique(each[each >= 0])
            if len(np.unique(labels[each >= 0])) < 2 or any((each == number).all() for number in judged):
                raise BobError(
                    f"too few images of {self.images.name} can be decoded to tell classes apart: {len(labels)}; "
                    f"{len(self.bench.unread)} are damaged, first {next(iter(self.bench.unread), '-')}"
                )

    def outcome(self, runner: Runner) -> Outcome:
        """What was found of a candidate at its last rung."""
        return self._outcomes[runner.name, runner.size][0]

    def places(self, runner: Runner) -> np.ndarray:
        """[N] places in the order of the images that its outcome is about."""
        return self._outcomes[runner.name, runner.size][1]

    def seconds(self, name: str, size: int) -> float:
        """What judging it will take."""
        one = self.candidates[name]
        wanted = self.bench.size_for(one, size) if self.bench.new(one, size) else size
        classes = len(self.images.classes)
        return self.budget.step(one, self.bench.new(one, wanted), self.bench.fresh(one), size, classes)

    def race(self) -> Race:
        """The race of all candidates."""
        sizes = rungs(len(self.labels), len(self.images.classes))
        runners = {name: Runner(name) for name in self.candidates}
        return Race(runners, sizes, self, self.seconds, self.budget.left)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the race amounts to.

    Attributes:
        rows: all that were tried, those that nobody beat first, best first.
        chosen: the recommended backbone.
        best: the one with the highest score; the same, or no more than a standard error ahead.
        tied: names of those that cannot be told apart from the best, it among them.
        score: of the chosen, with the optimism of the whole choice taken off.
        optimism: how much was taken off.
        not_tried: names of those that there was no time for.
    """

    rows: tuple[Row, ...]
    chosen: str
    best: str
    tied: tuple[str, ...]
    score: Share
    optimism: float
    not_tried: tuple[str, ...]


def choose(race: Race, judge: Judge, memory: Callable[[Candidate], int | None]) -> Choice:
    """The backbone to take: of those within a standard error of the best the cheapest (Breiman et al. 1984, 3.4.3).

    Args:
        race: as far as it came.
        judge: with what it found.
        memory: of a candidate.

    Raises:
        BobError: nobody was judged.
    """
    standing = race.standing()
    if not standing:
        raise BobError("no backbone could be judged: " + ("; ".join(judge.left_out) or "there was no time"))
    largest = max(runner.size for runner in standing)
    standing = [runner for runner in standing if runner.size == largest]
    random = {one.name for one in judge.candidates.values() if one.random}
    real = [one for one in standing if one.name not in random] or standing
    rivals = race.runners.keys() if real[0].name in random else race.runners.keys() - random
    right = {one.name: _right(judge.outcome(one)) for one in standing}
    best = max(real, key=lambda one: float(right[one.name].mean()))  # of equals the more promising
    near = [one for one in real if _within_an_error(right[best.name], right[one.name])]
    least = min(judge.candidates[one.name].cost for one in near)
    cheap = [one for one in near if judge.candidates[one.name].cost <= SAME_COST * least]
    chosen = max(cheap, key=lambda one: float(right[one.name].mean()))
    outcomes = [judge.outcome(one) for one in standing]
    penalty = evidence.optimism(np.concatenate([outcome.probe for outcome in outcomes], axis=1))
    final = judge.outcome(chosen)
    tried = [runner for runner in race.runners.values() if runner.at]
    # Of fewer images last: their scores are not of the same images.
    tried.sort(key=lambda one: (-one.size, -one.score))
    rows = tuple(_row(runner, judge, right.get(best.name), memory) for runner in tried)
    return Choice(
        rows,
        chosen.name,
        best.name,
        tuple(one.name for one in race.open() if one.name in rivals),
        evidence.corrected(final.probe, final.strength, penalty),
        penalty,
        tuple(one.name for one in race.runners.values() if one.verdict == "not tried"),
    )


def _right(outcome: Outcome) -> np.ndarray:
    """[N] how often the best lambda is right, over the repeats."""
    return outcome.probe[:, outcome.strength]


def _within_an_error(best: np.ndarray, other: np.ndarray) -> bool:
    difference = best - other
    return float(difference.mean()) <= evidence.standard_error(difference) + 1e-12


def _row(runner: Runner, judge: Judge, best: np.ndarray | None, memory: Callable[[Candidate], int | None]) -> Row:
    one, outcome = judge.candidates[runner.name], judge.outcome(runner)
    right, behind = _right(outcome), None
    if best is not None and len(best) == len(right) and best is not right and not np.array_equal(best, right):
        behind = paired(RIGHT, {"right": best}, {"right": right})
    return Row(
        backbone=one.name,
        verdict=runner.verdict,
        images=len(right),
        behind=behind,
        p=runner.p,
        rate=judge.bench.rate(one),
        gflops=one.gflops,
        parameters=one.card.parameters,
        memory=memory(one),
        licence=one.card.licence,
        commercial=one.card.commercial,
        random=one.random,
        probe=_own(outcome.probe, outcome.strength),
        knn=_own(outcome.knn, outcome.neighbours),
    )


def _own(columns: np.ndarray, column: int) -> Share:
    """The share of a head's best hyper-parameter, without the optimism of that choice."""
    return evidence.corrected(columns, column, evidence.optimism(columns))


def temperature(outcome: Outcome, labels: np.ndarray) -> float:
    """What out-of-fold logits are divided by to say true probabilities.

    Args:
        outcome: of the chosen backbone.
        labels: [N] of the judged images.
    """
    return fit_temperature(outcome.logits, labels)
