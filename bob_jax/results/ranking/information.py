"""How much of a ranking part of a table would give, before the scores are known.

The model: in setting s a backbone b has the standardised score

    z_bs = quality_b + task_bt + protocol_bp + dataset_bd + setting_bs + noise,

six independent effects with mean 0 and variances that add up to 1. Two settings are correlated by what they have in
common. The same for every backbone, so that the difference of two backbones has the same correlations. The ranking is
that of `standings`: the mean z-score over the settings of each task, then over tasks. If rho is the correlation of that
mean over the settings kept with that over all of them, a pair of backbones stands in the same order in both with
probability 1/2 + arcsin(rho) / pi (Sheppard 1899, Phil. Trans. A 192, 101-167), so Kendall's tau between the two
rankings is expected to be

    tau = 2/pi arcsin(rho),    rho = u'Kw / sqrt(u'Ku w'Kw),

K [C, C] the correlations, w the weights of the mean over all columns, u those over the columns kept. Where not every
backbone can be judged in every setting, tau is the mean over pairs of backbones, each by the settings it has in common.

K comes from `PRIOR` and from what records say: `fit` draws the variances towards the correlations that were seen
(moments by least squares, as Haseman and Elston 1972 do in genetics), and `blend` a correlation that was seen itself
towards that of the model. Correlations of a few backbones are noise: the prior counts as `PRIOR_BACKBONES` of them.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import nnls

# Variances. One task and protocol on two data sets: 0.7, as the columns of the published table of retrieval have (mean
# Spearman 0.71, Pearson 0.75, of 33 backbones). Means of two tasks over many data sets and some four protocols: 0.5 /
# (0.5 + 0.1 + 0.1 / 4) = 0.8, as arXiv 2310.19909 reports ("typically > 0.8"). How the rest is divided is assumed.
PRIOR = {"quality": 0.5, "task": 0.1, "protocol": 0.1, "dataset": 0.1, "setting": 0.15}
PRIOR_BACKBONES = 10.0
FEWEST = 5  # backbones in common, below which a correlation says nothing


@dataclasses.dataclass(frozen=True)
class Column:
    """A setting with one seed: what one number of each backbone stands under.

    Attributes:
        task, protocol: names.
        dataset: name, without the variant that says how much of it is trained on.
        setting: equal for the seeds of one setting.
        seed: of everything random.
    """

    task: str
    protocol: str
    dataset: str
    setting: str
    seed: int


def in_common(columns: Sequence[Column]) -> np.ndarray:
    """[5, C, C] what each two columns have in common, in the order of `PRIOR`: 1 or 0."""
    keys: list[list[object]] = [[None for _ in columns]]
    keys += [[getattr(column, name) for column in columns] for name in ("task", "protocol", "dataset", "setting")]
    codes = [np.unique([str(key) for key in row], return_inverse=True)[1] for row in keys]
    return np.stack([code[:, None] == code[None, :] for code in codes]).astype(float)


def model(columns: Sequence[Column], variances: Mapping[str, float]) -> np.ndarray:
    """[C, C] the correlations that the variances stand for; what they lack to 1 is noise."""
    found = np.tensordot([variances[name] for name in PRIOR], in_common(columns), 1)
    np.fill_diagonal(found, 1.0)
    return found


def seen(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlations of columns over the backbones that each two have in common.

    Args:
        values: [B, C] scores, larger is better; NaN where there is none.

    Returns:
        [C, C] Pearson's r, 0 where it is not known; [C, C] backbones behind it, 0 likewise.
    """
    there = np.isfinite(values)
    count = there.T.astype(float) @ there
    total = np.where(there, values, 0.0)
    # Of each pair over the rows that both have: sums of one column where the other is there too.
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (total.T @ there) / count
        square = (total.T**2 @ there) / count - mean**2
        product = (total.T @ total) / count - mean * mean.T
        r = product / np.sqrt(square * square.T)
    known = (count >= FEWEST) & np.isfinite(r) & (square > 1e-12) & (square.T > 1e-12)
    return np.where(known, np.clip(r, -1.0, 1.0), 0.0), np.where(known, count, 0.0)


def fit(columns: Sequence[Column], r: np.ndarray, count: np.ndarray) -> dict[str, float]:
    """The variances, between `PRIOR` and what was seen.

    Pairs of columns that have the same in common are one observation, with the weight of its backbones: more pairs of
    the same backbones are not more backbones.

    Args:
        columns: C of them.
        r: [C, C] as `seen` returns it.
        count: [C, C] likewise.
    """
    common, (first, second) = in_common(columns), np.triu_indices(len(columns), 1)
    kinds = common[:, first, second].T
    known = count[first, second] > 0
    rows, right = [np.eye(len(PRIOR)) * np.sqrt(PRIOR_BACKBONES)], [np.sqrt(PRIOR_BACKBONES) * _prior()]
    for kind in np.unique(kinds[known], axis=0):
        pairs = known & (kinds == kind).all(axis=1)
        weight = np.sqrt(count[first, second][pairs].mean())
        rows.append(weight * kind[None])
        right.append(np.array([weight * r[first, second][pairs].mean()]))
    found, _ = nnls(np.concatenate(rows), np.concatenate(right))
    found /= max(1.0, found.sum())
    return dict(zip(PRIOR, map(float, found), strict=True))


def blend(modelled: np.ndarray, r: np.ndarray, count: np.ndarray) -> np.ndarray:
    """[C, C] correlations between those modelled and those seen, by the backbones behind them; a valid matrix."""
    weight = count / (count + PRIOR_BACKBONES)
    mixed = weight * r + (1 - weight) * modelled
    np.fill_diagonal(mixed, 1.0)
    roots, vectors = np.linalg.eigh(mixed)  # correlations over different backbones may contradict each other
    mixed = (vectors * np.maximum(roots, 1e-6)) @ vectors.T
    scale = np.sqrt(np.diag(mixed))
    return np.asarray(mixed / np.outer(scale, scale))


def _prior() -> np.ndarray:
    return np.array(list(PRIOR.values()))


class Agreement:
    """Kendall's tau to be expected between the ranking by some columns and that by all.

    Args:
        columns: C of them.
        correlations: [C, C].
        judged: [B, C] bool, whether a backbone can be judged there.
    """

    def __init__(self, columns: Sequence[Column], correlations: np.ndarray, judged: np.ndarray):
        settings, where = np.unique([column.setting for column in columns], return_inverse=True)
        tasks, of = np.unique([column.task for column in columns], return_inverse=True)
        self._settings = np.eye(len(settings))[where]  # [C, S]
        self._tasks = np.zeros((len(settings), len(tasks)))  # [S, T]
        self._tasks[where, of] = 1.0
        self._correlations = correlations
        patterns, members = np.unique(judged, axis=0, return_counts=True)
        self._pairs: list[tuple[float, np.ndarray]] = []
        for i, one in enumerate(patterns):
            for j, other in enumerate(patterns[: i + 1]):
                pairs = members[i] * (members[i] - 1) / 2 if i == j else members[i] * members[j]
                if pairs and (one & other).any():
                    self._pairs.append((float(pairs), one & other))

    def tau(self, kept: np.ndarray) -> np.ndarray:
        """[..., C] bool -> [...] in [0, 1]: 1 where all are kept, 0 where none is, or there are no two to compare."""
        found, total = np.zeros(kept.shape[:-1]), sum(pairs for pairs, _ in self._pairs)
        for pairs, both in self._pairs:
            w, u = self._weights(both), self._weights(kept & both)
            k_w, k_u = self._correlations @ w, u @ self._correlations
            size = np.sqrt(np.maximum((k_u * u).sum(axis=-1) * (w @ k_w), 1e-300))
            rho = np.clip((u @ k_w) / size, 0.0, 1.0)
            # Of all columns it is 1, which rounding must not lose: arcsin is steep there.
            rho = np.where((kept | ~both).all(axis=-1), 1.0, rho)
            found += pairs / total * 2 / np.pi * np.arcsin(rho)
        return found

    def _weights(self, kept: np.ndarray) -> np.ndarray:
        """[..., C] of the mean over seeds, then settings, then tasks; 0 where nothing is kept."""
        seeds = kept @ self._settings
        settings = (seeds > 0) @ self._tasks
        tasks = (settings > 0).sum(axis=-1, keepdims=True)
        of_setting = ((1 / np.maximum(settings * tasks, 1)) @ self._tasks.T) / np.maximum(seeds, 1)
        return np.asarray(kept * (of_setting @ self._settings.T))
