"""Adversarial robustness: how small a change of the pixels makes a trained classifier fail.

A small ensemble in the manner of AutoAttack (Croce and Hein 2020, arXiv 2003.01690): FGSM, PGD, APGD on the
cross-entropy, APGD towards other classes, and the gradient-free Square attack. An image is robust within a budget if it
is classified right and survives all of them. What fools it within a smaller ball of the same norm is in the larger ball
too, so it is not attacked again; FGSM and PGD, which are also reported by themselves, attack every image anew.

Nothing here was trained to withstand an attack, and almost nothing undefended does: at the customary budgets of
RobustBench (4/255 in L-infinity on ImageNet) robust accuracies are about 0 for every backbone, and say nothing. What
tells backbones apart are small budgets, a quarter of a grey level to one. Budgets are in units of pixels in [0, 1].

The attacker changes the cropped input, before normalisation; the perturbed pixels are not rounded to grey levels.
Everything is computed in float32 with full products, whatever the backbone's own dtype: in bfloat16 a change of half a
grey level is lost in rounding, and gradients vanish or point elsewhere, which looks like robustness and is none.
"""

import dataclasses
import functools
import itertools
from typing import ClassVar

import jax
import numpy as np

from bob_jax.data.base import Dataset
from bob_jax.data.subset import balanced
from bob_jax.errors import BobError
from bob_jax.metrics.base import Metric, mean
from bob_jax.metrics.bootstrap import intervals
from bob_jax.metrics.classification import per_example
from bob_jax.metrics.shift import by_condition
from bob_jax.protocols import attacks
from bob_jax.protocols.attacks import Norm
from bob_jax.protocols.base import Competitor, Context, Cost, Protocol, Result
from bob_jax.protocols.square import square
from bob_jax.protocols.victim import Attack, Victim
from bob_jax.training.reporting import Progress

ALONE = ("fgsm", "pgd")  # attacks that are also reported by themselves


@dataclasses.dataclass(frozen=True)
class Adversarial(Protocol):
    """Accuracy under attack on some test images.

    Attributes:
        linf: budgets in L-infinity, ascending, in units of pixels in [0, 1].
        l2: budgets in L2, ascending.
        main: the condition that ranks backbones, one of `conditions`.
        images: test images to attack, as many of each class.
        batch_size: images on all devices together; changes the speed, not the result.
        pgd_steps: of PGD, from each start.
        pgd_step_size: as a share of the budget.
        pgd_restarts: random starts of PGD.
        apgd_steps: of APGD, from each start or towards each class.
        apgd_restarts: random starts of APGD on the cross-entropy.
        apgd_targets: classes that the targeted APGD tries.
        square_queries: of the Square attack.
    """

    name: ClassVar[str] = "adversarial"
    needs_head: ClassVar[bool] = True
    linf: tuple[float, ...]
    l2: tuple[float, ...]
    main: str
    images: int
    batch_size: int
    pgd_steps: int
    pgd_step_size: float
    pgd_restarts: int
    apgd_steps: int
    apgd_restarts: int
    apgd_targets: int
    square_queries: int

    def __post_init__(self) -> None:
        """Checks what types do not say.

        Raises:
            BobError: budgets that do not ascend within (0, 1] or (0, inf), a main condition that is none, or a number
                below 1.
        """
        for norm, budgets in (("linf", self.linf), ("l2", self.l2)):
            if budgets[0] <= 0 or any(low >= high for low, high in itertools.pairwise(budgets)):
                raise BobError(f"protocols.adversarial.{norm} is {budgets}: give budgets above 0, in ascending order")
        if self.linf[-1] > 1:
            raise BobError(f"protocols.adversarial.linf has {self.linf[-1]}: pixels are in [0, 1], write 4/255 for 4")
        if self.main not in self.conditions:
            raise BobError(f"protocols.adversarial.main is '{self.main}': choose one of {', '.join(self.conditions)}")
        for field in dataclasses.fields(self):
            if field.type is int and getattr(self, field.name) < 1:
                raise BobError(f"protocols.adversarial.{field.name} is {getattr(self, field.name)}: it must be above 0")

    @property
    def conditions(self) -> dict[str, tuple[Norm, float]]:
        """Norm and radius by name, "linf_0.5of255" or "l2_0.25"; radii of one norm ascend."""
        linf: dict[str, tuple[Norm, float]] = {
            f"linf_{radius * 255:.4g}of255": ("linf", radius) for radius in self.linf
        }
        return linf | {f"l2_{radius:.4g}": ("l2", radius) for radius in self.l2}

    @property
    def attacks(self) -> dict[str, Attack]:
        """All that an image must survive, cheapest first."""
        return {
            "fgsm": lambda logits, ball, labels, _: attacks.fgsm(logits, ball, labels),
            "pgd": functools.partial(
                attacks.pgd, steps=self.pgd_steps, step_size=self.pgd_step_size, restarts=self.pgd_restarts
            ),
            "apgd": functools.partial(attacks.apgd, steps=self.apgd_steps, restarts=self.apgd_restarts),
            "apgd_targeted": functools.partial(attacks.apgd_targeted, steps=self.apgd_steps, targets=self.apgd_targets),
            "square": functools.partial(square, queries=self.square_queries),
        }

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Attacks `context.trained`; the seed decides where attacks start, the images are the same for all seeds.

        Raises:
            BobError: a data set of one class, or no image that can be decoded.
        """
        assert context.trained is not None
        if len(dataset.classes) < 2:
            raise BobError(f"{dataset.name} has one class, which no image can be mistaken for: take another data set")
        chosen = balanced(dataset.splits["test"], self.images)
        victim = Victim(context.trained, chosen, context, self.batch_size)
        correct = per_example(victim.logits(), victim.labels)["correct"]
        survived, left = self._siege(victim, correct)
        names = list(self.conditions)
        outputs = {
            "id": victim.ids,
            "label": victim.labels,
            "clean_correct": correct,
            "robust": survived["all"][:, names.index(self.main)],
            "survived": survived["all"],
            **{f"survived_{name}": survived[name] for name in ALONE},
        }
        scores = intervals({"clean_accuracy": Metric(("clean_correct",), mean)}, outputs)
        for score, array in (("robust", "survived"), *((name, f"survived_{name}") for name in ALONE)):
            scores |= by_condition(f"{score}_accuracy", Metric((array,), mean), outputs, names)
        return Result(
            outputs=outputs,
            cost=Cost(device_seconds=victim.seconds * jax.device_count()),
            skipped={"test": victim.skipped},
            scores=scores,
            higher_is_better=dict.fromkeys(scores, True),
            main_metric="robust_accuracy",
            notes={"conditions": names, "attacked_images": len(correct), "images_left_after": left},
        )

    def _siege(self, victim: Victim, correct: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, dict[str, int]]]:
        """Every attack within every budget.

        Returns:
            [N, K] bool by attack, and under "all" of the ensemble: right, and still right afterwards; and how many
            images were left after each attack, by condition.
        """
        survived = {name: np.zeros((len(correct), len(self.conditions)), bool) for name in (*ALONE, "all")}
        left: dict[str, dict[str, int]] = {}
        attackers = {
            name: victim.attacker(attack, number) for number, (name, attack) in enumerate(self.attacks.items())
        }
        standing = {norm: correct.copy() for norm in ("linf", "l2")}
        with Progress(f"{victim.name}: attacks", 0, len(self.conditions) * len(self.attacks)) as progress:
            for k, (condition, (norm, radius)) in enumerate(self.conditions.items()):
                left[condition] = {}
                for name, attacker in attackers.items():
                    rows = np.flatnonzero(correct if name in ALONE else standing[norm])
                    fooled = rows[attacker(rows, norm, radius)]
                    if name in ALONE:
                        survived[name][:, k] = correct
                        survived[name][fooled, k] = False
                    standing[norm][fooled] = False
                    left[condition][name] = int(standing[norm].sum())
                    progress.advance(sum(map(len, left.values())))
                survived["all"][:, k] = standing[norm]
        return survived, left
