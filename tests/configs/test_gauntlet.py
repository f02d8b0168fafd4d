"""All benchmarks at once: the cells of the single benchmarks, no others, in an order that loads each backbone once."""

import csv
import importlib
import itertools
from pathlib import Path

import pytest

from bob_jax import grid
from bob_jax.backbones import zoo
from bob_jax.errors import BobError
from bob_jax.launch import cell as single
from bob_jax.launch import local
from configs import digits, gauntlet
from configs.recipes import BACKBONES


def ids(cells):
    return [cell.id("version", cell.source and cell.source.id("version")) for cell in cells]


def of(argument):
    return grid.cells(gauntlet.get_config(argument))


def test_the_embedded_gauntlet_is_the_digits_benchmark():
    assert ids(of("digits")) == ids(grid.cells(digits.get_config()))
    assert {cell.backbone for cell in of("digits,all")} == set(digits.BACKBONES)


def test_its_cells_are_those_of_the_single_benchmarks():
    backbones = ("vit_b16_clip", "resnet50_in1k")
    together = of(",".join(backbones) + ",seed=0+3")
    single = [
        cell
        for name in gauntlet.BENCHMARKS
        for cell in grid.cells(importlib.import_module(f"configs.{name}").get_config(",".join(backbones) + ",seed=0+3"))
    ]
    assert sorted(ids(together)) == sorted(ids(single))
    assert len(set(ids(together))) == len(together)
    assert {cell.benchmark for cell in together} == set(gauntlet.BENCHMARKS)


@pytest.mark.parametrize("argument", [None, "modern", "all", "digits", "paper,frozen", "modern,protocol=zero_shot+knn"])
def test_every_backbone_is_loaded_once_and_heads_are_there_before_they_are_judged(argument):
    cells = of(argument)
    order = [name for name, _ in itertools.groupby(cell.backbone for cell in cells)]
    assert len(order) == len(set(order))
    seen = set()
    for cell in cells:
        assert cell.source is None or cell.source in seen
        seen.add(cell)


def test_the_paper_s_list_holds_every_row_of_its_retrieval_table():
    table = Path(__file__).parent.parent / "results" / "retrieval_mrr_2023.csv"
    with table.open(encoding="utf-8") as file:
        rows = len(list(csv.DictReader(line for line in file if not line.startswith("#"))))
    assert rows == 33
    assert len(set(gauntlet.PAPER)) == len(gauntlet.PAPER) == 44
    assert {cell.backbone for cell in of(None)} == set(gauntlet.PAPER) <= set(BACKBONES)
    assert not set(gauntlet.PAPER) & set(gauntlet.MODERN)
    assert {zoo.CARDS[name].method for name in gauntlet.MODERN} == set(gauntlet.SINCE)


@pytest.mark.parametrize(
    "argument", ["paper,frozen", "digits,frozen", "vit_b16_mae,frozen,protocol=detection+finetune"]
)
def test_frozen_trains_no_backbone(argument):
    cells = of(argument)
    assert not any(cell.protocol.trains_backbone for cell in cells)
    detectors = [cell.protocol for cell in cells if cell.protocol.name == "detection"]
    assert bool(detectors) == ("digits" not in argument)
    assert all(detector.mode == "frozen" for detector in detectors)
    thawed = of(argument.replace(",frozen", ""))
    assert any(cell.protocol.trains_backbone for cell in thawed)


def test_filters_take_backbones_out():
    cards = [zoo.card(name) for name in {cell.backbone for cell in of("all,commercial,max_parameters=30,protocol=knn")}]
    assert cards and all(card.commercial and card.parameters <= 30 for card in cards)
    licensed = {cell.backbone for cell in of("paper,licence=mit,protocol=knn")}
    assert licensed == {name for name in gauntlet.PAPER if zoo.card(name).licence == "mit"}


def test_benchmarks_protocols_and_heads_can_be_chosen():
    cells = of("vit_b16_clip,benchmark=fgvc+ood,protocol=knn+ood,head=augmented_probe")
    assert {(cell.benchmark, cell.protocol_name) for cell in cells} == {
        ("fgvc", "knn"),
        ("ood", "augmented_probe"),
        ("ood", "ood_augmented_probe"),
    }


def test_a_key_of_a_part_changes_that_part():
    chosen = gauntlet.get_config("vit_b16_clip,protocol=knn")
    chosen.parts.fgvc.protocols.knn.temperature = 0.1
    heat = {(cell.benchmark, cell.protocol.temperature) for cell in grid.cells(chosen)}
    assert heat == {("classification", 0.07), ("fgvc", 0.1)}
    with chosen.unlocked():
        chosen.parts.fgvc.data = {}
    with pytest.raises(BobError, match=r"unknown key in config.parts.fgvc 'data'"):
        grid.cells(chosen)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("papr", "unknown backbone 'papr': did you mean paper"),
        ("vit_b16_klip", "did you mean vit_b16_clip"),
        ("digits,vit_b16_clip", "unknown backbone 'vit_b16_clip'"),
        ("license=mit", "did you mean licence?"),
        ("licence=mitt", "did you mean mit?"),
        ("benchmark=fgcv", "did you mean fgvc?"),
        ("protocol=fintune", "did you mean finetune?"),
        ("max_parameters=small", "max_parameters 'small' is no number"),
        ("paper,max_parameters=1", "no backbone is left"),
        ("frozen,protocol=finetune", "has what 'frozen,protocol=finetune' asks for"),
    ],
)
def test_gauntlet_mistakes_are_one_line(argument, message):
    with pytest.raises(BobError) as error:
        gauntlet.get_config(argument)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_records_go_where_the_single_benchmarks_have_theirs(tmp_path):
    chosen = gauntlet.get_config("digits,vit_nano8_glyphs,protocol=knn+retrieval")
    chosen.data.limit = 20
    chosen.results = str(tmp_path)
    assert local.run(grid.cells(chosen), chosen) == 0
    assert len(list((tmp_path / "digits").glob("*.json"))) == 2
    alone = digits.get_config("vit_nano8_glyphs,protocol=knn")
    alone.data.limit = 20
    assert (tmp_path / "digits" / f"{single.prepare(grid.cells(alone)[0], None).id}.json").exists()
