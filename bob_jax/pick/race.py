"""Successive halving with confidence: all on few images, the better ones on more, and nobody is dropped by chance.

Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943) drops half at every rung. Here two things take a
candidate out, and they are kept apart, since only the first is knowledge:

    ruled out   the leader beat it on the same images in a one-sided exact McNemar test (Hoeffding races, Maron & Moore
                1994, with a paired test; BBCD-CV of arXiv 1708.07180 drops likewise). Each of the (m - 1) rivals and R
                rungs has its share of the level, so that the truly best of m is ruled out with a chance of at most 5 %,
                whatever stops the race (union bound).
    no time     the budget does not suffice for all: the best go on, as many as there is time for.

Everything is on the clock of the caller; this file neither knows images nor backbones.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from bob_jax.pick.evidence import at_least_as_good

LEVEL = 0.05  # chance that the truly best one is ruled out
FACTOR = 3  # images of a rung by those of the one before
FIRST = 200  # images of the first rung
Verdict = Literal["standing", "ruled out", "no time", "not tried", "not had"]


@dataclasses.dataclass
class Runner:
    """A candidate on its way.

    Attributes:
        name: of it.
        verdict: where it ended.
        size: images of the last rung it ran.
        at: [size] bool by size, what it got right at each rung.
        p: of being as good as the leader of that rung.
    """

    name: str
    verdict: Verdict = "not tried"
    size: int = 0
    at: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    p: float = 1.0

    @property
    def correct(self) -> np.ndarray:
        """[size] bool, what it got right at its last rung."""
        return self.at[self.size]

    @property
    def score(self) -> float:
        """Share of the last rung's images that it got right."""
        return float(self.correct.mean())


def rungs(images: int, classes: int) -> tuple[int, ...]:
    """Numbers of images, the last one being all: 200 (five of each class if those are more), then three times as many.

    A rung that would nearly be the next one is left out.
    """
    sizes, size = [], max(FIRST, 5 * classes)
    while size < images / 1.5:
        sizes.append(size)
        size *= FACTOR
    return (*sizes, images)


@dataclasses.dataclass
class Race:
    """The candidates, most promising first, and what is known of them at any time: it may be interrupted.

    Attributes:
        runners: by name, in the order of promise.
        sizes: images of each rung.
        judge: (name, size) -> [size] bool, what it gets right of the first `size` images; None where it cannot be had.
        seconds: (name, size) -> what that will take now.
        left: seconds that are left.
        size: images of the last rung that all who ran it have finished.
    """

    runners: dict[str, Runner]
    sizes: Sequence[int]
    judge: Callable[[str, int], np.ndarray | None]
    seconds: Callable[[str, int], float]
    left: Callable[[], float]
    size: int = 0

    def run(self) -> None:
        """All rungs that there is time for."""
        exploring = self.left() / 2  # half is kept for those that turn out well
        for number, size in enumerate(self.sizes):
            if number == 0:
                self._first(size, self.left() - exploring)
            elif not self._later(size):
                return
            self._rule_out()

    def settle(self) -> None:
        """After an interruption: a rung that not all have finished counts for nobody."""
        for runner in self.runners.values():
            if self.size and runner.size > self.size:
                runner.size = self.size
            elif runner.verdict == "no time" and runner.size == self.size:
                runner.verdict = "standing"

    def standing(self) -> list[Runner]:
        """Those that nobody has beaten, at the largest number of images, best first; of equals the more promising."""
        return sorted((one for one in self.runners.values() if one.verdict == "standing"), key=lambda one: -one.score)

    def open(self) -> list[Runner]:
        """Those that were tried and are not ruled out, for whatever reason they stopped."""
        return [one for one in self.runners.values() if one.verdict in ("standing", "no time")]

    def _first(self, size: int, keep: float) -> None:
        for runner in self.runners.values():
            if self.seconds(runner.name, size) <= self.left() - keep:  # a cheaper one may come after one that is not
                self._run(runner, size)
        if all(runner.verdict == "not tried" for runner in self.runners.values()):
            self._run(min(self.runners.values(), key=lambda one: self.seconds(one.name, size)), size)
        self.size = size

    def _later(self, size: int) -> bool:
        """Runs a rung with those that there is time for; False where there is none."""
        able, free = [], self.left()
        for runner in self.standing():
            needed = self.seconds(runner.name, size)
            if needed <= free:  # a cheaper one may come after one that is too slow
                able.append(runner)
                free -= needed
        if not able or (len(able) == 1 and len(self.standing()) > 1):
            return False  # one alone has nobody to be compared with
        chosen = {runner.name for runner in able}
        for runner in self.standing():
            if runner.name not in chosen:
                runner.verdict = "no time"
        for runner in able:
            self._run(runner, size)
        self.size = size
        return True

    def _run(self, runner: Runner, size: int) -> None:
        correct = self.judge(runner.name, size)
        if correct is None:
            runner.verdict = "not had"
            return
        runner.at[size], runner.size, runner.verdict = correct, size, "standing"

    def _rule_out(self) -> None:
        running = self.standing()
        if len(running) < 2:
            return
        leader = running[0]
        level = LEVEL / ((len(self.runners) - 1) * len(self.sizes))
        for runner in running[1:]:
            runner.p = at_least_as_good(leader.correct, runner.correct)
            if runner.p < level:
                runner.verdict = "ruled out"
