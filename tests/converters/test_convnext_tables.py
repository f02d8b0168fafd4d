"""ConvNeXt's key layouts: a checkpoint as published, converted here and loaded by timm's code, gives the same weights.

And back: what was converted, exported under the checkpoint's names, is the checkpoint again.
"""

import re
from typing import Any

import numpy as np
import pytest
import torch
from converter_models import card_of, in_zoo, numpy_state, randomised, weights_cache  # noqa: F401
from from_timm import renamed
from safetensors.numpy import save_file
from torch_reference import import_timm

from bob_jax.backbones import parameters, zoo
from bob_jax.errors import BobError
from converters import cache, formats, parity, references, rules
from converters.receipt import TOLERANCE
from converters.tables import table_of

timm = import_timm()
from timm.models.convnext import ConvNeXt  # noqa: E402  (timm is importable only after import_timm)

pytestmark = pytest.mark.usefixtures("weights_cache")
NAMES = [(r"^head\.norm", "fc_norm"), ("^norm_pre", "norm")]
ARGUMENTS: dict[str, Any] = {"depths": (1, 1, 2, 1), "widths": (8, 12, 16, 24), "input_size": 32}
V2, TIMM_V2 = {"grn": True, "layer_scale": None}, {"use_grn": True, "ls_init_value": None}
FCMAE = V2 | {"final_norm": "plain"}
VICREGL = {"layer_scale": None, "final_norm": "before_pool"}
TIMM_VICREGL = {"ls_init_value": None, "head_norm_first": True}


def timm_model(**options):
    return ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 12, 16, 24), num_classes=0, **options).eval()


def published(**options) -> dict[str, np.ndarray]:
    return numpy_state(randomised(timm_model(**options)))


def check(path, table: str, ours: dict[str, Any], theirs: dict[str, Any], *, features: bool = False) -> None:
    """Converts the file, has timm's own code load it, compares the weights (and the features), and exports it again."""
    card = card_of("convnext", ARGUMENTS | ours, table)
    with in_zoo(card):
        original = cache.original_of(card, path)
        arrays, _ = cache.convert(card, original)
        module = zoo.skeleton(card.name, dtype=np.float32)
    model = timm_model(**theirs)
    reference = references.convnext_reference(model, ours.get("final_norm", "after_pool"))
    reference.fill(model, original)
    expected = renamed(((name, as_linear(name, tensor)) for name, tensor in model.state_dict().items()), NAMES)
    if ours.get("final_norm") == "plain":  # what timm built and nothing filled: the identity
        assert expected.pop("fc_norm.scale").tolist() == [1] * 24 and not expected.pop("fc_norm.bias").any()
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], name)
    if features:
        parameters.assign(module, arrays, where="test")
        stages = parity.compare(module, reference, [64])
        assert max(stage.float32 for stage in stages) < TOLERANCE, stages
    check_export(arrays, table, formats.read(path))


def check_export(arrays: dict[str, np.ndarray], table: str, source: dict[str, np.ndarray]) -> None:
    """Every array of the source comes back as it was, but for those that the table ignores."""
    exported = rules.export(arrays, table_of(table), {name: a.shape for name, a in source.items()}, what="test")
    left_out = source.keys() - exported.keys()
    assert all(any(re.fullmatch(pattern, name) for pattern in table_of(table).ignore) for name in left_out)
    for name, array in exported.items():
        np.testing.assert_array_equal(array, source[name], name)


def as_linear(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten(1) if ".mlp.fc" in name and tensor.ndim == 4 else tensor


def facebook_names(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm's arrays under the names of facebookresearch's ConvNeXt and ConvNeXt-V2."""
    renamed = {}
    for name, array in state.items():
        if ".grn." in name:
            array = array.reshape(1, 1, 1, -1)
            name = name.replace("grn.weight", "grn.gamma").replace("grn.bias", "grn.beta")
        name = re.sub(r"^stem\.", "downsample_layers.0.", name)
        name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = re.sub(r"\.blocks\.(\d+)\.", r".\1.", name)
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv").replace("mlp.grn", "grn")
        renamed[re.sub(r"^(?:head\.norm|norm_pre)\.", "norm.", name)] = array
    return renamed


def save_torch(state: dict[str, np.ndarray], path, under: str | None = None):
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    torch.save({under: tensors, "epoch": 3} if under else tensors, path)
    return path


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [({}, {}), (V2, TIMM_V2), (V2, TIMM_V2 | {"conv_mlp": True}), (VICREGL, TIMM_VICREGL)],
    ids=["v1", "v2", "v2 with 1x1 convolutions", "norm before the pool"],
)
def test_timm(ours, theirs, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(published(**theirs) | {"head.fc.weight": np.ones((3, 24), np.float32)}, path)
    check(path, "timm_convnext", ours, theirs)


@pytest.mark.parametrize("with_norm", [False, True])
def test_timm_fcmae_whether_or_not_its_file_has_the_norm_that_timm_builds(with_norm, tmp_path):
    state = published(**TIMM_V2)
    norm = {"head.norm.weight": np.ones(24, np.float32), "head.norm.bias": np.zeros(24, np.float32)}
    state = {name: array for name, array in state.items() if name not in norm} | (norm if with_norm else {})
    save_file(state, tmp_path / "model.safetensors")
    check(tmp_path / "model.safetensors", "timm_convnext_fcmae", FCMAE, TIMM_V2)


def test_a_finetuned_checkpoint_is_no_fcmae_encoder(tmp_path):
    save_file(published(**TIMM_V2) | {"head.fc.bias": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    card = card_of("convnext", ARGUMENTS | FCMAE, "timm_convnext_fcmae")
    with in_zoo(card), pytest.raises(BobError, match=r"not known to the table: head\.fc\.bias"):
        cache.convert(card, cache.original_of(card, tmp_path / "model.safetensors"))


def test_an_fcmae_encoder_does_not_fill_a_model_with_a_norm(tmp_path):
    state = {name: array for name, array in published(**TIMM_V2).items() if not name.startswith("head.norm")}
    save_file(state, tmp_path / "model.safetensors")
    card = card_of("convnext", ARGUMENTS | V2, "timm_convnext")
    with in_zoo(card), pytest.raises(BobError, match=r"missing in the checkpoint: fc_norm\.\w+, fc_norm"):
        cache.convert(card, cache.original_of(card, tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("ours", "theirs", "under"), [({}, {}, "model"), (V2, TIMM_V2, "model"), ({}, {}, None)], ids=["v1", "v2", "dinov3"]
)
def test_facebook(ours, theirs, under, tmp_path):
    state = facebook_names(published(**theirs)) | {"head.weight": np.ones((3, 24), np.float32)}
    if under is None:  # DINOv3 and EUPE, without head
        del state["head.weight"]
        state |= {"norms.3.weight": state["norm.weight"], "projectors.0.bias": np.ones(2, np.float32)}
    check(save_torch(state, tmp_path / "convnext.pth", under), "facebook_convnext", ours, theirs)


def test_facebook_fcmae(tmp_path):
    state = {name: a for name, a in facebook_names(published(**TIMM_V2)).items() if not name.startswith("norm.")}
    path = save_torch(state, tmp_path / "convnextv2_nano_1k_224_fcmae.pt", "model")
    check(path, "facebook_convnext_fcmae", FCMAE, TIMM_V2, features=True)


def test_vicregl(tmp_path):
    path = save_torch(facebook_names(published(**TIMM_VICREGL)), tmp_path / "convnext_xlarge_alpha0.75.pth")
    check(path, "vicregl_convnext", VICREGL, TIMM_VICREGL, features=True)


def test_openclip_with_its_projection_and_text_tower(tmp_path):
    state = {f"visual.trunk.{name}": array for name, array in published().items()}
    others = ("visual.head.proj.weight", "logit_scale", "transformer.resblocks.0.ln_1.weight", "token_embedding.weight")
    state |= {name: np.ones((2, 24), np.float32) for name in others}
    check(save_torch(state, tmp_path / "open_clip_pytorch_model.bin"), "openclip_convnext", {}, {})
