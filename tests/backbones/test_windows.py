"""Plain ViTs with attention in windows, against timm's blocks run on windows as ViTDet does it in PyTorch."""

import functools
import re
from collections.abc import Callable

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
    randomise,
    relative_error,
    renamed,
    scalar_weights,
    to_torch,
    torch_gradients,
)
from torch_reference import import_timm

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.aimv2 import AIMv2
from bob_jax.backbones.base import Backbone
from bob_jax.backbones.beit import Beit
from bob_jax.backbones.eva import Eva
from bob_jax.backbones.vit import ViT
from bob_jax.backbones.windows import of_blocks, to_map, to_windows
from bob_jax.errors import BobError

timm = import_timm()
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table  # noqa: E402  (importable only now)
from timm.models.beit import Beit as TimmBeit  # noqa: E402
from timm.models.beit import gen_relative_position_index  # noqa: E402
from timm.models.eva import Eva as TimmEva  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

# Of six blocks 1 and 4 attend in windows; position tables are for 6 x 6 tokens.
SMALL = {"depth": 6, "num_heads": 3}
LOCAL = (1, 4)
TIMM = {"img_size": 48, "patch_size": 8, "embed_dim": 48, "num_classes": 0, **SMALL}
OURS = {"input_size": 48, "patch_size": 8, "width": 48, **SMALL}
DYNAMIC = {"dynamic_img_size": True}  # else rotary tables are for one grid
EVA02 = {"swiglu_mlp": True, "mlp_ratio": 8 / 3, "use_rot_pos_emb": True, "ref_feat_shape": (16, 16)}
EVA02 |= DYNAMIC
DINOV3 = {"rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True, "use_rot_pos_emb": True}
DINOV3 |= {"use_abs_pos_emb": False, "num_reg_tokens": 4, "use_fc_norm": False, "global_pool": "token"} | DYNAMIC
PE = {"attn_type": "rope", "use_pre_transformer_norm": True, "use_rot_pos_emb": True, "ref_feat_shape": (6, 6)}
PE |= {"rope_grid_offset": 1.0, "rope_grid_indexing": "xy", "global_pool": "map"}
PE |= {"attn_pool_num_heads": 2, "attn_pool_mlp_ratio": 4.0} | DYNAMIC
# name: (ours, arguments of ours, timm's, arguments of timm's)
VARIANTS: dict[str, tuple] = {
    "clip": (ViT, OURS | {"pre_norm": True}, VisionTransformer, TIMM | {"pre_norm": True}),
    "dinov2_reg": (
        ViT,
        OURS | {"layer_scale": 0.1, "registers": 4, "position": "learned_patches"},
        VisionTransformer,
        TIMM | {"init_values": 0.1, "reg_tokens": 4, "no_embed_class": True},
    ),
    "mae_mean": (
        ViT,
        OURS | {"pooling": "mean", "fc_norm": True},
        VisionTransformer,
        TIMM | {"global_pool": "avg"},
    ),
    "siglip": (
        ViT,
        OURS | {"pooling": "map", "class_token": False},
        VisionTransformer,
        TIMM | {"global_pool": "map", "class_token": False},
    ),
    "eva02": (
        Eva,
        OURS | {"activation": "swiglu", "mlp_ratio": 8 / 3, "pooling": "mean", "final_norm": "fc_norm"},
        TimmEva,
        TIMM | EVA02,
    ),
    "dinov3": (
        Eva,
        OURS | {"rotary": "dinov3", "position_table": False, "registers": 4, "qkv_bias": "qv"},
        TimmEva,
        TIMM | DINOV3,
    ),
    "pe_core": (
        Eva,
        OURS | {"qkv_bias": "qkv", "rotary": "pe", "pre_norm": True, "pooling": "map", "pool_heads": 2},
        TimmEva,
        TIMM | PE,
    ),
    "beit": (
        Beit,
        OURS | {"layer_scale": 0.1},
        TimmBeit,
        TIMM | {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.1},
    ),
    "aimv2": (
        AIMv2,
        OURS | {"patch_size": 14, "input_size": 84},
        functools.partial(timm.create_model, "aimv2_large_patch14_224"),
        {"num_classes": 0, "img_size": 84, "embed_dim": 48, **SMALL},
    ),
}
NAMES = [(r"gamma_(\d)", r"ls\1.gamma"), (r"fc1_g", "fc1.0"), (r"fc1_x", "fc1.1")]
# Windows of 3 divide 6 x 6 tokens, windows of 4 divide neither side of 9 x 5.
CASES = [((6, 6), 3), ((9, 5), 4)]
TIMM_RESAMPLES = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "ignore:torch.searchsorted")


def joined(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, with `fc1.0.kernel` (gate) and `fc1.1.kernel` (value) as one."""
    return {
        re.sub(r"fc1\.0", "fc1", name): (
            np.concatenate([array, arrays[name.replace("fc1.0", "fc1.1")]], -1) if "fc1.0" in name else array
        )
        for name, array in arrays.items()
        if "fc1.1" not in name
    }


@functools.cache
def timm_model(variant: str) -> torch.nn.Module:
    model = randomise(VARIANTS[variant][2](**VARIANTS[variant][3]))
    for module in model.modules():
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
    return model


def our_model(variant: str, window: int) -> Backbone:
    ours, arguments, *_ = VARIANTS[variant]
    backbone = nnx.eval_shape(lambda: ours(**arguments, window=window, rngs=nnx.Rngs(0)))
    parameters.assign(backbone, joined(renamed(timm_model(variant).state_dict().items(), NAMES)), "timm")
    return backbone


def windowed(attend: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, window: int) -> torch.Tensor:
    """Each window of a map [B, H, W, C] by itself; one that sticks out is filled with zeros, which are attended to."""
    out = torch.zeros_like(x)
    for top in range(0, x.shape[1], window):
        for left in range(0, x.shape[2], window):
            piece = x[:, top : top + window, left : left + window]
            rows, columns = piece.shape[1:3]
            full = torch.zeros(len(x), window, window, x.shape[3])
            full[:, :rows, :columns] = piece
            done = attend(full.flatten(1, 2)).unflatten(1, (window, window))
            out[:, top : top + rows, left : left + columns] = done[:, :rows, :columns]
    return out


def attention(model: torch.nn.Module, block: torch.nn.Module, grid: tuple[int, int]) -> Callable:
    """A block's attention over patches alone, that stand on a grid of this size."""
    if isinstance(model, TimmEva):
        block.attn.num_prefix_tokens = 0
        return functools.partial(block.attn, rope=model.rope.get_embed(shape=grid))
    if isinstance(model, TimmBeit):
        table = block.attn.relative_position_bias_table
        entries = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3
        table = resize_rel_pos_bias_table(table, grid, (entries, table.shape[1]), old_window_size=(6, 6))
        bias = table[gen_relative_position_index(grid)[1:, 1:]].permute(2, 0, 1)[None]
        block.attn._get_rel_pos_bias = lambda: bias
    return block.attn


def reference_outputs(variant: str, inputs: np.ndarray, window: int, local: tuple[int, ...]) -> list[torch.Tensor]:
    model = timm_model(variant)
    x = model.patch_embed.proj(to_torch(inputs)).permute(0, 2, 3, 1)
    x = model.patch_embed.norm(x)
    grid = (x.shape[1], x.shape[2])
    if model.pos_embed is not None:
        patches = model.pos_embed[:, -36:]  # class token and registers stand first, where they are in it
        x = x + resample_abs_pos_embed(patches, grid, num_prefix_tokens=0).unflatten(1, grid)
    x = getattr(model, "norm_pre", torch.nn.Identity())(x)
    for index, block in enumerate(model.blocks):
        normed = block.norm1(x)
        if index in local:
            branch = windowed(attention(model, block, (window, window)), normed, window)
        else:
            branch = attention(model, block, grid)(normed.flatten(1, 2)).unflatten(1, grid)
        branches = []
        for number in (1, 2):
            gamma, scale = getattr(block, f"gamma_{number}", None), getattr(block, f"ls{number}", torch.nn.Identity())
            branches.append((lambda y, gamma=gamma: y * gamma) if gamma is not None else scale)
        x = x + branches[0](branch)
        x = x + branches[1](block.mlp(block.norm2(x)))
    x = model.norm(x)
    tokens = x.flatten(1, 2)
    pooled = tokens.mean(1) if getattr(model, "attn_pool", None) is None else model.attn_pool(tokens)
    return [getattr(model, "fc_norm", torch.nn.Identity())(pooled), x]


@functools.partial(jax.jit, static_argnums=(0, 3), compiler_options=FAST_COMPILE)
def run(graph: nnx.GraphDef, state: nnx.State, x: jax.Array, train: bool) -> tuple:
    return nnx.merge(graph, state)(x, rngs=nnx.Rngs(0) if train else None)


def outputs(model: Backbone, x: np.ndarray, train: bool = False) -> list[np.ndarray]:
    """`pooled`, then the map."""
    features = run(*nnx.split(model), x, train)
    return [np.asarray(features.pooled), np.asarray(features.maps[0])]


def pixels(variant: str, grid: tuple[int, int]) -> np.ndarray:
    patch = VARIANTS[variant][1]["patch_size"]
    return images(2, grid[0] * patch, grid[1] * patch)


@TIMM_RESAMPLES
@pytest.mark.parametrize(("grid", "window"), CASES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_timms_blocks_on_windows(variant, grid, window):
    inputs = pixels(variant, grid)
    with torch.no_grad():
        theirs = reference_outputs(variant, inputs, window, LOCAL)
        whole = reference_outputs(variant, inputs, window, ())
    for mine, yours, other in zip(outputs(our_model(variant, window), inputs), theirs, whole, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5
        assert relative_error(mine, other.numpy()) > 1e-3  # windows make a difference


@TIMM_RESAMPLES
@pytest.mark.parametrize(("grid", "window"), CASES)
@pytest.mark.parametrize("variant", ["dinov2_reg", "eva02", "beit", "aimv2"])
def test_gradients_equal_timms_blocks_on_windows(variant, grid, window):
    inputs = pixels(variant, grid)
    theirs = reference_outputs(variant, inputs, window, LOCAL)
    weights = scalar_weights([x.detach().numpy() for x in theirs])
    expected = joined(torch_gradients(timm_model(variant), theirs, weights, NAMES))
    mine = gradients(our_model(variant, window), inputs, weights, train=True)
    unused = mine.keys() - expected.keys()
    assert unused <= {"cls_token", "reg_token"} and not any(mine.pop(name).any() for name in unused)
    errors = gradient_errors(mine, expected)
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])


@TIMM_RESAMPLES
@pytest.mark.parametrize("window", [6, 7])
@pytest.mark.parametrize("variant", ["dinov2_reg", "dinov3", "beit"])
def test_a_window_that_holds_the_image_is_global_attention_without_prefix_tokens(variant, window):
    inputs = pixels(variant, (6, 6))
    with torch.no_grad():
        theirs = reference_outputs(variant, inputs, window, ())
    published = outputs(our_model(variant, 0), inputs)
    for mine, yours, other in zip(outputs(our_model(variant, window), inputs), theirs, published, strict=True):
        assert relative_error(mine, yours.numpy()) < 1e-5
        assert relative_error(mine, other) > 1e-3  # the prefix tokens make a difference


@pytest.mark.parametrize("name", ["eva", "beit"])
def test_a_window_is_to_its_block_what_an_image_of_its_size_was(name):
    """Relative positions: a block on windows of 6 is the block on four images of 6 x 6 tokens."""
    variant = {"eva": "eva02", "beit": "beit"}[name]
    model = our_model(variant, 6)
    x = np.random.default_rng(0).standard_normal((1, 12, 12, 48), np.float32)
    cuts = [x[:, top : top + 6, left : left + 6] for top in (0, 6) for left in (0, 6)]
    place = model.rotary.tables((6, 6), (6, 6), 16, 0) if name == "eva" else (12, 12)
    block = functools.partial(model.blocks[1], rngs=None)
    whole = block(jnp.asarray(x), place, window=6)
    place = place if name == "eva" else (6, 6)
    parts = [block(jnp.asarray(cut.reshape(1, 36, 48)), place, window=0).reshape(1, 6, 6, 48) for cut in cuts]
    expected = jnp.concatenate([jnp.concatenate(parts[:2], 2), jnp.concatenate(parts[2:], 2)], 1)
    assert relative_error(np.asarray(whole), np.asarray(expected)) < 1e-6


def test_windows_of_the_blocks():
    def ends(depth):
        return [index for index, window in enumerate(of_blocks(depth, 14, (64, 64))) if window == 0]

    assert ends(12) == [2, 5, 8, 11]  # ViTDet's own, for B, L and H
    assert ends(24) == [5, 11, 17, 23]
    assert ends(32) == [7, 15, 23, 31]
    assert ends(27) == [5, 12, 19, 26] and ends(3) == [0, 1, 2]
    assert set(of_blocks(12, 14, (64, 64))) == {0, 14}
    assert of_blocks(12, 14, (14, 9)) == of_blocks(12, 0, (64, 64)) == [0] * 12
    with pytest.raises(BobError, match="window -1 must be a number of tokens, or 0"):
        of_blocks(12, -1, (64, 64))


def test_windows_by_hand():
    x = jnp.arange(6).reshape(1, 2, 3, 1)
    windows = to_windows(x, 2)
    np.testing.assert_array_equal(windows[0, :, :, 0], [[0, 1, 3, 4], [2, 0, 5, 0]])
    np.testing.assert_array_equal(to_map(windows, 2, 3), x)


def flops(window: int) -> float:
    graph, state = nnx.split(zoo.skeleton("vit_b16_mae", window=window, dtype=jnp.float32))
    pixels = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)
    analysis = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, pixels).cost_analysis()
    return analysis["flops"]


def test_cost_at_1024_pixels():
    """4096 tokens: of 12 blocks 8 have 25 windows of 196 tokens, in place of all pairs of tokens."""
    whole, local = flops(0), flops(14)
    pairs = 8 * (4097**2 - 25 * 196**2)
    padding = 8 * (25 * 196 - 4097)
    saved = pairs * 2 * 2 * 768 - padding * 2 * 4 * 768**2  # two products; query, key, value and output of padding
    softmax = pairs * 12 * 6  # a few operations for every logit of 12 heads
    # Operations on single numbers are counted as the compiler fuses them: "a few" above is not exact.
    assert whole - local == pytest.approx(saved + softmax, rel=0.02)
    assert local < 0.75 * whole


def test_the_zoo_passes_the_window_on_and_the_weights_stay_what_they_are():
    name = "vit_nano8_random"
    published, local = zoo.load(name), zoo.load(name, window=2, dtype=jnp.bfloat16, drop_path=0.5)
    assert local.module.window == 2 and local.weights_sha256 == published.weights_sha256
    first, second = parameters.flatten(published.module), parameters.flatten(local.module)
    assert first.keys() == second.keys()
    for path, leaf in first.items():
        np.testing.assert_array_equal(leaf, second[path])
    x = np.ones((8, 32, 32, 3), np.float32)
    trained = outputs(local.module, x, train=True)[1]
    assert trained.dtype == jnp.bfloat16 and np.ptp(np.asarray(trained, np.float32), axis=0).max() > 0
    assert np.ptp(outputs(local.module, x)[0], axis=0).max() == 0


@pytest.mark.parametrize("name", ["vit_b16_sam", "swinv2_t_in1k", "convnext_t_in1k"])
def test_other_architectures_have_no_use_for_a_window(name):
    assert nnx.graphdef(zoo.skeleton(name, window=5)) == nnx.graphdef(zoo.skeleton(name))


def test_every_architecture_of_one_stride_takes_a_window():
    ours = {card.architecture for card in zoo.CARDS.values() if card.architecture not in ("timm", "sam_vit")}
    one_stride = {
        architecture
        for architecture in ours
        if len(zoo.skeleton(next(n for n, card in zoo.CARDS.items() if card.architecture == architecture)).strides) == 1
    }
    assert one_stride == set(zoo.PLAIN)
    assert not any("window" in card.arguments for card in zoo.CARDS.values() if card.architecture in zoo.PLAIN)
