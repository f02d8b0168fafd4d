"""Whether `bob pick` keeps its word on digits: do its intervals cover, does its choice hold, do its guesses come true?

    python benchmarks/pick.py --draws 100 --images 150

Each draw gives it a few of the 1,797 images; the others say what is true: how often the probe that it trained is right
on images that it never had. Printed are the share of draws whose interval holds the truth, with and without the
correction for the choice, the share in which the truly best backbone was ruled out, and the share in which the guess of
the learning curve for twice the images held what learning from twice the images then gave.
"""

import argparse
import collections

import numpy as np

from bob_jax.data import digits
from bob_jax.pick import curve, evidence, folds, heads, labelled
from bob_jax.pick.bench import Bench
from bob_jax.pick.budget import Budget
from bob_jax.pick.candidates import candidates
from bob_jax.pick.images import from_arrays
from bob_jax.training import mesh as meshes

BACKBONES = ("resnet10_nano_glyphs", "convnext_nano_glyphs", "vit_nano8_glyphs", "convnext_nano_random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--images", type=int, default=150, help="of a draw")
    arguments = parser.parse_args()
    source, mesh, budget = digits.everything(), meshes.make_mesh(), Budget(1e9)
    entrants = candidates(BACKBONES)[0]
    whole = Bench(source, np.arange(len(source)), mesh, budget)
    features = {one.name: whole.features(one, len(source))[0] for one in entrants}
    kept: dict[str, list[float]] = collections.defaultdict(list)
    for seed in range(arguments.draws):
        order = np.random.default_rng(seed).permutation(len(source))
        few, twice, rest = np.split(order, [arguments.images, 2 * arguments.images])
        images = from_arrays("a draw", source.images[few], source.labels[few], digits.CLASSES)
        bench = _Known(images.source, folds.order(images.source.labels), features, few, entrants)
        judge = labelled.Judge(images, entrants, bench, budget, seed)
        race = judge.race()
        race.run()
        choice = labelled.choose(race, judge, lambda one: None)
        truth = {
            one.name: _truth(features[one.name], source.labels, few, rest, mesh, judge.outcome(race.runners[one.name]))
            for one in entrants
        }
        runner = race.runners[choice.chosen]
        outcome = judge.outcome(runner)
        naive = evidence.wilson(float(outcome.probe[:, outcome.strength].mean()), len(outcome.probe))
        for name, share in (("corrected", choice.score), ("naive", naive)):
            kept[name].append(share.low <= truth[choice.chosen] <= share.high)
            kept[f"{name}_bias"].append(share.value - truth[choice.chosen])
        best = max(truth, key=lambda name: truth[name])
        kept["kept_best"].append(race.runners[best].verdict == "standing")
        values, places = bench.features(judge.candidates[choice.chosen], len(few))
        seen = curve.learn(values, judge.labels[places], 10, judge.folds[0, places], mesh)
        # A fold learns from four fifths: what twice of that gives is measured on images that nobody had.
        learned = np.concatenate([few, twice])[: 2 * seen.points[-1].images]
        later = _truth(features[choice.chosen], source.labels, learned, rest, mesh, outcome)
        guess = seen.guesses[0]
        kept["curve"].append(guess.low <= later <= guess.high)
        kept["curve_bias"].append(guess.value - later)
        kept["foretold"].append(seen.came_true)
        print(f"{seed + 1}: " + ", ".join(f"{name} {np.mean(values):.3f}" for name, values in kept.items()), flush=True)


class _Known(Bench):
    """Features of a draw, taken from those of all images."""

    def __init__(self, source, order, features, drawn, entrants):
        super().__init__(source, order, meshes.make_mesh(), Budget(1e9))
        self._features = {one.name: features[one.name][drawn[order]] for one in entrants}

    def features(self, one, size):
        values = self._features[one.name][:size]
        return values, np.arange(len(values))


def _truth(features, labels, learned, rest, mesh, outcome) -> float:
    """Accuracy on the rest of a probe of the chosen lambda that learned from these images."""

    probes = heads.train_probes(features[learned], labels[learned], np.ones(len(learned), bool), 10, mesh)
    return float((heads.head_logits(probes[outcome.strength], features[rest]).argmax(axis=1) == labels[rest]).mean())


if __name__ == "__main__":
    main()
