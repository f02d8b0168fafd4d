"""VisDA-2017 classification (Peng et al. 2017, arXiv 1710.06924): from renderings to photographs, 12 classes.

The official archives hold a folder `train` of 152,397 renderings and a folder `validation` of 55,388 photographs, each
with `image_list.txt`, lines of "class/image number". A head is trained on the renderings, and chosen on renderings held
out from them: the labels of the photographs are read once, to judge it.

Of one 3D model there are many views. Those of a model stay together when images are held out: another view of what was
trained on says little about the next model.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bob_jax.data.base import Dataset, ShiftDataset
from bob_jax.data.cards.card import DatasetCard
from bob_jax.data.shifts.sources import Listed, positions, version
from bob_jax.data.subset import Subset, hold_out
from bob_jax.errors import BobError

CLASSES = (
    *("aeroplane", "bicycle", "bus", "car", "horse", "knife"),
    *("motorcycle", "person", "plant", "skateboard", "train", "truck"),
)
LIST = "image_list.txt"
SOURCE = "visda_synthetic"
HELD_OUT = 0.1  # of the 3D models of each class: for validation, and as much for test


def read_synthetic(place: Path, card: DatasetCard) -> Dataset:
    """The renderings, with validation and test held out by 3D model.

    Args:
        place: the folder that holds `train`.
        card: the source's.

    Raises:
        BobError: a list that is missing or of another form, or images that are.
    """
    everything = _listed(place, "train", card.name)
    rest, test = _hold_out_models(everything, np.arange(len(everything)), HELD_OUT)
    train, validation = _hold_out_models(everything, rest, HELD_OUT / (1 - HELD_OUT))
    note = f"{HELD_OUT:.0%} of the 3D models of each class in the folder train, seed 0"
    return Dataset(
        name=card.name,
        version=version([everything]),
        classes=CLASSES,
        splits={
            "train": Subset(everything, train),
            "validation": Subset(everything, validation),
            "test": Subset(everything, test),
        },
        split_notes={"train": "the other models of the folder train", "validation": note, "test": note},
        metric=card.metric,
        licence=card.licence,
    )


def read_real(place: Path, card: DatasetCard) -> ShiftDataset:
    """The photographs.

    Raises:
        BobError: a list that is missing or of another form, or images that are.
    """
    source = _listed(place, "validation", card.name)
    return ShiftDataset(
        name=card.name,
        version=version([source]),
        classes=CLASSES,
        splits={"test": source},
        split_notes={"test": "official validation"},
        metric=card.metric,
        licence=card.licence,
        source=SOURCE,
        table=np.arange(len(CLASSES)),
    )


def _listed(place: Path, folder: str, name: str) -> Listed:
    file = place / folder / LIST
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError as error:
        raise BobError(
            f"the ground truth {file} of {name} is missing: unpack the official {folder}.tar in {place}"
        ) from error
    paths, labels, sizes = [], [], []
    for number, line in enumerate(filter(str.strip, lines), start=1):
        path, _, label = line.strip().rpartition(" ")
        if not path or not label.isdecimal() or int(label) >= len(CLASSES) or path.split("/")[0] != CLASSES[int(label)]:
            raise BobError(
                f'line {number} of {file} is "{line[:80]}": want "class/image number" with one of the {len(CLASSES)} '
                "classes, numbered in the order of their names; fetch the official archive again"
            )
        paths.append(path)
        labels.append(int(label))
        try:
            sizes.append((place / folder / path).stat().st_size)
        except FileNotFoundError as error:
            raise BobError(
                f"image {path} that {file} names is not there: the copy is incomplete, unpack {folder}.tar again"
            ) from error
    known = positions(np.array(labels, np.int64), np.arange(len(CLASSES)), f"{name} in {file}")
    return Listed(place / folder, paths, known, paths, str(sizes))


def _hold_out_models(source: Listed, rows: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the models that stay, and of those that are held out: a fraction of the models of each class."""
    models = [_model(source.ids[row]) for row in rows]
    first: dict[str, int] = {}
    for row, model in zip(rows.tolist(), models, strict=True):
        first.setdefault(model, row)
    one_each = Listed(source.root, *_columns(source, first), held="models")
    _, held = hold_out(one_each, fraction)
    chosen = set(held.ids)
    out = np.array([model in chosen for model in models])
    return rows[~out], rows[out]


def _columns(source: Listed, first: dict[str, int]) -> tuple[Sequence[str], np.ndarray, Sequence[str]]:
    """Paths, labels and names of one image of each model."""
    rows = list(first.values())
    return [source.paths[row] for row in rows], source.labels[rows], list(first)


def _model(path: str) -> str:
    """The 3D model in "aeroplane/src_1_02691156_4def53f1__44_349_150.png", where three numbers say how it is seen."""
    return path.partition("__")[0]
