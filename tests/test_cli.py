import csv
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from synthetic_records import ENVIRONMENT, simulate

import bob_jax
from bob_jax import cli
from bob_jax.backbones import zoo
from bob_jax.data import catalog
from bob_jax.results import record
from bob_jax.results.store import Store

BOB = Path(sys.executable).with_name("bob")


def run(*arguments, **options):
    return subprocess.run([BOB, *arguments], capture_output=True, text=True, check=False, **options)


@pytest.fixture(autouse=True)
def no_backbones_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two folders of results in one, a failed cell among them."""
    folder = tmp_path_factory.mktemp("home") / "results"
    for dataset in ("digits", "pets"):
        for name, accuracy in (("vit_b16_clip", 0.9), ("vit_b16_dino", 0.89), ("resnet50", 0.6)):
            Store(folder / dataset).write(*simulate(name, dataset=dataset, accuracy=accuracy))
    failed = simulate("broken")[0].cell
    Store(folder / "digits").record_failure(record.Failure(failed, "it broke", "Traceback", ENVIRONMENT, record.now()))
    return folder


def test_the_command_without_options_and_its_version():
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert all(command in done.stdout for command in ("results", "backbones", "data"))
    assert run("--version").stdout == f"bob_jax {bob_jax.__version__}\n"
    module = subprocess.run([sys.executable, "-m", "bob_jax", "--version"], capture_output=True, text=True, check=True)
    assert module.stdout == f"bob_jax {bob_jax.__version__}\n"


def test_results_without_options_reads_the_folder_results(results):
    done = run("results", cwd=results.parent)
    assert done.returncode == 0
    assert "digits · knn" in done.stdout
    assert "pets · knn" in done.stdout
    assert done.stderr.startswith("failed: digits-knn-broken-s0-")
    assert done.stderr.endswith(": it broke\n")
    assert all(len(line) < 130 for line in done.stdout.splitlines())
    assert "…" not in done.stdout  # nothing is cut off in a pipe


def test_a_missing_folder_is_one_line(tmp_path):
    done = run("results", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no results folder 'results': `python main.py --config=configs/digits.py` makes one\n"


def test_a_folder_without_records_is_one_line(tmp_path, capsys):
    assert cli.main(["results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: no record in '{tmp_path}': `python main.py")


def test_a_damaged_record_is_one_line(tmp_path, capsys):
    (tmp_path / "a.json").write_text('{"schema_version": 1')
    assert cli.main(["results", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {tmp_path / 'a.json'}: not a record")
    assert captured.err.count("\n") == 1


def test_json_and_csv_are_pure(results, capsys):
    assert cli.main(["results", str(results), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [board["title"] for board in data["boards"]] == ["digits · knn", "pets · knn"]
    assert [failed["error"] for failed in data["failed"]] == ["it broke"]
    assert {row["evidence"] for board in data["boards"] for row in board["rows"]} == {"paired"}
    assert cli.main(["results", str(results / "digits"), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["backbone"] for row in rows][-1] == "resnet50"


def test_plot_draws_beside_printing(results, tmp_path, capsys):
    assert cli.main(["results", str(results), "--json", "--plot", str(tmp_path / "pictures" / "all")]) == 0
    captured = capsys.readouterr()
    json.loads(captured.out)
    drawn = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert drawn == ["all-curves.png", "all-curves.svg", "all.png", "all.svg"]
    assert captured.err.count("drew ") == 4


def test_backbones_lists_all_or_those_asked_for(capsys):
    def names(*arguments):
        assert cli.main(["backbones", "--json", *arguments]) == 0
        return {card["name"] for card in json.loads(capsys.readouterr().out)}

    cards = zoo.CARDS.values()
    assert names() == set(zoo.CARDS)
    method, architecture, licence = (max({getattr(c, f) for c in cards}) for f in ("method", "architecture", "licence"))
    assert names("--method", method) == {card.name for card in cards if card.method == method}
    assert names("--architecture", architecture) == {card.name for card in cards if card.architecture == architecture}
    assert names("--licence", licence) == {card.name for card in cards if card.licence == licence}
    assert names("--commercial") == {card.name for card in cards if card.commercial} != set(zoo.CARDS)
    assert names("--max-parameters", "30") == {card.name for card in cards if card.parameters <= 30} != set(zoo.CARDS)
    both = names("--method", method, "--max-parameters", "30")
    assert both == {card.name for card in cards if card.method == method and card.parameters <= 30}


def test_backbones_as_a_table_and_one_card_whole():
    done = run("backbones")
    assert (done.returncode, done.stderr) == (0, "")
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    assert set(zoo.CARDS) <= listed
    card = next(card for card in zoo.CARDS.values() if card.source is not None)
    done = run("backbones", card.name)
    assert done.stdout.startswith(f"name: {card.name}\n")
    assert f"licence: {card.licence}\n" in done.stdout
    assert f"  input_size: {card.preprocessing.input_size}\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("backbones", "vit_b16_klip"), "unknown backbone 'vit_b16_klip'"),
        (("backbones", "--method", "alchemy"), "unknown method 'alchemy'"),
        (("data", "check", "digit"), "unknown data set 'digit': did you mean digits"),
        (("data", "prepare", "digit"), "unknown data set 'digit': did you mean digits"),
    ],
)
def test_a_wrong_name_is_one_line(arguments, words, capsys):
    assert cli.main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {words}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [("resluts",), ("results", "--cvs"), ("results", "--csv", "--json"), ("data", "x")]
)
def test_a_wrong_option_is_told_with_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: bob")


def test_data_is_listed(tmp_path, capsys):
    assert cli.main(["data"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in catalog.CARDS)
    assert cli.main(["data", "list", "--json", "--root", str(tmp_path)]) == 0
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert set(lines) == set(catalog.CARDS)
    embedded = [name for name, card in catalog.CARDS.items() if card.access == "embedded"]
    assert [name for name, line in lines.items() if line["ready"]] == embedded


def test_data_is_prepared_and_checked(capsys):
    assert cli.main(["data", "prepare", "digits"]) == 0
    assert capsys.readouterr().out == "digits is ready\n"
    assert cli.main(["data", "check", "digits", "--sample", "20"]) == 0
    table = capsys.readouterr().out
    assert "1077" in table
    assert table.endswith("digits is whole\n")
    assert cli.main(["data", "check", "digits", "--sample", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["test"]["images"] == 360


def test_data_with_problems_exits_with_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / ".cache"))
    for split in ("train", "validation", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(2):
                colour = (sum(map(ord, split + name)) % 256, 100 * i, 7)
                Image.new("RGB", (9, 9), colour).save(tmp_path / split / name / f"{i}.png")
    assert cli.main(["data", "check", f"folder:{tmp_path}"]) == 0
    (tmp_path / "test" / "cat" / "0.png").write_bytes(b"no picture")
    capsys.readouterr()
    assert cli.main(["data", "check", f"folder:{tmp_path}"]) == 1
    assert "cannot be decoded" in capsys.readouterr().out


def test_data_lists_what_is_needed_and_how_big_it_is(tmp_path, capsys):
    assert cli.main(["data", "list", "--root", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "manual" in lines["imagenet"] and "155 GB" in lines["imagenet"]
    assert "automatic" in lines["cifar10"] and "170 MB" in lines["cifar10"] and " no " in lines["cifar10"]
    assert str(tmp_path / "cars") in lines["cars"] and "embedded" in lines["digits"]


def test_nearest_training_images_are_looked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path))
    arguments = ["data", "check", "digits", "--sample", "20", "--backbone", "vit_nano8_glyphs", "--similarity", "0.99"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "test images have features that nearly agree with a training image's" in printed
    assert cli.main([*arguments, "--json"]) == 0
    nearest = json.loads(capsys.readouterr().out)["nearest"]
    assert printed.count(f"{len(nearest)} test images have features") == 1
    assert all(twin["similarity"] >= 0.99 for twin in nearest)
    assert cli.main(["data", "check", "digits", "--similarity", "0.9"]) == 2
    assert "together with --backbone" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_a_reader_that_has_seen_enough_is_no_error(results, form):
    """As in `bob results | head`, with the pipe closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([BOB, "results", results / "pets", form], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_is_quiet(tmp_path):
    """Interrupted while it waits for a record that never comes."""
    os.mkfifo(tmp_path / "slow.json")
    with (
        subprocess.Popen([BOB, "results", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        (tmp_path / "slow.json").open("wb"),  # opens as soon as the command reads
    ):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_reading_results_needs_no_accelerator_library(results):
    code = f"""
import sys
from bob_jax.cli import main
code = main(["results", {str(results)!r}])
sys.exit(code or ("jax" in sys.modules) or ("matplotlib" in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_reproduce_lists_runs_and_judges(tmp_path, capsys, monkeypatch):
    from configs import expected

    assert cli.main(["reproduce"]) == 0
    assert "imagenet_published_head_resnet50_tv_in1k" in capsys.readouterr().out
    name, folder = "digits_knn_resnet10_nano_glyphs", str(tmp_path)
    assert cli.main(["reproduce", name, "--results", folder]) == 0
    shown = capsys.readouterr().out
    assert "matches" in shown and "0.9830" in shown and "expected by bob_jax" in shown
    other = dataclasses.replace(expected.row(name), value=0.5)
    monkeypatch.setattr(expected, "row", lambda _: other)
    assert cli.main(["reproduce", name, "--results", folder]) == 1  # the record is there: only the verdict is new
    assert "differs" in capsys.readouterr().out


def test_reproduce_says_what_is_missing(tmp_path, capsys):
    assert cli.main(["reproduce", "digits_knn_resnet10"]) == 2
    assert "did you mean" in capsys.readouterr().err
    arguments = ["reproduce", "cub_retrieval_bob2023_vit_s16_dino", "--root", str(tmp_path), "--results", str(tmp_path)]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert "has no record: see above why" in error and "cub" in error
