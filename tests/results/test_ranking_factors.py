import dataclasses

import numpy as np
import pytest
from scipy import stats
from synthetic_records import simulate, simulate_detection

from bob_jax.backbones import pretraining, zoo
from bob_jax.metrics import bootstrap
from bob_jax.results.boards import boards
from bob_jax.results.ranking import factors
from bob_jax.results.ranking.standings import rank

# Methods that are neither one thing nor the other, each looked at: teachers that had labels or texts, labels of other
# kinds (tags, masks, depth), a generator, chance.
BETWEEN = {
    *("clip+supervised", "fcmae+supervised", "noisy student", "swag", "sam", "midas", "diffusion", "random"),
    *("eva02", "beitv2", "eupe"),
}
VIT = {"architecture": "vit", "arguments": {"input_size": 224, "width": 768, "depth": 12, "num_heads": 12}}
SMALL = {"architecture": "vit", "arguments": {"input_size": 224, "width": 384, "depth": 12, "num_heads": 6}}
RESNET = {"architecture": "resnet", "arguments": {"input_size": 224, "stages": [3, 4, 6, 3]}}
CARDS = {
    "vit_sup": VIT | {"method": "supervised", "data": "ImageNet-1k", "parameters": 86.0},
    "vit_mae": VIT | {"method": "mae", "data": "ImageNet-1k", "parameters": 86.0},
    "vit_dino": VIT | {"method": "dino", "data": "ImageNet-1k", "parameters": 86.0},
    "vit_clip": VIT | {"method": "clip", "data": "LAION-2B", "parameters": 86.0},
    "vit_s_sup": SMALL | {"method": "supervised", "data": "ImageNet-1k", "parameters": 22.0},
    "vit_s_dino": SMALL | {"method": "dino", "data": "ImageNet-1k", "parameters": 22.0},
    "rn_sup": RESNET | {"method": "supervised", "data": "ImageNet-1k", "parameters": 23.5},
    "rn_sup22k": RESNET | {"method": "supervised", "data": "ImageNet-22k", "parameters": 23.5},
    "sd": {"architecture": "stable_diffusion", "arguments": {}, "method": "diffusion", "data": "LAION-5B"},
}
ACCURACY = dict(zip(CARDS, (0.8, 0.6, 0.84, 0.9, 0.7, 0.72, 0.65, 0.75, 0.4), strict=True))


def with_card(made, card, **cost):
    done, out = made
    backbone = dataclasses.replace(done.backbone, card=card | {"name": done.cell.backbone})
    return dataclasses.replace(done, backbone=backbone, cost=dataclasses.replace(done.cost, **cost)), out


@pytest.fixture(scope="module")
def made():
    return [
        with_card(simulate(name, dataset=dataset, accuracy=ACCURACY[name]), card, images_per_second=1000.0 + i)
        for dataset in ("digits", "pets")
        for i, (name, card) in enumerate(CARDS.items())
    ]


@pytest.fixture(scope="module")
def ranking(made):
    records = [done for done, _ in made]
    outputs = {done.cell.id: out for done, out in made}
    return rank(boards(records, outputs.get), records, outputs.get)


@pytest.fixture(scope="module")
def known(made):
    return factors.facts([done for done, _ in made], pretraining.images)


def test_every_card_of_the_zoo_is_placed():
    sorted_out = {method for methods in factors.SUPERVISIONS.values() for method in methods}
    assert {card.method for card in zoo.CARDS.values()} == sorted_out | BETWEEN
    assert not sorted_out & BETWEEN
    families = {}
    for card in zoo.CARDS.values():
        families.setdefault(factors.family(dataclasses.asdict(card)), set()).add(card.architecture)
    assert families == {
        "ViT": set(factors.FAMILIES["ViT"]),
        "CNN": {*factors.FAMILIES["CNN"], "timm"},
        "other": {"stable_diffusion"},
    }
    assert set(factors.SIZES) - {"groups"} <= {name for card in zoo.CARDS.values() for name in card.arguments}


def test_facts_of_a_card(known):
    one = known["vit_clip"]
    assert (one.family, one.supervision, one.method, one.data) == ("ViT", "vision-language", "clip", "LAION-2B")
    assert one.network == "vit, input_size 224, width 768, depth 12, num_heads 12"
    assert (one.parameters, one.flops, one.images_per_second) == (86.0, 17.58e9, 1003.0)
    assert one.pretraining_images == 2_320_000_000
    assert known["sd"].parameters is None
    assert known["sd"].family == known["sd"].supervision == "other"
    assert known["vit_mae"].network == known["vit_sup"].network != known["vit_s_sup"].network


def test_a_card_that_says_nothing():
    done, _ = simulate("mine")
    done = dataclasses.replace(done, backbone=dataclasses.replace(done.backbone, card={}))
    one = factors.facts([done], lambda _: None)["mine"]
    assert (one.family, one.supervision, one.network, one.parameters) == ("other", "other", "unknown", None)


def test_details_make_no_other_network():
    card = dataclasses.asdict(zoo.card("vit_b16_mocov3"))
    done, _ = with_card(simulate("x"), card)
    twin, _ = with_card(simulate("y"), dataclasses.asdict(zoo.card("vit_b16_dino")))
    known = factors.facts([done, twin], pretraining.images)
    assert known["x"].network == known["y"].network
    assert known["x"].data == known["y"].data


def test_speed_is_compared_on_one_device():
    made = [simulate("a"), simulate("b"), simulate("a", dataset="pets")]
    made[2] = with_card(made[2], {}, images_per_second=9e9)
    made[2] = (
        dataclasses.replace(made[2][0], environment=dataclasses.replace(made[2][0].environment, device_kind="TPU v4")),
        made[2][1],
    )
    made.append(with_card(simulate("c"), {}, images_per_second=None))
    known = factors.facts([done for done, _ in made], lambda _: None)
    assert {name: one.images_per_second for name, one in known.items()} == {"a": 1234.5, "b": 1234.5, "c": None}


def test_cost_is_that_of_the_backbone_on_its_own_input():
    """A detector on large pictures says nothing of it, however many detectors there are; alone they are compared."""
    plain = with_card(simulate("a"), {}, flops_per_image=17e9, images_per_second=1000.0)[0]
    large = [
        with_card(simulate_detection(name, dataset=dataset), {}, flops_per_image=9e11, images_per_second=20.0)[0]
        for name in ("a", "b")
        for dataset in ("coco", "lvis")
    ]
    large = [
        dataclasses.replace(one, environment=dataclasses.replace(one.environment, device_kind="TPU v4"))
        for one in large
    ]
    known = factors.facts([plain, *large], lambda _: None)
    assert (known["a"].flops, known["a"].images_per_second) == (17e9, 1000.0)
    assert (known["b"].flops, known["b"].images_per_second) == (None, None)
    assert factors.most_common_device([plain, *large])[0] == plain.environment.device_kind
    assert {one.flops for one in factors.facts(large, lambda _: None).values()} == {9e11}


@pytest.mark.parametrize("quantity", ["parameters", "flops", "images_per_second", "pretraining_images"])
def test_against_is_the_rank_correlation_of_those_that_are_known(ranking, known, quantity):
    found = factors.against(ranking, known, quantity)
    assert list(found) == ["all", "ViT", "CNN"]
    for group, one in found.items():
        names = [n for n in CARDS if group in ("all", known[n].family) and getattr(known[n], quantity) is not None]
        assert one.n == len(names)
        value = [ranking.value[ranking.table.backbones.index(name)] for name in names]
        amount = [getattr(known[name], quantity) for name in names]
        if len(set(amount)) == 1:
            assert one.value is None
        else:
            assert one.value == pytest.approx(stats.spearmanr(value, amount).statistic)


def test_apples_to_apples(ranking, known):
    first, second = factors.apples_to_apples(ranking, known)
    assert first.backbones == (("dino", "vit_dino"), ("supervised", "vit_sup"), ("mae", "vit_mae"))
    assert (first.network, first.data) == (known["vit_sup"].network, "ImageNet-1k")
    assert second.backbones == (("dino", "vit_s_dino"), ("supervised", "vit_s_sup"))


def test_contrasts_are_means_over_matches(ranking, known):
    z = dict(zip(ranking.table.backbones, ranking.value, strict=True))
    drawn = dict(zip(ranking.table.backbones, ranking.drawn.T, strict=True))

    def difference(of):
        large = (of["vit_dino"] + of["vit_mae"]) / 2 - of["vit_sup"]
        return (large + of["vit_s_dino"] - of["vit_s_sup"]) / 2

    over_all, in_task = factors.contrasts(ranking, known)
    assert (over_all.task, over_all.first, over_all.second) == ("all", "self-supervised", "supervised")
    assert over_all.difference.value == pytest.approx(difference(z))
    assert [over_all.difference.low, over_all.difference.high] == pytest.approx(
        bootstrap.percentiles(difference(drawn)).tolist()
    )
    assert over_all.difference.n == 2
    assert over_all.difference.low < over_all.difference.value < over_all.difference.high < 0  # MAE is far behind
    assert in_task.task == "classification"
    assert in_task.difference == over_all.difference  # the only task
    turned = factors.contrasts(ranking, known, "supervised", "self-supervised")[0]
    assert turned.difference.value == pytest.approx(-over_all.difference.value)


def test_no_match_is_no_contrast(ranking, known):
    assert factors.contrasts(ranking, known, "vision-language") == []
    alone = {name: dataclasses.replace(one, network=name) for name, one in known.items()}
    assert factors.apples_to_apples(ranking, alone) == []
    assert factors.contrasts(ranking, alone) == []


def test_a_task_that_a_match_lacks_has_no_contrast(ranking, known):
    holes = ranking.task_z.copy()
    holes[ranking.table.backbones.index("vit_sup")] = np.nan
    found = factors.contrasts(dataclasses.replace(ranking, task_z=holes), known)
    assert [one.task for one in found] == ["all"]
