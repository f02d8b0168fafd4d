"""Segment Anything's image encoder against timm's on random weights, and its checkpoints' layouts."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from from_timm import (
    filled,
    gradient_errors,
    gradients,
    images,
    initialised,
    outputs,
    randomise,
    relative_error,
    renamed,
    scalar_weights,
    to_torch,
    torch_gradients,
)
from torch_reference import import_timm

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.sam_vit import SamViT
from bob_jax.errors import BobError
from converters import rules
from converters.tables import table_of

timm = import_timm()
from timm.models.vision_transformer_sam import VisionTransformerSAM, checkpoint_filter_fn  # noqa: E402

# Of 64 pixels, 4 x 4 tokens: windows of 3 are padded. The second block sees the whole map.
SIZES = {"depth": 2, "num_heads": 2}


def timm_model() -> VisionTransformerSAM:
    return VisionTransformerSAM(
        img_size=64,
        embed_dim=16,
        num_classes=0,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),  # the authors'
        **SIZES,
    )


def small(rngs: nnx.Rngs | None = None) -> SamViT:
    return SamViT(width=16, window=3, global_blocks=(1,), input_size=64, **SIZES, rngs=rngs or nnx.Rngs(0))


def reference_outputs(reference: VisionTransformerSAM, inputs: np.ndarray) -> list[torch.Tensor]:
    """timm's neck is NCHW."""
    features = reference.forward_features(to_torch(inputs))
    return [reference.forward_head(features, pre_logits=True), features.permute(0, 2, 3, 1)]


@pytest.fixture(scope="module")
def reference() -> VisionTransformerSAM:
    return randomise(timm_model())


# 96 x 80: absolute positions and the relative ones of the second block are resampled.
@pytest.mark.parametrize("size", [(64, 64), (96, 80)])
def test_outputs_equal_timm(size, reference):
    inputs = images(2, *size)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(outputs(filled(small, reference), inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


def test_gradients_equal_timm(reference):
    inputs = images(2, 96, 80)
    theirs = reference_outputs(reference, inputs)
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    ours = gradients(filled(small, reference), inputs, weights, train=True)
    errors = gradient_errors(ours, torch_gradients(reference, theirs, weights))
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


def test_initialisation_is_distributed_as_timms():
    torch.manual_seed(0)
    expected = renamed(timm_model().state_dict().items())
    mine = initialised(small)
    assert mine.keys() == expected.keys()
    for name, x in expected.items():
        tolerance = 6 * x.std() / math.sqrt(x.size)  # six standard errors of a mean
        assert abs(mine[name].mean() - x.mean()) <= tolerance + 1e-7, name
        assert abs(mine[name].std() - x.std()) <= tolerance + 1e-7, name
    bound = 1 / math.sqrt(3 * 3 * 256)
    assert 0.99 * bound < jnp.abs(mine["neck.2.kernel"]).max() <= bound


@pytest.mark.parametrize("layout", ["timm", "authors"])
def test_every_layout_gives_the_same_backbone_and_gets_its_tensors_back(layout, reference):
    state, table = dict(reference.state_dict()), "timm_sam_vit"
    published = state
    if layout == "authors":
        table = "sam_vit"
        state = {"image_encoder." + name.replace("mlp.fc", "mlp.lin"): x for name, x in state.items()}
        names = ("prompt_encoder.no_mask_embed.weight", "mask_decoder.iou_token.weight")
        published = state | dict.fromkeys(names, torch.zeros(2))
    assert checkpoint_filter_fn(published, None).keys() == reference.state_dict().keys()  # timm reads it, too
    arrays = {name: x.numpy() for name, x in published.items()}
    shapes = {name: leaf.shape for name, leaf in parameters.flatten(nnx.eval_shape(small)).items()}
    converted = rules.convert(arrays, table_of(table), shapes, what=layout)
    expected = renamed(reference.state_dict().items())
    assert converted.keys() == expected.keys()
    for name, array in converted.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    back = rules.export(converted, table_of(table), {n: x.shape for n, x in arrays.items()}, what=layout)
    assert back.keys() == state.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)


def test_card():
    card = zoo.card("vit_b16_sam")
    model = zoo.skeleton("vit_b16_sam")
    assert (card.feature_dim, model.patch_embed.proj.kernel.shape[-1]) == (256, 768)  # pooled behind the neck
    assert [index for index, block in enumerate(model.blocks) if not block.window] == [2, 5, 8, 11]
    with torch.device("meta"):
        theirs = timm.create_model("samvit_base_patch16", num_classes=0)
    assert parameters.count(model) == sum(p.numel() for p in theirs.parameters())


def test_input_that_the_patch_size_does_not_divide():
    with pytest.raises(BobError, match="input of 64x72 pixels is not divisible by the patch size 16"):
        nnx.eval_shape(small)(jnp.zeros((1, 64, 72, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 72}, "input_size 72 is not divisible by the patch size 16"),
        ({"num_heads": 3}, "width 16 is not divisible by num_heads 3"),
        ({"global_blocks": (2,)}, r"global_blocks \(2,\) must lie between 0 and 1"),
    ],
)
def test_contradictory_arguments(arguments, message):
    with pytest.raises(BobError, match=message):
        nnx.eval_shape(lambda: SamViT(**{"width": 16, "input_size": 64, **SIZES, **arguments}, rngs=nnx.Rngs(0)))
