"""Little data sets in the official layouts: LVIS's files, Sim10k's XML, Cityscapes' instance maps."""

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

LVIS_CATEGORIES = [
    {"id": 2, "name": "bow_(weapon)", "frequency": "f", "synset": "bow.n.04", "image_count": 9, "instance_count": 9},
    {"id": 5, "name": "yak", "frequency": "r", "synset": "yak.n.01", "image_count": 1, "instance_count": 1},
    {"id": 3, "name": "cup", "frequency": "c", "synset": "cup.n.01", "image_count": 9, "instance_count": 9},
]


def noise(path: Path, height: int, width: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path)


def lvis(root: Path, part: str, images: list[dict[str, Any]], objects: list[dict[str, Any]]) -> Path:
    """`root/lvis/lvis_v1_{part}.json`, and each image in `root/coco` where its address says."""
    listed = []
    for image in images:
        folder = image.pop("folder")
        name = f"{image['id']:012d}.jpg"
        height, width = 60, 80
        noise(root / "coco" / folder / name, height, width, image["id"])
        listed.append(
            {"date_captured": "2013-11-14 16:28:13", "license": 4, "height": height, "width": width}
            | {
                "coco_url": f"http://images.cocodataset.org/{folder}/{name}",
                "flickr_url": "http://farm9.staticflickr.com",
            }
            | {"neg_category_ids": [], "not_exhaustive_category_ids": []}
            | image
        )
    numbered = []
    for number, one in enumerate(objects, 1):
        left, top, width, height = one["bbox"]
        outline = [left, top, left + width, top, left + width, top + height, left, top + height]
        numbered.append({"id": number, "area": float(width * height), "segmentation": [outline], **one})
    file = root / "lvis" / f"lvis_v1_{part}.json"
    file.parent.mkdir(exist_ok=True)
    held = {"info": {}, "images": listed, "annotations": numbered, "categories": LVIS_CATEGORIES, "licenses": []}
    file.write_text(json.dumps(held))
    return file


def sim10k(root: Path, count: int, objects: dict[int, list[tuple[str, int, int, int, int]]]) -> Path:
    """`root/VOC2012` with `count` pictures of 32 x 64; objects by picture: name, xmin, ymin, xmax, ymax."""
    annotations = root / "VOC2012" / "Annotations"
    annotations.mkdir(parents=True)
    for index in range(count):
        name = f"{3384645 + index}"
        noise(root / "VOC2012" / "JPEGImages" / f"{name}.jpg", 32, 64, index)
        marked = "".join(
            f"<object><name>{escape(kind)}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax>"
            f"<ymax>{bottom}</ymax></bndbox></object>"
            for kind, left, top, right, bottom in objects.get(index, [("car", 5, 5, 24, 14)])
        )
        (annotations / f"{name}.xml").write_text(
            f"<?xml version='1.0'?><annotation><folder>VOC2012</folder><filename>{name}.jpg</filename>"
            f"<size><width>64</width><height>32</height><depth>3</depth></size><segmented>0</segmented>{marked}"
            "</annotation>"
        )
    return root


def cityscapes(root: Path) -> Path:
    """Two cities with one image of 40 x 80 each; in the second there is no car."""
    labels = np.full((40, 80), 7, np.uint16)  # road
    labels[10:20, 5:25] = 26000
    labels[12:30, 15:35] = 26001  # in front of the first
    labels[30:34, 60:80] = 26  # a group
    labels[0:9, 40:44] = 24003  # a person
    for city, name, drawn in (
        ("frankfurt", "frankfurt_000000_000294", labels),
        ("munster", "munster_000010_000019", np.full((40, 80), 23, np.uint16)),
    ):
        noise(root / "leftImg8bit" / "val" / city / f"{name}_leftImg8bit.png", 40, 80, 1)
        folder = root / "gtFine" / "val" / city
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(folder / f"{name}_gtFine_instanceIds.png")
        Image.fromarray(np.zeros((40, 80), np.uint8)).save(folder / f"{name}_gtFine_labelIds.png")
        (folder / f"{name}_gtFine_polygons.json").write_text('{"imgHeight": 40, "imgWidth": 80, "objects": []}')
    return root
