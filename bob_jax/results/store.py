"""The results folder: `<id>.json` is a cell's record, `<id>.npz` its per-example outputs, `<id>.failed.json` a failure.

`<id>.safetensors` holds the weights that the cell trained, where they were to be kept; `<id>.NAME.png` are pictures.

Files appear whole or not at all: each is written under a hidden temporary name, flushed to disk, and renamed. The
examples come first and the record last, so a record that exists is complete. Any number of processes may write the same
folder; of two that finish the same cell the last one counts.
"""

import contextlib
import dataclasses
import io
import os
import secrets
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from PIL import Image

from bob_jax.errors import BobError
from bob_jax.metrics.bootstrap import DRAWN
from bob_jax.results.files import copy_whole, in_bucket, is_folder, located, write_whole
from bob_jax.results.record import Cell, Failure, Record, failure_from_json, record_from_json, to_json

FAILED = ".failed.json"


class Store:
    """A results folder; it is made at the first write.

    Args:
        folder: where the files are; may be in a bucket, "gs://BUCKET/results".

    Raises:
        BobError: as `located`.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = located(folder)

    def exists(self, cell_id: str) -> bool:
        """Whether the cell has a record, and need not run."""
        return self._record_path(cell_id).exists()

    def prepare(self) -> None:
        """Makes the folder and tries a write, so that hours of work do not end at a folder that cannot be written.

        Raises:
            BobError: it cannot be made or written.
        """
        probe = self.folder / f".{secrets.token_hex(8)}.tmp"
        write_whole(probe, b"")
        probe.unlink()

    def has_weights(self, cell_id: str) -> bool:
        """Whether the weights that the cell trained were kept."""
        return self._weights_path(cell_id).exists()

    def write(
        self,
        record: Record,
        per_example: Mapping[str, np.ndarray],
        weights: Mapping[str, np.ndarray] | None = None,
        pictures: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Keeps a record and the outputs behind it; an earlier failure of the cell is forgotten.

        Args:
            record: the result.
            per_example: arrays [N, ...] by name; "id" [N] str names the image of each row. Under `drawn_NAME` [1 + R]
                the value of a score and that on each bootstrap draw.
            weights: what the cell trained, by dotted path; None keeps none.
            pictures: [H, W, 3] uint8 by name.

        Raises:
            BobError: the folder cannot be written, the disk is full, or a score is NaN; nothing is left behind.
            ValueError: arrays of different lengths, objects in them, no ids, or an id twice.
        """
        cell_id = record.cell.id
        files = [
            (self._examples_path(cell_id), _pack(per_example)),
            *((self.picture(cell_id, name), png(pixels)) for name, pixels in (pictures or {}).items()),
            (self._record_path(cell_id), to_json(record).encode()),
        ]
        if weights is not None:
            arrays = {name: np.ascontiguousarray(array) for name, array in weights.items()}
            metadata = {"cell": cell_id, "backbone": record.cell.backbone}
            files.insert(0, (self._weights_path(cell_id), safetensors.numpy.save(arrays, metadata)))
        fresh, written = not self.exists(cell_id), []
        try:
            for path, content in files:
                write_whole(path, content)
                written.append(path)
        except BaseException:
            if fresh:
                for path in written:
                    path.unlink(missing_ok=True)
            raise
        self._failure_path(cell_id).unlink(missing_ok=True)

    def read(self, cell_id: str) -> Record:
        """The record of one cell.

        Raises:
            BobError: there is none, it cannot be read, or it is that of another cell; the message names the file.
        """
        return _record(self._record_path(cell_id))

    def read_all(self) -> list[Record]:
        """All records of the folder, in the order of their ids; none where the folder does not exist.

        Raises:
            BobError: a record cannot be read, or has another name than its cell; the message names its file.
        """
        return [_record(path) for path in sorted(self.folder.glob("*.json")) if not path.name.endswith(FAILED)]

    def per_example(self, cell_id: str) -> dict[str, np.ndarray] | None:
        """The arrays that were written with the record; None when the file was not kept.

        Raises:
            BobError: the file is damaged.
        """
        path = self._examples_path(cell_id)
        if not path.exists():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BobError(
                f"{path}: cannot be read ({error}): delete it and '{cell_id}.json' to run it again"
            ) from error

    def weights(self, cell_id: str) -> dict[str, np.ndarray]:
        """The weights that a cell trained, by dotted path: `backbone.` and the parameter, `head.kernel`, `head.bias`.

        Raises:
            BobError: they were not kept, or the file is damaged.
        """
        path = self._weights_path(cell_id)
        if not path.exists():
            raise BobError(f"no weights at {path}: run the cell with --config.keep_weights=True")
        try:
            return safetensors.numpy.load(path.read_bytes()) if in_bucket(path) else safetensors.numpy.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise BobError(f"{path}: cannot be read ({error}): delete it to train the cell again") from error

    def take_over(self, other: "Store", cell_id: str, cell: Cell) -> None:
        """Copies a record with its files from another folder, as that of a cell which asks the same.

        Args:
            other: has a record of `cell_id`.
            cell_id: there.
            cell: here.

        Raises:
            BobError: a file cannot be read or written.
        """
        record = dataclasses.replace(other.read(cell_id), cell=cell)
        for path in sorted(other.folder.glob(f"{cell_id}.*")):
            if path.suffix != ".json":
                copy_whole(path, self.folder / f"{cell.id}{path.name.removeprefix(cell_id)}")
        write_whole(self._record_path(cell.id), to_json(record).encode())
        self._failure_path(cell.id).unlink(missing_ok=True)

    def picture(self, cell_id: str, name: str) -> Path:
        """Where a picture of a cell is; the record's notes say which there are."""
        return self.folder / f"{cell_id}.{name}.png"

    def record_failure(self, failure: Failure) -> None:
        """Notes that a cell raised.

        Raises:
            BobError: the folder cannot be written.
        """
        write_whole(self._failure_path(failure.cell.id), to_json(failure).encode())

    def failures(self) -> list[Failure]:
        """Cells that raised and have no record since, in the order of their ids.

        Raises:
            BobError: a note cannot be read.
        """
        found = []
        for path in sorted(self.folder.glob(f"*{FAILED}")):
            if self.exists(path.name.removesuffix(FAILED)):
                continue
            with contextlib.suppress(FileNotFoundError):  # another process has just finished that cell
                found.append(failure_from_json(_text(path), str(path)))
        return found

    def _record_path(self, cell_id: str) -> Path:
        return self.folder / f"{cell_id}.json"

    def _examples_path(self, cell_id: str) -> Path:
        return self.folder / f"{cell_id}.npz"

    def _weights_path(self, cell_id: str) -> Path:
        return self.folder / f"{cell_id}.safetensors"

    def _failure_path(self, cell_id: str) -> Path:
        return self.folder / f"{cell_id}{FAILED}"


def stores_in(folder: str | os.PathLike[str]) -> list[Store]:
    """The folder itself, and the folders directly in it that hold records or failures, in the order of their names.

    Raises:
        BobError: the folder does not exist.
    """
    top = located(folder)
    if not is_folder(top):
        raise BobError(f"no results folder '{top}': `python main.py --config=configs/digits.py` makes one")
    return [Store(top), *(Store(inner) for inner in sorted({path.parent for path in top.glob("*/*.json")}))]


def _pack(per_example: Mapping[str, np.ndarray]) -> bytes:
    """The arrays as one npz file, without pickles."""
    if "id" not in per_example:
        raise ValueError("per-example outputs need 'id', the names of the images")
    arrays = {name: np.asarray(array) for name, array in per_example.items()}
    n = len(arrays["id"])
    for name, array in arrays.items():
        if array.dtype.hasobject or (array.shape[:1] != (n,) and not name.startswith(DRAWN)):
            raise ValueError(f"per-example '{name}' is {array.dtype}{list(array.shape)}, not plain values of {n} rows")
    if len(np.unique(arrays["id"])) != n:
        raise ValueError("an image id stands twice: outputs of two backbones could not be paired")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    """The file of a picture [H, W, 3] uint8."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _record(path: Path) -> Record:
    try:
        found = record_from_json(_text(path), str(path))
    except FileNotFoundError as error:
        raise BobError(f"{path}: cannot be read ({error})") from error
    if found.cell.id != path.name.removesuffix(".json"):  # its outputs are looked for under the cell's name
        raise BobError(f"{path}: holds the record of cell '{found.cell.id}': is it a copy? Move it out of the folder")
    return found


def _text(path: Path) -> str:
    """What a file says.

    Raises:
        FileNotFoundError: it is not there.
        BobError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise BobError(f"{path}: cannot be read ({error})") from error
