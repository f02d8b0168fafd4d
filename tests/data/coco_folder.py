"""A small COCO folder in the official format: gaps in the ids, polygons, both run-length codes, a crowd."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Official ids: without 2, and not in the order of the names.
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
SIZES = {42: (40, 60), 7: (50, 50), 139: (30, 80)}  # id: (height, width)
COUNTS = [5 * 50 + 10, 20, 30, 20, 30, 20, 2500 - 5 * 50 - 130]  # three columns of 20 pixels in a 50 x 50 image


def square(left: float, top: float, side: float) -> list[list[float]]:
    return [[left, top, left + side, top, left + side, top + side, left, top + side]]


def annotations() -> list[dict[str, Any]]:
    run_length = {"size": [50, 50], "counts": COUNTS}
    objects: list[dict[str, Any]] = [
        {"id": 0, "image_id": 42, "category_id": 3, "bbox": [10, 5, 20, 20], "segmentation": square(10, 5, 20)},
        {"id": 1, "image_id": 42, "category_id": 18, "bbox": [50, 30, 20, 5], "segmentation": square(50, 30, 20)},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [5, 10, 3, 20], "segmentation": run_length},
        {"id": 3, "image_id": 7, "category_id": 1, "bbox": [0, 0, 50, 50], "segmentation": run_length, "iscrowd": 1},
    ]
    for one in objects:
        one.setdefault("iscrowd", 0)
        one["area"] = one["bbox"][2] * one["bbox"][3]
    return objects


def write(
    root: Path, objects: list[dict[str, Any]] | None = None, *, split: str = "train2017", images: str | None = None
) -> Path:
    """Writes images and annotations; returns the annotation file."""
    folder = root / (images or split)
    folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    listed = []
    for number, (height, width) in SIZES.items():
        name = f"{number:012d}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / name)
        listed.append({"id": number, "file_name": name, "height": height, "width": width, "license": 1})
    file = root / "annotations" / f"instances_{split}.json"
    objects = annotations() if objects is None else objects
    file.write_text(json.dumps({"info": {}, "images": listed, "annotations": objects, "categories": CATEGORIES}))
    return file
