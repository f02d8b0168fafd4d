"""Cells of a gauntlet that are the same but for the benchmark: what one of them has judged the others take over."""

from collections.abc import Mapping
from typing import Any

from bob_jax import grid
from bob_jax.launch import cell as single
from bob_jax.results.store import Store


def settled(job: single.Job, config: Mapping[str, Any], weights: bool) -> bool:
    """Whether a cell has all that is asked of it; what a twin of it has is copied to its own folder first.

    Args:
        job: the cell.
        config: of the run.
        weights: what the cell trains must be there too.

    Raises:
        BobError: a twin's files cannot be read, or the cell's cannot be written.
    """

    def whole(store: Store, cell_id: str) -> bool:
        return store.exists(cell_id) and (store.has_weights(cell_id) or not weights)

    store = Store(grid.folder(config, job.cell.benchmark))
    if whole(store, job.id):
        return True
    for twin in grid.twins(job.cell, config):
        other, cell_id = Store(grid.folder(config, twin.benchmark)), twin.id(job.dataset.version)
        if whole(other, cell_id):
            store.take_over(other, cell_id, single.describe(job))
            return True
    return False
