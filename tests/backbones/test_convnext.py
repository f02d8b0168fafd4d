"""ConvNeXt and ConvNeXt V2 against timm's on random weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from from_timm import (
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
from bob_jax.backbones.convnext import ConvNeXt, GlobalResponseNorm
from bob_jax.errors import BobError

timm = import_timm()
from timm.layers.grn import GlobalResponseNorm as TimmGRN  # noqa: E402  (timm is importable only after import_timm)
from timm.models import convnext as timm_convnext  # noqa: E402

NAMES = [(r"^head\.norm", "fc_norm"), ("^norm_pre", "norm")]
DEPTHS, WIDTHS = (2, 1, 1, 1), (8, 12, 16, 24)
V2: tuple[dict[str, Any], dict[str, Any]] = (
    {"grn": True, "layer_scale": None},
    {"use_grn": True, "ls_init_value": None},
)
# Our arguments and timm's.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "v1": ({}, {}),
    "v2": V2,
    "fcmae": (V2[0] | {"final_norm": "plain"}, V2[1]),
    "vicregl": (
        {"layer_scale": None, "final_norm": "before_pool"},
        {"ls_init_value": None, "head_norm_first": True},
    ),
    "pixels": ({"patch_size": 1}, {"patch_size": 1}),
    "everything": ({"grn": True}, {"use_grn": True}),  # with layer scale too, which no checkpoint has together
}


def pair(variant: str) -> tuple[ConvNeXt, timm_convnext.ConvNeXt]:
    ours, theirs = VARIANTS[variant]
    reference = randomise(timm_convnext.ConvNeXt(depths=DEPTHS, dims=WIDTHS, num_classes=0, **theirs))
    backbone = nnx.eval_shape(lambda: ConvNeXt(depths=DEPTHS, widths=WIDTHS, **ours, rngs=nnx.Rngs(0)))
    arrays = renamed(reference.state_dict().items(), NAMES)
    if variant == "fcmae":  # what timm has after loading weights without a final norm: the identity
        reference.head.norm.reset_parameters()
        del arrays["fc_norm.scale"], arrays["fc_norm.bias"]
    parameters.assign(backbone, arrays, "timm")
    return backbone, reference


def reference_outputs(reference: timm_convnext.ConvNeXt, inputs: np.ndarray) -> list[torch.Tensor]:
    last, maps = reference.forward_intermediates(to_torch(inputs))
    return [reference.forward_head(last), *(x.permute(0, 2, 3, 1) for x in maps)]


def check(ours: ConvNeXt, reference: timm_convnext.ConvNeXt, inputs: np.ndarray) -> None:
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(outputs(ours, inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


@pytest.mark.parametrize("variant", ["fcmae", "vicregl", "pixels"])
def test_outputs_equal_timm_at_an_even_size(variant):
    check(*pair(variant), images(2, 64, 32))


@pytest.mark.parametrize("variant", ["v1", "v2", "vicregl"])
def test_outputs_equal_timm_at_a_size_that_no_stride_divides(variant):
    check(*pair(variant), images(2, 75, 50))


def test_the_twin_for_32_pixels_equals_timm():
    arguments = zoo.card("convnext_nano_random").arguments
    reference = randomise(
        timm_convnext.ConvNeXt(depths=arguments["depths"], dims=arguments["widths"], patch_size=4, num_classes=0)
    )
    ours = zoo.skeleton("convnext_nano_random")
    parameters.assign(ours, renamed(reference.state_dict().items(), NAMES), "timm")
    check(ours, reference, images(2, 32, 32))


def test_full_size_equals_timm():
    reference = randomise(timm.create_model("convnext_tiny", num_classes=0))
    ours = zoo.skeleton("convnext_t_in1k")
    parameters.assign(ours, renamed(reference.state_dict().items(), NAMES), "timm")
    check(ours, reference, images(1, 224, 224))


def test_gradients_equal_timm():
    ours, reference = pair("everything")
    inputs = images(2, 64, 32)
    theirs = reference_outputs(reference, inputs)
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    expected = torch_gradients(reference, theirs, weights, NAMES)
    errors = gradient_errors(gradients(ours, inputs, weights, train=False), expected)
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


def test_a_dead_channel_has_a_gradient():
    """GELU gives exact zeros far below 0; the norm of a channel of zeros has no derivative, PyTorch says 0."""
    x = images(2, 4, 4)
    x[:, :, :, 1] = 0
    weights = scalar_weights([x])[0]
    reference = randomise(TimmGRN(3))
    ours = GlobalResponseNorm(3, dtype=jnp.float32)
    parameters.assign(ours, renamed(reference.state_dict().items()), "timm")
    inputs = torch.from_numpy(x).requires_grad_()
    (reference(inputs) * torch.from_numpy(weights)).sum().backward()
    graph, state = nnx.split(ours)
    gradient = jax.grad(lambda x: jnp.vdot(weights, nnx.merge(graph, state)(x)))(x)
    assert relative_error(np.asarray(gradient), inputs.grad.numpy()) < 1e-5


def test_initialisation_is_distributed_as_timms():
    torch.manual_seed(0)
    ours, theirs = VARIANTS["everything"]
    widths = (32, 48, 32, 32)
    reference = timm_convnext.ConvNeXt(depths=(1,) * 4, dims=widths, num_classes=0, **theirs)
    mine = initialised(lambda rngs: ConvNeXt(depths=(1,) * 4, widths=widths, **ours, rngs=rngs))
    expected = renamed(reference.state_dict().items(), NAMES)
    assert mine.keys() == expected.keys()
    for name, array in expected.items():
        if not name.endswith("kernel"):  # all constants: biases, norms, layer scale
            np.testing.assert_array_equal(mine[name], array, name)
            continue
        tolerance = 6 * array.std() / np.sqrt(array.size)  # six standard errors of a mean
        assert abs(mine[name].mean() - array.mean()) <= tolerance, name
        assert abs(mine[name].std() - array.std()) <= tolerance, name


def test_weights_of_one_order_of_norm_and_pool_do_not_fit_the_other():
    first, second = (
        nnx.eval_shape(lambda order=order: ConvNeXt(depths=DEPTHS, widths=WIDTHS, final_norm=order, rngs=nnx.Rngs(0)))
        for order in ("after_pool", "before_pool")
    )
    arrays = {name: np.zeros(leaf.shape, np.float32) for name, leaf in parameters.flatten(first).items()}
    with pytest.raises(BobError, match=r"2 missing: norm\.\w+, norm\.\w+; 2 unused: fc_norm"):
        parameters.assign(second, arrays, "test")


def test_smallest_input_and_below_it():
    model = nnx.eval_shape(lambda: ConvNeXt(depths=DEPTHS, widths=WIDTHS, rngs=nnx.Rngs(0)))
    features = nnx.eval_shape(lambda model, x: model(x), model, jax.ShapeDtypeStruct((1, 32, 63, 3), jnp.float32))
    assert [x.shape for x in features.maps] == [(1, 8, 15, 8), (1, 4, 7, 12), (1, 2, 3, 16), (1, 1, 1, 24)]
    with pytest.raises(BobError, match="input of 31x64 pixels is smaller than the last stride 32: resize the images"):
        model(images(1, 31, 64))


def test_wrong_arguments():
    with pytest.raises(BobError, match=r"depths \(3, 3, 9\) and widths \(96, 192, 384, 768\) must be four positive"):
        ConvNeXt(depths=(3, 3, 9), rngs=nnx.Rngs(0))
    with pytest.raises(BobError, match="patch_size 2 must be 4, or 1 for small images"):
        ConvNeXt(patch_size=2, rngs=nnx.Rngs(0))
    with pytest.raises(BobError, match="unknown final_norm 'before': did you mean before_pool"):
        ConvNeXt(final_norm="before", rngs=nnx.Rngs(0))
