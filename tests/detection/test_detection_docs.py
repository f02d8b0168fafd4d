"""docs/detection.md and docs/records.md name everything that a detector leaves."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tiny_backbones import TINY
from tiny_detector import design, objects

from bob_jax.detection.detector import Heads
from bob_jax.metrics.coco import Detections, evaluate
from configs.detection import BOB2023, PROTOCOLS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "detection.md").read_text(encoding="utf-8")


def test_every_counter_is_explained():
    def learn(images):  # everything is made while it is traced: nothing is compiled
        backbone = TINY["resnet"]()
        heads = Heads(backbone, 3, design(stage_overlaps=(0.5,), stage_weights=(1.0,)), rngs=nnx.Rngs(0))
        batch = jax.tree.map(lambda array: jnp.asarray(array)[None], objects(1, 2, 3, seed=0))
        keys = jax.random.split(jax.random.key(0), 1)
        return heads.learn(backbone(images).maps, batch, jnp.array([[64, 64]]), jnp.ones(1, bool), keys)

    counters = jax.eval_shape(learn, jnp.zeros((1, 64, 64, 3))).counters
    names = {re.sub(r"^stage\d", "stageK", name) for name in counters}
    assert "stageK_moved_level" in names
    assert not [name for name in names if f"`{name}`" not in PAGE]


def test_every_score_of_a_detector_is_explained():
    text = (DOCS / "records.md").read_text(encoding="utf-8")
    sides = [20, 60, 200]
    truth = {
        "images": [{"id": "a", "height": 300, "width": 300, "neg_category_ids": []}],
        "categories": [{"id": row, "name": "CLASS", "frequency": "rcf"[row]} for row in range(3)],
        "annotations": [
            {"id": row, "image_id": "a", "category_id": row, "bbox": [0, 0, side, side], "area": side**2, "iscrowd": 0}
            for row, side in enumerate(sides)
        ],
    }
    boxes = np.array([[0, 0, side, side] for side in sides], np.float32)
    found = Detections(("a",), np.zeros(3, int), np.arange(3), np.ones(3), boxes)
    scores = evaluate(truth, found, "box", resamples=2)
    assert {"box_ap_rare", "box_ap_small", "box_ap_large"} < scores.keys()
    names = [*scores, "gap_box_ap", "shifted_NAME", "drawn_NAME"]
    assert not [name for name in names if f"`{name}`" not in text]


def test_the_protocols_are_named():
    assert not [name for name in PROTOCOLS if f"`{name}`" not in PAGE]
    assert BOB2023 and "`protocol=bob2023`" in PAGE
