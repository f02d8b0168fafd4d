"""Eva (EVA-02, EVA-02-CLIP, DINOv3, EUPE, Perception Encoder) against timm's on random weights; rotary tables."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from from_timm import (
    FAST_COMPILE,
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
from bob_jax.backbones.card import CLIP_MEAN, HALF, IMAGENET_MEAN
from bob_jax.backbones.eva import Eva
from bob_jax.backbones.rope import ROTARY
from bob_jax.errors import BobError

timm = import_timm()
from timm.models.eva import Eva as TimmEva  # noqa: E402  (timm is importable only after import_timm)

SMALL = {"patch_size": 8, "depth": 2, "num_heads": 3}
LAYER_NORM_5 = functools.partial(torch.nn.LayerNorm, eps=1e-5)
EVA02 = {"activation": "swiglu", "mlp_ratio": 8 / 3, "pooling": "mean", "final_norm": "fc_norm"}
TIMM_EVA02 = {"swiglu_mlp": True, "mlp_ratio": 8 / 3, "use_rot_pos_emb": True, "ref_feat_shape": (16, 16)}
TIMM_UNFUSED = TIMM_EVA02 | {"qkv_fused": False, "scale_mlp": True}
DINOV3 = {"qkv_bias": "none", "rotary": "dinov3", "position_table": False, "registers": 4, "epsilon": 1e-5}
DINOV3 |= {"layer_scale": 1e-5}
TIMM_DINOV3 = {
    "qkv_bias": False,
    "rope_type": "dinov3",
    "rope_temperature": 100,
    "rope_rotate_half": True,
    "use_rot_pos_emb": True,
    "use_abs_pos_emb": False,
    "num_reg_tokens": 4,
    "use_fc_norm": False,
    "init_values": 1e-5,
    "norm_layer": LAYER_NORM_5,
    "global_pool": "token",
}
PE = {"qkv_bias": "qkv", "rotary": "pe", "pre_norm": True, "epsilon": 1e-5}
TIMM_PE = {
    "attn_type": "rope",
    "use_pre_transformer_norm": True,
    "use_rot_pos_emb": True,
    "ref_feat_shape": (6, 6),
    "rope_grid_offset": 1.0,
    "rope_grid_indexing": "xy",
    "norm_layer": LAYER_NORM_5,
}
# name: (arguments of our Eva, arguments of timm's)
VARIANTS = {
    "eva02_small": (EVA02, TIMM_EVA02),
    "eva02_base": (EVA02 | {"mlp_norm": True}, TIMM_UNFUSED),
    "eva02_clip": (
        EVA02 | {"mlp_norm": True, "attention_norm": True, "pooling": "cls", "final_norm": "norm"},
        TIMM_UNFUSED | {"scale_attn_inner": True, "global_pool": "token"},
    ),
    "dinov3": (DINOV3, TIMM_DINOV3),
    "dinov3_plus": (
        DINOV3 | {"activation": "swiglu"},
        TIMM_DINOV3 | {"swiglu_mlp": True, "swiglu_align_to": 8},
    ),
    "eupe": (DINOV3 | {"qkv_bias": "qv"}, TIMM_DINOV3 | {"qkv_bias": True}),
    "pe_core": (
        PE | {"pooling": "map", "pool_heads": 2},
        TIMM_PE | {"global_pool": "map", "attn_pool_num_heads": 2, "attn_pool_mlp_ratio": 4.0},
    ),
    "pe_spatial": (
        PE | {"pooling": "mean", "final_norm": "none"},
        TIMM_PE | {"use_post_transformer_norm": False, "use_fc_norm": False},
    ),
}
NAMES = [
    (r"gamma_(\d)", r"ls\1.gamma"),
    (r"([qv])_proj\.bias", r"\1_bias"),
    (r"fc1_g\.", "fc1.0."),
    (r"fc1_x\.", "fc1.1."),
    (r"q_proj\.", "qkv.0."),
    (r"k_proj\.", "qkv.1."),
    (r"v_proj\.", "qkv.2."),
]


def joined(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, with `qkv.0.kernel`, `qkv.1.kernel`... joined where timm has separate matrices and we have one."""
    whole = {name: array for name, array in arrays.items() if not re.search(r"\.(qkv|fc1)\.\d\.", name)}
    parts: dict[str, list[np.ndarray]] = {}
    for name in sorted(arrays.keys() - whole.keys()):
        parts.setdefault(re.sub(r"\.\d\.(\w+)$", r".\1", name), []).append(arrays[name])
    return whole | {name: np.concatenate(some, axis=-1) for name, some in parts.items()}


def random_timm(make) -> torch.nn.Module:
    """A timm model with random weights; what it computes for itself (zero key biases, tables) stays what it is."""
    model = randomise(make())
    for module in model.modules():
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
    return model


def timm_eva(variant: str, **more) -> TimmEva:
    return TimmEva(
        img_size=48, embed_dim=48, num_classes=0, dynamic_img_size=True, **SMALL, **VARIANTS[variant][1], **more
    )


def our_eva(variant: str, rngs: nnx.Rngs | None = None) -> Eva:
    return Eva(width=48, input_size=48, **SMALL, **VARIANTS[variant][0], rngs=rngs or nnx.Rngs(0))


def filled(make, model: torch.nn.Module) -> Eva:
    backbone = nnx.eval_shape(make)
    parameters.assign(backbone, joined(renamed(model.state_dict().items(), NAMES)), "timm")
    return backbone


def reference_outputs(reference: TimmEva, inputs: np.ndarray) -> list[torch.Tensor]:
    tokens, maps = reference.forward_intermediates(to_torch(inputs), indices=1, norm=True)
    return [reference.forward_head(tokens, pre_logits=True), *(x.permute(0, 2, 3, 1) for x in maps)]


@functools.cache
def pair(variant: str) -> tuple[Eva, TimmEva]:
    reference = random_timm(lambda: timm_eva(variant))
    return filled(lambda: our_eva(variant), reference), reference


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_timm(variant):
    ours, reference = pair(variant)
    inputs = images(2, 48, 48)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(outputs(ours, inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST_COMPILE)
def evaluate(graph: nnx.GraphDef, state: nnx.State, inputs: jax.Array) -> tuple:
    return nnx.merge(graph, state)(inputs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_timm_on_a_larger_image_that_is_not_square(variant):
    ours, reference = pair(variant)
    inputs = images(2, 64, 40)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    features = evaluate(*nnx.split(ours), inputs)
    for mine, yours in zip((features.pooled, *features.maps), theirs, strict=True):
        assert relative_error(np.asarray(mine), yours.numpy()) < 1e-5


@pytest.mark.parametrize("variant", ["eva02_clip", "dinov3_plus", "eupe", "pe_core"])
def test_gradients_equal_timm(variant):
    ours, reference = pair(variant)
    inputs = images(2, 64, 40)
    theirs = reference_outputs(reference, inputs)
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    expected = joined(torch_gradients(reference, theirs, weights, NAMES))
    errors = gradient_errors(gradients(ours, inputs, weights, train=True), expected)
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


def test_full_size_equals_timm():
    make = functools.partial(timm.create_model, "vit_small_patch16_dinov3", num_classes=0, global_pool="token")
    reference = random_timm(make)
    ours = filled(lambda: zoo.ARCHITECTURES["eva"](**zoo.card("vit_s16_dinov3").arguments, rngs=nnx.Rngs(0)), reference)
    inputs = images(1, 256, 256)
    with torch.no_grad():
        theirs = reference_outputs(reference, inputs)
    for mine, yours in zip(outputs(ours, inputs), theirs, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5


def test_trap_dinov3_is_described_by_its_class_token_and_not_by_timms_mean():
    _, reference = pair("dinov3")
    tokens = reference.forward_features(to_torch(images(2, 48, 48))).detach()
    mean, class_token = (reference.pool(tokens, pool_type=kind).numpy() for kind in ("avg", "token"))
    assert relative_error(class_token, mean) > 0.1  # else test_outputs_equal_timm could not tell
    for name, card in zoo.CARDS.items():
        if card.method in ("dinov3", "eupe") and card.architecture == "eva":
            assert card.pooling == card.arguments["pooling"] == "cls", name
            assert card.arguments["final_norm"] == "norm", name


def test_trap_eva02_is_normed_behind_the_mean_and_clip_before_it():
    behind = {name for name, card in zoo.CARDS.items() if card.arguments.get("final_norm") == "fc_norm"}
    assert behind == {name for name, card in zoo.CARDS.items() if card.method == "eva02"} | {"eva02_b14_random"}
    for name in ("eva02_b16_clip", "eva02_l14_clip"):
        assert zoo.card(name).arguments["final_norm"] == "norm" and zoo.card(name).pooling == "cls"


def test_trap_only_the_perception_encoder_has_a_key_bias():
    """timm keeps a zero one for EVA-02 and EUPE; PE was trained with one, and its checkpoint holds it."""
    attention = {name: set(nnx.to_pure_dict(nnx.state(pair(name)[0].blocks[0].attn))) for name in VARIANTS}
    assert attention["eupe"] == attention["eva02_base"] == {"qkv", "q_bias", "v_bias", "proj"}
    assert attention["dinov3"] == attention["pe_core"] == {"qkv", "proj"}
    assert pair("pe_core")[0].blocks[0].attn.qkv.bias.shape == (144,)
    assert pair("dinov3")[0].blocks[0].attn.qkv.bias is None


def test_rotary_tables_by_hand():
    """Token 1 + 5 stands in row 1, column 2 of a 2 x 3 grid; two pairs for each axis, prefix tokens are not turned."""
    angles = {
        "eva02": [1 / 2 * 16, 1 / 2 * 16 / 100, 2 / 3 * 16, 2 / 3 * 16 / 100],
        "pe": [3 / 3 * 6, 3 / 3 * 6 / 100, 2 / 2 * 4, 2 / 2 * 4 / 100],  # columns first
        "dinov3": [2 * math.pi * x for x in (0.5, 0.5 / 10, 2 / 3, 2 / 3 / 10)],
    }
    for scheme, expected in angles.items():
        cos, sin = ROTARY[scheme].tables((2, 3), built_for=(4, 6), head_dim=8, num_prefix_tokens=1)
        assert cos.shape == sin.shape == (7, 4) and cos.dtype == np.float32
        np.testing.assert_allclose(cos[6], np.cos(expected), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(sin[6], np.sin(expected), rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal([cos[0], sin[0]], [np.ones(4), np.zeros(4)])


def test_rotation_keeps_lengths_and_depends_on_the_distance_alone():
    query, key = images(1, 4, 8), images(1, 4, 8, seed=1)  # [1, 4, 8, 3] as [B, N, heads = 3, D = 8]
    for rotary in (ROTARY["eva02"], ROTARY["dinov3"]):
        tables = rotary.tables((1, 4), built_for=(1, 4), head_dim=8, num_prefix_tokens=0)
        q, k = (rotary.rotate(jnp.repeat(x[:, :1], 4, 1).swapaxes(2, 3), tables) for x in (query, key))
        np.testing.assert_allclose(jnp.linalg.norm(q, axis=-1)[0, 3], jnp.linalg.norm(q, axis=-1)[0, 0], rtol=1e-5)
        scores = jnp.einsum("bnhd,bmhd->bhnm", q, k)[0]
        np.testing.assert_allclose(scores[:, 0, 1], scores[:, 2, 3], rtol=1e-4, atol=1e-5)
        assert np.abs(scores[:, 0, 1] - scores[:, 1, 0]).max() > 1e-2


@pytest.mark.parametrize("variant", ["dinov3_plus", "pe_core"])
def test_initialisation_is_distributed_as_timms(variant):
    torch.manual_seed(0)
    expected = joined(renamed(timm_eva(variant).state_dict().items(), NAMES))
    mine = initialised(lambda rngs: our_eva(variant, rngs))
    assert mine.keys() == expected.keys()
    for name, theirs in expected.items():
        tolerance = 6 * theirs.std() / math.sqrt(theirs.size)  # six standard errors of a mean
        assert abs(mine[name].mean() - theirs.mean()) <= tolerance + 1e-7, name
        assert abs(mine[name].std() - theirs.std()) <= tolerance + 1e-7, name


def test_trap_preprocessing():
    for name, card in zoo.CARDS.items():
        if card.method == "dinov3" and card.architecture == "eva":
            size = card.preprocessing
            assert (size.input_size, size.crop_pct, size.crop_mode, size.interpolation) == (
                256,
                1.0,
                "squash",
                "bilinear",
            )
            assert size.mean == IMAGENET_MEAN and card.gated and card.licence == "dinov3-license", name
        if name.startswith("eva02") and card.source is not None:
            assert card.preprocessing.mean == CLIP_MEAN, name
            squashed = card.preprocessing.crop_mode == "squash"
            assert squashed == ("ft_in22k" in name), name
        if card.method == "eupe" and card.architecture == "eva":
            assert not card.commercial and card.preprocessing.input_size == 256, name
    for name in ("vit_b16_pe_core", "vit_b16_pe_spatial"):
        assert zoo.card(name).preprocessing.mean == HALF
    pixels = zoo.card("vit_b14_tipsv2").preprocessing
    assert (pixels.mean, pixels.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "name",
    [
        "eva02_ti14_mim",
        "eva02_l14_mim_ft_in22k_in1k",
        "eva02_b16_clip",
        "vit_h16plus_dinov3",
        "vit_s16_eupe",
        "vit_b16_pe_core",
        "vit_b16_pe_spatial",
    ],
)
def test_a_card_has_as_many_parameters_as_timms_model(name):
    with torch.device("meta"):
        reference = timm.create_model(zoo.card(name).source.hub.removeprefix("timm/").partition(".")[0], num_classes=0)
    ours = parameters.count(zoo.skeleton(name))
    assert ours == sum(p.numel() for p in reference.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "max"}, "unknown pooling 'max'"),
        ({"rotary": "dinov2"}, "unknown rotary 'dinov2': did you mean dinov3"),
        ({"final_norm": "fcnorm"}, "unknown final_norm 'fcnorm': did you mean fc_norm"),
        ({"qkv_bias": "kv"}, "unknown qkv_bias 'kv'"),
        ({"activation": "gelo"}, "unknown activation 'gelo': did you mean gelu"),
        ({"input_size": 225}, "input_size 225 is not divisible by patch_size 14"),
        ({"num_heads": 3}, r"width 16 is not divisible by 4 \* num_heads = 12"),
        ({"mlp_norm": True}, "mlp_norm=True needs activation='swiglu'"),
    ],
)
def test_contradictory_arguments(arguments, message):
    with pytest.raises(BobError, match=message):
        nnx.eval_shape(lambda: Eva(**{"width": 16, "depth": 1, "num_heads": 1, **arguments}, rngs=nnx.Rngs(0)))


def test_input_that_the_patch_size_does_not_divide():
    with pytest.raises(BobError, match="input of 32x36 pixels is not divisible by the patch size 8"):
        nnx.eval_shape(lambda: our_eva("dinov3"))(jnp.zeros((1, 32, 36, 3)))
