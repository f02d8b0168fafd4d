"""The original implementations: how each is built, run, and laid beside ours stage by stage.

A reference is one function per architecture, in `REFERENCES`. timm's models fill themselves by timm's own loading code,
so what is compared is what a user of timm would get.
"""

import dataclasses
import functools
import importlib
import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bob_jax.backbones.card import Card
from bob_jax.backbones.pytorch import import_library
from bob_jax.errors import BobError, unknown_name
from converters import bridge, diffusers_reference, formats
from converters.reference import Reference, Stages

# What timm calls the architectures whose weights it does not publish.
UNPUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_s16_mocov3": ("vit_small_patch16_224", {"num_heads": 12}),
    "vit_b16_mocov3": ("vit_base_patch16_224", {}),
    "resnet50_dino": ("resnet50", {}),
    "resnet50_vicreg": ("resnet50", {}),
    "resnet50_mocov3": ("resnet50", {}),
    "swinv2_t_midas": ("swinv2_tiny_window16_256", {}),
    "swinv2_b_midas": ("swinv2_base_window12to24_192to384", {}),
    "vit_nano8_glyphs": (
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4}
        | {"global_pool": "avg", "fc_norm": False},
    ),
    "resnet10_nano_glyphs": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}),
    "convnext_nano_glyphs": ("convnext_tiny", {"depths": (1, 1, 2, 1), "dims": (16, 32, 64, 128)}),
}
WRAPPERS = r"^(?:state_dict\.module\.base_encoder\.|state_dict\.|(?:model\.)?pretrained\.model\.|model\.)"


def build(card: Card) -> Reference:
    """The reference of a card, with random weights; under `torch.device("meta")` without memory.

    Raises:
        BobError: the library is missing, or nobody has said what the architecture's reference is.
    """
    if card.architecture not in REFERENCES:
        raise unknown_name("architecture with a reference", card.architecture, REFERENCES)
    return REFERENCES[card.architecture](card)


def timm_name(card: Card) -> tuple[str, dict[str, Any]]:
    """timm's name of a card's architecture, and the options that make it the same function."""
    if card.name in UNPUBLISHED:
        return UNPUBLISHED[card.name]
    assert card.source is not None and card.source.hub is not None
    name = card.source.hub.removeprefix("timm/").partition(".")[0]
    if card.arguments.get("activation") == "quick_gelu":
        name = name.replace("_clip_", "_clip_quickgelu_")
    return name, {}


def timm_model(card: Card, **options: Any) -> Any:
    """timm's model of a card's architecture, in evaluation mode."""
    name, more = timm_name(card)
    options = {"num_classes": 0} | more | options
    return import_library("timm").create_model(name, pretrained=False, **options).eval()


def fill(
    model: Any, original: Any, spared: str = "num_batches_tracked", renamed: Callable[[str], str] = lambda name: name
) -> None:
    """Fills a timm model with original weights (`cache.Original`) by timm's own loading code.

    Args:
        model: timm's.
        original: the weights.
        spared: part of the names that may be missing, because no output depends on their value.
        renamed: the model's name for what timm's loading code calls otherwise.

    Raises:
        BobError: parameters of the model are missing in the weights.
    """
    import torch

    if original.path.suffix == ".npz":
        model.load_pretrained(str(original.path))
        return
    state = {
        re.sub(WRAPPERS, "", name): torch.from_numpy(np.array(array, np.float32))
        for name, array in formats.read(original.path).items()
    }
    translate = getattr(importlib.import_module(type(model).__module__), "checkpoint_filter_fn", None)
    state = translate(state, model) if translate else state
    state = {renamed(name): tensor for name, tensor in state.items()}
    missing = model.load_state_dict(state, strict=False).missing_keys
    missing = [name for name in missing if spared not in name]
    if missing:
        raise BobError(f"{original.source} does not fill timm's {type(model).__name__}: {len(missing)} missing")


def token_run(model: Any) -> Callable[[Any], tuple[Any, list[Any]]]:
    """How a timm transformer over one grid of patches is run: its map is the final patch tokens."""

    def run(images: Any) -> tuple[Any, list[Any]]:
        tokens = model.forward_features(images)
        sides = zip(images.shape[2:], model.patch_embed.patch_size, strict=True)
        patches = tokens[:, model.num_prefix_tokens :].transpose(1, 2)
        return model.forward_head(tokens, pre_logits=True), [
            patches.unflatten(2, [side // patch for side, patch in sides])
        ]

    return run


def pyramid_run(model: Any) -> Callable[[Any], tuple[Any, list[Any]]]:
    """How a timm network of four stages is run."""

    def run(images: Any) -> tuple[Any, list[Any]]:
        last, maps = model.forward_intermediates(images, indices=4)
        return model.forward_head(last), maps

    return run


def same(model: Any, names: Iterable[str]) -> Stages:
    """Stages that both call by these names, those that the model does not use (Identity) left out."""
    import torch

    modules = dict(model.named_modules())
    used = [name for name in names if not isinstance(modules.get(name, torch.nn.Identity()), torch.nn.Identity)]
    return tuple((name, name) for name in used)


def narrow_stem(model: Any, width: int) -> Any:
    """A ResNet of timm's with a stem of this width, of timm's own layers: its constructor knows 64 channels only."""
    import torch

    if width != model.bn1.num_features:
        model.conv1 = torch.nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        model.bn1 = type(model.bn1)(width)
        model.layer1[0] = type(model.layer1[0])(width, width)
    return model.eval()


def of_vit(model: Any, table: str = "timm_vit") -> Reference:
    """timm's `VisionTransformer`, or `Eva` or `Beit`, which call their parts by the same names."""
    blocks = [f"blocks.{index}" for index in range(len(model.blocks))]
    stages = same(model, ["patch_embed", "norm_pre", *blocks, "norm", "attn_pool", "fc_norm"])
    return Reference(model, token_run(model), stages, "NHWC", table, fill)


def of_resnet(model: Any) -> Reference:
    """timm's `ResNet`."""
    blocks = [
        f"layer{stage}.{index}" for stage in (1, 2, 3, 4) for index in range(len(getattr(model, f"layer{stage}")))
    ]
    return Reference(model, pyramid_run(model), same(model, ["conv1", *blocks]), "NCHW", "timm_resnet", fill)


def of_clip_resnet(model: Any) -> Reference:
    """timm's `ByobNet` as CLIP's ResNet, which counts stages from 0."""
    stem = [(f"conv{number}", f"stem.conv{number}.conv") for number in (1, 2, 3)]
    blocks = [
        (f"layer{stage + 1}.{index}", f"stages.{stage}.{index}")
        for stage, layer in enumerate(model.stages)
        for index in range(len(layer))
    ]
    pool = [("attn_pool", "head")] if hasattr(model.head, "pos_embed") else []
    return Reference(model, pyramid_run(model), (*stem, *blocks, *pool), "NCHW", "timm_clip_resnet", fill)


def of_convnext(model: Any) -> Reference:
    """timm's `ConvNeXt`; after loading FCMAE's encoder its last norm is the plain one that it was built with."""
    blocks = [
        f"stages.{stage}.blocks.{index}" for stage, part in enumerate(model.stages) for index in range(len(part.blocks))
    ]
    stages = same(model, ["stem.0", "stem.1", *blocks])
    last = ("norm", "norm_pre") if same(model, ["norm_pre"]) else ("fc_norm", "head.norm")
    return Reference(model, pyramid_run(model), (*stages, last), "NCHW", "timm_convnext", fill)


def of_swin_v2(model: Any) -> Reference:
    """timm's `SwinTransformerV2`."""
    parts = [
        [f"layers.{stage}.downsample", *(f"layers.{stage}.blocks.{index}" for index in range(len(layer.blocks)))]
        for stage, layer in enumerate(model.layers)
    ]
    stages = same(model, ["patch_embed", *itertools.chain(*parts), "norm"])
    return Reference(model, pyramid_run(model), stages, "NHWC", "timm_swin_v2", fill)


def of_hiera(model: Any) -> Reference:
    """timm's `Hiera`, made for one size; its blocks hold tokens in the order of windows: the maps stand for them."""
    stages = (("patch_embed", "patch_embed"), ("norm", "head.norm"))
    return Reference(model, pyramid_run(model), stages, "NHWC", "timm_hiera", fill)


def of_sam(model: Any) -> Reference:
    """timm's `VisionTransformerSAM`; its neck, behind the blocks, is where the map comes from."""

    def run(images: Any) -> tuple[Any, list[Any]]:
        features = model.forward_features(images)
        return model.forward_head(features, pre_logits=True), [features]

    blocks = [f"blocks.{index}" for index in range(len(model.blocks))]
    return Reference(model, run, same(model, ["patch_embed", *blocks]), "NHWC", "timm_sam_vit", fill)


def of_sscd(trunk: Any) -> Reference:
    """The authors' head (facebookresearch/sscd-copy-detection, sscd/models/model.py) on timm's `ResNet`."""
    import torch

    def run(images: Any) -> tuple[Any, list[Any]]:
        maps = trunk.forward_intermediates(images, indices=4, intermediates_only=True)
        pooled = maps[-1].clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
        return torch.nn.functional.normalize(trunk.fc(pooled)), maps

    def fill_strictly(module: Any, original: Any) -> None:
        if original.table != "sscd_torchvision":
            raise BobError(f"{original.source}: only the torchvision layout of SSCD has a reference to be verified by")
        state = {name: torch.from_numpy(array) for name, array in formats.read(original.path).items()}
        module.load_state_dict(state, strict=True)

    stages = tuple((ours, f"backbone.{theirs}") for ours, theirs in (*of_resnet(trunk).stages, ("fc", "fc")))
    module = torch.nn.ModuleDict({"backbone": trunk}).eval()
    return Reference(module, run, stages, "NCHW", "sscd_torchvision", fill_strictly)


def _vit(card: Card) -> Reference:
    reference = of_vit(timm_model(card, dynamic_img_size=True))
    if card.arguments.get("resample", "antialiased") != "antialiased":
        # The authors resample positions otherwise than timm: the same function at the size that the table is for.
        return dataclasses.replace(reference, sizes=(card.arguments["table_size"],))
    return reference


def _at_one_size(card: Card, reference: Reference) -> Reference:
    """The reference of a card that timm builds for its own size alone."""
    return dataclasses.replace(reference, sizes=(card.preprocessing.input_size,))


def convnext_reference(model: Any, final_norm: str) -> Reference:
    """timm's `ConvNeXt` for weights whose final norm stands where `ConvNeXt.final_norm` says."""
    reference = of_convnext(model)
    if final_norm == "before_pool":  # timm's loading code has only one name for it
        moved = functools.partial(fill, renamed=lambda name: name.replace("head.norm.", "norm_pre."))
        return dataclasses.replace(reference, fill=moved)
    if final_norm == "plain":
        stages = tuple(pair for pair in reference.stages if pair[0] != "fc_norm")
        spared = functools.partial(fill, spared="head.norm.")
        return dataclasses.replace(reference, stages=stages, fill=spared, table="timm_convnext_fcmae")
    return reference


def _convnext(card: Card) -> Reference:
    arguments, final_norm = card.arguments, card.arguments.get("final_norm", "after_pool")
    if final_norm == "before_pool":  # VICRegL, for which timm has no name
        convnext = import_library("timm").models.convnext.ConvNeXt
        options = {"num_classes": 0, "ls_init_value": None, "head_norm_first": True}
        model = convnext(depths=arguments["depths"], dims=arguments["widths"], **options).eval()
    else:
        model = timm_model(card)
    return convnext_reference(model, final_norm)


def _sscd(card: Card) -> Reference:
    resnet = import_library("timm").models.resnet
    trunk = resnet.ResNet(
        resnet.Bottleneck,
        card.arguments["stages"],
        num_classes=card.arguments.get("descriptor_dim", 512),
        cardinality=card.arguments.get("groups", 1),
        base_width=card.arguments.get("group_width", 64),
    )
    return of_sscd(trunk)


def _sam(card: Card) -> Reference:
    import torch

    norm = functools.partial(torch.nn.LayerNorm, eps=1e-6)  # the authors', where timm has 1e-5
    # A larger input than the card's would only cost more: at a smaller one positions are resampled too.
    return dataclasses.replace(of_sam(timm_model(card, norm_layer=norm)), sizes=(card.preprocessing.input_size, 512))


def _eva(card: Card) -> Reference:
    # DINOv3's authors take the class token where timm takes the mean.
    options = {"global_pool": "token"} if card.pooling == "cls" else {}
    return of_vit(timm_model(card, dynamic_img_size=True, **options), "timm_eva")


REFERENCES: dict[str, Callable[[Card], Reference]] = {
    "vit": _vit,
    "resnet": lambda card: of_resnet(narrow_stem(timm_model(card), card.arguments.get("width", 64))),
    "clip_resnet": lambda card: of_clip_resnet(timm_model(card, num_classes=card.arguments.get("projection_dim", 0))),
    "sscd": _sscd,
    "convnext": _convnext,
    "swin_v2": lambda card: of_swin_v2(timm_model(card, strict_img_size=False)),
    "hiera": lambda card: _at_one_size(card, of_hiera(timm_model(card))),
    "eva": _eva,
    "beit": lambda card: _at_one_size(card, of_vit(timm_model(card), "timm_beit")),
    "aimv2": lambda card: of_vit(timm_model(card, dynamic_img_size=True), "timm_aimv2"),
    "sam_vit": _sam,
    "stable_diffusion": diffusers_reference.reference,
    "timm": bridge.reference,
    "torch": bridge.reference,
}
