"""Official archives of data sets that TFDS lacks or cannot fetch, laid out as class folders.

Each reader below turns the annotations of one archive into (split, class, path of the image below where it is
unpacked); `lay_out` then makes `split/class/image` of them. Split and class come from the official lists.
"""

import contextlib
import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from bob_jax.errors import BobError

Listing = Iterable[tuple[str, str, str]]
BLOCK = 1 << 20  # bytes
ANNOTATIONS = frozenset({".mat", ".txt", ".csv", ".json", ".pkl"})


def aircraft(root: Path) -> Iterator[tuple[str, str, str]]:
    """FGVC-Aircraft: `data/images_variant_{train,val,test}.txt`, lines of "0123456 Variant name"."""
    data = _folder_with(root, "images_variant_train.txt")
    for split, part in (("train", "train"), ("validation", "val"), ("test", "test")):
        for line in (data / f"images_variant_{part}.txt").read_text().splitlines():
            image, variant = line.split(" ", 1)
            yield split, variant, f"{data.relative_to(root)}/images/{image}.jpg"


def cars(root: Path) -> Iterator[tuple[str, str, str]]:
    """Stanford Cars: `devkit/cars_meta.mat`, `devkit/cars_train_annos.mat` and `cars_test_annos_withlabels.mat`."""
    from scipy.io import loadmat

    devkit = _folder_with(root, "cars_meta.mat")
    names = [str(name) for name in loadmat(devkit / "cars_meta.mat", squeeze_me=True)["class_names"]]
    for split, annotations in (("train", "cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        images = _folder_with(root, f"cars_{split}/00001.jpg").relative_to(root)
        file = _folder_with(root, annotations) / annotations
        for entry in loadmat(file, squeeze_me=True)["annotations"]:
            yield split, names[int(entry["class"]) - 1], f"{images}/{entry['fname']}"


def cub(root: Path) -> Iterator[tuple[str, str, str]]:
    """CUB-200-2011: `images.txt` and `train_test_split.txt`, lines of "id value"; the class is the image's folder."""
    data = _folder_with(root, "train_test_split.txt")
    train = dict(line.split() for line in (data / "train_test_split.txt").read_text().splitlines())
    for line in (data / "images.txt").read_text().splitlines():
        number, image = line.split()
        split = "train" if train[number] == "1" else "test"
        yield split, image.split("/")[0], f"{data.relative_to(root)}/images/{image}"


def lay_out(archives: Sequence[Path], read: Callable[[Path], Listing], target: Path) -> None:
    """Unpacks archives and makes `target/split/class/image` of them; the target appears whole or not at all.

    Args:
        archives: tar or zip files, folders of what was unpacked, single annotation files. What was unpacked is left as
            it is: files are linked, or copied where the file system cannot link.
        read: one of the readers above.
        target: the folder to make. "/" in a class name becomes "_".

    Raises:
        BobError: a damaged archive, or one that lacks a file.
    """
    with _appearing(target) as partial:
        unpacked = partial / "unpacked"
        for archive in archives:
            _put(archive, unpacked)
        try:
            for split, name, image in read(unpacked):
                place = partial / "done" / split / name.replace("/", "_") / Path(image).name
                place.parent.mkdir(parents=True, exist_ok=True)
                if place.exists():
                    raise BobError(
                        f"two images of {split} in class {name} are called {place.name}: the second is {image}"
                    )
                (unpacked / image).replace(place)
        except FileNotFoundError as error:
            sources = ", ".join(map(str, archives))
            raise BobError(
                f"{Path(error.filename).name} is missing in {sources}: fetch the complete archives"
            ) from error


def unpack(parts: Iterable[tuple[Path, str]], target: Path) -> None:
    """Unpacks archives into a folder, which appears whole or not at all, for readers of official layouts.

    Args:
        parts: each an archive, a folder of what was unpacked, or a single file; and the folder below the target that it
            goes to, "" for the target itself.
        target: the folder to make.

    Raises:
        BobError: a damaged archive, or no room.
    """
    with _appearing(target) as partial:
        for archive, below in parts:
            _put(archive, partial / "done" / below)


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder to work in; its `done` becomes the target when all went well, and nothing is left when it did not."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield partial
        (partial / "done").replace(target)
    except OSError as error:
        raise BobError(f"cannot make {target}: {error}; free space or choose another folder, then run again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def download(url: str, path: Path, md5: str | None = None) -> Path:
    """Fetches a file, unless it is there.

    Args:
        url: http, https or file address.
        path: where to put it; it appears whole or not at all.
        md5: what the publisher says of it.

    Raises:
        BobError: the address does not answer, the connection broke, or the digest is another.
    """
    if path.exists():
        return path
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as response, partial.open("wb") as file:
            expected = response.headers.get("Content-Length")
            while block := response.read(BLOCK):
                digest.update(block)
                file.write(block)
            if expected is not None and file.tell() != int(expected):
                raise BobError(f"{url} broke off after {file.tell()} of {expected} bytes: run the command again")
        if md5 is not None and digest.hexdigest() != md5:
            raise BobError(f"{url} has md5 {digest.hexdigest()}, not {md5}: it changed, or was damaged on the way")
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:  # the address, the connection, or the disk
        raise BobError(f"cannot fetch {url}: {error}; fetch it by other means and put it at {path}") from error
    finally:
        with contextlib.suppress(OSError):  # where the folder itself cannot be made there is nothing to remove
            partial.unlink(missing_ok=True)
    return path


def _put(archive: Path, target: Path) -> None:
    """Unpacks an archive into a folder; a folder or a file that is no archive is linked there."""
    if archive.is_dir():
        shutil.copytree(archive, target / archive.name, copy_function=_link)
    elif archive.suffix in ANNOTATIONS:
        target.mkdir(parents=True, exist_ok=True)
        _link(str(archive), str(target / archive.name))
    else:
        _unpack(archive, target)


def _unpack(archive: Path, target: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                file.extractall(target)
        else:
            with tarfile.open(archive) as file:
                file.extractall(target, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise BobError(f"{archive} is damaged or no archive ({error}): delete it and fetch it again") from error


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _folder_with(root: Path, name: str) -> Path:
    """The topmost folder below root that holds a file or folder of this name; archives differ in what wraps them."""
    found = min(root.rglob(name), key=lambda path: (len(path.parts), path), default=None)
    if found is None:
        raise FileNotFoundError(2, "not in the archive", name)
    return found.parent
