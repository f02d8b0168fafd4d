"""`bob rank` as a user sees it: the table, CSV, JSON, the picture, and one line for what cannot be ranked."""

import csv
import dataclasses
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image
from running import ROOT
from synthetic_records import simulate

from bob_jax import cli
from bob_jax.results.boards import boards
from bob_jax.results.ranking import analysis, plot, table
from bob_jax.results.ranking.aggregates import Weighting
from bob_jax.results.store import Store

ACCURACY = {"vit_b16_clip": 0.9, "vit_b16_dino": 0.89, "resnet50": 0.7, "resnet50_random": 0.3}


def of_protocol(made, name):
    done, out = made
    cell = dataclasses.replace(done.cell, protocol=name, id=f"{done.cell.id}-{name}")
    return dataclasses.replace(done, cell=cell, protocol=dataclasses.replace(done.protocol, name=name)), out


def make(ft=True):
    made = [
        simulate(name, dataset=dataset, accuracy=accuracy)
        for dataset in ("digits", "pets")
        for name, accuracy in ACCURACY.items()
    ]
    for name, accuracy in ACCURACY.items():
        made.append(of_protocol(simulate(name, dataset="oxford", accuracy=accuracy - 0.1), "retrieval"))
        if ft:
            made.append(of_protocol(simulate(name, dataset="pets", accuracy=accuracy + 0.05), "finetune"))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("home") / "results"
    for done, out in [*make(), simulate("newcomer")]:
        Store(home / done.cell.dataset).write(done, out)
    return home


@pytest.fixture(scope="module")
def found():
    made = make()
    outputs = {done.cell.id: out for done, out in made}
    records = [done for done, _ in made]
    return analysis.analyse(boards(records, outputs.get), records, outputs.get, lambda _: None)


def test_rank_without_options_reads_the_folder_results(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    assert cli.main(["rank"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].strip() == "4 backbones over 4 settings of 2 tasks, by mean z"
    names = [next((name for name in ACCURACY if f" {name} " in line), None) for line in lines]
    order = [name for name in names if name][:4]
    assert (set(order[:2]), order[2:]) == ({"vit_b16_clip", "vit_b16_dino"}, ["resnet50", "resnet50_random"])
    assert [line.split()[0] for line in lines if any(name in line for name in order)][:4] == ["1-2", "1-2", "3", "4"]
    assert any(line.startswith("do the tasks agree?") for line in lines)
    assert any(line.startswith("does it order backbones as fine-tuning does?") for line in lines)
    assert "left out: newcomer: 3 of 4 settings missing" in lines
    assert "one data set in retrieval: the intervals do not say what others would do there" in lines
    assert "fewer than 5 data sets in classification: intervals and ranges are somewhat too narrow" in lines
    assert "…" not in captured.out
    assert captured.err == ""


def test_a_folder_of_one_task_and_no_fine_tuning_shows_the_ranking_alone(tmp_path, capsys):
    for name, accuracy in ACCURACY.items():
        Store(tmp_path).write(*simulate(name, accuracy=accuracy))
    assert cli.main(["rank", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "4 backbones over 1 setting of 1 task, by mean z" in out
    assert "agree" not in out
    assert "fine-tuning" not in out


@pytest.mark.parametrize("by", list(table.NAMES))
def test_by_every_figure(folder, capsys, by):
    assert cli.main(["rank", str(folder), "--by", by, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["best_rank"] == "1"
    assert rows[0]["backbone"] in ("vit_b16_clip", "vit_b16_dino")


def test_csv_is_whole_and_not_rounded(found):
    rows = list(csv.DictReader(io.StringIO(table.to_csv(found.ranking))))
    assert [row["backbone"] for row in rows] == [one.backbone for one in found.ranking.standings]
    first, one = rows[0], found.ranking.standings[0]
    assert (first["position"], first["best_rank"], first["worst_rank"]) == ("1", f"{one.best}", f"{one.worst}")
    for name, estimate in one.figures.items():
        ends = [float(first[f"{name}{end}"]) for end in ("", "_low", "_high")]
        assert ends == [estimate.value, estimate.low, estimate.high]
    assert float(first["z_retrieval"]) == one.tasks["retrieval"].value
    assert (first["settings"], first["parameters_millions"]) == ("4", "86.6")


def test_json_has_the_whole_analysis(folder, capsys):
    assert cli.main(["rank", str(folder), "--json", "--missing", "available"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {one["backbone"] for one in data["standings"]} == {*ACCURACY, "newcomer"}
    assert (data["by"], data["missing"], data["weighting"], data["level"]) == ("mean_z", "available", "task", 0.95)
    assert data["settings"][0]["title"] == "digits · knn"
    assert data["between_tasks"][0]["spearman"]["n"] == 4
    assert len(data["between_settings"]) == 6
    assert set(data["against"]) == {"parameters", "flops", "images_per_second", "pretraining_images"}
    assert data["cheap"][0]["cheap"] == "knn"
    assert {"facts", "matches", "contrasts", "cheap_answers", "left_out", "without_images"} <= data.keys()


def test_without_fine_tuning_there_is_no_cheap_answer():
    made = make(ft=False)
    records = [done for done, _ in made]
    found = analysis.analyse(boards(records, lambda _: None), records, lambda _: None, lambda _: None)
    assert found.cheap == found.cheap_answers == []
    assert len(found.ranking.without_images) == len(records)
    assert f"{len(records)} cells without per-image outputs: drawn from their intervals" in table.notes(found.ranking)


def test_the_weighting_goes_through():
    made = make()
    records = [done for done, _ in made]
    arguments = (boards(records, lambda _: None), records, lambda _: None, lambda _: None)
    weighting: Weighting = "setting"
    by_setting = analysis.analyse(*arguments, weighting=weighting)
    assert by_setting.ranking.weighting == "setting"
    assert (by_setting.ranking.value != analysis.analyse(*arguments).ranking.value).any()


def test_a_backbone_that_lacks_a_task_is_shown_with_a_dash_and_said():
    made = [*make(), simulate("newcomer")]
    records = [done for done, _ in made]
    arguments = (boards(records, lambda _: None), records, lambda _: None, lambda _: None)
    found = analysis.analyse(*arguments, missing="available")
    assert "some backbones lack whole tasks: theirs are means over other questions" in table.notes(found.ranking)
    rows = list(csv.DictReader(io.StringIO(table.to_csv(found.ranking))))
    assert next(row for row in rows if row["backbone"] == "newcomer")["z_retrieval"] == ""


def test_figures_as_they_are_written():
    assert table.show("mean_z", 0.126) == "+0.13"
    assert table.show("mean_z", -0.001) == "+0.00"
    assert table.show("mean_rank", 2.5) == "2.50"
    assert table.show("win_rate", 0.666) == "67"


def words_of(path):
    tree = ElementTree.parse(path)
    return ["".join(element.itertext()).strip() for element in tree.iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_shows_every_backbone_with_its_ranks(found, tmp_path):
    png, svg = plot.standings(found.ranking, tmp_path / "deep" / "rank")
    words = words_of(svg)
    for one in found.ranking.standings:
        assert one.backbone in words
        value = table.show("mean_z", one.figures["mean_z"].value).replace("-", "\N{MINUS SIGN}")
        assert any(f"rank {one.range}" in word and value in word.replace("-", "\N{MINUS SIGN}") for word in words)
    assert {"all", "classification", "retrieval"} <= set(words)
    pixels = np.asarray(Image.open(png).convert("L"))
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border == 255).all()  # no text is cut off
    again = plot.standings(found.ranking, tmp_path / "again")
    assert again[1].read_bytes() == svg.read_bytes()


def test_the_command_draws(folder, tmp_path, capsys):
    assert cli.main(["rank", str(folder), "--plot", str(tmp_path / "rank"), "--by", "mean_rank"]) == 0
    assert capsys.readouterr().err == f"drew {tmp_path / 'rank.png'}\ndrew {tmp_path / 'rank.svg'}\n"
    assert "mean rank, lower is better" in words_of(tmp_path / "rank.svg")


def test_what_cannot_be_ranked_is_one_line(tmp_path, capsys):
    assert cli.main(["rank", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: no record in '{tmp_path}'")
    assert cli.main(["rank", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: no results folder")
    Store(tmp_path).write(*simulate("alone"))
    assert cli.main(["rank", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: nothing to rank: 1 backbone and 1 setting have no two backbones")
    assert error.count("\n") == 1
    assert cli.main(["rank", str(tmp_path), "--plot", "/proc/none/x"]) == 2


def test_ranking_needs_no_accelerator_library(folder):
    code = f"""
import sys
from bob_jax.cli import main
code = main(["rank", {str(folder)!r}])
sys.exit(code or ("jax" in sys.modules) or ("matplotlib" in sys.modules) or ("scipy.stats" in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_commands_and_the_program_of_the_documentation(folder, tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "ranking.md").read_text()
    (tmp_path / "results").mkdir()
    for name in ("digits", "fgvc"):  # the names the page uses
        shutil.copytree(folder / "digits", tmp_path / "results" / name)
    monkeypatch.chdir(tmp_path)
    commands = re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1].splitlines()
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command.split("#")[0].split(">")[0])
        assert (words[0], cli.main(words[1:])) == ("bob", 0)
    capsys.readouterr()
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    assert re.match(r"\[\('1-3', '\w+'\), ", capsys.readouterr().out)
