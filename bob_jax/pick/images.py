"""A user's own images, labelled or not, as they come: class folders, a loose folder, a CSV; or the embedded digits.

What can be gone on with is a warning, what cannot is an error. Nothing is decoded here but the heads of the files.
"""

import collections
import csv
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from bob_jax.data import digits
from bob_jax.data.arrays import ArraySource
from bob_jax.data.base import Source
from bob_jax.data.decode import FAILURES
from bob_jax.data.folder import EXTENSIONS, FileSource, images_below, split_folders
from bob_jax.errors import BobError
from bob_jax.pick import folds

NAMED = 3  # files that a warning names; of the others it gives the number
FEWEST_UNLABELLED = 4
PATH, LABEL, GROUP = "path", "label", "group"  # columns of a CSV
HELD_BACK = "test"  # the split folder that nothing is chosen on


@dataclasses.dataclass(frozen=True)
class Images:
    """What there is to judge on.

    Attributes:
        name: what the answer calls it.
        source: the images; labels are -1 where there are none.
        classes: names in label order; empty without labels.
        groups: [N] int; images of equal number belong together: copies, byte for byte, or what the CSV says. No head
            is judged on one that has learned from another.
        test: images that the user has put aside in a folder `test`; None without one.
        warnings: what was passed over, and what to beware of, one line each.
        unread: files whose heads are no image's.
    """

    name: str
    source: Source
    classes: tuple[str, ...]
    groups: np.ndarray
    test: Source | None = None
    warnings: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether classes can be told apart."""
        return len(self.classes) > 1


def embedded() -> Images:
    """scikit-learn's handwritten digits: what is looked at when no folder is given."""
    source = digits.everything()
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in source.images]
    return Images("digits", source, digits.CLASSES, _numbered(hashes))


def from_arrays(name: str, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Images:
    """Images that are in memory.

    Args:
        name: what the answer calls them.
        images: [N, H, W, 3] uint8.
        labels: [N] int, -1 where there is none.
        classes: names in label order.
    """
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in images]
    return Images(name, ArraySource(images, labels), tuple(classes), _numbered(hashes))


def read(place: Path) -> Images:
    """The images of a folder, or of a CSV with the columns path and label.

    Raises:
        BobError: nothing there, or too little of it; says what to give.
    """
    try:
        place = place.expanduser()
        if place.is_dir():
            return _judgeable(_folder(place.resolve(), _other_files(place.resolve())))
        if place.is_file() and place.suffix.lower() in EXTENSIONS:
            raise BobError(f"{place} is one image: nothing can be told from it, give a folder of them")
        if place.is_file():
            return _judgeable(_csv(place.resolve()))
    except OSError as error:  # may not be read, or has a name that no file can have
        raise BobError(f"cannot read {error.filename or place}: {error.strerror or error}") from error
    raise BobError(f"no folder {place}: give one that holds CLASS/*.jpg or *.jpg, or a CSV with the columns path,label")


def _folder(root: Path, warnings: list[str]) -> Images:
    splits, folders = split_folders(root), _folders(root)
    others = sorted(set(folders) - set(splits.values()))
    if "train" not in splits and splits and not others:
        raise BobError(
            f"{root} has {' and '.join(splits.values())} but no train folder: add it, or give "
            f"{root / next(iter(splits.values()))} alone"
        )
    # A folder train without folders, among others, is a class: of vehicles, say.
    if "train" not in splits or (others and not _folders(root / splits["train"])):
        rows, said = _class_folders(root, "")
        return _judged(str(root), root, rows, warnings + said, [])
    rows = []
    if others:
        warnings.append(f"passed over, since beside {splits['train']}: {_some(others, 'folder')}")
    for split in ("train", "validation"):
        if split in splits:
            found, said = _class_folders(root, splits[split])
            rows += found
            warnings += said
    held, said = _class_folders(root, splits[HELD_BACK]) if HELD_BACK in splits else ([], [])
    return _judged(str(root), root, rows, warnings + said, held)


def _other_files(root: Path) -> list[str]:
    """A warning of files that are no images by their names, or of a kind that is not read, such as .heic."""
    found = []
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = Path(folder).relative_to(root)
        found += [
            (here / name).as_posix()
            for name in sorted(files)
            if not name.startswith(".") and Path(name).suffix.lower() not in EXTENSIONS
        ]
    return [f"passed over, since of no kind that is read here: {_some(found, 'file')}"] if found else []


def _folders(top: Path) -> list[str]:
    return sorted(entry.name for entry in top.iterdir() if entry.is_dir() and not entry.name.startswith("."))


Row = tuple[str, str | None]  # path, class


def _class_folders(root: Path, below: str) -> tuple[list[Row], list[str]]:
    """Images below a folder: those of its folders with their classes, those in itself without."""
    top = root / below
    prefix = f"{below}/" if below else ""
    rows: list[Row] = []
    warnings = []
    for name in _folders(top):
        found: list[Row] = [(prefix + path, name) for path, _ in images_below(top, name)]
        if not found:
            warnings.append(f"no image in {prefix}{name}: the folder is passed over")
        rows += found
    loose = sorted(
        entry.name
        for entry in top.iterdir()
        if entry.suffix.lower() in EXTENSIONS and not entry.name.startswith(".") and not entry.is_dir()
    )
    return rows + [(prefix + name, None) for name in loose], warnings


def _csv(file: Path) -> Images:
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text, skipinitialspace=True)
            columns, lines = list(reader.fieldnames or []), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BobError(
            f"{file} is no CSV in UTF-8 ({error}): save it as one, with the columns {PATH},{LABEL}, or give a folder"
        ) from error
    if PATH not in columns or (LABEL not in columns and set(columns) != {PATH}):
        wanted = PATH if PATH not in columns else LABEL
        raise BobError(
            f"{file} has no column '{wanted}', only {', '.join(columns) or 'nothing'}: its first line must be "
            f"'{PATH},{LABEL}' (and '{GROUP}', where images belong together), or '{PATH}' alone without labels"
        )
    rows: dict[str, str | None] = {}
    together: dict[str, str] = {}
    missing, twice = [], []
    for line in lines:
        path, label = (line[PATH] or "").strip(), (line.get(LABEL) or "").strip() or None
        if not path:
            continue
        if not _is_file(file.parent / path):
            missing.append(path)
        elif path in rows:
            twice += [path] * (rows[path] != label)
        else:
            rows[path] = label
            if line.get(GROUP):
                together[path] = line[GROUP].strip()
    if missing and not rows:
        raise BobError(f"none of the {len(missing)} files of {file} is there, first {missing[0]}: paths count from it")
    warnings = []
    if missing:
        warnings.append(f"left out, since not there: {_some(missing, 'file')}")
    if twice:
        warnings.append(f"of two labels the first one counts: {_some(twice, 'file')}")
    found = _judged(str(file), file.parent, list(rows.items()), warnings, [])
    return dataclasses.replace(found, groups=_merged(found.groups, [together.get(name) for name in found.source.ids]))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for any file
        return False


def _merged(copies: np.ndarray, names: Sequence[str | None]) -> np.ndarray:
    """[N] numbers that are equal where images are copies, or have a name in common, or are linked by others that do."""
    number = copies.copy()
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        if name is not None:
            groups.setdefault(name, []).append(place)
    for places in groups.values():
        linked = np.isin(number, number[places])
        number[linked] = number[places[0]]
    return number


def _judged(name: str, root: Path, rows: list[Row], warnings: list[str], held: list[Row]) -> Images:
    """The images that can be judged on, of all that were found."""
    if not rows:
        raise BobError(f"no image in {name}: add some ({', '.join(sorted(EXTENSIONS))})")
    everything = [path for path, _ in (*rows, *held)]
    with ThreadPoolExecutor(8) as pool:  # it is the disk that takes the time
        begins = pool.map(_has_a_head, [root / path for path in everything])
        unread = [path for path, well in zip(everything, begins, strict=True) if not well]
    if unread:
        warnings.append(f"left out, since unreadable: {_some(unread, 'file')}")
        bad = set(unread)
        rows, held = ([row for row in part if row[0] not in bad] for part in (rows, held))
    if not rows:
        raise BobError(f"none of the {len(unread)} images in {name} can be read, first {unread[0]}")
    if len(rows) == 1:
        raise BobError(f"{name} holds 1 image, {rows[0][0]}: nothing can be told from it, give several of each class")
    classes = sorted({label for _, label in rows if label is not None})
    bare = [path for path, label in rows if label is None]
    if len(classes) == 1:
        within = {path.split("/")[1] for path, _ in rows if path.startswith(f"{classes[0]}/") and path.count("/") > 1}
        hint = f"; if its folders are the classes, give {root / classes[0]}" if len(within) > 1 else ""
        warnings.append(f"all labels say '{classes[0]}': one class tells nothing, the images count as unlabelled{hint}")
        rows = [(path, None) for path, _ in rows]
    elif classes and bare:
        warnings.append(f"left out of the judgement, since without a label: {_some(bare, 'image')}")
        rows = [row for row in rows if row[1] is not None]
    return _whole(name, root, rows, classes if len(classes) > 1 else [], warnings, held, tuple(unread))


def _whole(
    name: str,
    root: Path,
    rows: list[Row],
    classes: list[str],
    warnings: list[str],
    held: list[Row],
    unread: tuple[str, ...],
) -> Images:
    number = {label: i for i, label in enumerate(classes)}
    if classes:
        counts = collections.Counter(label for _, label in rows)
        if max(counts.values()) < 2:
            raise BobError(f"each class of {name} has 1 image: nothing is left to judge on, give 2 or more of each")
        single = sorted(str(label) for label, count in counts.items() if count == 1)
        if single:
            warnings.append(f"learned but not judged, since of 1 image: {_some(single, 'class')}")
        few = min(count for count in counts.values() if count > 1)
        if few < 10:
            warnings.append(
                f"the smallest class has {few} images: scores of so few say little, and the intervals show it; "
                "20 of each class say more"
            )
    elif len(rows) < FEWEST_UNLABELLED:
        raise BobError(f"{name} holds {len(rows)} images without labels: give {FEWEST_UNLABELLED} or more")
    source = _files(root, rows, number)
    if held and not classes:
        warnings.append(f"the test folder is not looked at, since there are no classes: {_some(_paths(held), 'image')}")
    else:
        if bare := [row for row in held if row[1] is None]:
            warnings.append(f"left out of the test folder, since without a label: {_some(_paths(bare), 'image')}")
        if strange := sorted({label for _, label in held if label is not None and label not in number}):
            warnings.append(f"left out of the test folder, since not among the others: {_some(strange, 'class')}")
    held = [row for row in held if row[1] in number]
    test = _files(root, held, number) if held else None
    return Images(name, source, tuple(classes), _copies(source), test, tuple(warnings), unread)


def _paths(rows: Iterable[Row]) -> list[str]:
    return [path for path, _ in rows]


def _judgeable(images: Images) -> Images:
    """The same, with a warning where all images of a class belong together: whoever judged one would have learned it.

    Raises:
        BobError: not two classes are left to judge.
    """
    if not images.labelled:
        return images
    labels = np.asarray(images.source.labels)
    judged = set(labels[folds.assign(labels, images.groups) >= 0].tolist())
    if len(judged) < 2:
        who, rest = (f"only class '{images.classes[judged.pop()]}'", "every other") if judged else ("no class", "each")
        raise BobError(
            f"{who} of {images.name} can be judged: {rest} has 1 image, copies of one, or one group; give at least two "
            "classes of images that do not all belong together"
        )
    counts = np.bincount(labels, minlength=len(images.classes))
    alone = [name for i, name in enumerate(images.classes) if i not in judged and counts[i] > 1]
    if not alone:
        return images
    words = f"learned but not judged, since copies of one image, or one group: {_some(alone, 'class')}"
    return dataclasses.replace(images, warnings=(*images.warnings, words))


def _files(root: Path, rows: list[Row], number: dict[str, int]) -> FileSource:
    labels = [-1 if label is None else number.get(label, -1) for _, label in rows]
    found = [(root / path).stat() for path, _ in rows]
    stamps = [(file.st_size, file.st_mtime_ns) for file in found]
    return FileSource(root, [path for path, _ in rows], np.array(labels, np.int32), stamps)


def _has_a_head(path: Path) -> bool:
    """Whether a file begins as an image does; that it is whole is seen when it is decoded."""
    try:
        with Image.open(path):
            return True
    except FAILURES:
        return False


def _copies(source: FileSource) -> np.ndarray:
    """[N] number of each image's content; only files of equal size are read."""
    sizes = [(source.root / path).stat().st_size for path in source.ids]
    often = collections.Counter(sizes)
    return _numbered(
        hashlib.sha256((source.root / path).read_bytes()).digest() if often[size] > 1 else path.encode(errors="replace")
        for path, size in zip(source.ids, sizes, strict=True)
    )


def _numbered(keys: Iterable[bytes]) -> np.ndarray:
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in keys], np.int64)


def _some(names: Sequence[str], kind: str) -> str:
    """ "4 files (a.jpg, b.jpg, c.jpg and 1 more)"."""
    several = {"class": "classes"}.get(kind, f"{kind}s") if len(names) > 1 else kind
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} {several} ({', '.join(names[:NAMED])}{more})"
