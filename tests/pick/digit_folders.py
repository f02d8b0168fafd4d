"""Folders of digits' images for the tests of `bob pick`."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def pixels() -> tuple[np.ndarray, np.ndarray]:
    """[1797, 8, 8] uint8 and labels."""
    found = load_digits()
    return (found.images * (255 / 16)).round().astype(np.uint8), found.target


def write(folder: Path, rows: range | list[int], *, classes: bool = True) -> Path:
    """Digits of these numbers as `folder/CLASS/NUMBER.png`, or without the class."""
    images, labels = pixels()
    for i in rows:
        file = folder / (str(labels[i]) if classes else "") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(file)
    return folder


def few_of_each(count: int) -> list[int]:
    """The first `count` of each class."""
    _, labels = pixels()
    return sorted(int(i) for number in range(10) for i in np.flatnonzero(labels == number)[:count])
