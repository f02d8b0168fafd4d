"""The grammar of the text after the colon."""

import pytest

from bob_jax.errors import BobError
from configs.argument import Choice, Offer, parse

OFFERED = Offer(
    backbones=("vit_b16_clip", "vit_b16_dino", "resnet50_in1k"),
    datasets=("cub", "cars"),
    protocols=("knn", "finetune"),
    default_backbones=("vit_b16_clip",),
    heads=("linear_probe", "finetune"),
    default_heads=("linear_probe",),
)
HEADS = ("linear_probe",)


@pytest.mark.parametrize("argument", [None, "", " , "])
def test_nothing_takes_the_defaults(argument):
    assert parse(argument, OFFERED) == Choice(("vit_b16_clip",), ("cub", "cars"), ("knn", "finetune"), HEADS, (0,))


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("vit_b16_dino", (("vit_b16_dino",), ("cub", "cars"), ("knn", "finetune"), HEADS, (0,))),
        ("all", (OFFERED.backbones, ("cub", "cars"), ("knn", "finetune"), HEADS, (0,))),
        (
            "vit_b16_dino,resnet50_in1k",
            (("vit_b16_dino", "resnet50_in1k"), ("cub", "cars"), ("knn", "finetune"), HEADS, (0,)),
        ),
        ("vit_b16_clip,dataset=cub,protocol=finetune", (("vit_b16_clip",), ("cub",), ("finetune",), HEADS, (0,))),
        ("dataset=cub+cars, seed=0+3", (("vit_b16_clip",), ("cub", "cars"), ("knn", "finetune"), HEADS, (0, 3))),
        ("backbone=all,protocol=knn", (OFFERED.backbones, ("cub", "cars"), ("knn",), HEADS, (0,))),
        ("head=finetune", (("vit_b16_clip",), ("cub", "cars"), ("knn", "finetune"), ("finetune",), (0,))),
        ("dataset=folder:birds", (("vit_b16_clip",), ("folder:birds",), ("knn", "finetune"), HEADS, (0,))),
        ("vit_b16_dino,vit_b16_dino", (("vit_b16_dino",), ("cub", "cars"), ("knn", "finetune"), HEADS, (0,))),
    ],
)
def test_what_is_named_is_taken(argument, expected):
    assert parse(argument, OFFERED) == Choice(*expected)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("vit_b16_klip", "unknown backbone 'vit_b16_klip': did you mean vit_b16_clip"),
        ("dataset=cup", "unknown dataset 'cup': did you mean cub?"),
        ("protocol=fine_tune", "did you mean finetune?"),
        ("datasets=cub", "unknown key in the config's argument 'datasets': did you mean dataset?"),
        ("seed=x", "seed 'x' is not a whole number"),
        ("seed=-1", "seed '-1' is not a whole number"),
    ],
)
def test_mistakes_are_one_line_with_the_nearest_name(argument, message):
    with pytest.raises(BobError) as error:
        parse(argument, OFFERED)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
