import csv
import io
import json

import pytest
from rich.console import Console
from synthetic_records import ENVIRONMENT, simulate

from bob_jax.results import record
from bob_jax.results.boards import boards
from bob_jax.results.table import CSV_COLUMNS, duration, tables, to_csv, to_json


@pytest.fixture(scope="module")
def made():
    return [
        simulate("vit_b16_clip", accuracy=0.9),
        simulate("vit_b16_dino", accuracy=0.89),
        simulate("resnet50", accuracy=0.6, parameters=None),
        simulate("vit_b16_clip", dataset="pets", metric="nll"),
    ]


@pytest.fixture(scope="module")
def found(made):
    return boards([done for done, _ in made], {done.cell.id: outputs for done, outputs in made}.get)


def text_of(found, width=120):
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(tables(found))
    return console.file.getvalue()


def test_the_table_says_who_is_best_and_how_sure(made, found):
    lines = {line.split()[1]: line.split() for line in text_of(found[:1]).splitlines() if len(line.split()) > 5}
    score = made[0][0].metrics["accuracy"]
    assert lines["vit_b16_clip"][0] == lines["vit_b16_dino"][0] == "=1"
    assert lines["resnet50"][0] == "3"
    numbers = [f"{100 * score.value:.1f}", f"[{100 * score.low:.1f},", f"{100 * score.high:.1f}]", "360"]
    assert lines["vit_b16_clip"][2:] == ["86.6", "M", *numbers, "37.5", "s", "1,234", "17.58"]
    assert lines["resnet50"][2] == "-"


def test_a_loss_is_no_percentage(made, found):
    text = text_of(found[1:])
    assert f"{made[3][0].metrics['nll'].value:.3f}" in text
    assert "nll %" not in text


def test_one_that_is_best_alone_has_no_tie_mark():
    made = [simulate("a", accuracy=0.95), simulate("b", accuracy=0.5)]
    text = text_of(boards([done for done, _ in made], {done.cell.id: out for done, out in made}.get))
    assert "=1" not in text
    assert "~1" not in text


def test_ties_by_overlap_are_marked_and_explained():
    made = [simulate("a", accuracy=0.9), simulate("b", accuracy=0.9)]
    text = text_of(boards([done for done, _ in made], lambda _: None))
    assert text.count("~1") == 2
    assert "overlap" in text


def test_seeds_have_a_column_only_where_there_are_several(found):
    assert "seeds" not in text_of(found)
    made = [simulate("a", seed=0, accuracy=0.9), simulate("a", seed=1, accuracy=0.8)]
    assert "seeds (std)" in text_of(boards([done for done, _ in made], lambda _: None))


@pytest.mark.parametrize(("seconds", "words"), [(8.14, "8.1 s"), (59.9, "59.9 s"), (725, "12:05"), (11400, "3:10:00")])
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_csv_has_every_digit(made, found):
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert len(rows) == 4
    assert tuple(rows[0]) == CSV_COLUMNS
    score, row = made[0][0].metrics["accuracy"], next(row for row in rows if row["backbone"] == "vit_b16_clip")
    assert (float(row["value"]), float(row["low"]), float(row["high"])) == (score.value, score.low, score.high)
    assert (row["dataset"], row["protocol"], row["n"], row["tied"]) == ("digits", "knn", "360", "True")
    assert float(row["flops_per_image"]) == 17.58e9
    assert row["cells"] == made[0][0].cell.id
    assert rows[2]["parameters_millions"] == ""


def test_json_has_boards_and_failures(made, found):
    failure = record.Failure(made[0][0].cell, "it broke", "Traceback", ENVIRONMENT, record.now())
    data = json.loads(to_json(found, [failure]))
    assert [board["title"] for board in data["boards"]] == ["digits · knn", "pets · knn"]
    row = data["boards"][0]["rows"][0]
    assert row["value"] == made[0][0].metrics["accuracy"].value
    assert row["cost"]["wall_seconds"] == 37.5
    assert [(failed["cell"]["id"], failed["error"]) for failed in data["failed"]] == [(made[0][0].cell.id, "it broke")]
