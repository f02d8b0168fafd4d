"""Sets whose file names are their ground truth: Copydays and GPR1200."""

from pathlib import Path

import numpy as np

from bob_jax.data.folder import images_below
from bob_jax.data.retrieval.found import Found, folder_with
from bob_jax.data.retrieval.rules import all_against_all, same_label
from bob_jax.data.retrieval.sources import FileSource
from bob_jax.errors import BobError

GROUP = 4  # letters at the beginning of a Copydays name that say which photograph it is


def copydays(place: Path, attack: str) -> Found:
    """INRIA Copydays (Douze et al., CIVR 2009): altered copies look for their originals.

    `original/` has 157 photographs; `strong/` 229 copies altered by hand, `jpegqual/Q/` and `crops/P/` one copy of each
    photograph per quality Q and per cent P cut off. The first four characters of a name say which photograph it is of.

    Args:
        place: the data set's folder.
        attack: "strong", "jpegqual" or "crops": which copies are the queries; all qualities or crops together.
    """
    root = folder_with(place, "original")
    originals, copies = (_named(root, below) for below in ("original", attack))
    groups: dict[str, int] = {}
    labels = [
        np.array([groups.setdefault(path.rsplit("/", 1)[1][:GROUP], len(groups)) for path in paths], np.int32)
        for paths in (originals, copies)
    ]
    gallery = FileSource(root, originals, labels[0], listed_in="the folder original")
    query = FileSource(root, copies, labels[1], listed_in=f"the folder {attack}")
    notes = {"query": f"official {attack}", "gallery": "official original"}
    return Found(query, gallery, same_label(query.labels, gallery.labels), notes)


def gpr1200(place: Path) -> Found:
    """GPR1200 (Schall et al., arXiv 2111.13122): `images/CATEGORY_name.jpg`, 1200 categories of 10.

    The authors' evaluation counts the query itself as its first hit; here it is junk, as in the other sets, and scores
    are lower than theirs.
    """
    images = _by_category(place)
    note = "every image a query against all the others"
    return Found(images, images, all_against_all(images.labels), {"query": note, "gallery": note})


def gpr1200_published(place: Path) -> Found:
    """GPR1200 as its authors count: a query is part of the gallery and one of its own positives."""
    images = _by_category(place)
    note = "every image a query against all images, itself a hit: as the authors count"
    return Found(images, images, same_label(images.labels, images.labels), {"query": note, "gallery": note})


def _by_category(place: Path) -> FileSource:
    root = folder_with(place, "images")
    numbered = []
    for path in _named(root, "images"):
        number, underscore, _ = path.removeprefix("images/").partition("_")
        if not (number.isdecimal() and underscore):
            raise BobError(f"{root}/{path} does not begin with the number of a category and _: remove it")
        numbered.append((int(number), path))
    numbered.sort()
    labels = np.array([number for number, _ in numbered], np.int32)
    return FileSource(root, [path for _, path in numbered], labels, listed_in="the folder images")


def _named(root: Path, below: str) -> list[str]:
    if not (root / below).is_dir():
        raise BobError(f"no folder {root / below}: fetch and unpack its official archive there")
    paths = [path for path, _ in images_below(root, below)]
    if not paths:
        raise BobError(f"no images in {root / below}: fetch and unpack its official archive there")
    return paths
