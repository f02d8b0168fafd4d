"""Stable Diffusion as diffusers has it, run as our encoder runs: the reference of `stable_diffusion`."""

from typing import Any

from bob_jax.backbones.card import Card
from bob_jax.errors import BobError
from converters import stable_diffusion
from converters.pytorch import import_library
from converters.references import Reference, Stages

SCALING_FACTOR = 0.18215  # of the latents, in the configuration of both versions
VAE_WIDTHS, UNET_WIDTHS = (128, 256, 512, 512), (320, 640, 1280, 1280)


def build(card: Card) -> Reference:
    """Autoencoder and U-Net with a card's arguments; linear projections around the transformers from version 2 on."""
    diffusers = import_library("diffusers")
    arguments, blocks = card.arguments, card.arguments.get("blocks", 2)
    widths = arguments.get("unet_widths", UNET_WIDTHS)
    levels = len(widths)
    vae = diffusers.AutoencoderKL(
        block_out_channels=arguments.get("vae_widths", VAE_WIDTHS),
        layers_per_block=blocks,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=widths,
        attention_head_dim=arguments["num_heads"],  # diffusers' name for the number of heads
        layers_per_block=blocks,
        cross_attention_dim=arguments["context_features"],
        use_linear_projection=card.table == "diffusers_sd_v2",
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
    )
    return of_stable_diffusion(vae, unet, card.table or "diffusers_sd_v1")


def of_stable_diffusion(vae: Any, unet: Any, table: str) -> Reference:
    """The reference made of an autoencoder and a U-Net of diffusers, with a constant text."""
    import torch

    module = torch.nn.ModuleDict({"vae": vae, "unet": unet}).eval()
    module.register_buffer("context", torch.zeros(stable_diffusion.CONTEXT_TOKENS, unet.config.cross_attention_dim))

    def run(images: Any) -> tuple[Any, list[Any]]:
        taps = [vae.encoder.down_blocks[1], *(block.attentions[-1] for block in unet.down_blocks[:-1])]
        caught: list[Any] = []
        hooks = [tap.register_forward_hook(lambda *call: caught.append(call[2])) for tap in taps]
        latents = vae.encode(images).latent_dist.mode() * SCALING_FACTOR
        time = unet.time_proj(torch.zeros(len(images), dtype=torch.long)).to(images.dtype)
        context = {"encoder_hidden_states": module.context.expand(len(images), -1, -1)}
        x, time = unet.conv_in(latents), unet.time_embedding(time)
        for block in unet.down_blocks:
            x, _ = block(x, time, **(context if hasattr(block, "attentions") else {}))
        x = unet.mid_block(x, time, **context)
        for hook in hooks:
            hook.remove()
        maps = [y if isinstance(y, torch.Tensor) else y[0] for y in (*caught, x)]
        maps = [torch.nn.functional.group_norm(y, 32, eps=1e-5) for y in maps]
        return maps[-1].mean((2, 3)), maps

    return Reference(module, run, _stages(vae, unet), "NCHW", table, _fill, library="diffusers")


def _stages(vae: Any, unet: Any) -> Stages:
    pairs = [("vae.conv_in", "vae.encoder.conv_in"), ("unet.conv_in", "unet.conv_in")]
    for ours, theirs, model in (("vae", "vae.encoder", vae.encoder), ("unet", "unet", unet)):
        for level, block in enumerate(model.down_blocks):
            parts = {"resnets": block.resnets, "attentions": getattr(block, "attentions", None) or ()}
            names = [
                f"down_blocks.{level}.{part}.{index}" for part, some in parts.items() for index in range(len(some))
            ]
            pairs += [(f"{ours}.{name}", f"{theirs}.{name}") for name in names]
        for index in (0, 1):
            pairs.append((f"{ours}.mid_block.resnets.{index}", f"{theirs}.mid_block.resnets.{index}"))
        pairs.append((f"{ours}.mid_block.attention", f"{theirs}.mid_block.attentions.0"))
    return tuple(pairs)


def _fill(module: Any, original: Any) -> None:
    """Both models by name, and the text's embedding by transformers' own text tower.

    Raises:
        BobError: the layout is not diffusers', or arrays are missing.
    """
    import torch

    if not original.table.startswith("diffusers_"):
        raise BobError(f"{original.source}: verify Stable Diffusion with diffusers' folder, which its reference reads")
    state = {name: torch.from_numpy(array).float() for name, array in original.read().items()}
    tower = {name: state.pop(name) for name in list(state) if name.startswith("text_encoder.")}
    old = {
        "query": "to_q",
        "key": "to_k",
        "value": "to_v",
        "proj_attn": "to_out.0",
    }  # names of the autoencoder's attention
    for name in [name for name in state if ".mid_block.attentions.0." in name and name.startswith("vae.")]:
        part = name.split(".")[-2]
        state[name.replace(f".{part}.", f".{old.get(part, part)}.")] = state.pop(name)
    state["context"] = _embedding(tower, "quick_gelu" if original.table.endswith("v1") else "gelu")
    missing = module.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise BobError(f"{original.source} does not fill diffusers' models: {len(missing)} missing")


def _embedding(tower: dict[str, Any], activation: str) -> Any:
    """[77, C], of the text that the U-Net is conditioned on, rounded as the converter rounds it."""
    import torch

    transformers = import_library("transformers")
    state = {name.removeprefix("text_encoder."): tensor for name, tensor in tower.items()}
    width = state["text_model.final_layer_norm.weight"].shape[0]
    config = transformers.CLIPTextConfig(
        vocab_size=len(state["text_model.embeddings.token_embedding.weight"]),
        hidden_size=width,
        intermediate_size=len(state["text_model.encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=len({name.split(".")[3] for name in state if ".layers." in name}),
        num_attention_heads=width // 64,
        hidden_act=activation,
    )
    model = transformers.CLIPTextModel(config).eval()
    names = model.state_dict().keys()
    inner = {name if name in names else name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    model.load_state_dict({name: tensor for name, tensor in inner.items() if name in names}, strict=True)
    padding = stable_diffusion.END if activation == "quick_gelu" else 0
    tokens = [*stable_diffusion.TEXT_TOKENS]
    tokens += [padding] * (stable_diffusion.CONTEXT_TOKENS - len(tokens))
    with torch.no_grad():
        return model.double()(torch.tensor([tokens])).last_hidden_state[0].round(decimals=stable_diffusion.DECIMALS)
