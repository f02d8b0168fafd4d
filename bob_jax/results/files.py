"""Writing files that appear whole or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from bob_jax.errors import BobError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under a hidden temporary name, flushes it to disk, and renames it; its folder is made first.

    Raises:
        BobError: it cannot be written; no new file is left, and an older one stays as it was.
    """
    _appear(path, lambda file: file.write(content))


def copy_whole(source: Path, path: Path) -> None:
    """Copies a file in the same way, without holding all of it in memory.

    Raises:
        BobError: it cannot be read or written; as `write_whole`.
    """
    try:
        with source.open("rb") as original:
            _appear(path, lambda file: shutil.copyfileobj(original, file))
    except OSError as error:
        raise BobError(f"cannot read {source}: {error.strerror or error}") from error


def _appear(path: Path, write: Callable[[BinaryIO], object]) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise BobError(
            f"cannot write {path}: {error.strerror or error}; free space there or give another folder"
        ) from error


def _sync(folder: Path) -> None:
    """Makes the renaming itself survive a power cut, where the file system can: buckets mounted as folders cannot."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # the file is whole and in place: its record must not fail for this
            os.fsync(handle)
    finally:
        os.close(handle)
