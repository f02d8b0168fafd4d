"""A file from a URL: resumed where it broke off, verified, and never half-written under its own name."""

import errno
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from bob_jax.errors import BobError

WAITS = (1.0, 5.0, 20.0)  # seconds before each new attempt after a broken connection
CHUNK = 1 << 20  # bytes
TIMEOUT = 60.0  # seconds without a byte
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # of the file; urllib wraps those of the connection
PASSING_STATUSES = (408, 429, 500, 502, 503, 504)  # worth another attempt


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def target_of(url: str, folder: Path) -> Path:
    """The name that the file at a URL gets in a folder."""
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{Path(urlsplit(url).path).name}"


def download(url: str, folder: Path, *, sha256: str | None = None) -> Path:
    """The file at a URL, in `folder`; a file that is already there is not fetched again.

    Several processes may ask for the same file at once: one fetches it.

    Args:
        url: an http or https address.
        folder: where the file goes, under a name made of the URL's digest and last component.
        sha256: full digest or leading hexadecimal digits, checked before the file gets its name.

    Raises:
        BobError: the server refuses or cannot be reached, the disk is full or may not be written, or the digest is
            another one.
    """
    try:
        return _downloaded(url, folder, sha256)
    except OSError as error:  # those of the connection are told by `_attempts`
        raise unwritable(folder, error) from error


def unwritable(path: Path, error: OSError) -> BobError:
    """What to say of a place in the cache that takes no files."""
    return BobError(f"cannot write {path} ({error.strerror or error}): free space, or set BOB_CACHE to another disk")


def _downloaded(url: str, folder: Path, sha256: str | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = target_of(url, folder)
    with FileLock(f"{target}.lock"):
        if target.exists():
            return target
        part = target.with_name(f"{target.name}.part")
        for resumed in (part.exists(), False):
            _attempts(url, part)
            digest = sha256_of(part)
            if sha256 is None or digest.startswith(sha256.lower()):
                return part.replace(target)
            part.unlink()
            if not resumed:
                break
    raise BobError(
        f"{url} has sha256 {digest} where {sha256} is published: nothing is kept; try again, and if it stays so, "
        "the file is not the one that was published"
    )


def _attempts(url: str, part: Path) -> None:
    """Transfers, again after each passing failure, going on where the last attempt ended."""
    for wait in (*WAITS, None):
        try:
            return _transfer(url, part)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # the part is no longer a beginning of the file
                part.unlink(missing_ok=True)
            elif error.code not in PASSING_STATUSES:
                raise BobError(f"{url} answers {error.code} {error.reason}: is the address right?") from error
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in DISK:
                raise unwritable(part, error) from error
            reason = str(error) or type(error).__name__
        if wait is not None:
            time.sleep(wait)
    raise BobError(
        f"could not fetch {url} ({reason}): check the connection and start again, it goes on where it stopped; "
        "or fetch the file elsewhere and convert it with --from"
    )


def _transfer(url: str, part: Path) -> None:
    """One request that completes the part, or leaves more of it than before.

    A part is only continued when the server vouches, by the entity tag seen with its first byte, that the file is still
    the same one (`If-Range`, RFC 9110 section 13.1.5).
    """
    tag_file = part.with_name(f"{part.name}.etag")
    headers = {"User-Agent": "bob_jax", "Accept-Encoding": "identity"}
    if part.exists() and tag_file.exists():
        headers |= {"Range": f"bytes={part.stat().st_size}-", "If-Range": tag_file.read_text()}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        done = part.stat().st_size if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        tag = response.headers.get("ETag", "")
        if tag and not tag.startswith("W/"):
            tag_file.write_text(tag)
        else:
            tag_file.unlink(missing_ok=True)
        with part.open("ab" if done else "wb") as file:
            _copy(response, file, done, total, Path(urlsplit(url).path).name)
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"cut off after {part.stat().st_size} of {total} bytes")
    tag_file.unlink(missing_ok=True)


def _copy(response: http.client.HTTPResponse, file: IO[bytes], done: int, total: int | None, name: str) -> None:
    """Copies the answer to the file, with a bar where somebody can see it."""
    console = Console(stderr=True)
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=done)
        while chunk := response.read(CHUNK):
            file.write(chunk)
            progress.advance(task, len(chunk))
