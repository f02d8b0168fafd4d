"""What lives in a process of its own on each machine of a cluster and judges cells there; it knows nothing of Ray."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from bob_jax.cache import cache_dir
from bob_jax.errors import BobError
from bob_jax.grid import Cell
from bob_jax.launch import cell as single
from bob_jax.launch.settle import Outcome, Settler
from bob_jax.results import record
from bob_jax.results.files import located
from bob_jax.training.mesh import make_mesh


class Worker:
    """Judges cells on all devices that the process sees.

    Args:
        config: of the run.
        sources: as of `grid.sources`.
        folder: where the command was given; relative paths are meant from there.
        mark: address of a file that the driver has put into the results folder.
    """

    def __init__(self, config: Mapping[str, Any], sources: frozenset[Cell], folder: Path, mark: str):
        self._config, self._sources, self._folder, self._mark = config, sources, folder, mark

    def ready(self) -> record.Environment | BobError:
        """Finds devices and results folder: what there is, or why nothing can be judged here."""
        try:
            mark = located(self._mark)
            if not mark.exists():
                raise BobError(
                    f"the results folder {mark.parent} is not the same there: give one that all machines share, or a"
                    " bucket (docs/ray.md)"
                )
            if self._folder.is_dir():
                os.chdir(self._folder)
            jax.config.update("jax_compilation_cache_dir", str(cache_dir("compiled")))
            self._settler = Settler(self._config, make_mesh(self._config["mesh"]["fsdp"]), self._sources)
        except BobError as error:
            return error
        return single.where()

    def look(self, cell: Cell) -> record.Cell | Outcome:
        """As `Settler.look`."""
        return self._settler.look(cell)

    def judge(self, cell: Cell, expected: record.Estimate | None) -> Outcome:
        """As `Settler.judge`."""
        return self._settler.judge(cell, expected)
