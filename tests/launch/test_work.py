"""Passes of every protocol, by hand; sizes of splits, against the data themselves."""

import dataclasses
import importlib

import pytest

from bob_jax import grid
from bob_jax.data import catalog
from bob_jax.launch import detector_work, work
from configs import gauntlet

FILES = (*gauntlet.BENCHMARKS, "digits", "glyphs")


def of(file, argument):
    return grid.cells(importlib.import_module(f"configs.{file}").get_config(argument))


@pytest.mark.parametrize(
    "name", ["digits", "digits@5shot", "digits@10pct", "digits_c", "digits_from_print", "digits_retrieval"]
)
@pytest.mark.parametrize("limit", [None, 20])
def test_sizes_are_those_of_the_data(name, limit):
    splits = catalog.load(name, limit=limit).splits
    found = work.sizes(name, limit)
    assert found.keys() == splits.keys()
    for split, source in splits.items():
        rounding = 10 / 2 if "pct" in name and limit is None else 0  # ten classes, each rounded by itself
        assert abs(found[split] - len(source)) <= rounding, split


def test_held_out_images_are_taken_from_what_they_are_held_out_of():
    assert work.sizes("cub", None) == {"train": 4795, "validation": 1199, "test": 5794}
    assert work.sizes("eurosat", None) == {"train": 16200, "validation": 5400, "test": 5400}
    assert work.sizes("imagenet", None) == {"train": 1268355, "validation": 12812, "test": 50000}
    assert sum(work.sizes("sim10k", None).values()) == 10_000


def test_own_images_are_counted_and_unknown_where_they_are_not(tmp_path):
    assert work.sizes(f"folder:{tmp_path}/nothing", None) is None
    (cell,) = of("fgvc", f"vit_b16_clip,dataset=folder:{tmp_path}/nothing,protocol=knn")
    assert work.of(cell) is None


@pytest.mark.parametrize("file", FILES)
def test_every_protocol_is_counted(file):
    cells = of(file, "protocol=all,head=all")
    for cell in cells:
        task = work.of(cell)
        assert task is not None and task.passes + sum(task.features.values()) > 0, cell


def test_a_frozen_backbone_sees_an_image_once():
    knn, probe, augmented = (
        work.of(cell) for cell in of("fgvc", "vit_b16_clip,dataset=cub,protocol=knn+linear_probe+augmented_probe")
    )
    assert knn.features == probe.features and probe.passes == knn.float32 == 0
    assert sum(knn.features.values()) == 5994 + 5794 and knn.passes == 0
    assert augmented.features.keys() < knn.features.keys() and augmented.passes == 90 * 4795


def test_the_solver_of_a_probe_counts_two_products_for_each_lambda_and_iteration(tmp_path):
    cells = of("fgvc", f"vit_b16_clip,dataset=cub+folder:{tmp_path},protocol=linear_probe")
    probe, own = (work.of(cell, count=lambda *_: work.sizes("cub", None)) for cell in cells)
    logits = gradient = 2 * 4795 * 768 * 200
    assert probe.float32 == pytest.approx((logits + gradient) * 10 * 1000 / 1e9)
    assert own.float32 == 0  # how many classes they are is not known


def test_finetuning_counts_its_grid_and_its_limits_of_steps():
    (cell,) = of("fgvc", "vit_b16_clip,dataset=cub,protocol=finetune")
    point = 3 * 1000 * 256 + 5 * 1199  # 50 epochs are 937 steps: fewer than min_steps
    assert work.of(cell).passes == 3 * point + 1199 + 5794
    (large,) = of("classification", "vit_b16_clip,dataset=imagenet,protocol=finetune")
    assert work.of(large).passes == 3 * (3 * 100_000 * 256 + 5 * 12812) + 12812 + 50000


def test_heads_on_one_backbone_share_the_features_of_a_shift_and_finetuned_ones_do_not():
    cells = of("ood", "vit_b16_clip,dataset=imagenet_v2,head=linear_probe+augmented_probe+finetune")
    linear, augmented, tuned = (work.of(cell) for cell in cells if cell.source)
    assert linear == augmented
    assert list(linear.features.values()) == list(tuned.features.values()) == [10_000, 50_000]
    assert not linear.features.keys() & tuned.features.keys()
    probe = next(work.of(cell) for cell in cells if cell.protocol.name == "linear_probe")
    assert linear.features.keys() & probe.features.keys() == {("vit_b16_clip", "imagenet", "test")}


def test_attacks_count_every_gradient_of_every_budget():
    *_, cell = of("robustness", "vit_b16_clip,dataset=imagenet")
    assert work.of(cell).passes == 1000 * 7 * (3 * (1 + 20 + 50 * (1 + 9)) + 1000)


def test_images_that_are_query_and_gallery_are_described_once_and_a_folder_of_several_questions_too():
    (cell,) = of("retrieval", "vit_b16_clip,dataset=objectnet")
    assert sum(work.of(cell).features.values()) == 50273
    larger = dataclasses.replace(cell.protocol, input_size=448, scales=(1.0, 0.5))
    assert sum(work.of(dataclasses.replace(cell, protocol=larger)).features.values()) == 50273 * 4 * 1.25
    public, private = (work.of(cell) for cell in of("retrieval", "vit_b16_clip,dataset=gldv2_public+gldv2_private"))
    assert sum(public.features[key] for key in public.features.keys() & private.features.keys()) == 761757


def test_a_frozen_backbone_below_a_detector_is_not_differentiated():
    (cell,) = of("detection", "vit_b16_mae,dataset=coco")
    frozen = dataclasses.replace(cell, protocol=dataclasses.replace(cell.protocol, mode="frozen"))
    tuned, still = work.of(cell), work.of(frozen)
    train = len(cell.protocol.learning_rates) * cell.protocol.epochs * work.sizes("coco", None)["train"]
    assert tuned.passes - still.passes == pytest.approx(2 * train * (1024 / 224) ** 2)
    assert tuned.gflops == still.gflops


@pytest.mark.parametrize(("training", "gflops"), [(True, 1665 / 3 - 506 / 3), (False, 572 - 171)])
def test_a_detector_costs_what_the_compiler_counts(training, gflops):
    """Of docs/performance.md: the steps of ResNet-50 without the backbone, at 1024 x 1024."""
    (cell,) = of("detection", "resnet50_in1k,dataset=coco")
    assert detector_work.gflops(cell.protocol, 1024**2, training=training) == pytest.approx(gflops, rel=0.08)


def test_pictures_on_several_canvases_are_as_large_as_their_canvas():
    (one,) = of("detection", "resnet50_in1k,dataset=coco,protocol=bob2023_hierarchical")
    train = len(one.protocol.learning_rates) * one.protocol.epochs * work.sizes("coco", None)["train"]
    frozen = dataclasses.replace(one, protocol=dataclasses.replace(one.protocol, mode="frozen"))
    assert work.of(one).passes - work.of(frozen).passes == pytest.approx(2 * train * 800 * 1088 / 224**2)


def test_a_design_of_2023_costs_more_in_its_heads():
    (now,) = of("detection", "resnet50_in1k,dataset=coco")
    then = dataclasses.replace(now.protocol, box_convs=4, box_fcs=1, mask_heads=3)
    more = detector_work.gflops(then, 1024**2, training=True) - detector_work.gflops(
        now.protocol, 1024**2, training=True
    )
    assert more == pytest.approx((396 - 43) + (407 - 136), rel=0.05)  # by hand, docs/performance.md
