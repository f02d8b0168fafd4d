"""Exact search beside what a user would otherwise write, in one run: seconds, memory, and the ratio.

    python benchmarks/search.py                                   # 100,000 x 768, 256 queries
    python benchmarks/search.py --gallery 1000000 --queries 64    # streamed from disk
    python benchmarks/search.py --rivals numpy faiss              # with `pip install faiss-cpu`

bob_jax gives the ranks of all positives and the first 100 images; NumPy the same by sorting whole rows, some queries
at a time; faiss the first 100 images alone. The gallery is a memory map. Each runs in a process of its own, compiled
or warmed up before on a small part; memory is the most that the process grew by (Linux).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bob_jax.terminal import print_table

WIDTH, POSITIVES, K, BLOCK = 768, 10, 100, 64


def make(folder: Path, gallery: int, queries: int) -> None:
    """Unit vectors, in two files."""
    rng = np.random.default_rng(0)
    for name, rows in (("gallery", gallery), ("queries", queries)):
        file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (rows, WIDTH))
        for start in range(0, rows, 10_000):
            part = rng.standard_normal((min(10_000, rows - start), WIDTH), np.float32)
            file[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
        file.flush()


def bob(queries: np.ndarray, gallery: np.ndarray, positives: list[np.ndarray]) -> None:
    from bob_jax.protocols.search import search
    from bob_jax.training.mesh import make_mesh

    search(queries, gallery, positives, [np.empty(0, int)] * len(queries), k=K, mesh=make_mesh())


def numpy(queries: np.ndarray, gallery: np.ndarray, positives: list[np.ndarray]) -> None:
    for start in range(0, len(queries), BLOCK):
        similarity = queries[start : start + BLOCK] @ gallery.T
        order = np.argsort(-similarity, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(order.shape[1])[None], axis=1)
        _ = [np.sort(row[own]) for row, own in zip(rank, positives[start : start + BLOCK], strict=True)]


def faiss(queries: np.ndarray, gallery: np.ndarray, positives: list[np.ndarray]) -> None:
    import faiss as library

    index = library.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    index.search(queries, K)


RIVALS = {"bob_jax": bob, "numpy": numpy, "faiss": faiss}


def run(rival: str, folder: Path) -> None:
    """Prints, as JSON, the seconds of one search and the megabytes the process grew by."""
    gallery = np.load(folder / "gallery.npy", mmap_mode="r")
    queries = np.load(folder / "queries.npy")
    rng = np.random.default_rng(1)
    positives = [np.sort(rng.choice(len(gallery), POSITIVES, replace=False)) for _ in queries]
    few = min(len(gallery), 20_000)  # more than a block of the gallery: the same programs
    RIVALS[rival](queries, gallery[:few], [own % few for own in positives])
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    started = time.perf_counter()
    RIVALS[rival](queries, gallery, positives)
    print(json.dumps([time.perf_counter() - started, _resident("VmHWM") - before]))


def _resident(field: str) -> float:
    """Anonymous and mapped memory in megabytes; a page of the mapped gallery counts while it is in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024 / 1e6


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--rivals", nargs="*", choices=sorted(RIVALS.keys() - {"bob_jax"}), default=["numpy"])
    parser.add_argument("--run", metavar="RIVAL", help=argparse.SUPPRESS)  # the measured process itself
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        return run(arguments.run, arguments.folder)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), arguments.gallery, arguments.queries)
        found = {}
        for rival in ("bob_jax", *arguments.rivals):
            command = [sys.executable, __file__, "--run", rival, "--folder", folder]
            done = subprocess.run(command, env=os.environ, check=True, capture_output=True, text=True)
            found[rival] = json.loads(done.stdout)
    ours = found["bob_jax"][0]
    rows = [
        [name, f"{seconds:.2f}", f"{grown:.0f}", f"{seconds / ours:.2f}"] for name, (seconds, grown) in found.items()
    ]
    print(f"{arguments.queries} queries in {arguments.gallery} x {WIDTH}")
    print_table(("", "seconds", "grew by MB", "times bob_jax's"), rows)


if __name__ == "__main__":
    main()
