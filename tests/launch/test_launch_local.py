"""Which cells run, and what is kept of them; the judging itself is replaced."""

import dataclasses
import json

import numpy as np
import pytest
from synthetic_records import simulate

from bob_jax import grid
from bob_jax.launch import cell as single
from bob_jax.launch import local, settle
from bob_jax.results.store import Store
from configs import digits, gauntlet

WEIGHTS = {"head.kernel": np.ones((2, 3), np.float32)}


@pytest.fixture
def ran(monkeypatch):
    """The cells that were judged, in order."""
    cells: list[grid.Cell] = []

    def run(job, *_):
        cells.append(job.cell)
        record, outputs = simulate(job.cell.backbone, n=20)
        dataset = dataclasses.replace(record.dataset, version=job.dataset.version)
        hyperparameters = json.loads(json.dumps(job.cell.hyperparameters))
        record = dataclasses.replace(
            record,
            cell=single.describe(job),
            dataset=dataset,
            protocol=dataclasses.replace(record.protocol, hyperparameters=hyperparameters),
            source_cell=job.source_id,
        )
        return single.Judged(record, outputs, WEIGHTS if job.cell.protocol.makes_head else None, {})

    monkeypatch.setattr(single, "run", run)
    return cells


def run(folder, keep_weights: bool) -> int:
    config = digits.get_config("vit_nano8_random,protocol=knn+finetune")
    config.results, config.keep_weights = str(folder), keep_weights
    return local.run(grid.cells(config), config)


def test_weights_are_kept_when_asked_for_also_of_a_cell_that_has_a_record(ran, tmp_path):
    store = Store(tmp_path)
    assert run(tmp_path, keep_weights=False) == 0
    assert [cell.protocol.name for cell in ran] == ["knn", "finetune"]
    ids = {record.cell.protocol: record.cell.id for record in store.read_all()}
    assert not any(map(store.has_weights, ids.values()))
    assert run(tmp_path, keep_weights=True) == 0
    assert [cell.protocol.name for cell in ran[2:]] == ["finetune"]  # neighbours leave no weights to wait for
    np.testing.assert_array_equal(store.weights(ids["finetune"])["head.kernel"], WEIGHTS["head.kernel"])
    for keep_weights in (True, False):
        assert run(tmp_path, keep_weights) == 0
    assert len(ran) == 3


def test_a_record_says_what_was_expected_of_its_cell(ran, tmp_path):
    config = digits.get_config("vit_nano8_random,protocol=knn+linear_probe,dataset=digits")
    config.results = str(tmp_path)
    cells = grid.cells(config)
    foreseen = {cell.protocol_name: one for cell, one in settle.expected(cells, config, "cpu").items()}
    assert local.run(cells, config) == 0
    told = {record.cell.protocol: record.estimate for record in Store(tmp_path).read_all()}
    assert told == foreseen
    assert (told["knn"].source, told["knn"].passes, told["knn"].shared) == ("table", 1797, 0)
    assert (told["linear_probe"].passes, told["linear_probe"].shared) == (0, 1797)  # the features are knn's
    assert told["knn"].seconds > told["linear_probe"].seconds
    assert settle.expected(cells, config, "cpu") == {}  # all done
    config.seeds = (1,)
    again = settle.expected(grid.cells(config), config, "cpu")
    device_seconds = {
        record.cell.protocol: record.cost.wall_seconds * record.environment.device_count
        for record in Store(tmp_path).read_all()
    }
    assert {cell.protocol_name: one.source for cell, one in again.items()} == {"knn": "cell", "linear_probe": "cell"}
    assert {cell.protocol_name: one.seconds for cell, one in again.items()} == device_seconds


def test_a_damaged_record_takes_the_estimates_and_not_the_run(ran, tmp_path, capsys):
    (tmp_path / "digits-knn-x-s0-abc.json").write_text("{")
    assert run(tmp_path, keep_weights=False) == 0
    assert capsys.readouterr().err.startswith("no estimates: ") and len(ran) == 2


def gauntlet_with_twins(folder):
    """Two benchmarks with the same cells, of which the second judges the heads too."""
    chosen = gauntlet.get_config("digits,vit_nano8_random,protocol=linear_probe+adversarial")
    first, second = chosen.parts.digits.to_dict(), chosen.parts.digits.to_dict()
    first |= {"benchmark": "another", "protocols": {"linear_probe": first["protocols"]["linear_probe"]}, "heads": {}}
    first["datasets"] = second["datasets"] = ("digits",)
    del second["protocols"]["linear_probe"]
    chosen.parts = {"another": first, "digits": second}
    chosen.results = str(folder)
    return chosen


def test_a_head_that_another_benchmark_has_trained_is_taken_over(ran, tmp_path):
    chosen = gauntlet_with_twins(tmp_path)
    cells = grid.cells(chosen)
    assert [(cell.benchmark, cell.protocol_name) for cell in cells] == [
        ("another", "linear_probe"),
        ("digits", "linear_probe"),
        ("digits", "adversarial_linear_probe"),
    ]
    told = list(settle.expected(cells, chosen, "cpu").values())
    assert told[0].seconds > 0 and (told[1].seconds, told[1].passes) == (0, 0)
    assert local.run(cells, chosen) == 0
    assert [(cell.benchmark, cell.protocol_name) for cell in ran] == [
        ("another", "linear_probe"),
        ("digits", "adversarial_linear_probe"),
    ]
    plain, digits_ = Store(tmp_path / "another"), Store(tmp_path / "digits")
    (trained,) = plain.read_all()
    copied = {record.cell.protocol: record for record in digits_.read_all()}["linear_probe"]
    assert copied == dataclasses.replace(trained, cell=copied.cell) and copied.cell.benchmark == "digits"
    assert copied.cell.id == cells[1].id(copied.dataset.version)
    np.testing.assert_array_equal(digits_.weights(copied.cell.id)["head.kernel"], WEIGHTS["head.kernel"])
    assert list(digits_.per_example(copied.cell.id)["id"]) == list(plain.per_example(trained.cell.id)["id"])
    assert local.run(cells, chosen) == 0 and len(ran) == 2
    assert settle.expected(cells, chosen, "cpu") == {}


def test_what_another_benchmark_has_judged_is_done_for_the_plan(ran, tmp_path):
    chosen = gauntlet_with_twins(tmp_path)
    cells = grid.cells(chosen)
    assert local.run(cells[:1], chosen) == 0  # alone, so that its weights were not kept
    assert [cell.benchmark for cell in settle.expected(cells, chosen, "cpu")] == ["another", "digits", "digits"]
    chosen.keep_weights = True
    assert local.run(cells[:1], chosen) == 0
    chosen.keep_weights = False
    assert [cell.protocol_name for cell in settle.expected(cells, chosen, "cpu")] == ["adversarial_linear_probe"]
    chosen.parts.digits.heads.linear_probe.tolerance = 1e-3  # another head: nothing is taken over
    assert [cell.benchmark for cell in settle.expected(grid.cells(chosen), chosen, "cpu")] == ["digits", "digits"]
