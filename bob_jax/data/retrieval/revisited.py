"""Revisited Oxford and Paris, and INSTRE: ground truth in MATLAB's format, or pickled, with boxes around the queries.

Radenovic et al., "Revisiting Oxford and Paris", CVPR 2018 (arXiv 1803.11285); INSTRE by the protocol of Iscen et al.,
"Efficient diffusion on region manifolds", CVPR 2017 (arXiv 1611.05113).
"""

import dataclasses
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from bob_jax.data.base import Source
from bob_jax.data.retrieval import safe_pickle
from bob_jax.data.retrieval.found import Found, folder_with
from bob_jax.data.retrieval.rules import NOTHING, by_position
from bob_jax.data.retrieval.sources import CroppedSource, FileSource
from bob_jax.errors import BobError

OTHER = {"roxford5k": "rparis6k", "rparis6k": "roxford5k"}
Difficulty = Literal["easy", "medium", "hard"]
DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard")
# Which lists are positives, and which junk, by difficulty (section 3.2 of the paper).
POSITIVES = {"easy": ("easy",), "medium": ("easy", "hard"), "hard": ("hard",)}
JUNK = {"easy": ("junk", "hard"), "medium": ("junk",), "hard": ("junk", "easy")}
# What SciPy raises, besides its own error, on a damaged file, one of another format, or one of other content.
MAT_FAILURES = (OSError, ValueError, TypeError, LookupError, NotImplementedError, zlib.error)


def revisited(place: Path, name: str, difficulty: Difficulty, *, crop: bool = True) -> Found:
    """ROxford5k or RParis6k: `gnd_NAME.mat` or `gnd_NAME.pkl`, and the images anywhere below the folder.

    Queries are not in the gallery, and are cropped to the building. The gallery of the other of the two, where it lies
    beside this one, is for whitening.

    Args:
        place: the data set's folder.
        name: "roxford5k" or "rparis6k".
        difficulty: which positives count; the others are junk.
        crop: the queries to their boxes; the original benchmark, and DINO's evaluation, leave them whole.
    """
    truth, images = _revisited(place, name)
    query: Source = images(truth.queries)
    relevance = by_position(truth.positions(POSITIVES[difficulty]), truth.positions(JUNK[difficulty]))
    notes = {"query": "official queries, whole", "gallery": "official gallery, without the queries"}
    if crop:
        query = CroppedSource(query, truth.boxes)
        notes["query"] = "official queries, cropped to the official boxes"
    whitening, other = None, OTHER[name]
    if (place.parent / other).is_dir():
        beside, their_images = _revisited(place.parent / other, other)
        whitening = their_images(beside.images)
        notes["whitening"] = f"gallery of {other}"
    return Found(query, images(truth.images), relevance, notes, whitening=whitening)


def instre(place: Path) -> Found:
    """INSTRE: `gnd_instre.mat`, 1,250 queries cropped to their objects, and 27,293 other images.

    Boxes in the .mat are corners, as in the other two sets; those in the .txt files beside the images are not.
    """
    truth = _from_mat(folder_with(place, "gnd_instre.mat") / "gnd_instre.mat", ("ok",))
    root = folder_with(place, "INSTRE-S1")
    query, gallery = (FileSource(root, paths, listed_in=truth.file.name) for paths in (truth.queries, truth.images))
    positives = truth.positions(("ok",))
    relevance = by_position(positives, [NOTHING] * len(positives))
    notes = {"query": "official queries, cropped to the official boxes", "gallery": "all images but the queries"}
    return Found(CroppedSource(query, truth.boxes), gallery, relevance, notes)


@dataclasses.dataclass(frozen=True)
class _GroundTruth:
    """What a file of ground truth says.

    Attributes:
        file: where it was read.
        images, queries: names of the gallery images and of the queries.
        lists: of each query, named lists of positions in the gallery, from 0.
        boxes: [Q, 4] left, top, right, bottom of each query, in pixels from 0.
    """

    file: Path
    images: list[str]
    queries: list[str]
    lists: list[dict[str, np.ndarray]]
    boxes: np.ndarray

    def __post_init__(self) -> None:
        for query, lists in zip(self.queries, self.lists, strict=True):
            for name, positions in lists.items():
                if positions.size and not 0 <= positions.min() <= positions.max() < len(self.images):
                    raise BobError(
                        f"{self.file} lists a position of query {query} as {name} that is none of its "
                        f"{len(self.images)} images: fetch the official file again"
                    )

    def positions(self, names: tuple[str, ...]) -> list[np.ndarray]:
        return [np.concatenate([lists[name] for name in names]) for lists in self.lists]


def _revisited(place: Path, name: str) -> tuple[_GroundTruth, Callable[[list[str]], FileSource]]:
    """The ground truth of a set, and the images of a list of names."""
    fields = ("easy", "hard", "junk")
    files = [found for suffix in ("mat", "pkl") for found in sorted(place.rglob(f"gnd_{name}.{suffix}"))]
    if not files:
        raise BobError(
            f"gnd_{name}.mat is missing in {place}, and so is the .pkl: fetch either from "
            f"http://cmp.felk.cvut.cz/revisitop/data/datasets/{name}/"
        )
    truth = _from_mat(files[0], fields) if files[0].suffix == ".mat" else _from_pickle(files[0], fields)
    there = {path.stem: path.relative_to(place).as_posix() for path in sorted(place.rglob("*.jpg"), reverse=True)}

    def images(names: list[str]) -> FileSource:
        stems = [name.removesuffix(".jpg") for name in names]
        return FileSource(place, [there.get(stem, f"jpg/{stem}.jpg") for stem in stems], listed_in=truth.file.name)

    return truth, images


def _from_mat(file: Path, fields: tuple[str, ...]) -> _GroundTruth:
    """MATLAB's format: cell arrays of names, a struct array of positions from 1 and boxes from 0."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(file, variable_names=("imlist", "qimlist", "gnd"))
        images, queries = ([str(cell.item()) for cell in content[name].ravel()] for name in ("imlist", "qimlist"))
        entries = content["gnd"].ravel()
        lists = [{field: entry[field].ravel().astype(np.int64) - 1 for field in fields} for entry in entries]
        boxes = np.array([entry["bbx"].ravel() for entry in entries], np.float64)
        return _GroundTruth(file, images, queries, lists, boxes)
    except (*MAT_FAILURES, MatReadError) as error:
        raise _unreadable(file, error) from error


def _from_pickle(file: Path, fields: tuple[str, ...]) -> _GroundTruth:
    """The same as a Python dictionary: lists of names, a list of dictionaries, positions from 0."""
    content = safe_pickle.load(file)
    try:
        entries = content["gnd"]
        lists = [{field: np.asarray(entry[field]).ravel().astype(np.int64) for field in fields} for entry in entries]
        boxes = np.array([np.ravel(entry["bbx"]) for entry in entries], np.float64)
        return _GroundTruth(file, list(content["imlist"]), list(content["qimlist"]), lists, boxes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> BobError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return BobError(f"{file} is no ground truth of the official form ({reason}): fetch it again")
