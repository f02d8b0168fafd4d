"""A picture through a detector that a run has trained."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bob_jax.backbones import zoo
from bob_jax.data.arrays import ArraySource
from bob_jax.data.coco import Scene
from bob_jax.data.decode import decode_image
from bob_jax.errors import BobError, unknown_name
from bob_jax.grid import PROTOCOLS
from bob_jax.metrics.coco import Detections
from bob_jax.protocols import drawing
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.detection import Detection
from bob_jax.protocols.detections import look
from bob_jax.protocols.detector import Detector
from bob_jax.results.files import write_whole
from bob_jax.results.record import Record
from bob_jax.results.store import Store, png, stores_in
from bob_jax.training.mesh import make_mesh, place


class Seen(NamedTuple):
    """What was found in a picture.

    Attributes:
        cell: id of the cell whose detector looked.
        drawn: the picture with it.
        objects: of each its class, score, box [left, top, right, bottom] in pixels, and run-length mask if any; the
            surest first.
    """

    cell: str
    drawn: Path
    objects: list[dict[str, Any]]


def detect(image: Path, run: str | os.PathLike[str], *, cell: str | None, threshold: float, out: Path) -> Seen:
    """Draws boxes and masks on a picture, upright where EXIF says how it was taken.

    Args:
        image: the picture's file.
        run: folder of records, or of such folders, with the weights of a detector.
        cell: id of the cell to take; the one with the highest score when None.
        threshold: least score, from 0 to 1.
        out: file of the drawing, PNG.

    Raises:
        BobError: a picture that cannot be read, or would be drawn over; no such score; no detector in the folder.
    """
    if not image.is_file():
        raise BobError(f"no picture {image}: give an image file")
    if not 0 <= threshold <= 1:
        raise BobError(f"a threshold of {threshold:g}: scores are from 0 to 1")
    if out.suffix.lower() != ".png":
        raise BobError(f"the drawing is a PNG: give {out} a name that ends in .png")
    if out.exists() and out.samefile(image):
        raise BobError(f"{out} is the picture itself: give the drawing another name")
    pixels = decode_image(image, str(image), upright=True)
    store, record = _detector_of(run, cell)
    found = _look(pixels, store, record, str(image))
    kept = np.flatnonzero(found.score >= threshold)
    classes = record.notes["classes"]
    write_whole(out, png(drawing.found(pixels, found, 0, classes, threshold)))
    objects = [
        {
            "class": classes[found.label[i]],
            "score": round(float(found.score[i]), 4),
            "box": [round(float(edge), 2) for edge in found.boxes[i]],
        }
        | ({} if found.masks is None else {"mask": found.masks[i]})
        for i in kept.tolist()
    ]
    return Seen(record.cell.id, out, objects)


def _detector_of(run: str | os.PathLike[str], cell: str | None) -> tuple[Store, Record]:
    """The store and the record of the cell asked for, or of the best."""
    trained = {
        record.cell.id: (store, record)
        for store in stores_in(run)
        for record in store.read_all()
        if issubclass(PROTOCOLS.get(record.protocol.name, object), Detection) and store.has_weights(record.cell.id)
    }
    if not trained:
        raise BobError(
            f"no trained detector in '{run}': `python main.py --config=configs/digits.py:protocol=detection` makes some"
        )
    if cell is not None and cell not in trained:
        raise unknown_name("cell with a detector", cell, trained)
    chosen = cell or max(trained, key=lambda each: trained[each][1].metrics[trained[each][1].main_metric].value)
    return trained[chosen]


def _look(pixels: np.ndarray, store: Store, record: Record, name: str) -> Detections:
    protocol = PROTOCOLS[record.protocol.name].from_config(record.protocol.hyperparameters)
    assert isinstance(protocol, Detection)
    module = zoo.skeleton(record.cell.backbone, window=protocol.attention_window())
    competitor = Competitor(zoo.card(record.cell.backbone), module, "")
    classes = record.notes["classes"]
    detector = Detector.new(protocol, competitor, len(classes), "mask_ap" in record.metrics, seed=0)
    detector.assign(store.weights(record.cell.id), f"the weights of {record.cell.id}")
    mesh = make_mesh()
    context = Context(mesh, store.folder, num_workers=0)
    apply, state = detector.prediction(mesh), place(detector.weights, mesh)
    return look(apply, state, _One(pixels, name), detector.test_view(), context, 1, name).found


class _One(ArraySource):
    """A source of one picture without objects."""

    def __init__(self, pixels: np.ndarray, name: str):
        super().__init__(pixels[None], np.zeros(1, np.int32), [name])

    def __getitem__(self, index: int) -> Scene:
        """The picture."""
        nothing = np.zeros(0)
        return {
            **super().__getitem__(index),
            "boxes": nothing.reshape(0, 4).astype(np.float32),
            "classes": nothing.astype(np.int32),
            "crowd": nothing.astype(bool),
            "shapes": [],
        }
