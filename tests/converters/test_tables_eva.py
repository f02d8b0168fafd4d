"""Key layouts of EVA-02, DINOv3, EUPE, the Perception Encoder and BEiT: as published, converted, and back again."""

import functools
import re

import numpy as np
import pytest
import torch
from converter_models import card_of, in_zoo, numpy_state, randomised, weights_cache  # noqa: F401
from safetensors.numpy import save_file
from torch_reference import import_timm

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.cards import eva as cards_eva
from bob_jax.errors import BobError
from converters import cache, parity, references, rules
from converters.receipt import TOLERANCE
from converters.tables import table_of

timm = import_timm()
pytestmark = pytest.mark.usefixtures("weights_cache")

TINY = {"patch_size": 8, "width": 48, "depth": 2, "num_heads": 3, "input_size": 32}
LAYER_NORM_5 = functools.partial(torch.nn.LayerNorm, eps=1e-5)
ROTARY = {"use_rot_pos_emb": True, "ref_feat_shape": (16, 16)}
EVA02 = ROTARY | {"swiglu_mlp": True, "mlp_ratio": 8 / 3}
EVA02_LARGE = EVA02 | {"qkv_fused": False, "scale_mlp": True}
DINOV3 = ROTARY | {
    "qkv_bias": False,
    "rope_type": "dinov3",
    "rope_temperature": 100,
    "rope_rotate_half": True,
    "use_abs_pos_emb": False,
    "num_reg_tokens": 4,
    "use_fc_norm": False,
    "init_values": 1e-5,
    "norm_layer": LAYER_NORM_5,
    "global_pool": "token",
}
PE_CORE = ROTARY | {
    "attn_type": "rope",
    "use_pre_transformer_norm": True,
    "ref_feat_shape": (4, 4),
    "rope_grid_offset": 1.0,
    "rope_grid_indexing": "xy",
    "norm_layer": LAYER_NORM_5,
    "global_pool": "map",
    "attn_pool_num_heads": 8,
}
# kind: (arguments of Eva, arguments of timm's, table)
KINDS = {
    "eva02_small": (cards_eva.EVA02, EVA02, "timm_eva_mim"),
    "eva02_mim": (cards_eva.EVA02_LARGE, EVA02_LARGE, "timm_eva_mim"),
    "eva02_clip": (
        cards_eva.EVA02_CLIP,
        EVA02_LARGE | {"scale_attn_inner": True, "global_pool": "token"},
        "timm_eva",
    ),
    "dinov3": (cards_eva.DINOV3, DINOV3, "timm_eva"),
    "dinov3_plus": (
        cards_eva.DINOV3 | {"activation": "swiglu"},
        DINOV3 | {"swiglu_mlp": True, "swiglu_align_to": 8},
        "dinov3",
    ),
    "eupe": (cards_eva.EUPE, DINOV3 | {"qkv_bias": True}, "timm_eva"),
    "pe_core": (cards_eva.PE | {"pooling": "map"}, PE_CORE, "timm_eva"),
}


def timm_eva(kind):
    return timm.models.eva.Eva(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0, dynamic_img_size=True,
        **KINDS[kind][1],
    ).eval()  # fmt: skip


def timm_beit():
    return timm.models.beit.Beit(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0, use_abs_pos_emb=False,
        use_rel_pos_bias=True, init_values=0.1,
    ).eval()  # fmt: skip


def eva_card(kind):
    ours, _, table = KINDS[kind]
    return card_of("eva", ours | TINY, table)


BEIT_CARD = card_of("beit", TINY, "timm_beit")


def publishers_names(kind, state):
    """The arrays of a timm model under the names of EVA-02's or DINOv3's publisher, with what stands beside them."""
    width, dinov3 = 48, kind.startswith("dinov3")
    changes = [(r"mlp\.fc1_g", "mlp.w1"), (r"mlp\.fc1_x", "mlp.w2"), (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3")]
    if dinov3:
        changes += [("reg_token", "storage_tokens"), (r"gamma_(\d)", r"ls\1.gamma")]
        extra = {"rope_embed.periods": (4,), "mask_token": (1, width)}
        extra |= {f"blocks.{i}.attn.{name}": (3 * width,) for i in range(2) for name in ("qkv.bias", "qkv.bias_mask")}
        extra |= {f"local_cls_norm.{name}": (width,) for name in ("weight", "bias")}
    else:
        changes += [(r"mlp\.norm", "mlp.ffn_ln"), (r"attn\.norm", "attn.inner_attn_ln"), ("^fc_norm", "norm")]
        changes += [(r"attn\.([qv])_proj\.bias", r"attn.\1_bias")]
        extra = {"mask_token": (1, 1, width), "lm_head.weight": (7, width), "lm_head.bias": (7,)}
        extra |= {"rope.freqs_cos": (16, 16), "blocks.0.attn.rope.freqs_sin": (16, 16)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in extra.items()}
    for name, array in state.items():
        for pattern, replacement in changes:
            name = re.sub(pattern, replacement, name)
        arrays[name] = array
    return arrays


def check(card, model, path, side):
    """Converts the file, has timm load it into `model`, and compares the features on images of this side."""
    with in_zoo(card):
        original = cache.original_of(card, path)
        arrays, _ = cache.convert(card, original)
        module = zoo.skeleton(card.name, dtype=np.float32)
    parameters.assign(module, arrays, where="test")
    references.fill(model, original)
    stages = parity.compare(module, references.of_vit(model), [side])
    assert max(stage.float32 for stage in stages) < TOLERANCE, stages


@pytest.mark.parametrize("kind", ["eva02_mim", "dinov3_plus"])
def test_the_publishers_files(kind, tmp_path):
    published, filled = randomised(timm_eva(kind)), randomised(timm_eva(kind), seed=1)
    save_file(publishers_names(kind, numpy_state(published)), tmp_path / "model.safetensors")
    check(eva_card(kind), filled, tmp_path / "model.safetensors", side=48)


def test_the_publishers_packed_swiglu():
    card, state = eva_card("eva02_small"), numpy_state(randomised(timm_eva("eva02_small")))
    theirs = publishers_names("eva02_small", state)
    assert "blocks.0.mlp.w12.weight" in theirs and "norm.weight" in theirs
    with in_zoo(card):
        shapes = cache.shapes_of(card)
    ours, same = (rules.convert(x, table_of(card.table), shapes, what="x") for x in (state, theirs))
    for name, array in ours.items():
        np.testing.assert_array_equal(same[name], array)


@pytest.mark.parametrize("kind", ["eva02_clip", "pe_core"])
def test_timm_eva(kind, tmp_path):
    published, filled = randomised(timm_eva(kind)), randomised(timm_eva(kind), seed=1)
    head = {"head.weight": np.ones((5, 48), np.float32), "head.bias": np.ones(5, np.float32)}
    save_file(numpy_state(published) | head, tmp_path / "model.safetensors")
    check(eva_card(kind), filled, tmp_path / "model.safetensors", side=48)


def test_microsofts_beit(tmp_path):
    published, filled = randomised(timm_beit()), randomised(timm_beit(), seed=1)
    extra = {f"blocks.{i}.attn.relative_position_index": torch.ones(17, 17, dtype=torch.int64) for i in range(2)}
    torch.save({"model": published.state_dict() | extra | {"head.bias": torch.ones(5)}}, tmp_path / "beit.pth")
    check(BEIT_CARD, filled, tmp_path / "beit.pth", side=32)


@pytest.mark.parametrize("kind", [*KINDS, "beit"])
def test_the_way_back_gives_timms_arrays(kind):
    card = BEIT_CARD if kind == "beit" else eva_card(kind)
    state = numpy_state(randomised(timm_beit() if kind == "beit" else timm_eva(kind)))
    table = table_of(card.table)
    with in_zoo(card):
        shapes = cache.shapes_of(card)
    ours = rules.convert(state, table, shapes, what="timm")
    back = rules.export(ours, table, {name: array.shape for name, array in state.items()}, what="timm")
    assert back.keys() == state.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, state[name])


def test_the_norm_of_masked_image_modelling_under_both_names_is_an_error():
    card = eva_card("eva02_mim")
    state = numpy_state(timm_eva("eva02_mim"))
    with in_zoo(card):
        shapes = cache.shapes_of(card)
    both = state | {"norm.weight": state["fc_norm.weight"]}
    with pytest.raises(BobError, match=r"filled twice: fc_norm\.scale"):
        rules.convert(both, table_of("timm_eva_mim"), shapes, what="x")
    with pytest.raises(BobError, match=r"not a parameter of this architecture: norm\.weight"):
        rules.convert(both, table_of("timm_eva"), shapes, what="x")


def test_a_key_bias_is_not_dropped_in_silence():
    card = eva_card("eupe")
    state = numpy_state(timm_eva("eupe")) | {"blocks.1.attn.k_bias": np.ones(48, np.float32)}
    with in_zoo(card):
        shapes = cache.shapes_of(card)
    with pytest.raises(BobError, match=r"not known to the table: blocks\.1\.attn\.k_bias"):
        rules.convert(state, table_of("timm_eva"), shapes, what="x")
