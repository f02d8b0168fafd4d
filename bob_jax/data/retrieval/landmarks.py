"""Google Landmarks v2, the retrieval task (Weyand et al., CVPR 2020, arXiv 2004.01804): 762k gallery images."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bob_jax.data.retrieval.found import Found, folder_with
from bob_jax.data.retrieval.rules import NOTHING, by_position
from bob_jax.data.retrieval.sources import FileSource
from bob_jax.errors import BobError

SOLUTION, INDEX = "retrieval_solution_v2.1.csv", "index.csv"


def landmarks(place: Path, usage: tuple[str, ...]) -> Found:
    """GLDv2: `index/a/b/c/ID.jpg`, `test/a/b/c/ID.jpg`, `index.csv` and `retrieval_solution_v2.1.csv`.

    The solution has the columns id, images (ids of the positives, apart by spaces, or "None") and Usage. Test images of
    Usage "Ignored" are no queries.

    Args:
        place: the folder of all these.
        usage: "Public", "Private" or both: which queries.
    """
    root = folder_with(place, SOLUTION)
    gallery = [row["id"] for row in _table(root / INDEX, ("id",))]
    solution = [row for row in _table(root / SOLUTION, ("id", "images", "Usage")) if row["Usage"] in usage]
    position = {name: index for index, name in enumerate(gallery)}
    try:
        positives = [
            np.array([position[name] for name in row["images"].split() if name != "None"], np.int64) for row in solution
        ]
    except KeyError as error:
        raise BobError(f"{root / SOLUTION} names the image {error}, which {INDEX} lacks: fetch both again") from None
    query = FileSource(root, [_path("test", row["id"]) for row in solution], listed_in=SOLUTION)
    images = FileSource(root, [_path("index", name) for name in gallery], listed_in=INDEX)
    notes = {"query": f"official test, {' and '.join(usage)}, version 2.1", "gallery": "official index"}
    return Found(query, images, by_position(positives, [NOTHING] * len(positives)), notes)


def _path(part: str, name: str) -> str:
    return f"{part}/{name[:1]}/{name[1:2]}/{name[2:3]}/{name}.jpg"


def _table(file: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            table = csv.DictReader(stream)
            if not set(columns) <= set(table.fieldnames or ()):
                raise BobError(f"{file} has no columns {', '.join(columns)}: fetch the official file again")
            for row in table:
                if any(row[column] is None for column in columns):
                    raise BobError(f"line {table.line_num} of {file} is cut short: fetch the file again")
                yield row
    except OSError as error:
        raise BobError(
            f"cannot read {file}: {error.strerror}; fetch it from https://github.com/cvdfoundation/google-landmark"
        ) from error
    except csv.Error as error:
        raise BobError(f"line {table.line_num} of {file} cannot be read ({error}): fetch the file again") from error
