"""What `bob pick` found, in one place: for programs as it is, for people as sentences."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bob_jax.pick.copies import Pair
from bob_jax.pick.curve import Curve
from bob_jax.pick.evidence import Share
from bob_jax.pick.labelled import Choice
from bob_jax.pick.unlabelled import Look

UNEQUAL = 3.0  # times the mean of the other classes' images, from which on a class is so large that accuracy hides them


@dataclasses.dataclass(frozen=True)
class Confused:
    """An image that the chosen backbone's probe is wrong about, out of fold, or least sure of.

    Attributes:
        image: its id.
        place: position in the source.
        truth, taken_for: class names.
        probability: of the class that it is taken for, calibrated.
    """

    image: str
    place: int
    truth: str
    taken_for: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Setting:
    """What was looked at, with what.

    Attributes:
        name: of the images.
        images: how many there are.
        classes: names in label order; empty without labels.
        device: kind, as JAX names it.
        seconds, budget: taken, and given.
        stopped: whether the user stopped it early.
        warnings: what to beware of; those who were left out among them.
    """

    name: str
    images: int
    classes: tuple[str, ...]
    device: str
    seconds: float
    budget: float
    stopped: bool
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """The answer for images with labels.

    Attributes:
        setting: what was looked at.
        choice: the race.
        majority: share of the most frequent class among the judged images: what guessing gives.
        per_class: mean over the classes of the share that the chosen backbone's probe got right out of fold.
        curve: of the chosen backbone; None where there was no time.
        confused: images that it is wrong about, the surest mistakes first.
        wrong: how many it is wrong about.
        pairs: near copies; None where nobody looked.
        without_copies: score of the chosen on images that have no copy in another fold; None where there are none.
        test: score on the user's own test folder, which nothing was chosen on; None without one.
    """

    setting: Setting
    choice: Choice
    majority: float
    per_class: float
    curve: Curve | None
    confused: tuple[Confused, ...]
    wrong: int
    pairs: tuple[Pair, ...] | None
    without_copies: Share | None
    test: Share | None

    def sentences(self) -> list[str]:
        """The answer in words, a line each."""
        return [
            _take(self),
            *_unequal(self),
            *_how_sure(self.choice),
            *_more(self.curve),
            *_mistakes(self),
            *_near_copies(self.pairs, self.without_copies),
            _time(self.setting),
        ]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        chosen = {"backbone": self.choice.chosen, "score": self.choice.score, "tied": self.choice.tied}
        return {"chosen": chosen, "answer": self.sentences()} | _fields(self)


@dataclasses.dataclass(frozen=True)
class Unlabelled:
    """What can be said without labels.

    Attributes:
        setting: what was looked at.
        look: what was seen.
        pairs: near copies; None where nobody looked.
    """

    setting: Setting
    look: Look
    pairs: tuple[Pair, ...] | None

    def sentences(self) -> list[str]:
        """The answer in words, a line each."""
        seen, found = self.look, self.look.clusters
        sizes = _counts(found.label)
        first = next(row for row in seen.rows if row.backbone == seen.chosen)
        lines = ["Without labels nobody can say which backbone is best for a task. What can be said:"]
        if first.agreement is not None:
            lines.append(
                f"{seen.chosen} agrees best with the others (CKA {first.agreement:.2f}, "
                f"{100 * (first.shared or 0):.0f} % of nearest neighbours shared): what it sees is most likely in the "
                "images. Start with it, and label some."
            )
        strength = "clear" if found.silhouette > 0.5 else "loose" if found.silhouette > 0.25 else "hardly any"
        lines.append(
            f"Its features form {len(sizes)} groups of {', '.join(map(str, sizes))} images; they are {strength} "
            f"clusters (silhouette {found.silhouette:.2f})."
        )
        lines += _near_copies(self.pairs, None)
        labels = "20 labelled images of each class and the same command say which backbone to take."
        return [*lines, labels, _time(self.setting)]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        look = {
            "rows": self.look.rows,
            "chosen": self.look.chosen,
            "clusters": {"sizes": _counts(self.look.clusters.label), "silhouette": self.look.clusters.silhouette},
            "left_out": self.look.left_out,
            "not_tried": self.look.not_tried,
        }
        return {"answer": self.sentences(), "setting": self.setting, "look": look, "pairs": self.pairs}


def _fields(one: Labelled) -> dict[str, Any]:
    return {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}


def percent(share: Share | Any, digits: int = 1) -> str:
    """A share with its interval: "98.8 % [98.2, 99.2]"."""
    return f"{100 * share.value:.{digits}f} % [{100 * share.low:.{digits}f}, {100 * share.high:.{digits}f}]"


def names(several: Sequence[str]) -> str:
    """ "A, B and C"."""
    return several[0] if len(several) == 1 else f"{', '.join(several[:-1])} and {several[-1]}"


def _take(one: Labelled) -> str:
    choice, classes = one.choice, len(one.setting.classes)
    row = next(row for row in choice.rows if row.backbone == choice.chosen)
    test = f"; on your test folder, which nothing was chosen on, {percent(one.test)}" if one.test else ""
    return (
        f"Take {choice.chosen}: a linear probe on it is right on {percent(choice.score)} of the images it has not seen "
        f"({row.images:,} judged, {classes} classes; always saying the most frequent class is right on "
        f"{100 * one.majority:.1f} %){test}."
    )


def _unequal(one: Labelled) -> list[str]:
    """What accuracy hides where one class has many more images than the others."""
    others = (1 - one.majority) / (len(one.setting.classes) - 1)
    if one.majority < UNEQUAL * others:
        return []
    line = f"The classes are unequal: the mean of their accuracies is {100 * one.per_class:.1f} %"
    if one.choice.score.low <= one.majority:
        line += "; it is not certain that it does better than always saying the most frequent class"
    return [line + "."]


def _how_sure(choice: Choice) -> list[str]:
    lines = []
    tied = sorted(choice.tied)
    row = next(row for row in choice.rows if row.backbone == choice.chosen)
    twins = [one for one in choice.rows if one.random and one.verdict != "ruled out" and not row.random]
    score = {row.backbone: row.probe.value for row in choice.rows}
    if len(tied) > 1:
        ahead = 100 * (score[choice.best] - score[choice.chosen])
        why = (
            f"{choice.chosen} is the best of them"
            if choice.chosen == choice.best
            else f"{choice.chosen} is the cheapest within a standard error of the best, {choice.best}, which is "
            f"{ahead:.1f} points ahead"
        )
        lines.append(f"How sure: {names(tied)} cannot be told apart on these images; {why}.")
    elif len(choice.rows) > 1 + len(twins):
        others = "all others that have learned something" if twins else "all others that were tried"
        lines.append(f"How sure: {others} are worse, by tests that err in 5 % of all cases at most.")
    elif twins:
        lines.append("How sure: nobody else that has learned something was tried.")
    else:
        lines.append("How sure: nobody else was tried, so nothing is compared.")
    stopped = sorted(row.backbone for row in choice.rows if row.verdict == "no time")
    if stopped:
        lines.append(f"{names(stopped)} stopped for lack of time, not because they lost.")
    if choice.not_tried:
        lines.append(
            f"{len(choice.not_tried)} backbones were not tried for lack of time, first {choice.not_tried[0]}: "
            "give a larger --budget, or name them with --backbones."
        )
    if twins:
        best = max(twins, key=lambda one: one.probe.value)
        lines.append(
            f"{best.backbone}, which has learned nothing, cannot be told apart from it: pretraining shows no use yet."
        )
    return lines


def _more(curve: Curve | None) -> list[str]:
    if curve is None:
        return ["More images: there was no time for a learning curve."]
    if not curve.guesses or curve.gain is None:
        return ["More images: there are too few for a learning curve."]
    twice, gain = curve.guesses[0], curve.gain
    verdict = "more images would help" if gain.low > 0 else "it is not certain that they help"
    line = (
        f"More images: with {twice.images:,} to learn from instead of {curve.points[-1].images:,}, expect "
        f"{percent(twice)} ({100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}] points): {verdict}."
    )
    if curve.foretold is None:
        return [line, "That guess is of few sizes and could not be tested."]
    seen = curve.points[-1].accuracy
    kept = "so guesses of this kind held here" if curve.came_true else "so do not rely on guesses beyond"
    return [
        line,
        f"Tested: the smaller sizes foretold {percent(curve.foretold)} for {curve.points[-1].images:,} images, and "
        f"{100 * seen.value:.1f} % was seen, {kept}.",
    ]


def _mistakes(one: Labelled) -> list[str]:
    if not one.confused:
        return []
    first = one.confused[0]
    if not one.wrong:
        return [
            f"No image was mistaken; the least sure is {first.image} ({first.truth}, {100 * first.probability:.0f} %)."
        ]
    many = "1 image" if one.wrong == 1 else f"{one.wrong} images"
    return [
        f"It mistakes {many}; the surest mistake is {first.image}, {first.truth} taken for "
        f"{first.taken_for} ({100 * first.probability:.0f} %)."
    ]


def _near_copies(pairs: Sequence[Pair] | None, without: Share | None) -> list[str]:
    if pairs is None:
        return ["Copies: there was no time to look for them."]
    if not pairs:
        return ["Copies: no two images are nearly the same."]
    first, apart = pairs[0], sum(pair.apart for pair in pairs)
    differ = [pair for pair in pairs if pair.labels_differ]
    many = "1 pair of images is" if len(pairs) == 1 else f"{len(pairs)} pairs of images are"
    line = f"Copies: {many} nearly the same, first {first.first} and {first.second}"
    if apart and without is not None:
        line += f"; {apart} were learned from and judged on, without them the score is {percent(without)}"
    lines = [line + "."]
    if differ:
        lines.append(
            f"{len(differ)} of these have different labels, first {differ[0].first} and {differ[0].second}: one of the "
            "two is wrong."
        )
    return lines


def _time(setting: Setting) -> str:
    ended = "; you stopped it, so this is what was known by then" if setting.stopped else ""
    return f"It took {setting.seconds:.0f} s of {setting.budget:.0f} s on {setting.device}{ended}."


def _counts(label: np.ndarray) -> list[int]:
    return np.bincount(label).tolist()
