"""The detection protocol whole: eight scenes learned by heart, the record's parts, and a picture through what was kept."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from bob_jax import cli, grid
from bob_jax.backbones import zoo
from bob_jax.backbones.card import Preprocessing
from bob_jax.data import coco, scenes
from bob_jax.data.base import DetectionDataset
from bob_jax.errors import BobError
from bob_jax.launch import local
from bob_jax.metrics import coco as average_precision
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.detection import Detection, Hierarchical2023, family
from bob_jax.protocols.detection_training import Trainer
from bob_jax.results.store import Store
from bob_jax.training.mesh import make_mesh
from configs import detection, digits

IMAGES = 8
NAME = "convnext_nano_glyphs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes as a user's own COCO folder: training, validation and test images are the same eight."""
    root = tmp_path_factory.mktemp("coco") / "scenes"
    scenes.write(root, {"train": IMAGES})
    for split in ("validation", "test"):
        (root / split).symlink_to(root / "train")
        content = (root / "annotations" / "instances_train.json").read_text()
        (root / "annotations" / f"instances_{split}.json").write_text(content)
    return root


def recipe(**changes) -> Detection:
    return Detection.from_config({**digits.PROTOCOLS["detection"], **changes})


def competitor(name: str = NAME) -> Competitor:
    return Competitor(zoo.card(name), zoo.load(name).module, "")


def config(folder, results, **changes):
    chosen = digits.get_config(f"{NAME},dataset=coco:{folder},protocol=detection")
    chosen.protocols.detection = {**digits.PROTOCOLS["detection"], **changes}
    chosen.results = str(results)
    return chosen


@pytest.fixture(scope="module")
def learned(folder, tmp_path_factory):
    """A results folder: one cell, trained on eight scenes until it knows them."""
    results = tmp_path_factory.mktemp("results")
    chosen = config(
        folder, results, epochs=200, scale=(0.9, 1.1), evaluations=1, warmup_steps=20, learning_rates=(3e-3,)
    )
    assert local.run(grid.cells(chosen), chosen) == 0
    return results


@pytest.mark.slow
def test_eight_scenes_are_learned_by_heart(learned, folder):
    store = Store(learned)
    (record,) = store.read_all()
    assert record.main_metric == "mask_ap"
    print(record.metrics["box_ap"], record.metrics["mask_ap"], record.metrics["box_ap50"])
    assert record.metrics["box_ap50"].value > 0.95
    assert record.metrics["box_ap"].value > 0.9
