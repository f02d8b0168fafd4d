"""How long weights take from the cache onto the devices, in how much memory, and how long a skeleton takes.

    python benchmarks/loading.py                                  # a ViT-B, and the skeleton of every card
    python benchmarks/loading.py --models vit_l16_mae resnet50_in1k --devices 8

The weights are random ones of the original implementation, converted into a cache of their own. Each load is the first
thing that a fresh process does after its imports; memory is the most that the process grew by (Linux).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bob_jax.backbones import zoo
from bob_jax.terminal import print_table

LIMIT = 1.0  # second, for a skeleton


def fill_cache(name: str, folder: Path) -> None:
    """Converts random weights of a card's original implementation."""
    from safetensors.torch import save_file

    from converters import cache, references

    card = zoo.card(name)
    file = folder / "original.safetensors"
    state = references.build(card).module.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    cache.convert(card, cache.original_of(card, file))
    file.unlink()


def load(name: str, devices: int) -> None:
    """Loads and prints, as JSON: seconds, megabytes of the weights, megabytes the process grew by at most."""
    import functools

    import jax
    import numpy as np

    from bob_jax.backbones import parameters
    from bob_jax.training import mesh as meshes
    from converters import cache  # noqa: F401  (imported now, so that the load alone is timed)

    mesh = meshes.make_mesh(fsdp=devices)
    jax.block_until_ready(meshes.place(np.zeros(8, np.float32), mesh))
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    started = time.perf_counter()
    module = zoo.load(name, place=functools.partial(meshes.place, mesh=mesh)).module
    leaves = jax.block_until_ready(parameters.flatten(module))
    seconds = time.perf_counter() - started
    grown = _resident("VmHWM") - before
    print(json.dumps([seconds, sum(leaf.nbytes for leaf in leaves.values()) / 1e6, grown]))


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024 / 1e6


def measured(name: str, devices: int, cache: str) -> list[float]:
    """What `load` prints in a process of its own, on CPU with this many fake devices."""
    environment = os.environ | {"BOB_CACHE": cache, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, __file__, "--load", name, "--devices", str(devices)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return list(json.loads(done.stdout))


def skeletons() -> list[list[str]]:
    """The slowest ten cards to build without memory, in processor seconds; the machine may have other work."""
    zoo.skeleton("vit_nano4_random")  # what is imported and initialised once
    seconds = {}
    for name in zoo.CARDS:
        started = time.process_time()
        zoo.skeleton(name)
        seconds[name] = time.process_time() - started
    slowest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:10]
    return [[name, f"{seconds[name]:.2f}", "ok" if seconds[name] < LIMIT else "SLOW"] for name in slowest]


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["vit_b16_clip"], help="cards with weights")
    parser.add_argument("--devices", type=int, default=8, help="fake devices of the second load")
    parser.add_argument("--load", metavar="NAME", help=argparse.SUPPRESS)  # the measured process itself
    arguments = parser.parse_args()
    if arguments.load:
        return load(arguments.load, arguments.devices)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BOB_CACHE"] = folder
        for name in arguments.models:
            fill_cache(name, Path(folder))
            for devices in (1, arguments.devices):
                seconds, size, grown = measured(name, devices, folder)
                rows.append([name, devices, f"{size:.0f}", f"{seconds:.2f}", f"{grown:.0f}", f"{grown / size:.2f}"])
    print_table(("model", "devices", "MB", "seconds", "grew by MB", "of its size"), rows)
    print_table(("skeleton", "seconds", f"limit {LIMIT:g}"), skeletons())


if __name__ == "__main__":
    main()
