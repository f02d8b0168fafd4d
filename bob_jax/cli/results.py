"""Commands that read records: `bob results`, `results merge`, `results diff`, `results export`, `rank`, `report`."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bob_jax.cli.command import add
from bob_jax.errors import BobError
from bob_jax.terminal import draw, print_json, print_table

ACTIONS = ("merge", "diff", "export")  # second words of `results`


def add_all(commands: Any) -> None:
    """Adds the commands."""
    _add_results(commands)
    _add_results_of_several(commands)
    _add_rank(commands)
    _add_report(commands)


def _add_results(commands: Any) -> None:
    command = add(commands, "results", _results, "who is best, per data set and protocol, with intervals and ties")
    command.add_argument("folder", nargs="?", default="results", help="folder of records, or of such folders (results)")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV, nothing rounded")
    form.add_argument("--json", action="store_true", help="print JSON, nothing rounded")
    command.add_argument("--plot", metavar="PREFIX", help="also draw PREFIX.png/.svg and PREFIX-curves.png/.svg")


def _add_results_of_several(commands: Any) -> None:
    words = "copy all cells of several folders to one; exit code 1 where a cell has two records (docs/report.md)"
    command = add(commands, "results merge", _results_merge, words)
    command.add_argument("folders", nargs="+", metavar="FOLDER", help="of records; the first counts first")
    command.add_argument("--out", required=True, metavar="FOLDER", help="where to; what is there stays")
    words = "cells that only one of two folders has, and scores that differ (exit code 1)"
    command = add(commands, "results diff", _results_diff, words)
    command.add_argument("first", help="folder of records, or of such folders")
    command.add_argument("second", help="another")
    command.add_argument("--json", action="store_true", help="print JSON, nothing rounded")
    command = add(commands, "results export", _results_export, "every record in one JSON or CSV, nothing rounded")
    command.add_argument("folder", nargs="?", default="results", help="folder of records, or of such folders (results)")
    command.add_argument("--csv", action="store_true", help="print CSV, a line for each score, instead of JSON")


def _add_rank(commands: Any) -> None:
    command = add(commands, "rank", _rank, "who is best over all of it, with the ranks each may have (docs/ranking.md)")
    _add_ranking_rule(command)
    form = command.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV, nothing rounded")
    form.add_argument("--json", action="store_true", help="print JSON with all correlations, nothing rounded")
    command.add_argument("--plot", metavar="PREFIX", help="also draw PREFIX.png/.svg")


def _add_report(commands: Any) -> None:
    words = "one HTML file with everything: leaderboard, costs, correlations, every record (docs/report.md)"
    command = add(commands, "report", _report, words)
    _add_ranking_rule(command)
    command.add_argument("--out", default="report.html", metavar="FILE", help="(report.html)")


def _add_ranking_rule(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", nargs="?", default="results", help="folder of records, or of such folders (results)")
    figures = ("mean_z", "mean_rank", "win_rate", "bradley_terry", "first_share")
    command.add_argument("--by", choices=figures, default="mean_z", help="the figure that ranks (mean_z)")
    words = "what is left out where cells are missing: the fewest, settings, backbones, or nothing (block)"
    rules = ("block", "settings", "backbones", "available")
    command.add_argument("--missing", choices=rules, default="block", help=words)


def _results(arguments: argparse.Namespace) -> int:
    from bob_jax.results import boards, foresight, table

    home, failures = _read(arguments.folder)
    records = [record for record, _ in home.values()]
    found = boards.boards(records, lambda cell_id: home[cell_id][1].per_example(cell_id))
    if arguments.json:
        print(table.to_json(found, failures), end="")
    elif arguments.csv:
        print(table.to_csv(found), end="")
    else:
        draw(table.tables(found))
        for line in foresight.sentences(foresight.ratios(records)):
            print(line)
    if arguments.plot:
        from bob_jax.results import plot

        for file in plot.scores(found, arguments.plot) + plot.curves(found, records, f"{arguments.plot}-curves"):
            print(f"drew {file}", file=sys.stderr)
    return 0


def _results_merge(arguments: argparse.Namespace) -> int:
    from bob_jax.results import merge
    from bob_jax.results.files import located
    from bob_jax.results.ranking.settings import counted

    done = merge.merge([located(folder) for folder in arguments.folders], located(arguments.out))
    for folder, count in done.cells.items():
        print(f"{folder}: {counted(count, 'cell')} new in {arguments.out}")
    for conflict in done.conflicts:
        same = "" if conflict.scores else ", its scores are the same"
        print(f"conflict: {conflict.cell}: {conflict.kept} is kept, {conflict.other} is not{same}")
        for field, (kept, other) in conflict.differing.items():
            print(f"  {field}: {kept} | {other}")
    return 1 if done.conflicts else 0


def _results_diff(arguments: argparse.Namespace) -> int:
    from bob_jax.results import merge
    from bob_jax.results.files import located
    from bob_jax.results.ranking.settings import counted

    found = merge.compare(located(arguments.first), located(arguments.second))
    if arguments.json:
        print_json(found)
        return 0 if found.same else 1
    for folder, cells in ((arguments.first, found.only_first), (arguments.second, found.only_second)):
        for cell in cells:
            print(f"only in {folder}: {cell}")
    if found.differences:
        columns = ("cell", "metric", str(arguments.first), str(arguments.second), "difference", "intervals")
        print_table(columns, ((one.cell, one.metric, *merge.words(one)) for one in found.differences))
    print(f"{counted(found.both, 'cell')} in both, {len({one.cell for one in found.differences})} with other scores")
    return 0 if found.same else 1


def _results_export(arguments: argparse.Namespace) -> int:
    from bob_jax.results import export

    home, failures = _read(arguments.folder)
    records = [record for record, _ in home.values()]
    print(export.to_csv(records) if arguments.csv else export.to_json(records, failures), end="")
    return 0


def _read(folder: str) -> tuple[dict[str, Any], list[Any]]:
    """All records of a folder with the store each is in, by cell id, and the failures, which are told on stderr."""
    from bob_jax.results import store

    stores = store.stores_in(folder)
    home = {record.cell.id: (record, place) for place in stores for record in place.read_all()}
    failures = [failure for place in stores for failure in place.failures()]
    for failure in failures:
        print(f"failed: {failure.cell.id}: {failure.error}", file=sys.stderr)
    if not home:
        raise BobError(f"no record in '{folder}': `python main.py --config=configs/digits.py` makes some")
    return home, failures


def _rank(arguments: argparse.Namespace) -> int:
    from bob_jax.backbones import pretraining
    from bob_jax.results import boards
    from bob_jax.results.ranking import analysis, table

    home, _ = _read(arguments.folder)
    records = [record for record, _ in home.values()]
    found = analysis.analyse(
        boards.boards(records, lambda cell_id: home[cell_id][1].per_example(cell_id)),
        records,
        lambda cell_id: home[cell_id][1].per_example(cell_id),
        pretraining.images,
        by=arguments.by,
        missing=arguments.missing,
    )
    if arguments.json:
        print(table.to_json(found), end="")
    elif arguments.csv:
        print(table.to_csv(found.ranking), end="")
    else:
        draw(table.tables(found))
    if arguments.plot:
        from bob_jax.results.ranking import plot

        for file in plot.standings(found.ranking, arguments.plot):
            print(f"drew {file}", file=sys.stderr)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from bob_jax.backbones import pretraining
    from bob_jax.results.files import located, write_whole
    from bob_jax.results.report import content, page

    home, failures = _read(arguments.folder)
    evidence = content.Evidence(
        title=Path(arguments.folder).resolve().name,
        records=[record for record, _ in home.values()],
        failures=failures,
        per_example=lambda cell_id: home[cell_id][1].per_example(cell_id),
        picture=lambda cell_id, name: home[cell_id][1].picture(cell_id, name),
        receipts=_receipts({record.cell.backbone for record, _ in home.values()}),
        pretraining_images=pretraining.images,
    )
    found = content.content(evidence, by=arguments.by, missing=arguments.missing)
    write_whole(located(arguments.out), page.page(found).encode())
    print(f"{arguments.out}: {len(found['records'])} records; open it in a browser")
    return 0


def _receipts(names: Collection[str]) -> dict[str, dict[str, Any]]:
    """The receipts of those backbones whose weights are in the cache of this machine."""
    from bob_jax.cache import cache_dir

    if not any(cache_dir("weights").glob("*.safetensors")):
        return {}
    from bob_jax.backbones import zoo
    from converters import cache

    found = {}
    for name in names:
        with contextlib.suppress(BobError):  # a backbone that this machine does not know
            receipt = cache.read_receipt(zoo.card(name))
            if receipt is not None:
                found[name] = dataclasses.asdict(receipt)
    return found
