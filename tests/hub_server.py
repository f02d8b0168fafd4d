"""A Hugging Face hub on the loopback interface, with the real one's layout of addresses, headers and errors.

    with serve_hub(folder) as hub:   # folder/<owner>/<repository>/<file>
        subprocess.run(command, env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": ...})

Plain files are served too, at `hub.url + "/files/<path below folder>"`, with ranges and entity tags.
"""

import contextlib
import dataclasses
import functools
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple


class Content(NamedTuple):
    """A file as it was when it was read."""

    data: bytes
    sha256: str


def content(path: Path) -> Content:
    """The content of a file, read again only when it has changed."""
    return _content(path, path.stat().st_mtime_ns, path.stat().st_size)


@functools.lru_cache(maxsize=4)
def _content(path: Path, _modified: int, _size: int) -> Content:
    data = path.read_bytes()
    return Content(data, hashlib.sha256(data).hexdigest())


@dataclasses.dataclass
class Hub:
    """What the server serves and how it misbehaves; tests may change it while it runs.

    Attributes:
        folder: `<owner>/<repository>/<file>`; its content now is revision `main`, what it was stays at its commit.
        url: for `HF_ENDPOINT`.
        gated: repository -> status (401 or 403) with which it is refused.
        break_after: bytes after which the next download is cut off, once; None never.
        failures: statuses that the next requests are answered with, one each.
        requests: method, path and Range header of every request so far.
    """

    folder: Path
    url: str = ""
    gated: dict[str, int] = dataclasses.field(default_factory=dict)
    break_after: int | None = None
    failures: list[int] = dataclasses.field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = dataclasses.field(default_factory=list)
    commits: dict[tuple[str, str], dict[str, "Content"]] = dataclasses.field(default_factory=dict)

    def commit(self, repository: str) -> str:
        """The commit that `main` of a repository stands at."""
        root = self.folder / repository
        files = {str(path.relative_to(root)): content(path) for path in sorted(root.rglob("*")) if path.is_file()}
        named = "\n".join(f"{name} {file.sha256}" for name, file in files.items())
        commit = hashlib.sha1(named.encode()).hexdigest()
        self.commits[repository, commit] = files
        return commit

    def gets(self) -> list[tuple[str, str, str | None]]:
        """The downloads among the requests."""
        return [request for request in self.requests if request[0] == "GET"]


@contextlib.contextmanager
def serve_hub(folder: Path) -> Iterator[Hub]:
    """Serves a folder as a hub until the block ends."""
    hub = Hub(folder)
    handler = type("HubHandler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.hub.failures:
            return self._refuse(self.hub.failures.pop(0))
        if found := re.fullmatch(r"/files/(.+)", self.path):
            path = self.hub.folder / found[1]
            return self._send(content(path), {}) if path.is_file() else self._refuse(404)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            return self._resolve(*found.groups())
        return self._refuse(404)

    def _resolve(self, repository: str, revision: str, file: str) -> None:
        if repository in self.hub.gated:
            return self._refuse(self.hub.gated[repository], "GatedRepo")
        if not (self.hub.folder / repository).is_dir():
            return self._refuse(401, "RepoNotFound")  # as the real hub does for who may not know
        head = self.hub.commit(repository)
        commit = head if revision == "main" else revision
        if (repository, commit) not in self.hub.commits:
            return self._refuse(404, "RevisionNotFound")
        files = self.hub.commits[repository, commit]
        if file not in files:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        linked = {"X-Linked-Etag": f'"{files[file].sha256}"', "X-Linked-Size": str(len(files[file].data))}
        return self._send(files[file], {"X-Repo-Commit": commit, **linked})

    def _send(self, file: Content, headers: dict[str, str]) -> None:
        data, tag = file.data, f'"{file.sha256}"'
        start, status = 0, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and self.headers.get("If-Range", tag) == tag:
            start, status = int(wanted[1]), 206
            if start >= len(data):
                return self._refuse(416)
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        self.send_response(status)
        for name, value in {"ETag": tag, "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "GET":
            self._write(memoryview(data)[start:])

    def _write(self, data: memoryview) -> None:
        cut, self.hub.break_after = self.hub.break_after, None
        self.wfile.write(data[:cut])
        if cut is not None:
            self.close_connection = True

    def _refuse(self, status: int, code: str | None = None, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"{code} {self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()
