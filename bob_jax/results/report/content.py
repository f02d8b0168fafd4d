"""What the page shows, as plain data: records, boards, rankings of all and of parts, facts, receipts and pictures.

The page computes nothing that has an interval: every figure in it was made here, by the code behind `bob results` and
`bob rank`.
"""

import base64
import dataclasses
import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bob_jax.errors import BobError
from bob_jax.metrics.bootstrap import DRAWN
from bob_jax.metrics.catalog import METRICS
from bob_jax.results import boards as boards_
from bob_jax.results import table as board_table
from bob_jax.results.boards import Board, PerExample
from bob_jax.results.ranking import analysis, factors, pairwise, standings
from bob_jax.results.ranking import table as rank_table
from bob_jax.results.ranking.analysis import Analysis
from bob_jax.results.ranking.settings import Missing, task_of
from bob_jax.results.ranking.standings import Aggregate, Ranking
from bob_jax.results.ranking.uncertainty import told_apart
from bob_jax.results.record import Failure, Record
from bob_jax.results.schema import plain

PICTURE_SIDE = 1280  # pixels; larger pictures are made smaller
PICTURE_QUALITY = 80  # of WebP, from 0 to 100
EXCHANGES = 2_000  # of a paired test: p down to 0.0005 (0.05 after Holm's correction for a hundred pairs)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a report is made from.

    Attributes:
        title: its name, e.g. that of the folder.
        records: of any cells, at least one.
        failures: cells that have none.
        per_example: cell id to the outputs behind the record, or None; `Store.per_example`.
        picture: cell id and name to the picture's file; `Store.picture`.
        receipts: of converted weights, as plain data by backbone.
        pretraining_images: distinct images in the data that a card names; `backbones.pretraining.images`.
    """

    title: str
    records: Sequence[Record]
    failures: Sequence[Failure]
    per_example: PerExample
    picture: Callable[[str, str], Path]
    receipts: Mapping[str, Mapping[str, Any]]
    pretraining_images: Callable[[str], int | None]


def content(evidence: Evidence, *, by: Aggregate = "mean_z", missing: Missing = "block") -> dict[str, Any]:
    """Everything on the page.

    Args:
        evidence: what there is.
        by: the figure that ranks.
        missing: what is left out of the ranking where cells are missing.

    Returns:
        Plain data: `title`, `newest` (of the records), `records` by cell id, `failed`, `boards`, `scopes` and
        `rankings`, `analysis` (None where nothing can be ranked), `facts` and `receipts` by backbone, `device` of the
        speeds, `pictures` by cell id and name, and `csv` of the boards.
    """
    records = evidence.records
    boards = boards_.boards(records, evidence.per_example)
    whole, why = _analysis(evidence, boards, by, missing)
    scopes, rankings = _scopes(evidence, boards, whole, why, by, missing)
    facts = factors.facts(records, evidence.pretraining_images)
    cards = {record.cell.backbone: record.backbone.card for record in records}
    device, devices = factors.most_common_device(records)
    found = {
        "title": evidence.title,
        "newest": max(record.created for record in records),
        "records": {record.cell.id: record for record in records},
        "failed": evidence.failures,
        "boards": [_board(board, evidence.per_example) for board in boards],
        "scopes": scopes,
        "rankings": rankings,
        "analysis": whole and json.loads(rank_table.to_json(whole)),
        "facts": {
            name: plain(one, "") | {key: cards[name].get(key) for key in ("licence", "commercial", "architecture")}
            for name, one in sorted(facts.items())
        },
        "receipts": {name: evidence.receipts[name] for name in facts if name in evidence.receipts},
        "device": f"{devices} x {device}" if devices > 1 else device,
        "pictures": _pictures(records, evidence.picture),
        "csv": board_table.to_csv(boards),
    }
    plain_data: dict[str, Any] = plain(found, "")
    return plain_data


def _analysis(
    evidence: Evidence, boards: Sequence[Board], by: Aggregate, missing: Missing
) -> tuple[Analysis | None, str | None]:
    try:
        found = analysis.analyse(
            boards, evidence.records, evidence.per_example, evidence.pretraining_images, by=by, missing=missing
        )
    except (
        BobError
    ) as error:  # one backbone, or one that is alone everywhere: its records are worth a page all the same
        return None, str(error)
    return found, None


def _scopes(
    evidence: Evidence,
    boards: Sequence[Board],
    whole: Analysis | None,
    why: str | None,
    by: Aggregate,
    missing: Missing,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Parts of the boards that the page can be narrowed to, a task or a protocol, and the ranking of each.

    Two scopes of the same boards share their ranking.
    """
    backbones = {record.cell.backbone for record in evidence.records}
    tasks = list(dict.fromkeys(task_of(board.protocol) for board in boards))
    protocols = sorted({board.protocol for board in boards}, key=lambda name: (tasks.index(task_of(name)), name))
    parts: list[tuple[str | None, str | None]] = [(None, None)]
    parts += [(task, None) for task in tasks]
    parts += [(task_of(protocol), protocol) for protocol in protocols]
    scopes: list[dict[str, Any]] = []
    rankings: list[dict[str, Any]] = []
    known: dict[tuple[int, ...], int] = {}
    for task, protocol in parts:
        chosen = tuple(
            i
            for i, board in enumerate(boards)
            if task in (None, task_of(board.protocol)) and protocol in (None, board.protocol)
        )
        if chosen not in known:
            known[chosen] = len(rankings)
            if len(chosen) == len(boards):
                ranking, reason = (None, why) if whole is None else (whole.ranking, None)
            else:
                ranking, reason = _part([boards[i] for i in chosen], evidence, by, missing)
            rankings.append({"why": reason} if ranking is None else _ranking(ranking, backbones))
        scopes.append({"task": task, "protocol": protocol, "boards": chosen, "ranking": known[chosen]})
    return scopes, rankings


def _part(
    boards: Sequence[Board], evidence: Evidence, by: Aggregate, missing: Missing
) -> tuple[Ranking | None, str | None]:
    try:
        return standings.rank(boards, evidence.records, evidence.per_example, by=by, missing=missing), None
    except BobError as error:
        return None, str(error)


def _ranking(ranking: Ranking, backbones: Collection[str]) -> dict[str, Any]:
    """A ranking without its draws; backbones that are left out say so in their rows, the notes need not."""
    names = ranking.table.backbones
    better = told_apart(ranking.value, ranking.drawn, ranking.level)
    tied = ~(better | better.T)
    said = {f"left out: {name}: {why}" for name, why in ranking.left_out.items() if name in backbones}
    return {
        "by": ranking.by,
        "standings": [plain(one, "") | {"range": one.range} for one in ranking.standings],
        "tied": {name: [names[j] for j in np.flatnonzero(tied[i]) if j != i] for i, name in enumerate(names)},
        "settings": [setting.title for setting in ranking.table.settings],
        "left_out": ranking.left_out,
        "notes": [note for note in rank_table.notes(ranking) if note not in said],
        "csv": rank_table.to_csv(ranking),
    }


def _board(board: Board, per_example: PerExample) -> dict[str, Any]:
    scale, digits = board_table.score_digits(board)
    return plain(board, "") | {
        "task": task_of(board.protocol),
        "scale": scale,
        "digits": digits,
        "against_best": [plain(one, "") for one in _against_best(board, per_example)],
    }


def _against_best(board: Board, per_example: PerExample) -> list[pairwise.Comparison]:
    """The best against each other backbone on the images of both, one seed of each; none where outputs are missing."""
    of_images = METRICS[board.metric].inputs if board.metric in METRICS else (f"{DRAWN}{board.metric}",)
    needed = {"id", *of_images}
    outputs = {
        row.backbone: found
        for row in board.rows
        if (found := per_example(row.cells[0])) is not None and needed <= found.keys()
    }
    best = board.rows[0].backbone
    if best not in outputs or len(outputs) < 2:
        return []
    try:
        return pairwise.compare(board.metric, outputs, against=best, exchanges=EXCHANGES)
    except BobError:  # no image in common, or not the same ones
        return []


def _pictures(records: Sequence[Record], picture: Callable[[str, str], Path]) -> dict[str, dict[str, str]]:
    """Data addresses of the pictures that records name, by cell id and name; those that are gone are left out."""
    found: dict[str, dict[str, str]] = {}
    for record in records:
        names = record.notes.get("pictures")
        for name in names if isinstance(names, list) else ():
            path = picture(record.cell.id, str(name))
            if path.exists():
                found.setdefault(record.cell.id, {})[str(name)] = _address(path)
    return found


def _address(path: Path) -> str:
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            small = picture.convert("RGB")
    except OSError as error:
        raise BobError(f"{path}: not a picture ({error}): delete it, or run its cell again") from error
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=PICTURE_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
