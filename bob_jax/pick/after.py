"""What is done with the chosen backbone once the race is over, in steps that each may be left out for lack of time."""

import dataclasses

import numpy as np

from bob_jax.data.base import Source
from bob_jax.pick import copies, curve, evidence, heads, labelled
from bob_jax.pick.answer import Confused
from bob_jax.pick.bench import Bench
from bob_jax.pick.budget import Budget
from bob_jax.pick.classifier import Classifier
from bob_jax.pick.copies import Pair
from bob_jax.pick.curve import Curve
from bob_jax.pick.evidence import Share
from bob_jax.pick.images import Images
from bob_jax.pick.labelled import Choice, Judge
from bob_jax.pick.race import Race
from bob_jax.protocols import transferability
from bob_jax.protocols.features import extract
from bob_jax.protocols.inference import Rows

TESTED = -2  # the fold of images in the user's test folder
SHOWN = 100  # mistakes that the answer names
MOST_PER_SCORE = 2000  # images that transferability scores are made of


class After:
    """The chosen backbone; each step leaves what it found in an attribute.

    Attributes:
        choice: of the race; `guess` adds transferability scores.
        shown: the images that places in the answer are of: those given, behind them the user's test folder.
        classifier: from `train`.
        test: score on the user's test folder, from `judge_test`.
        pairs, without_copies: from `look_for_copies`.
        curve: from `learn`.
    """

    def __init__(self, images: Images, bench: Bench, budget: Budget, judge: Judge, race: Race, choice: Choice):
        self.images, self.bench, self.budget = images, bench, budget
        self.judge, self.race, self.choice = judge, race, choice
        self.shown: Source = copies.Both(images.source, images.test) if images.test else images.source
        self.one = judge.candidates[choice.chosen]
        runner = race.runners[self.one.name]
        self.outcome = judge.outcome(runner)
        self.values, places = bench.features(self.one, runner.size)
        self.labels, self.fold, self.places = judge.labels[places], judge.folds[0, places], bench.order[places]
        judged = judge.places(runner)
        self.judged, self.truth = bench.order[judged], judge.labels[judged]
        self.temperature = labelled.temperature(self.outcome, self.truth)
        self.classifier: Classifier | None = None
        self.curve: Curve | None = None
        self.pairs: tuple[Pair, ...] | None = None
        self.without_copies: Share | None = None
        self.test: Share | None = None
        self._tested: Rows | None = None

    def train(self) -> None:
        """The probe on all images that were looked at, ready to predict."""
        everyone, classes = np.ones(len(self.labels), bool), self.images.classes
        probes = heads.train_probes(self.values, self.labels, everyone, len(classes), self.bench.mesh)
        head, facts = probes[self.outcome.strength], self._facts()
        self.classifier = Classifier(self.bench.competitor(self.one), head, classes, self.temperature, facts)

    def _facts(self) -> dict[str, object]:
        return {
            "images": self.images.name,
            "learned_from": len(self.labels),
            "accuracy": dataclasses.asdict(self.choice.score),
            "judged_by": "linear probe, out of fold, less the optimism of the choice (arXiv 1708.07180)",
            "licence": self.one.card.licence,
            "commercial": self.one.card.commercial,
        }

    def judge_test(self) -> None:
        """The user's own test folder, which nothing was chosen on."""
        assert self.images.test is not None and self.classifier is not None
        rows = extract(self.bench.competitor(self.one), self.images.test, "test", self.bench.context, self.bench.batch)
        if len(rows.values):
            right = heads.head_logits(self.classifier.head, rows.values).argmax(axis=1) == rows.labels
            self._tested, self.test = rows, evidence.wilson(float(right.mean()), len(right))

    def look_for_copies(self) -> None:
        """Among all images, the test folder's included; and the score without those that have one in another fold."""
        values, index, fold = self.values, self.places, self.fold
        if self._tested is not None:
            values = np.concatenate([values, self._tested.values])
            index = np.concatenate([index, self._tested.index + len(self.images.source)])
            fold = np.concatenate([fold, np.full(len(self._tested.values), TESTED)])
        self.pairs = tuple(copies.find(values, self.shown, index, fold))
        twins = {place for pair in self.pairs if pair.apart for place in pair.places}
        kept = ~np.isin(self.judged, sorted(twins))
        if twins and kept.any() and not kept.all():
            right, column = self.outcome.probe[kept], self.outcome.strength
            self.without_copies = evidence.corrected(right, column, self.choice.optimism)

    def learn(self) -> None:
        """The learning curve."""
        classes, mesh, asked = len(self.images.classes), self.bench.mesh, [self.budget.spent()]

        def time_is_left() -> bool:
            """For a size that takes as long as the one before it did."""
            asked.append(self.budget.spent())
            return self.budget.left_in_all() > asked[-1] - asked[-2]

        self.curve = curve.learn(self.values, self.labels, classes, self.fold, mesh, time_is_left)

    def guess(self) -> None:
        """Transferability scores of those that nobody has beaten."""
        rows = list(self.choice.rows)
        for i, row in enumerate(rows):
            if row.verdict == "standing" and self.budget.left_in_all() > 0:
                x, place = self.bench.features(self.judge.candidates[row.backbone], self.race.size)
                x, y = x[:MOST_PER_SCORE], self.judge.labels[place][:MOST_PER_SCORE]
                scores = dict(transferability.scores(x, y, np.random.default_rng(0)))
                rows[i] = dataclasses.replace(row, transferability=scores)
        self.choice = dataclasses.replace(self.choice, rows=tuple(rows))

    def per_class(self) -> float:
        """Mean over the judged classes of the share of their images that is right, out of fold."""
        right = self.outcome.probe[:, self.outcome.strength]
        return float(np.mean([right[self.truth == label].mean() for label in np.unique(self.truth)]))

    def confused(self) -> tuple[tuple[Confused, ...], int]:
        """The images that are mistaken, the surest first, and how many; without any those that are least sure."""
        logits = self.outcome.logits.astype(np.float64) / self.temperature
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probability = odds / odds.sum(axis=1, keepdims=True)
        taken, sure = probability.argmax(axis=1), probability.max(axis=1)
        wrong = np.flatnonzero(taken != self.truth)
        shown = wrong[np.argsort(-sure[wrong], kind="stable")] if len(wrong) else np.argsort(sure, kind="stable")
        classes, ids = self.images.classes, self.images.source.ids
        named = tuple(
            Confused(
                ids[self.judged[i]], int(self.judged[i]), classes[self.truth[i]], classes[taken[i]], float(sure[i])
            )
            for i in shown[:SHOWN].tolist()
        )
        return named, len(wrong)
