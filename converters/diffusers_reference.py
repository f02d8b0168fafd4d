"""Stable Diffusion as diffusers and transformers have it, for `python -m converters verify`."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bob_jax.backbones import zoo
from bob_jax.backbones.card import Card
from bob_jax.backbones.pytorch import import_library
from bob_jax.backbones.stable_diffusion import CONTEXT_TOKENS, StableDiffusionEncoder
from bob_jax.backbones.vae_encoder import LEVELS, SCALING_FACTOR
from bob_jax.errors import BobError
from converters.clip_text import HEAD_DIM, depth_of
from converters.reference import Reference, Stages
from converters.stable_diffusion import TEXT_TOKENS, VERSIONS
from converters.stages import recorded_torch

# What diffusers calls the layers of the autoencoder's attention, by the names that its old versions wrote.
NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
TOWER = "text_encoder.text_model."


def reference(card: Card) -> Reference:
    """Autoencoder and U-Net of a card without the way back to pixels; the weights are whatever memory holds."""
    torch = import_library("torch")
    skeleton = zoo.skeleton(card.name)
    assert isinstance(skeleton, StableDiffusionEncoder)
    table = card.table if card.table in VERSIONS else "diffusers_sd_v1"
    without_memory = torch.empty(0).device.type == "meta"
    with torch.device("meta"):
        module = _module(skeleton, linear_projection=table == "diffusers_sd_v2")
    module = module if without_memory else module.to_empty(device="cpu")
    return Reference(
        module=module.eval(),
        run=lambda images: _run(module, images),
        stages=_stages(skeleton),
        layout="NCHW",
        table=table,
        fill=_fill,
        library="diffusers",
    )


def _module(skeleton: StableDiffusionEncoder, *, linear_projection: bool) -> Any:
    """A module with the parts `vae` and `unet`, and the text's embedding as a buffer outside of its state."""
    torch, diffusers = import_library("torch"), import_library("diffusers")
    levels, blocks = skeleton.levels, skeleton.blocks
    attentions = [level.attentions for level in skeleton.unet.down_blocks[:-1]]
    heads = [of_level[0].block.attn1.num_heads for of_level in attentions]
    vae = diffusers.AutoencoderKL(
        block_out_channels=[level.resnets[0].conv1.kernel.shape[-1] for level in skeleton.vae.down_blocks],
        layers_per_block=blocks,
        down_block_types=["DownEncoderBlock2D"] * LEVELS,
        up_block_types=["UpDecoderBlock2D"] * LEVELS,
        latent_channels=4,
    )
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=skeleton.widths[1:],
        attention_head_dim=[*heads, skeleton.unet.mid_block.attention.block.attn1.num_heads],  # their number, in truth
        layers_per_block=blocks,
        cross_attention_dim=skeleton.context.shape[1],
        use_linear_projection=linear_projection,
        down_block_types=["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1),
    )
    for owner, parts in ((vae, ("decoder", "post_quant_conv")), (unet, ("up_blocks", "conv_norm_out", "conv_out"))):
        for part in parts:
            delattr(owner, part)
    module = torch.nn.ModuleDict({"vae": vae, "unet": unet})
    module.register_buffer("context", torch.empty(skeleton.context.shape), persistent=False)
    return module


def _run(module: Any, images: Any) -> tuple[Any, list[Any]]:
    """Descriptor and maps: what diffusers' pipeline computes on the way, each after a fresh group norm."""
    torch = import_library("torch")
    vae, unet = module["vae"], module["unet"]
    with recorded_torch(vae, ["encoder.down_blocks.1"]) as seen:
        x = unet.conv_in(vae.encode(images).latent_dist.mode() * SCALING_FACTOR)
    maps = [seen["encoder.down_blocks.1"]]
    time = unet.time_embedding(unet.time_proj(torch.zeros(1)).to(images.dtype))
    text = module.context.to(images.dtype).expand(len(images), -1, -1)
    for block in unet.down_blocks:
        x, states = block(x, time, **({"encoder_hidden_states": text} if hasattr(block, "attentions") else {}))
        maps.append(states[len(block.resnets) - 1])
    maps[-1] = unet.mid_block(x, time, encoder_hidden_states=text)
    maps = [torch.nn.functional.group_norm(x.float(), 32) for x in maps]
    return maps[-1].mean((2, 3)), maps


def _stages(skeleton: StableDiffusionEncoder) -> Stages:
    stages = [(f"vae.down_blocks.{level}", f"vae.encoder.down_blocks.{level}") for level in range(LEVELS)]
    stages += [("vae.mid_block", "vae.encoder.mid_block"), ("vae.quant_conv", "vae.quant_conv")]
    stages += [(name, name) for name in ("unet.time_embedding", "unet.conv_in")]
    for index, level in enumerate(skeleton.unet.down_blocks):
        name = f"unet.down_blocks.{index}"
        for block in range(skeleton.blocks):
            stages.append((f"{name}.resnets.{block}",) * 2)
            if level.attentions:  # the branch: diffusers' transformers return the stream in a tuple
                stages.append((f"{name}.attentions.{block}.proj_out",) * 2)
        if level.downsample is not None:
            stages.append((f"{name}.downsample", f"{name}.downsamplers.0"))
    return (*stages, ("unet.mid_block", "unet.mid_block"))


def _fill(module: Any, original: Any) -> None:
    """Loads original weights (`cache.Original`) of diffusers' layout, and has transformers embed the text."""
    torch = import_library("torch")
    if original.table not in VERSIONS:
        raise BobError(
            f"{original.source}: only diffusers' layout of Stable Diffusion has a reference to be verified by"
        )
    arrays = original.read()
    names = {re.sub(r"(?<=attentions\.0\.)(query|key|value|proj_attn)\b", lambda m: NEW_NAMES[m[1]], name): name
             for name in arrays}  # fmt: skip
    wanted = module.state_dict()
    if missing := [name for name in wanted if name not in names]:
        raise BobError(f"{original.source} does not fill diffusers' models: {len(missing)} missing, e.g. {missing[0]}")
    state = {name: torch.from_numpy(np.array(arrays[names[name]], np.float32)) for name in wanted}
    # Old files have attention as [C, C, 1, 1] or [C, C], as the new ones have.
    module.load_state_dict({name: value.reshape(wanted[name].shape) for name, value in state.items()}, strict=True)
    tower = {name.removeprefix(TOWER): array for name, array in arrays.items() if name.startswith(TOWER)}
    module.context.copy_(_embedding(tower, **VERSIONS[original.table]))


def _embedding(tower: Mapping[str, np.ndarray], *, activation: str, padding: int) -> Any:
    """[77, C]: what transformers' tower, after its final norm, says of the text."""
    torch, transformers = import_library("torch"), import_library("transformers")
    positions, width = tower["embeddings.position_embedding.weight"].shape
    config = transformers.CLIPTextConfig(
        vocab_size=len(tower["embeddings.token_embedding.weight"]),
        hidden_size=width,
        intermediate_size=len(tower["encoder.layers.0.mlp.fc1.bias"]),
        num_hidden_layers=depth_of(tower),
        num_attention_heads=width // HEAD_DIM,
        max_position_embeddings=positions,
        hidden_act=activation,
    )
    model = transformers.CLIPTextModel(config).eval()
    state = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in tower.items()}
    state.pop("embeddings.position_ids", None)
    getattr(model, "text_model", model).load_state_dict(state, strict=True)  # transformers 5 has no level between
    tokens = torch.tensor([[*TEXT_TOKENS, *[padding] * (CONTEXT_TOKENS - len(TEXT_TOKENS))]])
    with torch.no_grad():
        return model(tokens).last_hidden_state[0]
