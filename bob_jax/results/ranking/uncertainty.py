"""How sure a ranking is: a bootstrap at three levels, and from it who can be told apart from whom.

Each draw makes the whole table anew:

1. data sets, with replacement, within each task: would other data sets of this kind say the same? All settings on the
   same test images come and go together.
2. seeds, with replacement, within each cell that has several: would other training runs?
3. test images, with replacement: would other images? All backbones and all settings on the same images get the same
   draw, so what they have in common (hard images) cancels where they are compared. Average precision of detections
   does not follow from the kept outputs: it was drawn when the record was made, alike for all backbones, and these
   draws are taken.

Tasks are not drawn: they are what the user asked about. A cell without per-image outputs or draws is drawn from a
normal distribution as wide as its interval, on its own; comparisons are then less sharp. A level with one member (one
data set, one seed) cannot vary, and intervals do not hold it.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from bob_jax.metrics import bootstrap
from bob_jax.metrics.catalog import METRICS
from bob_jax.results.boards import PerExample, drawn_score
from bob_jax.results.ranking.settings import Settings
from bob_jax.results.record import Record, Score

ROUNDING = 1e-12  # backbones this near to each other are equal


@dataclasses.dataclass(frozen=True)
class Draws:
    """R tables that might have been found instead.

    Attributes:
        values: [R, B, S] scores.
        counts: [R, S] how often each setting came up.
        without_images: cells whose per-image outputs were not there.
    """

    values: np.ndarray
    counts: np.ndarray
    without_images: tuple[str, ...]


def draw(
    table: Settings,
    records: Mapping[str, Record],
    per_example: PerExample,
    *,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> Draws:
    """Draws tables.

    Args:
        table: what was found.
        records: by cell id, those that the table names.
        per_example: cell id to the outputs behind the record, or None; `Store.per_example`.
        resamples: R.
        seed: of the draws. Equal seeds give a cell equal draws whatever else is in the table.
    """
    values = np.full((resamples, *table.values.shape), np.nan)
    without_images: list[str] = []
    for images in dict.fromkeys(setting.images for setting in table.settings):
        columns = [s for s, setting in enumerate(table.settings) if setting.images == images]
        metric = {
            cell: table.settings[s].metric
            for s in columns
            for b in range(len(table.backbones))
            for cell in table.cells[b][s]
        }
        outputs = {cell: found for cell in metric if (found := _outputs(metric[cell], per_example(cell))) is not None}
        drawn = _draw_images(metric, outputs, resamples, _number(seed, "images", images))
        for cell in [cell for cell in metric if cell not in outputs]:
            kept = drawn_score(per_example(cell), metric[cell])
            if kept is None:
                drawn[cell] = _draw_normal(records[cell].metrics[metric[cell]], resamples, _number(seed, "cell", cell))
                without_images.append(cell)
            else:
                drawn[cell] = np.resize(np.where(np.isfinite(kept), kept, kept[0])[1:], resamples)
        for s in columns:
            for b in range(len(table.backbones)):
                if table.cells[b][s]:
                    values[:, b, s] = _draw_seeds(
                        np.stack([drawn[cell] for cell in table.cells[b][s]], axis=1),
                        [records[cell].cell.seed for cell in table.cells[b][s]],
                        _number(seed, "seeds", table.settings[s].title),
                    )
    return Draws(values, _draw_settings(table, resamples, seed), tuple(without_images))


def _number(seed: int, *words: str) -> int:
    """A seed of its own for everything that is drawn independently."""
    return int.from_bytes(hashlib.sha256(repr((seed, *words)).encode()).digest()[:8], "big")


def _outputs(metric: str, found: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray] | None:
    """What the metric reads of each image, in the order of their ids; None if that was not kept."""
    if metric not in METRICS or found is None or not {"id", *METRICS[metric].inputs} <= found.keys():
        return None
    order = np.argsort(found["id"])
    return {name: found[name][order] for name in ("id", *METRICS[metric].inputs)}


def _draw_images(
    metric: Mapping[str, str], outputs: Mapping[str, Mapping[str, np.ndarray]], resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """[R] scores of each cell on the same draws of images, those that some cells could not read included."""
    if not outputs:
        return {}
    ids = np.unique(np.concatenate([found["id"] for found in outputs.values()]))
    places = {
        cell: None if len(found["id"]) == len(ids) else np.searchsorted(ids, found["id"])
        for cell, found in outputs.items()
    }

    # Most scores are means over images: all of them in one matrix product, ten times as fast as one by one.
    values = {cell: METRICS[metric[cell]].per_example(found) for cell, found in outputs.items() if places[cell] is None}
    means = {cell: value for cell, value in values.items() if value is not None}
    others = [cell for cell in outputs if cell not in means]
    columns = np.stack(list(means.values()), axis=1) if means else np.empty((len(ids), 0))

    def scores(weights: np.ndarray) -> np.ndarray:
        each = [weights @ columns / weights.sum(axis=1, keepdims=True)]
        for cell in others:
            place = places[cell]
            mine = weights if place is None else weights[:, place]
            with np.errstate(invalid="ignore", divide="ignore"):  # a draw that misses all images of a cell
                each.append(METRICS[metric[cell]].weighted(outputs[cell], mine)[:, None])
        return np.concatenate(each, axis=1)

    drawn = bootstrap.replicates(scores, len(ids), resamples, seed)
    cells = [*means, *others]
    own = np.array([METRICS[metric[cell]](outputs[cell]) for cell in cells])
    return dict(zip(cells, np.where(np.isfinite(drawn), drawn, own).T, strict=True))


def _draw_normal(score: Score, resamples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(score.value, (score.high - score.low) / (2 * bootstrap.NORMAL), resamples)


def _draw_seeds(scores: np.ndarray, seeds: Sequence[int], key: int) -> np.ndarray:
    """[R, k] scores of the k seeds -> [R] means over k of them with replacement.

    The spread of such a mean is too small by sqrt((k - 1) / k), a third of its square for three seeds, so that the
    deviation is stretched by that (Rao & Wu 1988, section 2). Backbones with the same seeds get the same draw: where a
    seed chooses the training images, they share what is easy about them.
    """
    k = scores.shape[1]
    if k == 1:
        return scores[:, 0]
    generator = np.random.default_rng([key, *(abs(seed) for seed in seeds)])
    chosen = np.take_along_axis(scores, generator.integers(0, k, scores.shape), axis=1)
    centre = scores.mean(axis=1)
    return centre + np.sqrt(k / (k - 1)) * (chosen.mean(axis=1) - centre)


def _draw_settings(table: Settings, resamples: int, seed: int) -> np.ndarray:
    """[R, S] how often each setting came up: data sets are drawn within their task, with all settings on them."""
    counts = np.zeros((resamples, len(table.settings)))
    for task in dict.fromkeys(table.tasks):
        members = [s for s, setting in enumerate(table.settings) if setting.task == task]
        images = list(dict.fromkeys(table.settings[s].images for s in members))
        generator = np.random.default_rng(_number(seed, "data sets", task))
        drawn = generator.multinomial(len(images), [1 / len(images)] * len(images), resamples)
        for s in members:
            counts[:, s] = drawn[:, images.index(table.settings[s].images)]
    return counts


def told_apart(value: np.ndarray, drawn: np.ndarray, level: float = bootstrap.LEVEL) -> np.ndarray:
    """Who is better than whom for sure, all pairs together.

    Every difference is measured in its own standard errors; those larger than the largest deviation that `level` of the
    draws have among all pairs still in question are told apart, and leave the question; and again until none does
    (Romano & Wolf 2005, algorithm 4.1). So with this probability not one pair of equals is called different.

    Args:
        value: [B], larger is better.
        drawn: [R, B] the same in bootstrap draws.
        level: of confidence.

    Returns:
        [B, B] bool; entry (i, j): i is better than j.
    """
    first, second = np.triu_indices(len(value), k=1)
    difference = value[first] - value[second]
    difference = np.where(np.abs(difference) < ROUNDING, 0.0, difference)
    deviation = np.abs(drawn[:, first] - drawn[:, second] - difference)
    deviation = np.where(np.isfinite(deviation), deviation, 0.0)
    error = np.sqrt((deviation**2).mean(axis=0))
    known = np.isfinite(difference)
    size = _relative(np.abs(np.where(known, difference, 0.0)), error)
    deviation = _relative(deviation, np.broadcast_to(error, deviation.shape))
    apart = np.zeros(len(first), dtype=bool)
    while not apart.all():
        limit = np.quantile(deviation[:, ~apart].max(axis=1), level)
        found = ~apart & (size > limit)
        if not found.any():
            break
        apart |= found
    better = np.zeros((len(value), len(value)), dtype=bool)
    better[first, second] = apart & (difference > 0)
    better[second, first] = apart & (difference < 0)
    return better


def _relative(difference: np.ndarray, error: np.ndarray) -> np.ndarray:
    """In standard errors; a difference that no draw changes is infinitely many, no difference is none."""
    certain = np.where(difference > 0, np.inf, 0.0)
    return np.divide(difference, error, out=certain, where=error > 0)


def rank_ranges(better: np.ndarray) -> np.ndarray:
    """[B, 2] the best and the worst rank each may have: 1 + those surely better, B - those surely worse.

    With pairs told apart at one level all together, all ranges together hold the true ranks with that probability
    (Mogstad, Romano, Shaikh & Wilhelm 2024, Review of Economic Studies 91).
    """
    return np.stack([1 + better.sum(axis=0), len(better) - better.sum(axis=1)], axis=1)
