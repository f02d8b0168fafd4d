"""From images to an answer: the race, then what there is time for, and what is known so far when it is interrupted."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from bob_jax.data.base import Source
from bob_jax.errors import BobError
from bob_jax.launch import devices
from bob_jax.pick import copies, folds, labelled
from bob_jax.pick.after import After
from bob_jax.pick.answer import Labelled, Setting, Unlabelled
from bob_jax.pick.bench import Bench
from bob_jax.pick.budget import Budget
from bob_jax.pick.candidates import Candidate
from bob_jax.pick.classifier import Classifier
from bob_jax.pick.images import Images
from bob_jax.pick.labelled import Judge
from bob_jax.pick.race import Race
from bob_jax.pick.unlabelled import Looker
from bob_jax.training import mesh as meshes

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Found:
    """The answer, and what it was made of.

    Attributes:
        answer: for people and programs.
        shown: the images that places in the answer are of: those given, behind them the user's test folder.
        classifier: the chosen backbone with its probe; None without labels, or where it was stopped before.
    """

    answer: Labelled | Unlabelled
    shown: Source
    classifier: Classifier | None


def pick(images: Images, candidates: Sequence[Candidate], left_out: Sequence[str], budget: Budget, say: Say) -> Found:
    """Which backbone for these images.

    Args:
        images: labelled or not.
        candidates: the most promising first.
        left_out: lines about others.
        budget: the clock, which is running.
        say: is told what happens, a line at a time.

    Raises:
        BobError: nothing can be said: no time, no image that can be read, no backbone that can be had.
        KeyboardInterrupt: `budget.stop` was called before anything was known.
    """
    bench = Bench(images.source, folds.order(np.asarray(images.source.labels)), meshes.make_mesh(), budget)
    look = _Labelled if images.labelled else _Unlabelled
    return look(images, candidates, left_out, bench, budget, say).find()


@dataclasses.dataclass
class _Look:
    images: Images
    candidates: Sequence[Candidate]
    left_out: Sequence[str]
    bench: Bench
    budget: Budget
    say: Say

    def affordable(self, size: int) -> None:
        """Raises BobError where the time does not suffice for the cheapest of all."""
        if self.budget.stopped:
            raise KeyboardInterrupt
        least, first = min((self.budget.step(one, size, True), one.name) for one in self.candidates)
        if least > self.budget.left_in_all():
            raise BobError(
                f"--budget of {self.budget.total:.0f} s is too small for even one backbone: {first} alone takes about "
                f"{least:.0f} s; give --budget {max(30, 10 * round(0.3 * least)):.0f}s or more"
            )

    def quietly(self, step: Callable[[], None], words: str) -> None:
        """A step that there may be no time for."""
        if self.budget.left_in_all() > 0:
            self.say(words)
            step()

    def setting(self, more: Sequence[str]) -> Setting:
        unread = [name for name in self.bench.unread if name not in self.images.unread]
        many = "1 image" if len(unread) == 1 else f"{len(unread)} images"
        lost = [f"left out, since damaged: {many}, first {unread[0]}"] if unread else []
        return Setting(
            self.images.name,
            len(self.images.source),
            self.images.classes,
            devices.here(),
            self.budget.spent(),
            self.budget.total,
            self.budget.stopped,
            (*self.images.warnings, *lost, *self.left_out, *more),
        )


class _Labelled(_Look):
    def find(self) -> Found:
        judge = Judge(self.images, self.candidates, self.bench, self.budget)
        race = judge.race()
        self.affordable(race.sizes[0])
        race.judge = self._told(judge)
        try:
            race.run()
        except KeyboardInterrupt:
            race.settle()
            if not race.standing():
                raise
        choice = labelled.choose(race, judge, self._memory(race))
        after = After(self.images, self.bench, self.budget, judge, race, choice)
        name = choice.chosen
        self.quietly(after.train, f"{name}: training the probe on all images")
        if self.images.test is not None and after.classifier is not None:
            self.quietly(after.judge_test, f"{name}: judging the test folder")
        self.quietly(after.look_for_copies, f"{name}: looking for copies")
        self.quietly(after.learn, f"{name}: learning curve")
        self.quietly(after.guess, "transferability scores")
        confused, wrong = after.confused()
        answer = Labelled(
            setting=self.setting(judge.left_out),
            choice=after.choice,
            majority=float(np.bincount(after.truth).max() / len(after.truth)),
            per_class=after.per_class(),
            curve=after.curve,
            confused=confused,
            wrong=wrong,
            pairs=after.pairs,
            without_copies=after.without_copies,
            test=after.test,
        )
        return Found(answer, after.shown, after.classifier)

    def _told(self, judge: Judge) -> Callable[[str, int], np.ndarray | None]:
        """The judge, whose findings are said."""

        def tell(name: str, size: int) -> np.ndarray | None:
            if self.budget.stopped:
                raise KeyboardInterrupt
            correct = judge(name, size)
            if correct is None:
                self.say(judge.left_out[-1])
            else:
                words = f"{100 * correct.mean():.1f} % of {len(correct):,} images"
                self.say(f"{name}: {words} ({self.budget.spent():.0f} s)")
            return correct

        return tell

    def _memory(self, race: Race) -> Callable[[Candidate], int | None]:
        """Memory of those that may be taken: for the others nobody needs to compile again."""
        wanted = {runner.name for runner in race.standing()}
        return lambda one: self.bench.memory(one) if one.name in wanted and not self.budget.stopped else None


class _Unlabelled(_Look):
    def find(self) -> Found:
        looker = Looker(self.candidates, self.bench, self.budget, self.say)
        self.affordable(looker.size)
        looker.run()
        look = looker.look()
        pairs: list[tuple[copies.Pair, ...]] = []

        def twins() -> None:
            fold = np.zeros(len(look.places), np.int64)  # nothing is judged
            pairs.append(tuple(copies.find(look.features, self.images.source, look.places, fold)))

        self.quietly(twins, f"{look.chosen}: looking for copies")
        answer = Unlabelled(self.setting(look.left_out), look, pairs[0] if pairs else None)
        return Found(answer, self.images.source, None)
