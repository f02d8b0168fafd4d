"""What a record has beside the scores of its protocol: the effect of duplicates, and where a head came from."""

import numpy as np
import pytest

from bob_jax import grid
from bob_jax.data import duplicates
from bob_jax.launch import cell as single
from bob_jax.launch import local, settle
from bob_jax.results.store import Store
from configs import digits


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))


def run(folder, argument: str) -> list:
    config = digits.get_config(f"resnet10_nano_glyphs,{argument}")
    config.results = str(folder)
    assert local.run(grid.cells(config), config) == 0
    return Store(folder).read_all()


def test_the_score_without_duplicates_stands_beside_the_score(cache, tmp_path):
    (before,) = run(tmp_path / "before", "protocol=knn,dataset=digits")
    assert "accuracy_without_duplicates" not in before.metrics and "test_images_also_in_train" not in before.notes
    splits = single.load_dataset("digits", None, None, 0).splits
    outputs = Store(tmp_path / "before").per_example(before.cell.id)
    wrong = outputs["id"][~outputs["correct"]][:2]
    twins = [duplicates.Twin(name, splits["train"].ids[0], 1.0) for name in wrong]
    duplicates.keep(splits["train"], splits["test"], "nearest", twins, backbone="by hand")
    (after,) = run(tmp_path / "after", "protocol=knn,dataset=digits")
    assert after.notes["test_images_also_in_train"] == 2
    score = after.metrics["accuracy_without_duplicates"]
    kept = ~np.isin(outputs["id"], wrong)
    assert score.n == 358 and score.value == pytest.approx(outputs["correct"][kept].mean())
    assert score.value > after.metrics["accuracy"].value == before.metrics["accuracy"].value


def test_one_source_serves_all_its_targets_and_trains_nothing_twice(cache, tmp_path, monkeypatch):
    from bob_jax.protocols.linear_probe import LinearProbe

    trained = []
    fit = LinearProbe.run
    monkeypatch.setattr(LinearProbe, "run", lambda self, *args: trained.append(args[1].name) or fit(self, *args))
    records = run(tmp_path, "protocol=ood,dataset=digits_c")
    assert trained == ["digits"]
    assert {record.cell.protocol for record in records} == {"linear_probe", "ood_linear_probe"}
    source, shifted = sorted(records, key=lambda record: record.cell.protocol)
    assert shifted.source_cell == source.cell.id and Store(tmp_path).has_weights(source.cell.id)
    assert shifted.notes["temperature"] == source.notes["temperature"] and shifted.selection is None
    assert shifted.metrics["clean_accuracy"].value == pytest.approx(source.metrics["accuracy"].value)
    gap = shifted.metrics["gap_accuracy"]
    assert gap.value == pytest.approx(shifted.metrics["clean_accuracy"].value - shifted.metrics["accuracy"].value)
    assert gap.low > 0 and {"ece", "ece_scaled", "accuracy_blur_5"} <= shifted.metrics.keys()
    other = run(tmp_path, "protocol=linear_probe+ood,dataset=digits+digits_c")
    assert trained == ["digits"] and len(other) == 2


def test_a_head_that_failed_fails_what_judges_it_in_one_line(cache, tmp_path, monkeypatch, capsys):
    from bob_jax.protocols.linear_probe import LinearProbe

    def fail(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(settle, "PAUSE", 0.0)
    monkeypatch.setattr(LinearProbe, "run", fail)
    config = digits.get_config("resnet10_nano_glyphs,protocol=ood,dataset=digits_c")
    config.results = str(tmp_path)
    assert local.run(grid.cells(config), config) == 1
    shown = capsys.readouterr()
    assert "its head is missing: resnet10_nano_glyphs x digits x linear_probe (seed 0) has no record" in shown.err
    assert len(Store(tmp_path).failures()) == 2


def test_the_backbone_is_built_with_the_window_that_the_protocol_asks_for(cache, tmp_path, monkeypatch):
    from bob_jax.protocols.knn import KNN
    from bob_jax.training.mesh import make_mesh

    seen = []
    monkeypatch.setattr(KNN, "attention_window", lambda self: 2)
    monkeypatch.setattr(KNN, "run", lambda self, competitor, *rest: seen.append(competitor.module) or 1 / 0)
    config = digits.get_config("vit_nano8_random,protocol=knn,dataset=digits")
    (cell,) = grid.cells(config)
    with pytest.raises(ZeroDivisionError):
        single.run(single.prepare(cell, None), make_mesh(), tmp_path, None, Store(tmp_path))
    assert seen[0].window == 2
    assert single.load_competitor("vit_nano8_random", 0.0, 0, make_mesh()).module.window == 0
