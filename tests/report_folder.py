"""A results folder for the report: four backbones, two data sets, two protocols, holes, a failure, seeds, a picture."""

import dataclasses
from pathlib import Path

import numpy as np
from synthetic_records import ENVIRONMENT, simulate

from bob_jax.results import record
from bob_jax.results.store import Store

METHODS = {
    "vit_b16_clip": ("vit", "clip", "LAION-2B", "mit", 86.0, 35.7),
    "vit_b16_dino": ("vit", "dino", "ImageNet-1k", "apache-2.0", 85.8, 35.1),
    "resnet50": ("resnet", "supervised", "ImageNet-1k", "bsd-3-clause", 23.5, 8.2),
    "convnext_t": ("convnext", "supervised", "ImageNet-1k", "mit", 27.8, 9.0),
}
ACCURACY = {"vit_b16_clip": 0.93, "vit_b16_dino": 0.925, "resnet50": 0.7, "convnext_t": 0.8}
TRICK = "</script><img src=x onerror=\"console.error('run')\"> & <b>"  # must be shown, never run


def fill(folder: Path) -> Path:
    """Writes 17 records and a failure: resnet50 has no k-NN, that of pets failed; convnext_t has four seeds once."""
    place = Store(folder)
    for name, (architecture, method, data, licence, parameters, gflops) in METHODS.items():
        for dataset, harder in (("digits", 0.0), ("pets", 0.12)):
            for protocol in ("knn", "linear_probe"):
                missing = (name, protocol) == ("resnet50", "knn")
                seeds = (0, 1, 2, 3) if (name, dataset, protocol) == ("convnext_t", "pets", "linear_probe") else (0,)
                for seed in seeds:
                    accuracy = ACCURACY[name] - harder
                    done, outputs = simulate(
                        name, dataset=dataset, protocol=protocol, seed=seed, accuracy=accuracy, parameters=parameters
                    )
                    if missing and dataset == "pets":
                        failure = record.Failure(
                            done.cell, "out of memory", "Traceback: here", ENVIRONMENT, record.now()
                        )
                        place.record_failure(failure)
                    if missing:
                        continue
                    card = done.backbone.card | {
                        "architecture": architecture,
                        "method": method,
                        "data": data,
                        "licence": licence,
                        "notes": TRICK,
                    }
                    pictures = {}
                    notes = dict(done.notes)
                    if (name, dataset, protocol) == ("vit_b16_clip", "pets", "knn"):
                        notes["pictures"] = ["sample0", "gone"]
                        pictures["sample0"] = np.full((1000, 2000, 3), (200, 30, 90), np.uint8)
                    place.write(
                        dataclasses.replace(
                            done,
                            backbone=dataclasses.replace(done.backbone, card=card),
                            cost=dataclasses.replace(done.cost, flops_per_image=1e9 * gflops),
                            notes=notes,
                        ),
                        outputs,
                        None,
                        pictures,
                    )
    return folder
