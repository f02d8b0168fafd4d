"""CheXpert (Irvin et al. 2019, arXiv 1901.07031): chest X-rays with findings that reports state, deny, or leave open.

Read as CheXpert-v1.0-small is laid out: `train.csv`, `valid.csv`, and images at
`train/patient00001/study1/view1_frontal.jpg`. Frontal views only; five findings, those of the competition. A patient
has several images, so what is held out for validation, or taken as a part of the training images, is patients.
"""

import csv
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bob_jax.data.base import Example, MultilabelDataset, Source
from bob_jax.data.cards.card import DatasetCard
from bob_jax.data.decode import decode_image
from bob_jax.data.subset import hold_out_groups
from bob_jax.errors import BobError

FINDINGS = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
BEST = {"Cardiomegaly": 0, "Edema": 1, "Consolidation": 0, "Atelectasis": 1, "Pleural Effusion": 0}
HELD_OUT = 0.1  # of the training patients
VALIDATION = "10 % of the patients of official train, seed 0; test is the official validation"
STATED = {"": 0.0, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}  # a finding that is not mentioned is absent
UNCERTAIN = frozenset({"-1", "-1.0"})


class CheXpertSource:
    """The frontal views of one official list.

    Attributes:
        patients: [N] whose chest it is.
    """

    def __init__(self, root: Path, table: str, policy: Mapping[str, int]):
        """
        Args:
            root: folder of the release.
            table: "train.csv" or "valid.csv".
            policy: what an uncertain mention of each finding counts as, 0 or 1.

        Raises:
            BobError: a table of another form, or images that are missing.
        """
        self.root = root
        rows = _frontal(root / table)
        self.ids = [row["Path"].split("/", 1)[1] for row in rows]  # the first folder is the release's name
        self.patients = [path.split("/")[1] for path in self.ids]
        self.labels = np.array([_findings(row, policy, root / table) for row in rows], np.float32)
        held = [self.ids, self.labels.tolist(), _sizes(root, self.ids)]
        self.fingerprint = hashlib.sha256(repr(held).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Example:
        """Reads and decodes one image.

        Raises:
            CorruptImage: the file is no whole image.
        """
        path = self.root / self.ids[index]
        return {"image": decode_image(path, str(path)), "label": self.labels[index], "id": self.ids[index]}


def read(
    folder: Path, card: DatasetCard, policy: Mapping[str, int] = BEST, percent: int | None = None
) -> MultilabelDataset:
    """The data set from the folder of the release, or one that holds it.

    Args:
        folder: where it is.
        card: names and terms.
        policy: what an uncertain mention of each finding counts as; by default what the paper found best for it, as
            Battle of the Backbones has it.
        percent: of the patients of training and validation to keep; all when None.

    Raises:
        BobError: it is not all there.
    """
    root = _release(folder)
    official, test = (CheXpertSource(root, table, policy) for table in ("train.csv", "valid.csv"))
    train, validation = hold_out_groups(official, official.patients, HELD_OUT)
    splits: dict[str, Source] = {"train": train, "validation": validation, "test": test}
    open_ones = ", ".join(f"{finding} {policy[finding]}" for finding in FINDINGS)
    notes = {
        "train": f"train.csv, frontal views, without the patients held out; uncertain counts as: {open_ones}",
        "validation": f"{HELD_OUT:.0%} of the patients of train.csv, seed 0",
        "test": "valid.csv, frontal views",
    }
    if percent is not None:
        for split, part in (("train", train), ("validation", validation)):
            patients = [official.patients[index] for index in part.indices]
            splits[split] = hold_out_groups(part, patients, percent / 100)[1]
            notes[split] += f"; of these {percent} % of the patients, seed 0"
    return MultilabelDataset(
        name=card.name,
        version="v1.0-small",
        classes=FINDINGS,
        splits=splits,
        split_notes=notes,
        metric=card.metric,
        licence=card.licence,
    )


# How it can be read otherwise: all uncertain mentions as findings or as none, and few patients.
VARIANTS: Mapping[str, Callable[[Path, DatasetCard], MultilabelDataset]] = {
    "u_ones": functools.partial(read, policy=dict.fromkeys(FINDINGS, 1)),
    "u_zeros": functools.partial(read, policy=dict.fromkeys(FINDINGS, 0)),
    "10pct": functools.partial(read, percent=10),
    "1pct": functools.partial(read, percent=1),
}


def _release(folder: Path) -> Path:
    """The folder that holds the tables: the one given, or below it, since archives wrap it in one or two others."""
    for pattern in ("train.csv", "*/train.csv", "*/*/train.csv"):
        for found in sorted(folder.glob(pattern)):
            return found.parent
    raise BobError(f"no train.csv in {folder}: unpack the whole of CheXpert-v1.0-small there")


def _frontal(table: Path) -> list[dict[str, str]]:
    """The rows of a table that are frontal views."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise BobError(f"{table} is missing: unpack the whole of CheXpert-v1.0-small there") from None
    missing = {"Path", "Frontal/Lateral", *FINDINGS} - set(rows[0] if rows else ())
    if missing:
        raise BobError(f"{table} lacks {', '.join(sorted(missing))}: take the official table of CheXpert-v1.0-small")
    frontal = [row for row in rows if row["Frontal/Lateral"] == "Frontal"]
    if not frontal:
        raise BobError(f"{table} has no frontal view: take the official table of CheXpert-v1.0-small")
    return frontal


def _findings(row: Mapping[str, str], policy: Mapping[str, int], table: Path) -> list[float]:
    try:
        return [policy[name] if row[name] in UNCERTAIN else STATED[row[name]] for name in FINDINGS]
    except KeyError as error:
        raise BobError(
            f"{table}: {row['Path']} has a finding {error}, where 1.0, 0.0, -1.0 or nothing stands"
        ) from None


def _sizes(root: Path, paths: Sequence[str]) -> list[int]:
    """Bytes of each file, which together with the paths say whether two copies are the same."""
    try:
        return [(root / path).stat().st_size for path in paths]
    except FileNotFoundError as error:
        raise BobError(f"{error.filename} is missing: unpack the whole of CheXpert-v1.0-small again") from None
