"""Our backbone against the original implementation, on the same published weights."""

import importlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.card import Card
from bob_jax.errors import BobError
from converters import bridge, cache, formats

TOLERANCE = 1e-5  # largest difference over the largest value, float32
# What timm calls the architectures whose weights it does not publish.
UNPUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_s16_mocov3": ("vit_small_patch16_224", {"num_heads": 12}),
    "vit_b16_mocov3": ("vit_base_patch16_224", {}),
    "resnet50_dino": ("resnet50", {}),
    "resnet50_vicreg": ("resnet50", {}),
    "resnet50_mocov3": ("resnet50", {}),
}
WRAPPERS = r"^(?:state_dict\.module\.base_encoder\.|state_dict\.|model\.)"


def verify(card: Card, original: cache.Original) -> dict[str, float]:
    """Converts the original weights, compares both implementations on them, and writes the figures into the receipt.

    The descriptor and every feature map are compared in float32, at the card's input size and at a larger one.

    Returns:
        Relative error by input size and stage, e.g. {"224 pooled": 1e-6, "224 map 16": 2e-6}.

    Raises:
        BobError: the weights cannot be had, do not fit either side, or timm is missing.
    """
    arrays, receipt = cache.convert(card, original)
    model = bridge.reference(card, arrays) if bridge.is_bridged(card) else reference(card, original)
    module = zoo.skeleton(card.name, dtype=jnp.float32)
    parameters.assign(module, arrays, where=original.source)
    size = card.preprocessing.input_size
    errors: dict[str, float] = {}
    # A bridged program is the reference's own, and many are made for one size.
    for side in (size,) if bridge.is_bridged(card) else (size, size + 2 * max(module.strides)):
        images = np.random.default_rng(side).standard_normal((2, side, side, 3), np.float32)
        errors |= {f"{side} {stage}": error for stage, error in compare(module, model, images).items()}
    receipt = cache.with_parity(receipt, errors)
    cache.save(card, arrays, receipt)
    return errors


def compare(module: Any, model: Any, images: np.ndarray) -> dict[str, float]:
    """Relative error, largest difference over largest value, of the descriptor and of each map.

    Args:
        module: our backbone.
        model: timm's.
        images: [B, H, W, 3] float32.
    """
    import torch

    graph, state = nnx.split(module)
    with jax.default_matmul_precision("float32"):
        ours = jax.jit(lambda state, images: nnx.merge(graph, state)(images))(state, images)
    with torch.no_grad():
        pooled, maps = _run(model, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    pairs = [("pooled", ours.pooled, pooled)]
    pairs += [
        (f"map {stride}", ours_map, theirs.permute(0, 2, 3, 1))
        for stride, ours_map, theirs in zip(module.strides, ours.maps, maps, strict=True)
    ]
    return {stage: relative(np.asarray(mine), theirs.numpy()) for stage, mine, theirs in pairs}


def reference(card: Card, original: cache.Original) -> Any:
    """timm's implementation of a card's architecture, holding the original weights by timm's own loading code.

    Raises:
        BobError: timm is missing, or the weights do not fill its model.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision's operators do not fit torch
        raise BobError(f"verifying needs timm and torch: pip install timm torch ({error})") from error
    name, options = timm_name(card)
    if card.architecture == "vit":
        options = options | {"dynamic_img_size": True}
    classes = card.arguments["projection_dim"] if card.architecture == "clip_resnet" else 0
    model = timm.create_model(name, pretrained=False, num_classes=classes, **options).eval()
    fill(model, original)
    return model


def timm_name(card: Card) -> tuple[str, dict[str, Any]]:
    """timm's name of a card's architecture, and the options that make it the same function."""
    if card.name in UNPUBLISHED:
        return UNPUBLISHED[card.name]
    assert card.source is not None and card.source.hub is not None
    name = card.source.hub.removeprefix("timm/").partition(".")[0]
    if card.arguments.get("activation") == "quick_gelu":
        name = name.replace("_clip_", "_clip_quickgelu_")
    return name, {}


def fill(model: Any, original: cache.Original) -> None:
    """Fills a timm model with original weights by timm's own loading code.

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
    missing = model.load_state_dict(translate(state, model) if translate else state, strict=False).missing_keys
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing:
        raise BobError(f"{original.source} does not fill timm's {type(model).__name__}: {len(missing)} missing")


def _run(model: Any, images: Any) -> tuple[Any, list[Any]]:
    """Descriptor [B, D] and maps [B, C, h, w] of a timm model."""
    if getattr(model, "gives_features", False):
        return model(images)
    if hasattr(model, "patch_embed"):
        tokens = model.forward_features(images)
        rows, columns = (
            side // patch for side, patch in zip(images.shape[2:], model.patch_embed.patch_size, strict=True)
        )
        patches = tokens[:, model.num_prefix_tokens :].transpose(1, 2)
        return model.forward_head(tokens, pre_logits=True), [patches.unflatten(2, (rows, columns))]
    maps = model.forward_intermediates(images, indices=4, intermediates_only=True)
    return model(images), maps


def relative(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the largest value of `theirs`."""
    return float(np.abs(mine - theirs).max() / np.abs(theirs).max())
