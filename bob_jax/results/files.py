"""Where files of results are, on this machine or in a bucket, and how they appear there: whole or not at all.

A bucket's path is an `etils.epath.Path`, which does what `pathlib.Path` does. No folder is made in it and
nothing renamed: an object appears when its upload is complete.
"""

import contextlib
import importlib.util
import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from bob_jax.errors import BobError, unknown_name

BUCKETS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3"), "az": ("adlfs", "azure")}  # the library, and our extra


def located(folder: str | os.PathLike[str]) -> Path:
    """The path of a folder, which may be in a bucket: "results", "gs://BUCKET/results".

    Raises:
        BobError: another kind of address, or the library of that kind of bucket is not installed.
    """
    text = os.fspath(folder)
    scheme, is_address, _ = text.partition("://")
    if not is_address:
        return Path(text)
    if scheme not in BUCKETS:
        raise unknown_name("kind of bucket", f"{scheme}://", [f"{known}://" for known in BUCKETS])
    library, extra = BUCKETS[scheme]
    if importlib.util.find_spec(library) is None:
        raise BobError(f"{text} is read and written by {library}: pip install 'bob_jax[{extra}]'")
    os.environ.setdefault("EPATH_USE_TF", "0")  # else TensorFlow is loaded for it wherever there is one
    from etils import epath

    path: Any = epath.Path(text)
    return cast(Path, path)


def in_bucket(path: Path) -> bool:
    """Whether a path is an address and not a place on this machine."""
    return "://" in os.fspath(path)


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; in a bucket, whether any object is below that name.

    Raises:
        BobError: the bucket cannot be reached.
    """
    with unreachable(f"cannot read {path}") if in_bucket(path) else contextlib.nullcontext():
        return path.is_dir()


def absolute(path: Path) -> Path:
    """The same place whatever the working folder is."""
    return path if in_bucket(path) else path.absolute()


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under a hidden temporary name, flushes it to disk, and renames it; its folder is made first.

    In a bucket it is uploaded in one piece.

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
    if in_bucket(path):
        content = io.BytesIO()
        write(content)  # all of it before the upload begins: what breaks off here leaves no object
        with unreachable(f"cannot write {path}"):
            path.write_bytes(content.getvalue())
        return
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


@contextlib.contextmanager
def unreachable(what: str) -> Iterator[None]:
    """Whatever a bucket's library says of credentials, names or the network, in exceptions of its own, as one line.

    Raises:
        BobError: something was raised.
    """
    try:
        yield
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise BobError(f"{what}: {told}") from error


def _sync(folder: Path) -> None:
    """Makes the renaming itself survive a power cut, where the file system can: buckets mounted as folders cannot."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # the file is whole and in place: its record must not fail for this
            os.fsync(handle)
    finally:
        os.close(handle)
