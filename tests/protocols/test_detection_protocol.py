"""The detection protocol: eight scenes learned by heart, what stands in the record, a picture through what was kept."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from from_timm import FAST_COMPILE
from PIL import Image
from running import environment, run_main

from bob_jax import cli
from bob_jax.backbones import zoo
from bob_jax.data import coco, scenes
from bob_jax.data.base import DetectionDataset
from bob_jax.data.subset import Subset
from bob_jax.errors import BobError
from bob_jax.launch import detect as launch_detect
from bob_jax.metrics.bootstrap import RESAMPLES, percentiles
from bob_jax.protocols import detection_training
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.detection import Detection, Diffusion2023, Hierarchical2023, Plain2023, family
from bob_jax.protocols.detection_training import Trainer
from bob_jax.protocols.tuning import Point
from bob_jax.results.store import Store
from bob_jax.training.mesh import make_mesh, to_host
from configs import detection, digits

IMAGES = 8
NAME = "convnext_nano_glyphs"
# Where nothing is to be learned: as little to compile as shows what is to be seen.
SMALL = {
    "stage_overlaps": (0.5,),
    "stage_weights": (1.0,),
    "width": 32,
    "size": 64,
    "proposals_before": (50, 50),
    "proposals": (50, 20),
    "rois": 16,
    "box_hidden": 32,
}


def write_scenes(root) -> None:
    """Scenes as a user's own COCO folder: training, validation and test images are the same eight."""
    scenes.write(root, {"train": IMAGES})
    content = (root / "annotations" / "instances_train.json").read_text()
    for split in ("validation", "test"):
        (root / split).symlink_to(root / "train")
        (root / "annotations" / f"instances_{split}.json").write_text(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco") / "scenes"
    write_scenes(root)
    return root


@pytest.fixture(scope="module")
def data(folder) -> DetectionDataset:
    return coco.load(folder)


def recipe(**changes) -> Detection:
    return Detection.from_config({**digits.PROTOCOLS["detection"], **SMALL, **changes})


@functools.cache
def competitor(name: str = NAME) -> Competitor:
    return Competitor(zoo.card(name), zoo.load(name).module, "")


def trainer(data, tmp_path, name: str = NAME, **changes) -> Trainer:
    return Trainer(recipe(**changes), competitor(name), data, Context(make_mesh(), tmp_path, num_workers=0))


@pytest.fixture(scope="module")
def learned(folder, tmp_path_factory):
    """A results folder as `main.py` leaves it: one cell, trained on eight scenes until it knows them."""
    results, cache = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("cache")
    overrides = {
        "epochs": 300,  # of one step
        "scale": "(1.0,1.0)",
        "evaluations": 1,
        "warmup_steps": 20,
        "learning_rates": "(3e-3,)",
    }
    done = run_main(
        f"--config=configs/digits.py:{NAME},dataset=coco:{folder},protocol=detection",
        *(f"--config.protocols.detection.{name}={value}" for name, value in overrides.items()),
        f"--results={results}",
        env=environment(cache),
    )
    assert done.returncode == 0, done.stderr
    return results


@pytest.mark.slow
def test_eight_scenes_are_learned_by_heart(learned):
    (record,) = Store(learned).read_all()
    assert record.main_metric == "mask_ap"
    assert record.metrics["box_ap"].value > 0.95
    assert record.metrics["mask_ap50"].value > 0.95
    assert record.metrics["mask_ap"].value > 0.8  # the smallest digit has 13 x 8 pixels: one of them is a tenth


@pytest.mark.slow
def test_a_record_holds_scores_of_boxes_and_masks_outputs_pictures_and_weights(learned, data):
    store = Store(learned)
    (record,) = store.read_all()
    assert {"box_ap", "box_ap75", "mask_ap_small", "mask_ap"} <= set(record.metrics)
    shown = {label for index in range(IMAGES) for label in data.splits["test"][index]["classes"].tolist()}
    assert {name for name in record.metrics if name.startswith("box_ap/")} == {
        f"box_ap/{record.notes['classes'][label]}" for label in shown
    }
    assert all(score.low <= score.value <= score.high and score.higher_is_better for score in record.metrics.values())
    arrays = store.per_example(record.cell.id)
    assert arrays["drawn_mask_ap"][0] == record.metrics["mask_ap"].value
    assert arrays["drawn_box_ap"].shape == (1 + RESAMPLES,)
    assert arrays["detection_box"].shape == (IMAGES, recipe().detections, 4)
    valid = arrays["detection_valid"]
    assert valid.any() and (arrays["detection_score"][valid] > 0).all() and not arrays["detection_score"][~valid].any()
    assert (np.diff(arrays["detection_score"], axis=1) <= 0).all()  # the surest first
    for name in record.notes["pictures"]:
        with Image.open(store.picture(record.cell.id, name)) as picture:
            assert picture.width > picture.height  # truth and what was found, side by side
    assert len(record.notes["pictures"]) == 4
    assert {name.partition(".")[0] for name in store.weights(record.cell.id)} == {"backbone", "heads"}
    journal = (learned / "work" / record.cell.id / "point_00" / "metrics.jsonl").read_text().splitlines()
    last = next(row for row in map(json.loads, reversed(journal)) if "loss" in row)
    assert {"rpn_score", "stage1_box", "stage1_mask", "stage3_score", "counters/proposal_recall"} <= last.keys()
    assert last["counters/proposal_recall"] > 0.9


@pytest.mark.slow
def test_a_picture_through_the_detector_of_a_run(learned, folder, tmp_path, capsys):
    picture = folder / "train" / "000001.png"
    out = tmp_path / "drawn.png"
    assert cli.main(["detect", str(picture), "--run", str(learned), "--json", "--out", str(out)]) == 0
    answer = json.loads(capsys.readouterr().out)
    truth = coco.CocoSource(folder / "annotations" / "instances_train.json", folder / "train")[0]
    assert sorted(one["class"] for one in answer["objects"]) == sorted(str(label) for label in truth["classes"])
    for one in answer["objects"]:
        assert one["score"] >= 0.5
        assert min(np.abs(truth["boxes"] - one["box"]).max(axis=1)) < 6  # pixels
        assert one["mask"]["size"] == list(truth["image"].shape[:2])
    with Image.open(out) as drawn, Image.open(picture) as original:
        assert drawn.width >= original.width
    assert cli.main(["detect", str(picture), "--run", str(learned), "--cell", "nobody"]) == 2
    assert "unknown cell with a detector 'nobody'" in capsys.readouterr().err


def test_what_detect_is_given_wrongly_is_said_in_one_line(tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("no picture")
    for arguments, words in (
        (["a.png", "--run", str(tmp_path)], "no trained detector in"),
        (["a.png", "--run", str(tmp_path / "nowhere")], "no results folder"),
        (["text.png", "--run", str(tmp_path)], "text.png"),
        (["missing.png", "--run", str(tmp_path)], "no picture"),
        ([".", "--run", str(tmp_path)], "no picture"),
        (["a.png", "--threshold", "50"], "a threshold of 50: scores are from 0 to 1"),
        (["a.png", "--threshold", "nan"], "a threshold of nan"),
        (["a.png", "--out", str(tmp_path / "drawn.jpg")], "drawn.jpg a name that ends in .png"),
        (["a.png", "--out", str(tmp_path / "a.png")], "a.png is the picture itself"),
    ):
        assert cli.main(["detect", str(tmp_path / arguments[0]), *arguments[1:]]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "text.png"]


def test_a_picture_is_looked_at_upright(tmp_path, monkeypatch):
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=turned)
    seen = []

    def look(pixels, store, record, name):
        seen.append(pixels.shape)
        raise BobError("enough")

    monkeypatch.setattr(launch_detect, "_detector_of", lambda run, cell: (None, None))
    monkeypatch.setattr(launch_detect, "_look", look)
    with pytest.raises(BobError, match="enough"):
        launch_detect.detect(tmp_path / "a.jpg", tmp_path, cell=None, threshold=0.5, out=tmp_path / "b.png")
    assert seen == [(40, 20, 3)]


def learn(trainer: Trainer, *, gradient: bool = False):
    """The loss on the first training batch and what comes with it; with its gradient, where that is wanted."""
    batch = {name: jnp.asarray(value) for name, value in next(trainer._loader().batches()).items()}
    loss = jax.value_and_grad(trainer._loss(), has_aux=True) if gradient else trainer._loss()
    program = jax.jit(loss, compiler_options=FAST_COMPILE)
    return program(trainer.params, trainer.frozen, trainer.stats, batch, jax.random.key(0))


def test_a_frozen_backbone_has_neither_gradient_nor_optimizer_state_and_the_same_loss(data, tmp_path):
    frozen, tuned = (trainer(data, tmp_path, mode=mode) for mode in ("frozen", "finetune"))
    assert set(frozen.params) == {"heads"} and set(frozen.frozen) == {"backbone"}
    state = jax.eval_shape(frozen._optimizer(1e-3, 10).init, frozen.params)
    sizes = {leaf.shape for leaf in jax.tree.leaves(state)}
    kernel = next(leaf for leaf in jax.tree.leaves(frozen.frozen) if leaf.ndim == 4)
    assert kernel.shape not in sizes
    value, _ = learn(frozen)
    (other, _), grads = learn(tuned, gradient=True)
    np.testing.assert_allclose(value, other, rtol=1e-5)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(grads["backbone"]) if leaf.ndim > 1)


def test_statistics_stay_with_a_pretrained_backbone_and_are_learned_by_a_random_one(data, tmp_path):
    for name, stay in (("resnet10_nano_glyphs", True), ("resnet10_nano_random", False)):
        made = trainer(data, tmp_path, name, mask_heads=0)
        _, aux = learn(made)
        same = [
            np.array_equal(before, after)
            for before, after in zip(jax.tree.leaves(made.stats), jax.tree.leaves(aux.stats), strict=True)
        ]
        assert same and (all(same) if stay else not any(same))


def test_the_stem_learns_at_its_share_of_the_rate_whatever_the_depth(data, tmp_path):
    made = trainer(data, tmp_path, stem_rate=0.1, warmup_steps=0, clip_norm=0.0, weight_decay=0.0)
    tx = made._optimizer(1.0, 10)
    ones = jax.tree.map(np.ones_like, made.params)
    updates, _ = jax.jit(lambda params: tx.update(ones, tx.init(params), params))(made.params)
    size = {path: float(jnp.abs(leaf).mean()) for path, leaf in jax.tree.leaves_with_path(updates)}
    of = {jax.tree_util.keystr(path, simple=True, separator="."): value for path, value in size.items()}
    heads = next(value for name, value in of.items() if name.startswith("heads."))
    stem = next(value for name, value in of.items() if name.startswith("backbone.stem"))
    np.testing.assert_allclose(stem / heads, 0.1, rtol=1e-5)
    between = [value / heads for name, value in of.items() if name.startswith("backbone.stages")]
    assert all(0.1 < share < 1 for share in between)


@pytest.mark.parametrize("total", [3, 6, 8, 1000])
def test_validation_is_scored_no_more_often_than_asked(data, tmp_path, monkeypatch, total):
    made, asked = trainer(data, tmp_path, evaluations=6), {}
    monkeypatch.setattr(detection_training, "fit", lambda *_, **options: asked.update(options))
    made._fit(0, 1e-3, made._loader(), total)
    scored = {step for step in range(1, total + 1) if step % asked["eval_every"] == 0 or step == total}
    assert min(total, 4) <= len(scored) <= 6


def test_data_without_masks_make_a_detector_of_boxes(data, tmp_path):
    made = trainer(dataclasses.replace(data, metric="box_ap"), tmp_path)
    assert made.kinds == ("box",) and not made.detector.heads.mask_heads


def test_images_that_are_shifted_are_scored_beside_and_the_gap_told(data, tmp_path):
    splits = {**data.splits, "shifted": Subset(data.splits["test"], np.arange(4))}
    made = trainer(dataclasses.replace(data, splits=splits), tmp_path, score_threshold=0.0)
    weights = made._whole({"params": made.params, "stats": made.stats})
    scores, drawn = made.scores({split: made.look(weights, split) for split in ("test", "shifted")})
    assert {"box_ap", "shifted_box_ap", "gap_box_ap", "shifted_mask_ap50", "gap_mask_ap"} <= scores.keys()
    for kind in ("box", "mask"):
        gap, clean, shifted = (scores[f"{name}{kind}_ap"] for name in ("gap_", "", "shifted_"))
        np.testing.assert_allclose(gap.value, clean.value - shifted.value, rtol=1e-12, atol=1e-15)
        assert gap.low <= gap.value <= gap.high and gap.n == IMAGES + 4
    assert drawn.keys() == {"box_ap", "mask_ap", "shifted_box_ap", "shifted_mask_ap"}
    for name, values in drawn.items():
        assert values.shape == (1 + RESAMPLES,) and values[0] == scores[name].value
        np.testing.assert_allclose(percentiles(values[1:]), (scores[name].low, scores[name].high))


def test_where_images_are_shifted_they_rank_and_the_draws_of_every_score_are_kept(data, tmp_path, monkeypatch):
    def untrained(self, number, rate):
        weights = to_host(self._whole({"params": self.params, "stats": self.stats}))
        return Point(weights, {"learning_rate": rate, "validation": 0.0}, 0.0, ())

    monkeypatch.setattr(Trainer, "train", untrained)
    splits = {**data.splits, "shifted": Subset(data.splits["test"], np.arange(4))}
    context = Context(make_mesh(), tmp_path, num_workers=0)
    asked = recipe(score_threshold=0.0, learning_rates=(1e-3,))
    result = asked.run(competitor(), dataclasses.replace(data, splits=splits), context)
    assert result.main_metric == "shifted_mask_ap"
    assert result.higher_is_better[result.main_metric] and not result.higher_is_better["gap_mask_ap"]
    for name in ("mask_ap", "shifted_mask_ap"):
        assert result.outputs[f"drawn_{name}"][0] == result.scores[name].value


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_without_objects_is_said_before_anything_is_trained(data, tmp_path, split):
    empty = Subset(data.splits[split], np.zeros(0, int))
    with pytest.raises(BobError, match=f"the {split} split of .* holds no object"):
        trainer(dataclasses.replace(data, splits={**data.splits, split: empty}), tmp_path)


def test_every_image_is_looked_at_once_and_boxes_are_in_pixels_of_the_file(data, tmp_path):
    made = trainer(data, tmp_path, score_threshold=0.0, size=96)
    weights = made._whole({"params": made.params, "stats": made.stats})
    seen = made.look(weights, "test")
    assert seen.found.images == tuple(data.splits["test"].ids) and len(seen.index) == IMAGES
    for row in range(IMAGES):
        height, width = data.splits["test"][row]["image"].shape[:2]
        boxes = seen.found.boxes[seen.found.image == row]
        assert len(boxes) and (boxes >= 0).all() and (boxes <= np.array([width, height, width, height]) + 1e-3).all()
        mine = np.flatnonzero(seen.found.image == row)
        assert all(seen.found.masks[i]["size"] == [height, width] for i in mine)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "frosen"}, "frozen"),
        ({"views": "jiter"}, "jitter"),
        ({"schedule": "step"}, "steps"),
        ({"stem_rate": 0.0}, "stem_rate is 0.0"),
        ({"evaluations": 0}, "evaluations is 0: it must be at least 1"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0: it must be at least 0"),
        ({"learning_rates": (1e-4, 0.0)}, "learning_rates is .*: it must be above 0"),
        ({"flip": 1.5}, "flip is 1.5: it must be at least 0 and at most 1"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
        ({"scale": (2.0, 0.1)}, "scale is .*: the smaller number comes first"),
        ({"batch_size": 10, "accumulate": 3}, "batch_size is 10: it must be a multiple of accumulate, 3"),
        ({"proposal_overlap": 7.0}, "from 0 to 1, they are 0.5, 7"),
        ({"detections": 0}, "detections, box_fcs and anchor_scale must be above 0"),
        ({"stage_weights": (1.0, 0.5)}, "stage_weights"),
        ({"mask_heads": 2}, "2 mask_heads"),
        ({"box_loss": "l7"}, "box_loss 'l7'"),
    ],
)
def test_a_recipe_that_cannot_be_is_said_in_one_line(changes, words):
    with pytest.raises(BobError, match=words):
        recipe(**changes)


def test_a_canvas_smaller_than_a_patch_is_refused(data, tmp_path):
    with pytest.raises(BobError, match=r"size 4: vit_nano8_random takes multiples of 8 pixels; raise it"):
        trainer(data, tmp_path, "vit_nano8_random", size=4)
    assert trainer(data, tmp_path, "vit_nano8_random", size=100).detector.size == 96


@pytest.mark.parametrize("architecture", sorted({card.architecture for card in zoo.CARDS.values()}))
def test_the_families_of_2023_are_told_by_what_a_backbone_gives(architecture):
    card = next(card for card in zoo.CARDS.values() if card.architecture == architecture)
    strides = zoo.skeleton(card.name).strides
    if family(card) != "diffusion":
        assert (family(card) == "plain") == (len(set(strides)) == 1)
    fit = [kind.name for kind in (Hierarchical2023, Plain2023, Diffusion2023) if kind.families == family(card)]
    assert fit == [f"bob2023_{family(card)}"]
    for kind in (Hierarchical2023, Plain2023, Diffusion2023):
        protocol = kind.from_config(detection.PROTOCOLS[kind.name])
        assert (protocol.unfit(card, "coco") is None) == (kind.name in fit)
