"""In place of the library s3fs: buckets that are folders below `$STAND_IN_BUCKETS`, and know of objects what S3 does.

An object appears when its upload is complete. There are no folders, only keys with a common beginning.
"""

import io
import os
import secrets
from pathlib import Path

from fsspec.spec import AbstractFileSystem

__version__ = "2026.9.0"


class S3FileSystem(AbstractFileSystem):
    """What fsspec makes of "s3://"."""

    protocol = "s3"
    cachable = False

    def _place(self, path: str) -> Path:
        return Path(os.environ["STAND_IN_BUCKETS"], self._strip_protocol(path))

    def ls(self, path, detail=True, **_):
        place = self._place(path)
        if not place.exists():
            raise FileNotFoundError(path)
        top = Path(os.environ["STAND_IN_BUCKETS"])
        found = [
            {
                "name": str(each.relative_to(top)),
                "size": each.stat().st_size,
                "type": "directory" if each.is_dir() else "file",
            }
            for each in sorted(place.iterdir() if place.is_dir() else [place])
            if not each.name.endswith(".upload")
        ]
        return found if detail else [each["name"] for each in found]

    def info(self, path, **_):
        place = self._place(path)
        if not place.exists():
            raise FileNotFoundError(path)
        kind = "directory" if place.is_dir() else "file"
        return {"name": self._strip_protocol(path), "size": place.stat().st_size, "type": kind}

    def _open(self, path, mode="rb", **_):
        if mode == "rb":
            return self._place(path).open("rb")
        bucket = Path(os.environ["STAND_IN_BUCKETS"], self._strip_protocol(path).split("/")[0])
        if not bucket.is_dir():
            raise RuntimeError(f"The specified bucket does not exist: {bucket.name}")
        return _Upload(self._place(path))

    def rm_file(self, path):
        self._place(path).unlink()
        for parent in self._place(path).parents[: self._strip_protocol(path).count("/") - 1]:
            if not any(parent.iterdir()):
                parent.rmdir()

    def makedirs(self, path, exist_ok=False):
        raise AssertionError("there are no folders in a bucket")

    def mv(self, *_, **__):
        raise AssertionError("nothing can be renamed in a bucket")


class _Upload(io.BytesIO):
    def __init__(self, place: Path):
        super().__init__()
        self._place = place

    def close(self):
        if not self.closed:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            part = self._place.with_name(f"{self._place.name}.{secrets.token_hex(4)}.upload")
            part.write_bytes(self.getvalue())
            part.replace(self._place)
        super().close()
