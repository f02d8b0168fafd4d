"""Cityscapes (Cordts et al. 2016, arXiv 1604.01685): boxes around what its instance maps show.

    root/leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png
    root/gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_instanceIds.png

A pixel of an instance is 1000 times its class and the number of the instance; where several objects were not told apart
it is the class alone: a crowd ("cargroup"). So boxes hold what is seen of an object, as in the conversions to COCO's
format that published figures use (Detectron's leaves crowds out, and single pixels that belong to an object).
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bob_jax.data.annotations import Annotations
from bob_jax.data.coco import CocoSource
from bob_jax.data.decode import FAILURES
from bob_jax.errors import BobError

FOLDER = "cityscapes"  # its place below the data folder
GET = (
    "register at https://www.cityscapes-dataset.com, fetch leftImg8bit_trainvaltest.zip and "
    "gtFine_trainvaltest.zip and unpack both into {}"
)
CLASSES = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
MAP, PICTURE = "_gtFine_instanceIds.png", "_leftImg8bit.png"


def validation(root: Path, classes: Sequence[str]) -> CocoSource:
    """The 500 official validation images, whose labels are public.

    Args:
        root: the folder with `leftImg8bit` and `gtFine`.
        classes: names of those wanted.

    Raises:
        BobError: they are not there, or an instance map is damaged.
    """
    folder = root / "gtFine" / "val"
    files = sorted(folder.glob(f"*/*{MAP}"))
    if not files:
        raise BobError(f"no instance maps of Cityscapes in {folder}: {GET.format(root)}")
    numbers = {name: CLASSES[name] for name in classes}
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for file, (content, shape, found) in zip(
            files, pool.map(lambda file: _read(file, numbers), files), strict=True
        ):
            digest.update(content)
            name = file.name.removesuffix(MAP)
            picture = f"{file.parent.name}/{name}{PICTURE}"
            images.append({"id": name, "file_name": picture, "height": shape[0], "width": shape[1]})
            objects += [{"id": f"{one.pop('value')} of {name}", "image_id": name, **one} for one in found]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    annotated = Annotations(folder, images, objects, categories, digest.digest())
    return CocoSource(annotated, root / "leftImg8bit" / "val")


def _read(file: Path, numbers: dict[str, int]) -> tuple[bytes, tuple[int, int], list[dict[str, Any]]]:
    """Hash of an instance map, its height and width, and the objects in it."""
    content = file.read_bytes()
    try:
        with Image.open(file) as image:
            values = np.asarray(image)
    except FAILURES as error:
        raise BobError(f"cannot decode instance map {file}: {error}; fetch it again") from error
    if values.ndim != 2:
        raise BobError(f"{file} has colours, an instance map has one number per pixel: fetch it again")
    values = values.astype(np.int64)
    label = np.where(values < 1000, values, values // 1000)
    rows, columns = np.nonzero(np.isin(label, list(numbers.values())))
    objects = []
    for value in np.unique(values[rows, columns]).tolist():
        mine = values[rows, columns] == value
        y, x = rows[mine], columns[mine]
        left, top, right, bottom = (int(edge) for edge in (x.min(), y.min(), x.max() + 1, y.max() + 1))
        objects.append(
            {
                "value": value,
                "category_id": value if value < 1000 else value // 1000,
                "bbox": [left, top, right - left, bottom - top],
                "area": int(mine.sum()),
                "iscrowd": int(value < 1000),
            }
        )
    return hashlib.sha256(content).digest(), values.shape, objects
