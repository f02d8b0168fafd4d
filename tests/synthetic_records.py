"""Records of cells that never ran: simulated logits of a chosen accuracy, scored as a real run scores them."""

import dataclasses
from typing import Any

import numpy as np

from bob_jax.metrics import bootstrap
from bob_jax.metrics.catalog import METRICS
from bob_jax.metrics.classification import per_example
from bob_jax.results import record

ENVIRONMENT = record.Environment(
    git_commit="0" * 40,
    versions={"bob_jax": "0.1.0", "jax": "0.10.2"},
    python="3.11.9",
    platform="Linux",
    device_kind="cpu",
    device_count=8,
    process_count=1,
)
GRIDS = {
    "knn": ("k", (1, 3, 5, 10, 20)),
    "linear_probe": ("regularisation", (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
}


def simulate(
    backbone: str = "vit_b16_clip",
    *,
    dataset: str = "digits",
    protocol: str = "knn",
    seed: int = 0,
    accuracy: float = 0.9,
    n: int = 360,
    classes: int = 10,
    parameters: float | None = 86.6,
    created: str = "2026-11-23T12:00:00+00:00",
    hyperparameters: dict[str, Any] | None = None,
    metric: str = "accuracy",
) -> tuple[record.Record, dict[str, np.ndarray]]:
    """A record and its per-example outputs; images are as hard for one backbone as for the other."""
    hard = np.random.default_rng([n, classes]).random(n)
    generator = np.random.default_rng([seed, *backbone.encode(), *dataset.encode(), *protocol.encode()])
    labels = np.arange(n) % classes
    right = 0.8 * hard + 0.2 * generator.random(n) < accuracy
    logits = generator.normal(size=(n, classes))
    logits[np.arange(n), np.where(right, labels, (labels + 1) % classes)] += 6
    outputs = {"id": np.array([f"{dataset}/{i:05d}" for i in range(n)]), **per_example(logits, labels)}
    name, values = GRIDS[protocol]
    peak = int(generator.integers(len(values)))
    grid = tuple(
        {name: value, "converged": True, "validation": max(0.0, accuracy - 0.012 * (i - peak) ** 2)}
        for i, value in enumerate(values)
    )
    metrics = {key: value for key, value in METRICS.items() if set(value.inputs) <= outputs.keys()}
    scores = {
        key: record.Score(**dataclasses.asdict(estimate), higher_is_better=METRICS[key].higher_is_better)
        for key, estimate in bootstrap.intervals(metrics, outputs).items()
    }
    fields = {
        "backbone": backbone,
        "dataset": dataset,
        "protocol": protocol,
        "seed": seed,
        "n": n,
        "more": hyperparameters,
    }
    done = record.Record(
        cell=record.Cell(record.cell_id(fields), "synthetic", backbone, dataset, protocol, seed),
        backbone=record.BackboneUsed({"name": backbone, "parameters": parameters}, "ab" * 32),
        dataset=record.DatasetUsed(
            name=dataset,
            version="1.0",
            classes=classes,
            metric=metric,
            licence="CC BY 4.0",
            draw=None,
            splits={
                split: record.Split(size, f"{dataset}-{split}-{size}", "official", ())
                for split, size in (("train", 1077), ("validation", 360), ("test", n))
            },
        ),
        protocol=record.ProtocolUsed(protocol, {name: list(values), "batch_size": 256, **(hyperparameters or {})}),
        source_cell=None,
        metrics=scores,
        main_metric=metric,
        interval=record.Interval(bootstrap.LEVEL, bootstrap.METHOD, bootstrap.RESAMPLES, 0),
        selection=record.Selection("validation", metric, grid, peak),
        notes={"temperature": 1.25},
        cost=record.Cost(37.5, 30.0, 1234.5, 17.58e9, 2**30),
        environment=ENVIRONMENT,
        created=created,
        estimate=record.Estimate(30.0, "table", 1797.0, 0.0),
    )
    return done, outputs


def simulate_detection(
    backbone: str = "vit_b16_clip",
    *,
    dataset: str = "coco",
    ap: float = 0.4,
    n: int = 300,
    seed: int = 0,
    shifted: bool = False,
    created: str = "2026-11-23T12:00:00+00:00",
) -> tuple[record.Record, dict[str, np.ndarray]]:
    """A record of a detector and what lies beside it: a mean over images stands for average precision."""
    base, _ = simulate(backbone, dataset=dataset, seed=seed, n=n, created=created)
    hard = np.random.default_rng(n).normal(size=n)
    generator = np.random.default_rng([seed, *backbone.encode(), *dataset.encode()])
    scores, drawn = {}, {}
    for name, value in {"box_ap": ap + 0.05, "mask_ap": ap, "shifted_box_ap": ap - 0.1}.items():
        if name.startswith("shifted") > shifted or (shifted and name == "mask_ap"):
            continue
        images = value + 0.1 * hard + 0.03 * generator.normal(size=n)
        draws = bootstrap.replicates(lambda weights, of=images: weights @ of / n, n)
        low, high = bootstrap.percentiles(draws)
        scores[name] = record.Score(float(images.mean()), float(low), float(high), n, True)
        drawn[f"drawn_{name}"] = np.append(images.mean(), draws)
    if shifted:
        lost = scores["box_ap"].value - scores["shifted_box_ap"].value
        scores["gap_box_ap"] = record.Score(lost, lost - 0.02, lost + 0.02, 2 * n, False)
    fields = {"backbone": backbone, "dataset": dataset, "protocol": "detection", "seed": seed, "n": n}
    done = dataclasses.replace(
        base,
        cell=dataclasses.replace(base.cell, id=record.cell_id(fields), protocol="detection"),
        dataset=dataclasses.replace(base.dataset, metric="box_ap" if shifted else "mask_ap"),
        protocol=record.ProtocolUsed("detection", {"epochs": 36}),
        metrics=scores,
        main_metric="shifted_box_ap" if shifted else "mask_ap",
    )
    return done, {"id": np.array([f"{dataset}/{i:05d}" for i in range(n)]), **drawn}
