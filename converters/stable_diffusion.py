"""Key layouts of Stable Diffusion: diffusers' folders, and the publisher's single file.

Of the text tower only its embedding of one fixed text is kept, `context`.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bob_jax.errors import BobError
from converters.clip_text import depth_of, last_hidden_state
from converters.rules import Rule, Table, Transform, conv, identity

# The text that Battle of the Backbones gave the U-Net in its classification suite. One competitor has one text: it is
# the same here for every task.
TEXT = "image classification"
TEXT_TOKENS = (49406, 2867, 26612, 49407)  # start, its two words in CLIP's byte-pair vocabulary, end
CONTEXT_TOKENS = 77
END = 49407
DECIMALS = 5  # kept of the embedding: float64 rounding is then the same on every machine

DEPTHS = {768: 12, 1024: 23}  # blocks by width; v2 reads OpenCLIP's tower out before its 24th block

# A fully connected layer [out, in], or the 1x1 convolution [out, in, 1, 1] that is the same, as a kernel [in, out].
pointwise = Transform(
    lambda weight: weight.reshape(weight.shape[0], -1).T, lambda kernel, shape: kernel.T.reshape(shape)
)


def with_context(
    arrays: Mapping[str, np.ndarray], *, tower: str, activation: str, padding: int
) -> dict[str, np.ndarray]:
    """The arrays with the text's embedding, `context` [77, C], in place of the text tower.

    Args:
        arrays: a checkpoint.
        tower: prefix of the text tower's names.
        activation: of the tower.
        padding: token that fills the text up to 77: the end token in v1, 0 in v2. The U-Net attends to padding too.

    Raises:
        BobError: the checkpoint has no text tower, or a part of it only.
    """
    inside = {name.removeprefix(tower): array for name, array in arrays.items() if name.startswith(tower)}
    inside.pop("embeddings.position_ids", None)  # a counter that old versions of transformers stored
    if not inside:
        raise BobError(f"the checkpoint has no text tower (no name starts with {tower}), whose embedding is needed")
    tokens = (*TEXT_TOKENS, *[padding] * (CONTEXT_TOKENS - len(TEXT_TOKENS)))
    context = last_hidden_state(inside, tokens, activation).round(DECIMALS).astype(np.float32)
    width, depth = context.shape[1], depth_of(inside)
    if DEPTHS.get(width, depth) != depth:
        raise BobError(f"a text tower of width {width} has {depth} blocks where Stable Diffusion's has {DEPTHS[width]}")
    return {name: array for name, array in arrays.items() if not name.startswith(tower)} | {"context": context}


LEAVES: dict[str, tuple[str, Transform]] = {
    "norm": ("scale", identity),
    "conv": ("kernel", conv),
    "linear": ("kernel", pointwise),
}
RESNET = {
    "norm1": "norm",
    "conv1": "conv",
    "time_emb_proj": "linear",
    "norm2": "norm",
    "conv2": "conv",
    "conv_shortcut": "conv",
}


def _layer(kind: str, theirs: str, ours: str) -> tuple[Rule, Rule]:
    """Weight and bias of a layer."""
    leaf, transform = LEAVES[kind]
    return Rule(rf"{theirs}\.weight", f"{ours}.{leaf}", transform), Rule(rf"{theirs}\.bias", f"{ours}.bias")


def _resnet(theirs: str, ours: str, names: Mapping[str, str]) -> Iterator[Rule]:
    """A residual block whose layers are called as ours, or as `names` says."""
    for layer, kind in RESNET.items():
        yield from _layer(kind, rf"{theirs}\.{names.get(layer, layer)}", f"{ours}.{layer}")


def _transformer(theirs: str, ours: str) -> Iterator[Rule]:
    """A transformer, which has the same names in both layouts."""
    block = rf"{theirs}\.transformer_blocks\.0"
    yield from _layer("norm", rf"{theirs}\.norm", f"{ours}.norm")
    yield from _layer("linear", rf"{theirs}\.(?P<layer>proj_in|proj_out)", rf"{ours}.\g<layer>")
    yield from _layer("norm", rf"{block}\.(?P<layer>norm[123])", rf"{ours}.block.\g<layer>")
    yield from _layer("linear", rf"{block}\.(?P<layer>attn[12]\.to_[qkv])", rf"{ours}.block.\g<layer>")
    yield from _layer("linear", rf"{block}\.(?P<layer>attn[12]\.to_out)\.0", rf"{ours}.block.\g<layer>")
    yield from _layer("linear", rf"{block}\.ff\.net\.0\.proj", f"{ours}.block.ff.fc1")
    yield from _layer("linear", rf"{block}\.ff\.net\.2", f"{ours}.block.ff.fc2")


def _attention(theirs: str, names: Mapping[str, str]) -> Iterator[Rule]:
    """The autoencoder's attention."""
    for layer, name in names.items():
        kind = "norm" if layer == "group_norm" else "linear"
        yield from _layer(kind, rf"{theirs}\.{name}", f"vae.mid_block.attention.{layer}")


def _diffusers() -> Iterator[Rule]:
    """diffusers' layout; the autoencoder's attention also under the names that old versions wrote."""
    at = r"(?P<at>(?:down_blocks\.\d+|mid_block)\.resnets\.\d+)"
    level = r"(?P<at>down_blocks\.\d+)\.downsamplers\.0\.conv"
    for theirs, ours in ((r"vae\.encoder", "vae"), ("unet", "unet")):
        yield from _layer("conv", rf"{theirs}\.conv_in", f"{ours}.conv_in")
        yield from _resnet(rf"{theirs}\.{at}", rf"{ours}.\g<at>", {})
        yield from _layer("conv", rf"{theirs}\.{level}", rf"{ours}.\g<at>.downsample")
    names = {"group_norm": "group_norm", "to_q": "(?:to_q|query)", "to_k": "(?:to_k|key)", "to_v": "(?:to_v|value)"}
    names["to_out"] = r"(?:to_out\.0|proj_attn)"
    yield from _attention(r"vae\.encoder\.mid_block\.attentions\.0", names)
    yield from _layer("norm", r"vae\.encoder\.conv_norm_out", "vae.conv_norm_out")
    yield from _layer("conv", r"vae\.encoder\.conv_out", "vae.conv_out")
    yield from _layer("conv", r"vae\.quant_conv", "vae.quant_conv")
    yield from _layer("linear", r"unet\.time_embedding\.(?P<at>linear_[12])", r"unet.time_embedding.\g<at>")
    yield from _transformer(r"unet\.(?P<at>down_blocks\.\d+\.attentions\.\d+)", r"unet.\g<at>")
    yield from _transformer(r"unet\.mid_block\.attentions\.0", "unet.mid_block.attention")


def _compvis() -> Iterator[Rule]:
    """The publisher's layout; the U-Net's blocks are numbered through, three to a level: two and its halving."""
    vae, unet = r"first_stage_model\.encoder", r"model\.diffusion_model"
    in_vae = {"conv_shortcut": "nin_shortcut"}
    in_unet = {
        "norm1": r"in_layers\.0",
        "conv1": r"in_layers\.2",
        "time_emb_proj": r"emb_layers\.1",
        "norm2": r"out_layers\.0",
        "conv2": r"out_layers\.3",
        "conv_shortcut": "skip_connection",
    }
    yield from _layer("conv", rf"{vae}\.conv_in", "vae.conv_in")
    yield from _resnet(rf"{vae}\.down\.(?P<i>\d)\.block\.(?P<j>\d)", r"vae.down_blocks.\g<i>.resnets.\g<j>", in_vae)
    yield from _layer("conv", rf"{vae}\.down\.(?P<i>\d)\.downsample\.conv", r"vae.down_blocks.\g<i>.downsample")
    for index in range(2):
        yield from _resnet(rf"{vae}\.mid\.block_{index + 1}", f"vae.mid_block.resnets.{index}", in_vae)
        yield from _resnet(rf"{unet}\.middle_block\.{2 * index}", f"unet.mid_block.resnets.{index}", in_unet)
        yield from _layer("linear", rf"{unet}\.time_embed\.{2 * index}", f"unet.time_embedding.linear_{index + 1}")
    names = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
    yield from _attention(rf"{vae}\.mid\.attn_1", names)
    yield from _layer("norm", rf"{vae}\.norm_out", "vae.conv_norm_out")
    yield from _layer("conv", rf"{vae}\.conv_out", "vae.conv_out")
    yield from _layer("conv", r"first_stage_model\.quant_conv", "vae.quant_conv")
    yield from _layer("conv", rf"{unet}\.input_blocks\.0\.0", "unet.conv_in")
    for number in range(11):
        level, index = divmod(number, 3)
        block, ours = rf"{unet}\.input_blocks\.{number + 1}", f"unet.down_blocks.{level}"
        if index == 2:
            yield from _layer("conv", rf"{block}\.0\.op", f"{ours}.downsample")
        else:
            yield from _resnet(rf"{block}\.0", f"{ours}.resnets.{index}", in_unet)
            yield from _transformer(rf"{block}\.1", f"{ours}.attentions.{index}")
    yield from _transformer(rf"{unet}\.middle_block\.1", "unet.mid_block.attention")


CONTEXT = Rule("context", "context")
# The way back from latents to pixels, the prediction of noise, and the text tower behind `context`.
DIFFUSERS_IGNORED = (
    r"vae\.(?:decoder|post_quant_conv)\..*",
    r"unet\.(?:up_blocks|conv_norm_out|conv_out)\..*",
    r"text_encoder\..*",
)
COMPVIS_IGNORED = (
    r"first_stage_model\.(?:decoder|post_quant_conv|loss)\..*",
    r"model\.diffusion_model\.(?:output_blocks|out)\..*",
    r"cond_stage_model\..*",
    r"(?!first_stage_model\.|model\.diffusion_model\.|cond_stage_model\.|context$).*",  # schedule, moving averages
)
V1: dict[str, Any] = {"activation": "quick_gelu", "padding": END}
V2: dict[str, Any] = {"activation": "gelu", "padding": 0}
VERSIONS = {"diffusers_sd_v1": V1, "diffusers_sd_v2": V2}  # by the names of diffusers' tables

DIFFUSERS_V1, DIFFUSERS_V2 = (
    Table(
        (*_diffusers(), CONTEXT),
        DIFFUSERS_IGNORED,
        functools.partial(with_context, tower="text_encoder.text_model.", **version),
        derived=("context",),
    )
    for version in (V1, V2)
)
COMPVIS_V1 = Table(
    (*_compvis(), CONTEXT),
    COMPVIS_IGNORED,
    functools.partial(with_context, tower="cond_stage_model.transformer.text_model.", **V1),
    derived=("context",),
)
