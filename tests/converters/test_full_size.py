"""Full-size networks of the families whose own tests are small, beside their originals, stage by stage.

Random weights that hide nothing, converted by the family's table. (ViT, ResNet, ConvNeXt, Swin V2, Eva and BEiT have a
full-size test among their own.)
"""

import dataclasses

import jax.numpy as jnp
import pytest
from converter_models import numpy_state
from from_timm import randomise

from bob_jax.backbones import parameters, zoo
from converters import parity, references, rules
from converters.cache import shapes_of
from converters.receipt import TOLERANCE
from converters.tables import table_of


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet50_clip", (224, 160)),
        ("resnet50_sscd", (224, 160)),
        ("vit_l14_aimv2", (224, 168)),
        ("hiera_b_mae", (224,)),  # timm builds it for one size
        ("vit_b16_sam", (256, 192)),
        ("sd_v14_encoder", (128, 192)),
    ],
)
def test_every_stage_equals_the_original(name, sizes):
    card = zoo.card(name)
    reference = references.build(card)
    randomise(reference.module)
    table, shapes = table_of(reference.table), shapes_of(card)
    # What a table computes from another tower (the text's embedding) is given here.
    given = {path: reference.module.get_buffer(path).numpy() for path in table.derived}
    mapped = {path: shape for path, shape in shapes.items() if path not in given}
    plain = dataclasses.replace(table, prepare=None, derived=())
    arrays = rules.convert(numpy_state(reference.module), plain, mapped, what=name) | given
    module = zoo.skeleton(name, dtype=jnp.float32)
    parameters.assign(module, arrays, name)
    stages = parity.compare(module, reference, sizes)
    worst = max(stages, key=lambda stage: stage.float32)
    assert worst.float32 < TOLERANCE, worst
