"""Swin V2 checkpoints in each published layout: all give the same backbone, and get their tensors back."""

import re

import numpy as np
import pytest
import torch
from converter_models import card_of, in_zoo, randomised, weights_cache  # noqa: F401
from from_timm import renamed
from torch_reference import import_timm

from bob_jax.errors import BobError
from converters import cache, formats, rules
from converters.tables import table_of

timm = import_timm()
from timm.models.swin_transformer_v2 import SwinTransformerV2, checkpoint_filter_fn  # noqa: E402  (after import_timm)

pytestmark = pytest.mark.usefixtures("weights_cache")
OURS = {"width": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4), "window": 4, "input_size": 32}
NAMES = [(r"cpb_mlp\.0", "cpb_mlp.fc1"), (r"cpb_mlp\.2", "cpb_mlp.fc2")]


def swin() -> SwinTransformerV2:
    return SwinTransformerV2(
        img_size=32, embed_dim=16, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=4, num_classes=5
    )


def mergings_at_the_end(state: dict) -> dict:
    """A state dict as Microsoft's code and timm 0.6.12 write it, with the constants that one or the other stores."""
    old = {"layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16)}  # shifted blocks only
    for name, tensor in state.items():
        name = re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name)
        old[name.replace("head.fc.", "head.")] = tensor
        if name.endswith("logit_scale"):
            old[name.replace("logit_scale", "relative_position_index")] = torch.zeros(16, 16, dtype=torch.int64)
            old[name.replace("logit_scale", "relative_coords_table")] = torch.zeros(1, 7, 7, 2)
    return old


def depth_model(state: dict) -> dict:
    """MiDaS v3.1: the encoder under `pretrained.model`, the decoder beside it."""
    encoder = {f"pretrained.model.{name}": tensor for name, tensor in mergings_at_the_end(state).items()}
    decoder = ("scratch.layer1_rn.weight", "scratch.output_conv.4.bias", "pretrained.act_postprocess1.3.weight")
    return encoder | {name: torch.ones(2) for name in decoder}


def in_training(model: dict) -> dict:
    optimizer = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-5}]}
    return {"model": model, "optimizer": optimizer, "epoch": 60}


# layout: (table, prefix of the encoder's names in the file, content of the file from timm's state dict)
LAYOUTS = {
    "timm": ("timm_swin_v2", "", dict),
    "timm 0.6": ("microsoft_swin_v2", "", mergings_at_the_end),
    "microsoft": ("microsoft_swin_v2", "model.", lambda state: in_training(mergings_at_the_end(state))),
    "midas": ("midas_swin_v2", "pretrained.model.", depth_model),
    "midas in training": (
        "midas_swin_v2",
        "model.pretrained.model.",
        lambda state: in_training(depth_model(state)),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_backbone_and_gets_its_tensors_back(layout, tmp_path):
    table, prefix, content = LAYOUTS[layout]
    model = randomised(swin())
    torch.save(content(model.state_dict()), tmp_path / "file.pth")
    published = formats.read(tmp_path / "file.pth")

    # The file is what timm, too, takes for such a checkpoint.
    encoder = {name.removeprefix(prefix): torch.from_numpy(array) for name, array in published.items()
               if name.startswith(prefix)}  # fmt: skip
    filled = swin()
    filled.load_state_dict(checkpoint_filter_fn(encoder, filled), strict=True)

    with in_zoo(card_of("swin_v2", OURS, table)) as card:
        arrays, _ = cache.convert(card, cache.original_of(card, tmp_path / "file.pth"))
    expected = renamed(((n, x) for n, x in filled.state_dict().items() if not n.startswith("head.")), NAMES)
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name].reshape(array.shape), err_msg=name)

    back = rules.export(arrays, table_of(table), {n: x.shape for n, x in published.items()}, what=layout)
    assert len(back) == len(arrays)
    for name, array in back.items():
        np.testing.assert_array_equal(array, published[name], err_msg=name)


@pytest.mark.parametrize(
    ("layout", "table", "message"),
    [
        ("timm", "microsoft_swin_v2", r"not known to the table: layers\.3\.downsample"),
        ("timm 0.6", "timm_swin_v2", r"not known to the table: layers\.0\.downsample"),
        ("midas", "microsoft_swin_v2", r"missing in the checkpoint: .*patch_embed\.proj\.kernel"),
    ],
)
def test_a_layout_is_not_taken_for_another(layout, table, message, tmp_path):
    torch.save(LAYOUTS[layout][2](swin().state_dict()), tmp_path / "file.pth")
    with in_zoo(card_of("swin_v2", OURS, table)) as card, pytest.raises(BobError, match=message):
        cache.convert(card, cache.original_of(card, tmp_path / "file.pth"))
