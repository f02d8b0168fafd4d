"""Every record of a folder in one file: JSON as the records are, CSV with a line for each score."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence

from bob_jax.results.record import Cost, Failure, Record
from bob_jax.results.schema import plain

CARD_FIELDS = ("architecture", "method", "data", "parameters", "licence", "commercial")
COLUMNS = (
    *("cell", "benchmark", "backbone", "dataset", "dataset_version", "protocol", "seed", "draw"),
    *("metric", "main", "value", "low", "high", "n", "higher_is_better"),
    *CARD_FIELDS,
    "weights_sha256",
    *(field.name for field in dataclasses.fields(Cost)),
    *("estimated_seconds", "estimate_source"),
    *("device_kind", "device_count", "git_commit", "created"),
)


def to_json(records: Sequence[Record], failures: Sequence[Failure]) -> str:
    """`{"records": [...], "failed": [...]}`: each as its own file has it."""
    everything = {"records": records, "failed": failures}
    return json.dumps(plain(everything, ""), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(records: Sequence[Record]) -> str:
    """One line for each score of each record under `COLUMNS`, nothing rounded; `main` marks those that rank."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        cell, card, place = record.cell, record.backbone.card, record.environment
        who = (cell.id, cell.benchmark, cell.backbone, cell.dataset, record.dataset.version, cell.protocol, cell.seed)
        facts = (*(card.get(field) for field in CARD_FIELDS), record.backbone.weights_sha256)
        where = (place.device_kind, place.device_count, place.git_commit, record.created)
        for metric, score in record.metrics.items():
            figures = (score.value, score.low, score.high, score.n, score.higher_is_better)
            main = metric == record.main_metric
            line = (
                *who,
                record.dataset.draw,
                metric,
                main,
                *figures,
                *facts,
                *dataclasses.astuple(record.cost),
                *((one.seconds, one.source) if (one := record.estimate) else (None, None)),
                *where,
            )
            writer.writerow(line)
    return text.getvalue()
