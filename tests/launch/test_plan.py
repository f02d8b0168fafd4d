"""What a grid will take: done, missing, measured and estimated; the command. That of docs/plan.md: tests/docs."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from synthetic_records import ENVIRONMENT, simulate

from bob_jax import cli, grid
from bob_jax.backbones import flops
from bob_jax.errors import BobError
from bob_jax.launch import cell as single
from bob_jax.launch import config_file, devices, estimate, plan, plan_table, work
from bob_jax.results.foresight import Ratio
from bob_jax.results.record import Cost
from bob_jax.results.store import Store
from configs import digits, fgvc, gauntlet

ROOT = Path(__file__).parent.parent.parent
H200 = "NVIDIA H200"
WHO = "digits,vit_nano8_glyphs"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))


def config_of(argument, folder):
    chosen = gauntlet.get_config(argument)
    chosen.results = str(folder)
    return chosen


def judge(chosen, which, cost, weights=None, environment=ENVIRONMENT):
    """A record for the cells of a protocol, as if they had run."""
    for cell in grid.cells(chosen):
        if cell.protocol_name == which:
            job = single.prepare(cell, None)
            record, outputs = simulate(cell.backbone, n=20)
            hyperparameters = json.loads(json.dumps(cell.hyperparameters))
            protocol = dataclasses.replace(record.protocol, name=which, hyperparameters=hyperparameters)
            dataset = dataclasses.replace(record.dataset, version=job.dataset.version)
            record = dataclasses.replace(
                record,
                cell=single.describe(job),
                protocol=protocol,
                dataset=dataset,
                cost=cost,
                environment=environment,
            )
            record = dataclasses.replace(record, source_cell=job.source_id)
            Store(grid.folder(chosen, cell.benchmark)).write(record, outputs, weights)


def only(made, protocol):
    (line,) = (line for line in made.lines if line.protocol == protocol)
    return line


def test_a_plan_from_nothing_is_an_estimate(tmp_path):
    made = plan.make(config_of(WHO, tmp_path / "none"), H200, price=4.0)
    assert [line.protocol for line in made.lines] == [
        cell.protocol_name for cell in grid.cells(gauntlet.get_config(WHO))
    ]
    totals = made.totals
    assert (totals["done"], totals["measured"], totals["unknown"]) == (0, 0, 0)
    assert totals["bytes_weights"] == totals["bytes_data"] == 0  # all of it comes with the package
    knn = only(made, "knn")
    assert knn.passes == 1797
    reached = 0.3 * 989e3
    assert knn.seconds == pytest.approx(estimate.BESIDE + 1797 * flops.known()["vit_nano8_glyphs"] / reached)
    probe = next(line for line in made.lines if (line.protocol, line.dataset) == ("linear_probe", "digits"))
    assert probe.passes == 0  # its features are the neighbours'
    solver = 4 * 1077 * 64 * 10 * 6 * 500 / 1e9  # products, images, width, classes, lambdas, iterations
    assert probe.seconds == pytest.approx(estimate.BESIDE + 6 * solver / reached)
    assert totals["hours"] == pytest.approx(sum(line.seconds for line in made.lines) / 3600)
    assert totals["money"] == pytest.approx(4.0 * totals["hours"])
    assert totals["kilowatt_hours"] == pytest.approx(0.7 * totals["hours"])
    cells = plan_table.plain(made)["cells"]
    assert cells[0]["money"] == pytest.approx(4.0 * made.lines[0].seconds / 3600)
    assert sum(cell["kilowatt_hours"] for cell in cells) == pytest.approx(totals["kilowatt_hours"])
    row = dict(zip(plan_table.CELL_COLUMNS, next(plan_table.by_cell(made)), strict=True))
    assert (row["money"], row["kWh"]) == (f"{cells[0]['money']:.2f}", f"{cells[0]['kilowatt_hours']:.2f}")
    unpriced = plan_table.plain(plan.make(config_of(WHO, tmp_path / "none"), H200))["cells"][0]
    assert unpriced["money"] is None and unpriced["kilowatt_hours"] > 0


def test_what_has_a_record_is_done_and_its_features_are_asked_of_the_next(tmp_path):
    chosen = config_of(f"{WHO},protocol=knn+linear_probe+ood", tmp_path)
    judge(chosen, "knn", Cost())
    made = plan.make(chosen, H200)
    assert only(made, "knn").done and only(made, "knn").seconds == 0
    assert [line.done for line in made.lines].count(True) == 1
    assert next(line for line in made.lines if line.protocol == "linear_probe").passes == 1797
    changed = config_of(f"{WHO},protocol=knn", tmp_path)
    changed.parts.digits.protocols.knn.temperature = 0.5
    assert not only(plan.make(changed, H200), "knn").done
    alone = digits.get_config("vit_nano8_glyphs,protocol=knn")
    alone.results = str(tmp_path / "digits")  # where the benchmark alone has the same records
    assert only(plan.make(alone, H200), "knn").done


def test_a_head_that_others_judge_is_done_when_its_weights_are_there(tmp_path):
    chosen = config_of(f"{WHO},protocol=linear_probe+adversarial", tmp_path)
    judge(chosen, "linear_probe", Cost())
    assert not only(plan.make(chosen, H200), "linear_probe").done
    judge(chosen, "linear_probe", Cost(), weights={})
    assert only(plan.make(chosen, H200), "linear_probe").done
    judge(chosen, "adversarial_linear_probe", Cost())
    assert all(line.done for line in plan.make(chosen, H200).lines)


def test_what_judged_another_head_is_not_done(tmp_path):
    """The record's name holds a hash of the head's: a run would look for another name."""
    chosen = config_of("digits,vit_nano8_glyphs,protocol=ood+linear_probe", tmp_path)
    judge(chosen, "linear_probe", Cost(), weights={})
    judge(chosen, "ood_linear_probe", Cost())
    assert all(line.done for line in plan.make(chosen, H200).lines)
    chosen.parts.digits.heads.linear_probe.tolerance = 1e-3
    for cell, line in zip(grid.cells(chosen), plan.make(chosen, H200).lines, strict=True):
        there = Store(tmp_path / "digits").exists(single.prepare(cell, None).id)
        assert line.done == there == (cell.protocol_name == "linear_probe" and cell.protocol.tolerance != 1e-3)


def test_records_of_the_same_device_measure(tmp_path):
    there = dataclasses.replace(ENVIRONMENT, device_kind=H200, device_count=2)
    judge(config_of(f"{WHO},protocol=knn", tmp_path), "knn", Cost(50.0, 30.0, 200.0), environment=there)
    wanted = config_of(f"{WHO},protocol=knn+retrieval,seed=1", tmp_path)
    made = plan.make(wanted, H200)
    assert only(made, "knn").seconds == 100.0  # with seed 0 it took two devices 50 seconds
    look = only(made, "retrieval")
    assert look.measured and look.seconds == pytest.approx(estimate.BESIDE + look.passes / 100.0)
    elsewhere = plan.make(wanted, "TPU v4")
    assert elsewhere.totals["measured"] == 0
    short = digits.get_config("vit_nano8_glyphs,protocol=knn")
    short.results, short.data.limit = str(tmp_path / "digits"), 100
    assert only(plan.make(short, H200), "knn").seconds == pytest.approx(estimate.BESIDE + 300 / 100.0)


def test_time_beside_the_passes_is_learned_from_other_backbones(tmp_path):
    there = dataclasses.replace(ENVIRONMENT, device_kind=H200, device_count=1)
    judge(config_of(f"{WHO},protocol=knn", tmp_path), "knn", Cost(27.97, 8.0, 100.0), environment=there)
    made = plan.make(config_of("digits,vit_nano8_glyphs,vit_nano4_random,protocol=knn", tmp_path), H200)
    (line,) = (line for line in made.lines if line.backbone == "vit_nano4_random")
    passes = 1797 * flops.known()["vit_nano4_random"] / (0.3 * 989e3)
    assert not line.measured and line.seconds == pytest.approx(27.97 - 17.97 + passes)


def test_records_of_another_device_hide_none_of_this_one(tmp_path):
    for seed, kind in ((0, H200), (1, "TPU v4")):
        there = dataclasses.replace(ENVIRONMENT, device_kind=kind, device_count=1)
        judge(config_of(f"{WHO},protocol=knn,seed={seed}", tmp_path), "knn", Cost(50.0 + seed), environment=there)
    wanted = config_of(f"{WHO},protocol=knn,seed=2", tmp_path)
    assert [only(plan.make(wanted, kind), "knn").seconds for kind in (H200, "TPU v4")] == [50.0, 51.0]


def test_the_head_that_a_second_benchmark_asks_for_too_is_no_measurement():
    made = plan.make(gauntlet.get_config("vit_b16_clip,benchmark=classification+ood,protocol=linear_probe+ood"), H200)
    taken_over = [line for line in made.lines if line.seconds == 0]
    assert taken_over and made.totals["measured"] == 0


def test_a_probe_of_many_classes_costs_more_than_its_features(tmp_path):
    """ImageNet's: 39 TFLOPs for each of 1,000 iterations, in float32; its features are 47 PFLOPs in bfloat16."""
    chosen = config_of("vit_b16_clip,benchmark=classification,protocol=linear_probe", tmp_path)
    line = next(line for line in plan.make(chosen, H200).lines if line.dataset == "imagenet")
    solver = 4 * 1_268_355 * 768 * 1000 * 10 * 1000 * devices.FLOAT32 / (0.3 * 989e12)
    features = 1_331_167 * flops.known()["vit_b16_clip"] / (0.3 * 989e3)
    assert solver > 3 * features
    assert line.seconds == pytest.approx(estimate.BESIDE + features + solver)


def test_the_demo_takes_on_two_cores_what_is_planned(monkeypatch):
    """It took 375 s (docs/plan.md), 93 of them for the six cells of fine-tuning (README.md)."""
    monkeypatch.setattr(devices, "cpus", lambda: 2)
    lines = plan.make(config_of("digits", "nowhere"), devices.CPU).lines
    assert sum(line.seconds for line in lines) == pytest.approx(375, rel=0.1)
    tuned = [line.seconds for line in lines if line.protocol == "finetune"]
    assert len(tuned) == 6 and sum(tuned) == pytest.approx(93, rel=0.1)


def test_estimates_of_before_are_held_against_what_it_took(tmp_path):
    chosen = config_of(f"{WHO},protocol=knn", tmp_path)
    there = dataclasses.replace(ENVIRONMENT, device_kind=H200, device_count=2)
    judge(chosen, "knn", Cost(60.0), environment=there)  # expected: 30 device seconds, from the table
    made = plan.make(chosen, H200)
    assert made.foresight == {"table": Ratio(1, 4.0, 4.0, 4.0)}
    assert "1 cell took 4 times what was expected from FLOPs and the device table" in plan_table.sentences(made)
    assert plan_table.plain(made)["foresight"]["table"]["median"] == 4.0
    assert plan.make(chosen, "TPU v4").foresight == {}


def test_what_is_missing_is_named_once(tmp_path):
    chosen = gauntlet.get_config("vit_b16_clip,vit_b16_dinov3,benchmark=classification+ood,protocol=knn+ood")
    made = plan.make(chosen, H200)
    weights = [line.weights for line in made.lines if line.weights]
    assert [(one.name, one.by_hand) for one in weights] == [("vit_b16_clip", False), ("vit_b16_dinov3", True)]
    assert weights[0].bytes == pytest.approx(85.8e6 * 4)
    data = [line.data for line in made.lines if line.data]
    names = [one.name for one in data]
    assert len(set(names)) == len(names)
    assert {"imagenet", "cifar10", "imagenet_v2"} <= set(names)
    assert len({"clevr_count", "clevr_distance"} & set(names)) == 1  # two questions of one download
    assert made.totals["bytes_data"] == sum(one.bytes for one in data)
    root = tmp_path / "data"
    (root / "cub").mkdir(parents=True)
    for place, expected in ((tmp_path / "nowhere", "cub"), (root, None)):
        one = fgvc.get_config("vit_b16_random,dataset=cub,protocol=knn")
        one.data.root = str(place)
        (line,) = plan.make(one, H200).lines
        assert (line.data and line.data.name) == expected and line.weights is None


def test_what_nobody_knows_is_counted_and_not_guessed(tmp_path):
    chosen = fgvc.get_config(f"vit_b16_random,dataset=folder:{tmp_path}/birds,protocol=knn")
    made = plan.make(chosen, H200)
    assert made.lines[0].seconds is None and made.totals["unknown"] == 1 and made.hours == 0
    assert made.lines[0].data == plan.Download(f"folder:{tmp_path}/birds", None, True)
    assert f"missing data: 1, of unknown size: folder:{tmp_path}/birds (by hand)" in plan_table.sentences(made)
    other = plan.make(config_of(WHO, tmp_path), "a device of tomorrow")
    assert other.totals["unknown"] == len(other.lines) and other.totals["kilowatt_hours"] is None


def test_devices_by_part_of_their_name():
    assert devices.named("h200") == devices.named("NVIDIA H200") == H200
    assert devices.named("TPU v5") == "TPU v5"  # a name in full, though it is also part of another
    assert devices.power("TPU v5") is None and devices.speed("cpu") > 0
    with pytest.raises(BobError, match="fits several devices: name one of NVIDIA H100 PCIe, NVIDIA H100 80GB HBM3"):
        devices.named("h100")
    with pytest.raises(BobError, match="'abacus' fits no device: name one of cpu, "):
        devices.named("abacus")


def test_plan_of_the_embedded_gauntlet_at_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    judge(config_of(f"{WHO},protocol=knn", tmp_path), "knn", Cost())
    command = ["plan", "configs/gauntlet.py:digits", "--results", str(tmp_path), "--device", "h200", "--price", "4"]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert re.search(r"digits +knn +6 +1 +0 ", shown)
    assert "54 cells, 1 of them done" in shown
    assert "53 are estimates from FLOPs and the assumed share (30% of the published peak)" in shown
    assert "money: " in shown and "energy: " in shown
    assert cli.main([*command, "--cells"]) == 0
    assert re.search(r"vit_nano8_glyphs +digits +knn +0 +done +0 s", capsys.readouterr().out)
    assert cli.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["totals"]["cells"] == len(told["cells"]) == 54
    assert told["utilisation_assumed"] == devices.UTILISATION


def test_overrides_and_limit_are_those_of_main(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    override = "--config.protocols.finetune.epochs=3"
    command = ["plan", "configs/digits.py:vit_nano8_random,protocol=finetune", "--results", str(tmp_path), "--json"]

    def passes(*more):
        assert cli.main([*command, "--device", "h200", *more]) == 0
        return sum(cell["passes"] for cell in json.loads(capsys.readouterr().out)["cells"])

    config = config_file.read(command[1], [override, "--config.data.limit=30"])
    expected = sum(work.of(cell).passes for cell in grid.cells(config))
    assert passes(override, "--limit", "30") == expected
    assert passes(override) > expected and passes() > passes(override)
    config_file.adjust(plain := config_file.read(command[1]), str(tmp_path), 30)
    assert (plain.results, plain.data.limit) == (str(tmp_path), 30)
    with pytest.raises(SystemExit):  # only where a config is read
        cli.main(["results", "--config.data.limit=3"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["configs/gantlet.py:digits"], "no config file 'configs/gantlet.py'"),
        (["configs/argument.py"], "'configs/argument.py' has no get_config"),
        (["README.md"], "'README.md' is no Python file"),
        (["configs/fgvc.py:vit_b16_klip"], "did you mean vit_b16_clip"),
        (["configs/digits.py", "--device", "abacus"], "fits no device"),
        (["configs/digits.py", "--device", ""], "fits several devices"),
        (["configs/digits.py", "--price", "-1"], "--price is -1"),
        (["configs/digits.py", "--price", "inf"], "--price is inf"),
        (["configs/digits.py", "--config.data.limit=-3"], "config.data.limit is -3"),
        (["configs/digits.py", "--config.protocols.finetune.batch_size=0"], "protocols.finetune.batch_size is 0"),
        (["configs/gauntlet.py:digits,benchmark=fgvc"], "take off digits, or benchmark="),
        (["configs/digits.py", "--limit", "0"], "--limit is 0"),
        (["configs/digits.py", "--config.protocols.knn.temprature=1"], "unknown config key"),
        (["configs/digits.py", "--config.protocols.knn.temperature=hot"], "could not convert string to float: 'hot'"),
    ],
)
def test_mistakes_of_plan_are_one_line(words, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["plan", *words]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "own.py:1: invalid syntax"),
        ("import os\nimport nowhere_at_all\n", "own.py:2: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def get_config():\n    return {}\n", "TypeError: get_config() takes 0 positional arguments but 1 was given"),
        ("def get_config(argument):\n    return 1 / 0\n", "own.py:2: ZeroDivisionError: division by zero"),
    ],
)
def test_a_config_file_that_fails_is_one_line_with_its_place(text, message, tmp_path, capsys):
    (tmp_path / "own.py").write_text(text)
    assert cli.main(["plan", str(tmp_path / "own.py")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: the config file fails at ") and message in told and told.count("\n") == 1


def test_without_a_device_here_one_must_be_named(monkeypatch, capsys):
    def held():
        raise RuntimeError("Unable to initialize backend 'tpu':\nThe TPU is already in use by process 7")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(devices.jax, "devices", held)
    assert cli.main(["plan", "configs/digits.py"]) == 2
    told = capsys.readouterr().err
    assert "name one (bob plan --device h200): Unable to initialize" in told and told.count("\n") == 1
    assert cli.main(["plan", "configs/digits.py", "--device", "h200"]) == 0
