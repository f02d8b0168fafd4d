"""Runs the grid of a config: `python main.py --config=configs/fgvc.py:vit_b16_clip`.

The same script on a laptop, a GPU, a TPU VM, or (started on every host) a pod. With no option it runs the embedded
default. Cells that have a record are skipped, so a second call goes on where the first one stopped.
"""

import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from bob_jax import grid
from bob_jax.cache import cache_dir
from bob_jax.errors import BobError
from bob_jax.launch import cluster, config_file, local
from bob_jax.training.preemption import Preempted

CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/digits.py", "The grid: a file of configs/, then `:` and its argument.", lock_config=True
)
RESULTS = flags.DEFINE_string("results", None, "Folder of the records; the config's `results` by default.")
LIMIT = flags.DEFINE_integer("limit", None, "Use only this many examples of each split.", lower_bound=1)
LAUNCHER = flags.DEFINE_enum(
    "launcher", "local", ["local", "ray"], "Cells in this process, or on the machines of a Ray cluster (docs/ray.md)."
)
RAY_ADDRESS = flags.DEFINE_string("ray_address", None, "The cluster to join; $RAY_ADDRESS, else Ray is started here.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "List the cells and stop.")


def parse(argv: list[str]) -> list[str]:
    """absl's flags, with every mistake as one line that names it."""
    with config_file.mistakes():
        rest = flags.FLAGS(argv)
        if rest[1:]:  # a config without --config= would run the default instead
            raise BobError(f"nothing takes '{rest[1]}': did you mean --config={rest[1]}?")
        CONFIG.value.get("benchmark")  # a config file that cannot be read says so at its first use only
        return rest


def main(_: list[str]) -> int:
    """Config to cells to records; 0 if every cell has one, 1 if any failed."""
    logging.set_verbosity(logging.WARNING)  # JAX and Orbax tell every step of theirs at INFO
    jax.config.update("jax_compilation_cache_dir", str(cache_dir("compiled")))
    config = CONFIG.value
    config_file.adjust(config, RESULTS.value, LIMIT.value)
    if RAY_ADDRESS.value and LAUNCHER.value != "ray":
        raise BobError("--ray_address is of --launcher=ray: give both")
    cells = grid.cells(config)
    if DRY_RUN.value:
        return local.show(cells, config)
    if LAUNCHER.value == "ray":
        return cluster.run(cells, config, RAY_ADDRESS.value)
    return local.run(cells, config)


def command() -> None:
    """Entry point: a user's mistake is one line on stderr and exit code 2."""
    try:
        app.run(main, flags_parser=parse)
    except Preempted as stop:
        after = "" if stop.step is None else f" after step {stop.step}"
        print(f"stopped on request{after}: the same command goes on from there", file=sys.stderr)
        raise
    except KeyboardInterrupt:  # Ctrl-C between trainings, or for the second time
        print("stopped on request: the same command goes on with the cell that was running", file=sys.stderr)
        sys.exit(130)
    except BobError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    command()
