"""Small pictures for the tests of the data room."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    """[H, W, 3] uint8: coarse colour blocks with some noise, so that resizing and JPEG have something to do."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    image = coarse.repeat(4, axis=0).repeat(4, axis=1)[:height, :width] + rng.integers(-20, 20, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def write(path: Path, seed: int, **size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, **size)).save(path)
    return path


def write_classes(root: Path, counts: dict[str, int], suffix: str = ".png", seed: int = 0) -> None:
    """`root/class/0.png` ... with a different picture in each file."""
    for number, (name, count) in enumerate(counts.items()):
        for index in range(count):
            write(root / name / f"{index}{suffix}", seed + 1000 * number + index)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
