"""`bob plan`: what a config will take before it runs, and what of it to run in the time there is."""

import argparse
import math
from pathlib import Path
from typing import Any

from bob_jax.cli.command import add
from bob_jax.errors import BobError
from bob_jax.terminal import print_json, print_table


def add_all(commands: Any) -> None:
    """Adds the command."""
    words = "what a config will take: cells done, what is missing, hours, downloads, money, energy (docs/plan.md)"
    command = add(commands, "plan", _plan, words)
    words = "as main.py takes it: configs/gauntlet.py:paper,frozen; also with --config.KEY=VALUE"
    command.add_argument("config", metavar="CONFIG", help=words)
    command.add_argument("--results", help="folder of the records, as main.py takes it (the config's)")
    command.add_argument("--limit", type=int, metavar="N", help="examples of each split, as main.py takes it (all)")
    command.add_argument("--root", help="where data sets are kept ($BOB_CACHE/data)")
    command.add_argument("--device", help="kind of device, or part of its name: h100, v5 lite, cpu (this machine's)")
    command.add_argument("--price", type=float, metavar="P", help="of an hour of one device")
    words = "propose the settings that tell most of the ranking in this time of one device: 50h, 1.5d, 90min"
    command.add_argument("--budget", metavar="TIME", help=words)
    command.add_argument("--out", type=Path, metavar="FILE", help="write the proposal for main.py --config.only=FILE")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--cells", action="store_true", help="a row for each cell, not for each protocol")
    form.add_argument("--json", action="store_true", help="print JSON with all cells, nothing rounded")


def _plan(arguments: argparse.Namespace) -> int:
    from bob_jax.launch import config_file, devices, plan, plan_table

    _check(arguments)
    if arguments.root:
        arguments.overrides.append(f"--config.data.root={arguments.root}")
    config = config_file.read(arguments.config, arguments.overrides)
    config_file.adjust(config, arguments.results, arguments.limit)
    device = devices.here() if arguments.device is None else devices.named(arguments.device)
    if arguments.budget is not None:
        return _propose(arguments, config, device)
    found = plan.make(config, device, arguments.price)
    if arguments.json:
        print_json(plan_table.plain(found))
        return 0
    if arguments.cells:
        print_table(plan_table.CELL_COLUMNS, plan_table.by_cell(found))
    else:
        print_table(plan_table.COLUMNS, plan_table.by_protocol(found))
    for line in plan_table.sentences(found):
        print(line)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.price is not None and not 0 <= arguments.price < math.inf:
        raise BobError(f"--price is {arguments.price:g}: give what an hour of one device costs, 0 or more")
    if arguments.limit is not None and arguments.limit < 1:
        raise BobError(f"--limit is {arguments.limit}: give a number of examples, 1 or more")
    if arguments.out and arguments.budget is None:
        raise BobError("--out writes what fits a budget: give --budget 50h too")
    if arguments.budget is not None and (arguments.cells or arguments.price is not None):
        raise BobError(
            "--cells and --price do not go with --budget: write it by --out FILE, then `bob plan CONFIG "
            "--config.only=FILE` tells all of it"
        )


def _propose(arguments: argparse.Namespace, config: Any, device: str) -> int:
    from bob_jax import grid
    from bob_jax.launch import budget, budget_table, config_file, durations, estimate

    seconds = durations.parse(arguments.budget)
    outlook = estimate.outlook(grid.cells(config), config, device)
    found = budget.propose(outlook, seconds)
    if arguments.out:
        grid.write_only(found.cells, arguments.config, arguments.out)
    if arguments.json:
        print_json(budget_table.plain(found, seconds))
        return 0
    expected = {cell: one.seconds for cell, one in outlook.part(set(found.cells)).estimates().items()}
    print_table(budget_table.COLUMNS, budget_table.rows(found, expected))
    for line in budget_table.sentences(found, seconds):
        print(line)
    options = [f"--results={arguments.results}"] if arguments.results else []
    options += [f"--limit={arguments.limit}"] if arguments.limit else []
    options.append(f"--config.only={arguments.out or 'FILE'}")
    command = config_file.command(arguments.config, arguments.overrides, *options)
    print(command if arguments.out else f"--out FILE writes it, and then it runs by: {command}")
    return 0
