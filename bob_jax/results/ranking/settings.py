"""The table a ranking is made of: backbones x settings, with its holes, and what is done about the holes.

A setting is one question (data set, protocol, hyper-parameters): one board. Its task says which settings are averaged
together first. Cells that do not exist are NaN; a rule that is always named decides what happens to them, because a
mean over the settings that a backbone happens to have compares it with others by different questions.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from bob_jax.errors import BobError, unknown_name
from bob_jax.results.boards import Board
from bob_jax.results.record import Record

Missing = Literal["block", "settings", "backbones", "available"]

# First part of a protocol's name -> what it asks of a backbone. A protocol that is not here is a task of its own.
TASKS = {
    "published_head": "classification",
    "zero_shot": "classification",
    "knn": "classification",
    "linear_probe": "classification",
    "augmented_probe": "classification",
    "finetune": "classification",
    "ood": "out of distribution",
    "adversarial": "adversarial",
    "retrieval": "retrieval",
    "detection": "detection",
    "bob2023": "detection",
    "transferability": "classification",
}
PREDICTIONS = ("transferability",)  # guess how good a backbone will be; they do not count in a ranking
# Whose cost is that of the card's own input, forward: others see larger pictures, or have more than the backbone.
PLAIN = (
    *("published_head", "zero_shot", "knn", "linear_probe", "augmented_probe", "finetune", "transferability"),
    "ood_",
)
NOT_JUDGED = ("train", "validation")  # splits that no score is of


@dataclasses.dataclass(frozen=True)
class Setting:
    """One question that backbones were asked.

    Attributes:
        title: of its board; unique.
        task: settings of one task are averaged first.
        metric: name of the score.
        images: key of the test images: settings with equal keys are about the same ones.
    """

    title: str
    task: str
    dataset: str
    protocol: str
    metric: str
    higher_is_better: bool
    images: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """Scores of B backbones in S settings.

    Attributes:
        backbones: names, sorted.
        settings: the questions.
        values: [B, S] float64, means over seeds; NaN where there is no record.
        cells: ids of the records behind `values[b, s]` as `cells[b][s]`, one a seed.
    """

    backbones: tuple[str, ...]
    settings: tuple[Setting, ...]
    values: np.ndarray
    cells: tuple[tuple[tuple[str, ...], ...], ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """[S] the task of each setting."""
        return tuple(setting.task for setting in self.settings)

    @property
    def higher_is_better(self) -> np.ndarray:
        """[S] bool."""
        return np.array([setting.higher_is_better for setting in self.settings], dtype=bool)

    def only(self, backbones: Iterable[int], settings: Iterable[int]) -> "Settings":
        """The part with these rows and columns, in this order."""
        rows, columns = list(backbones), list(settings)
        return Settings(
            tuple(self.backbones[b] for b in rows),
            tuple(self.settings[s] for s in columns),
            self.values[np.ix_(rows, columns)],
            tuple(tuple(self.cells[b][s] for s in columns) for b in rows),
        )


def task_of(protocol: str) -> str:
    """The task of a protocol, by its name in a record: "ood_linear_probe" is "out of distribution"."""
    fitting = [name for name in TASKS if protocol == name or protocol.startswith(f"{name}_")]
    return TASKS[max(fitting, key=len)] if fitting else protocol


def from_boards(boards: Sequence[Board], records: Iterable[Record], *, predictions: bool = False) -> Settings:
    """The table of all boards.

    Args:
        boards: one a setting.
        records: those that the boards were made from.
        predictions: with the scores of protocols that only guess, a column for each of them: "transferability: logme".
    """
    by_id = {record.cell.id: record for record in records}
    columns = [
        (board, metric)
        for board in boards
        for metric in _columns(board, by_id[board.rows[0].cells[0]])
        if predictions or board.protocol not in PREDICTIONS
    ]
    backbones = sorted({row.backbone for board, _ in columns for row in board.rows})
    values = np.full((len(backbones), len(columns)), np.nan)
    cells: list[list[tuple[str, ...]]] = [[() for _ in columns] for _ in backbones]
    for s, (board, metric) in enumerate(columns):
        for row in board.rows:
            b = backbones.index(row.backbone)
            cells[b][s] = row.cells
            values[b, s] = np.mean([by_id[cell].metrics[metric].value for cell in row.cells])
    settings = tuple(_setting(board, metric, by_id[board.rows[0].cells[0]]) for board, metric in columns)
    return Settings(tuple(backbones), settings, values, tuple(map(tuple, cells)))


def _columns(board: Board, record: Record) -> tuple[str, ...]:
    """The scores of a board that are settings: the one that ranks; of a guess each is one of its own."""
    return tuple(record.metrics) if board.protocol in PREDICTIONS else (board.metric,)


def _setting(board: Board, metric: str, record: Record) -> Setting:
    judged = {name: split.fingerprint for name, split in record.dataset.splits.items() if name not in NOT_JUDGED}
    images = hashlib.sha256(repr(sorted(judged.items())).encode()).hexdigest()
    title, protocol = board.title, board.protocol
    if board.protocol in PREDICTIONS:
        title, protocol = f"{title}: {metric}", f"{protocol}: {metric}"
    higher = record.metrics[metric].higher_is_better
    return Setting(title, task_of(board.protocol), board.dataset, protocol, metric, higher, images)


def without_holes(table: Settings, missing: Missing = "block") -> tuple[Settings, dict[str, str]]:
    """The part of the table that is ranked.

    Args:
        table: with holes.
        missing: what is left out for them:
            "block": time and again the backbone or setting with the largest share of holes (of equals a setting, and
            of those the last by name), until there is none: a backbone that has just begun does not cost the others
            their settings, nor a setting that has just begun the others their backbones.
            "settings": every setting with a hole. "backbones": every backbone with a hole.
            "available": nothing; each backbone is averaged over what it has. That compares by different questions.

    Returns:
        The part, and why each of the others was left out, by name of the backbone or title of the setting.

    Raises:
        BobError: fewer than two backbones or no setting are left, or an unknown rule.
    """
    if missing not in get_args(Missing):
        raise unknown_name("rule for missing cells", missing, get_args(Missing))
    rows, columns = list(range(len(table.backbones))), list(range(len(table.settings)))
    left_out: dict[str, str] = {}
    for s in columns.copy():
        if (count := np.isfinite(table.values[:, s]).sum()) < 2:
            columns.remove(s)
            left_out[table.settings[s].title] = f"{counted(int(count), 'backbone')}: nobody to compare with"
    if missing == "backbones":
        for b in rows.copy():
            if holes := int(np.isnan(table.values[b, columns]).sum()):
                rows.remove(b)
                left_out[table.backbones[b]] = f"{holes} of {len(columns)} settings missing"
    elif missing == "settings":
        for s in columns.copy():
            if holes := int(np.isnan(table.values[:, s]).sum()):
                columns.remove(s)
                left_out[table.settings[s].title] = f"{holes} of {len(rows)} backbones missing"
    elif missing == "block":
        left_out |= _cut_to_block(table, rows, columns)
    else:  # a backbone that only had settings of its own
        rows = [b for b in rows if np.isfinite(table.values[b, columns]).any()]
    if len(rows) < 2 or not columns:
        raise BobError(
            f"nothing to rank: {counted(len(table.backbones), 'backbone')} and "
            f"{counted(len(table.settings), 'setting')} have no two backbones with a record each in the same setting "
            "left; run the same config for several backbones"
        )
    return table.only(rows, columns), left_out


def counted(n: int, what: str) -> str:
    """As it is spoken: "1 setting", "2 settings"."""
    return f"{n} {what}" + ("" if n == 1 else "s")


def _cut_to_block(table: Settings, rows: list[int], columns: list[int]) -> dict[str, str]:
    """Removes from `rows` and `columns` in place until no cell is missing; why, by name."""
    left_out: dict[str, str] = {}
    while rows and columns:
        holes = np.isnan(table.values[np.ix_(rows, columns)])
        if not holes.any():
            break
        of_row = {b: int(n) for b, n in zip(rows, holes.sum(axis=1), strict=True)}
        of_column = {s: int(n) for s, n in zip(columns, holes.sum(axis=0), strict=True)}
        row = max(rows, key=lambda b: (of_row[b], table.backbones[b]))
        column = max(columns, key=lambda s: (of_column[s], table.settings[s].title))
        if of_row[row] / len(columns) > of_column[column] / len(rows):
            left_out[table.backbones[row]] = f"{of_row[row]} of {len(columns)} settings missing"
            rows.remove(row)
        else:
            left_out[table.settings[column].title] = f"{of_column[column]} of {len(rows)} backbones missing"
            columns.remove(column)
    return left_out


def per_task(values: np.ndarray, tasks: Sequence[str]) -> Mapping[str, np.ndarray]:
    """The columns of each task: [..., S] -> [..., settings of the task], tasks in the order of their first setting."""
    names = dict.fromkeys(tasks)
    return {name: values[..., [task == name for task in tasks]] for name in names}
