"""Out-of-distribution generalisation: a head trained on the source, judged on shifted images without further training.

Both scores are over the classes that the target has: those of the source that the data set's table picks, for the
shifted images and for the source's own test images alike. The temperature is the source's, so that the calibrated
scores say what a user would meet who calibrated before the shift.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from bob_jax.data.base import Dataset, ShiftDataset, Source, Task
from bob_jax.errors import BobError
from bob_jax.metrics import shift
from bob_jax.metrics.base import Metric
from bob_jax.metrics.catalog import METRICS
from bob_jax.metrics.classification import per_example, per_example_any
from bob_jax.protocols.base import Competitor, Context, Cost, Protocol, Result, Trained
from bob_jax.protocols.features import extract
from bob_jax.protocols.head import predict
from bob_jax.protocols.inference import Rows
from bob_jax.protocols.scoring import TEMPERATURE, calibrated

Arrays = dict[str, np.ndarray]

# Besides the data set's own metric: what each has on the clean images, and what the shift costs.
COMPARED = ("accuracy", "mean_per_class_accuracy", "nll", "ece", "ece_scaled")


@dataclasses.dataclass(frozen=True)
class Judged:
    """One condition: place in the split, and what the head says, of each image that could be decoded; and the cost."""

    index: np.ndarray
    said: Arrays
    skipped: tuple[str, ...]
    cost: Cost


@dataclasses.dataclass(frozen=True)
class OutOfDistribution(Protocol):
    """Scores on shifted images, and what they lose against the source's own test images.

    Attributes:
        batch_size: images through the backbone at a time.
    """

    name: ClassVar[str] = "ood"
    tasks: ClassVar[tuple[Task, ...]] = ("shift",)
    needs_head: ClassVar[bool] = True
    batch_size: int

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Judges `context.trained`; neither its head nor its temperature has seen an image of the target."""
        assert isinstance(dataset, ShiftDataset) and context.trained is not None
        trained = context.trained
        judged = {}
        for condition, source in dataset.splits.items():  # features of one condition at a time: there may be 95
            rows = self._features(trained, source, f"{dataset.name}/{condition}", context)
            said = _scores(rows.values, rows.labels, trained, dataset.table)
            judged[condition] = Judged(rows.index, said, rows.skipped, rows.cost)
        outputs = _shifted(dataset, judged)
        test = self._features(trained, trained.dataset.splits["test"], f"{trained.dataset.name}/test", context)
        clean = _clean(dataset, trained, test)
        if dataset.reference_errors:
            errors = shift.corruption_error(outputs["correct"], tuple(judged), dataset.reference_errors)
            outputs["corruption_error"] = errors
        metrics = _compared(dataset, clean, outputs)
        scores, better = shift.compare(metrics, clean, outputs, paired=dataset.clean, baseline=dataset.baseline)
        if len(judged) > 1:
            main = METRICS[dataset.metric]
            each = shift.by_condition(dataset.metric, main, outputs, tuple(judged))
            scores, better = scores | each, better | dict.fromkeys(each, main.higher_is_better)
        return Result(
            outputs=outputs,
            cost=_cost([found.cost for found in judged.values()]),
            skipped={condition: found.skipped for condition, found in judged.items()},
            scores=scores,
            higher_is_better=better,
            notes={TEMPERATURE: trained.temperature, "clean_images": len(clean["id"])},
        )

    def _features(self, trained: Trained, source: Source, title: str, context: Context) -> Rows:
        return extract(trained.competitor, source, title, context, self.batch_size)


def _shifted(dataset: ShiftDataset, judged: Mapping[str, Judged]) -> Arrays:
    """What is said of the images that could be decoded under all conditions: arrays [N], or [N, K] for K conditions."""
    positions = sorted(set.intersection(*(set(found.index.tolist()) for found in judged.values())))
    if not positions:
        raise BobError(f"no image of {dataset.name} can be decoded under all conditions: prepare it again")
    columns = []
    for found in judged.values():
        kept = np.isin(found.index, positions)
        columns.append({name: array[kept] for name, array in found.said.items()})
    outputs = {
        name: array if len(columns) == 1 else np.stack([column[name] for column in columns], axis=1)
        for name, array in columns[0].items()
    }
    if "label" in outputs:
        outputs["label"] = columns[0]["label"]  # of the image, whatever was done to it
    ids = next(iter(dataset.splits.values())).ids
    return {"id": np.array([ids[position] for position in positions]), **outputs}


def _cost(costs: list[Cost]) -> Cost:
    """The time of all conditions, and the speed under the first."""
    return dataclasses.replace(costs[0], device_seconds=sum(cost.device_seconds or 0.0 for cost in costs))


def _clean(dataset: ShiftDataset, trained: Trained, test: Rows) -> Arrays:
    """The same of the source's own test images, those of the target's classes."""
    within = np.full(len(trained.dataset.classes), -1)
    within[dataset.table] = np.arange(len(dataset.table))
    labels = within[test.labels]
    kept = labels >= 0
    if not kept.any():
        raise BobError(f"no test image of {trained.dataset.name} has a class of {dataset.name}: there is nothing clean")
    ids = trained.dataset.splits["test"].ids
    scores = _scores(test.values[kept], labels[kept], trained, dataset.table)
    return {"id": np.array([ids[position] for position in test.index[kept]]), **scores}


def _scores(features: np.ndarray, labels: np.ndarray, trained: Trained, table: np.ndarray) -> Arrays:
    """Per-example arrays over the classes of the table; `labels` are positions in it, or bool [N, C]."""
    logits = predict(trained.head, features)[:, table]
    labels = labels if labels.ndim == 1 else labels.astype(bool)
    function = per_example if labels.ndim == 1 else per_example_any
    return calibrated(function(logits, labels), function(logits / trained.temperature, labels))


def _compared(dataset: ShiftDataset, clean: Arrays, outputs: Arrays) -> dict[str, Metric]:
    names = dict.fromkeys((dataset.metric, *COMPARED))
    return {name: METRICS[name] for name in names if set(METRICS[name].inputs) <= clean.keys() & outputs.keys()}
