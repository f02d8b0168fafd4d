"""Writing files that appear whole or not at all."""

import contextlib
import os
import secrets
from pathlib import Path

from bob_jax.errors import BobError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under a hidden temporary name, flushes it to disk, and renames it; its folder is made first.

    Raises:
        BobError: it cannot be written; no new file is left, and an older one stays as it was.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                file.write(content)
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
