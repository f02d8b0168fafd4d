"""All cells in order in this process (and its peers on other hosts); a failing one never takes the others with it."""

import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from bob_jax import grid
from bob_jax.grid import Cell
from bob_jax.launch import devices, settle
from bob_jax.launch.board import Board
from bob_jax.results.record import Estimate
from bob_jax.terminal import print_table
from bob_jax.training.mesh import initialize_distributed, make_mesh


def show(cells: Sequence[Cell], config: Mapping[str, Any]) -> int:
    """Prints what a run would do (`--dry_run`); needs neither weights nor data."""
    print_table(
        ("backbone", "dataset", "protocol", "seed"),
        ((cell.backbone, cell.dataset, cell.protocol_name, cell.seed) for cell in cells),
    )
    print(f"{len(cells)} cells, records go to {config['results']}")
    return 0


def run(cells: Sequence[Cell], config: Mapping[str, Any]) -> int:
    """Runs the cells that have no record yet.

    Args:
        cells: in the order of running.
        config: of the benchmark; `results`, `keep_weights`, `data` and `mesh` are read here.

    Returns:
        0 if every cell has a record now, 1 if any failed.

    Raises:
        BobError: the results folder cannot be written.
        Preempted: SIGTERM came; the running cell has saved its state.
    """
    initialize_distributed()
    settler = settle.Settler(config, make_mesh(config["mesh"]["fsdp"]), grid.sources(cells, config))
    leads = jax.process_index() == 0  # only process 0 writes and speaks
    if leads:
        for benchmark in {cell.benchmark for cell in cells}:
            settler.store(benchmark).prepare()
    kind, here = devices.here(), platform.node()
    expected = settle.expected(cells, config, kind) if leads else {}
    with Board(cells, config["results"], shown=leads) as board:
        board.expect(expected)
        board.join(here, jax.device_count(), kind)
        for cell in cells:
            outcome = _settle(settler, cell, expected.get(cell), board, here)
            if outcome.failure is not None:
                settler.store(cell.benchmark).record_failure(outcome.failure)
            board.settle(cell, outcome)
    return board.finish()


def _settle(settler: settle.Settler, cell: Cell, expected: Estimate | None, board: Board, here: str) -> settle.Outcome:
    """As many attempts as it takes or as there are."""
    attempt = 1
    while True:
        outcome = settler.look(cell)
        if not isinstance(outcome, settle.Outcome):
            board.start(cell, here)
            outcome = settler.judge(cell, expected)
        pause = settle.pause(outcome, attempt)
        if pause is None:
            return outcome
        board.again(cell, outcome, attempt, pause)
        time.sleep(pause)
        attempt += 1
