"""Plain folders of images: `root/class/image.jpg`, or `root/split/class/image.jpg`."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bob_jax.data.base import Dataset, Example, Source
from bob_jax.data.decode import decode_image
from bob_jax.data.subset import hold_out
from bob_jax.errors import BobError

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".jp2", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
HELD_OUT = 0.2  # of the images, for a split that the folder does not have


class FileSource:
    """Image files, by their paths below a folder."""

    def __init__(self, root: Path, ids: Sequence[str], labels: np.ndarray, stamps: Sequence[object]):
        """
        Args:
            root: the folder.
            ids: path below it of each image.
            labels: [N] int.
            stamps: what tells, of each file, that it is still the same: its size, or more.
        """
        self.root, self.ids, self.labels = root, list(ids), labels.astype(np.int32)
        held = "\n".join(f"{path}\t{stamp}" for path, stamp in zip(ids, stamps, strict=True))
        self.fingerprint = hashlib.sha256(held.encode(errors="surrogateescape")).hexdigest()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Example:
        """Reads and decodes one image.

        Raises:
            CorruptImage: the file is no whole image, or is gone.
        """
        path = self.root / self.ids[index]
        return {"image": decode_image(path, str(path)), "label": int(self.labels[index]), "id": self.ids[index]}


class FolderSource(FileSource):
    """The image files below class folders.

    Attributes:
        classes: names in label order.
    """

    def __init__(self, root: Path, files: Sequence[tuple[str, int]], classes: Sequence[str], depth: int):
        """
        Args:
            root: the data set's folder.
            files: path below the root and size in bytes of each image, in order.
            classes: class names, in label order.
            depth: which part of the path is the class.

        Raises:
            BobError: a class folder that is not among the classes.
        """
        number = {name: label for label, name in enumerate(classes)}
        self.classes = tuple(classes)
        try:
            labels = np.array([number[path.split("/")[depth]] for path, _ in files], np.int32)
        except KeyError as error:
            raise BobError(f"class {error} of {root} has no training images: add some, or remove its folder") from None
        super().__init__(root, [path for path, _ in files], labels, [size for _, size in files])


def load(
    root: Path,
    *,
    name: str | None = None,
    metric: str = "accuracy",
    licence: str = "the user's own data",
    validation_fraction: float = HELD_OUT,
) -> Dataset:
    """A data set from a folder.

    With a folder `train`, the splits are the folders `train`, `validation` (or `val`, `valid`) and `test`. Validation
    images without test images (ImageNet's layout) are the test split. What is then missing is held out, stratified by
    class, seed 0. Without `train`, every folder is a class and both other splits are held out.
    Classes are numbered in the order of their sorted names. Hidden files and files of other kinds are passed over.

    Args:
        root: the folder.
        name: of the data set; `folder:PATH` when None.
        metric: score that ranks backbones.
        licence: terms of the data.
        validation_fraction: of the training images, held out where there is no validation folder.

    Raises:
        BobError: no such folder, no images, a class without images or unknown to the training split.
    """
    root = root.expanduser().resolve()
    if not root.is_dir():
        raise BobError(f"no folder {root}: give the folder that holds train/CLASS/*.jpg or CLASS/*.jpg")
    folders = _official(root)
    if folders:
        classes = class_names(root / folders["train"])
        official = {split: _source(root, folder, classes) for split, folder in folders.items()}
        splits, notes = _with_validation(official, folders, validation_fraction)
    else:
        official = {"all": _source(root, "", class_names(root))}
        splits, notes = _three_ways(official["all"])
    empty = [split for split, source in splits.items() if not len(source)]
    if empty:
        raise BobError(f"too few images in {root} to hold out a {empty[0]} split: give each class at least 3")
    version = hashlib.sha256("".join(source.fingerprint for source in official.values()).encode()).hexdigest()
    return Dataset(
        name=name or f"folder:{root}",
        version=version[:16],
        classes=next(iter(official.values())).classes,
        splits=splits,
        split_notes=notes,
        metric=metric,
        licence=licence,
    )


def split_folders(root: Path) -> dict[str, str]:
    """The folders in a folder that are named like a split, in any case of letters: {"train": "Train", "test": "test"}.

    Raises:
        BobError: two of one split.
    """
    found: dict[str, str] = {}
    for entry in sorted(root.iterdir()):
        split = next((split for split, names in SPLIT_FOLDERS.items() if entry.name.lower() in names), None)
        if split is None or not entry.is_dir():
            continue
        if split in found:
            raise BobError(f"{root} has two folders of {split} images, {found[split]} and {entry.name}: keep one")
        found[split] = entry.name
    return {split: found[split] for split in SPLIT_FOLDERS if split in found}


def _official(root: Path) -> dict[str, str]:
    """Folder of each official split, train first; nothing when the folders are classes."""
    found = split_folders(root)
    if "train" not in found:
        if found and set(found.values()) == set(class_names(root)):
            raise BobError(
                f"{root} has {' and '.join(sorted(found.values()))} but no train folder: add train/CLASS/*.jpg, or put "
                "the images of each class into a folder named after it"
            )
        return {}
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    if "test" not in found:
        raise BobError(
            f"{root} has {found['train']} but no validation or test folder: add one, or leave the split folders out; "
            f"if {found['train']} is a class like the others, put all classes into a folder train, some images of each "
            "into a folder test"
        )
    return found


def _with_validation(
    official: dict[str, FolderSource], folders: dict[str, str], fraction: float
) -> tuple[dict[str, Source], dict[str, str]]:
    notes = {split: f"folder {folder}" for split, folder in folders.items()}
    splits: dict[str, Source] = dict(official)
    if "validation" not in splits:
        splits["train"], splits["validation"] = hold_out(official["train"], fraction)
        notes["validation"] = f"{fraction:.0%} of {notes['train']}, stratified by class, seed 0"
        notes["train"] += " without the images held out for validation"
    order = ("train", "validation", "test")
    return {split: splits[split] for split in order}, {split: notes[split] for split in order}


def _three_ways(source: FolderSource) -> tuple[dict[str, Source], dict[str, str]]:
    rest, test = hold_out(source, HELD_OUT)
    train, validation = hold_out(rest, HELD_OUT / (1 - HELD_OUT))
    note = f"{HELD_OUT:.0%} of all images, stratified by class, seed 0"
    notes = {"train": "all images but those held out", "validation": note, "test": note}
    return {"train": train, "validation": validation, "test": test}, notes


def class_names(folder: Path) -> tuple[str, ...]:
    """Sorted names of the class folders in a folder.

    Raises:
        BobError: there are none.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise BobError(f"no class folders in {folder}: put the images of each class into a folder named after it")
    return tuple(names)


def _source(root: Path, folder: str, classes: Sequence[str]) -> FolderSource:
    top = root / folder
    files = [
        (f"{folder}/{path}" if folder else path, size)
        for name in class_names(top)
        for path, size in images_below(top, name)
    ]
    source = FolderSource(root, files, classes, depth=1 if folder else 0)
    if folder.lower() in ("", *SPLIT_FOLDERS["train"]) and (
        bare := set(range(len(classes))) - set(source.labels.tolist())
    ):
        raise BobError(
            f"no image in {top / classes[min(bare)]}: add some ({', '.join(sorted(EXTENSIONS))}) or remove it"
        )
    return source


def images_below(top: Path, below: str, above: frozenset[str] = frozenset()) -> list[tuple[str, int]]:
    """Path below `top`, with "/", and size of every image in a folder and its folders, sorted.

    Links to folders are followed, but not back to one that they are in. A link to no file has size 0, and cannot be
    read, like any other damaged file.

    Args:
        top: where paths begin.
        below: path of the folder below it.
        above: real paths of the folders that it is in, as far as they were gone through.

    Raises:
        BobError: a folder that may not be read.
    """
    found = []
    above |= {os.path.realpath(top / below)}
    try:
        entries = sorted(os.scandir(top / below), key=lambda entry: entry.name)
    except OSError as error:
        raise BobError(f"cannot read {top / below}: {error.strerror or error}; mend it, or take it away") from error
    for entry in entries:
        path = f"{below}/{entry.name}"
        if entry.name.startswith("."):
            continue
        try:
            is_folder = entry.is_dir()
            size = 0 if is_folder else entry.stat().st_size
        except OSError:  # a link to nowhere, or to itself
            is_folder, size = False, 0
        if is_folder:
            if not _leads_back(os.path.realpath(entry.path), above):
                found += images_below(top, path, above)
        elif Path(entry.name).suffix.lower() in EXTENSIONS:
            found.append((path, size))
    return found


def _leads_back(folder: str, above: frozenset[str]) -> bool:
    """Whether a real path is one of those above, or holds one of them."""
    return any(one == folder or one.startswith(folder.rstrip(os.sep) + os.sep) for one in above)
