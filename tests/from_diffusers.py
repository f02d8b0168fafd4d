"""Stable Diffusion as diffusers has it, small: the reference of the parity tests, with its names in bob_jax.

Written apart from converters/ on purpose, so that a mistake there does not hide here.
"""

import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from from_timm import randomise, renamed
from torch_reference import import_timm

import_timm()  # registers torchvision's operators, without which diffusers does not load beside a CPU-only torch
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import AutoencoderKL, UNet2DConditionModel

SCALING_FACTOR = 0.18215
# Whose parameters the encoder has; the rest of both models is the way back to pixels.
VAE_PARTS = ("encoder.", "quant_conv.")
UNET_PARTS = ("conv_in.", "time_embedding.", "down_blocks.", "mid_block.")
NAMES = [
    (r"^vae\.encoder\.", "vae."),
    (r"\.downsamplers\.0\.conv\.", ".downsample."),
    (r"mid_block\.attentions\.0\.", "mid_block.attention."),
    (r"\.transformer_blocks\.0\.", ".block."),
    (r"\.to_out\.0\.", ".to_out."),
    (r"\.ff\.net\.0\.proj\.", ".ff.fc1."),
    (r"\.ff\.net\.2\.", ".ff.fc2."),
]


class Reference(torch.nn.Module):
    """Autoencoder and U-Net with the arguments that our `StableDiffusionEncoder` is called with, and the text."""

    def __init__(self, arguments: Mapping, *, linear_projection: bool):
        super().__init__()
        levels, width = len(arguments["unet_widths"]), arguments["context_features"]
        self.vae = AutoencoderKL(
            block_out_channels=arguments["vae_widths"],
            layers_per_block=arguments["blocks"],
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
        )
        self.unet = UNet2DConditionModel(
            block_out_channels=arguments["unet_widths"],
            attention_head_dim=arguments["num_heads"],  # diffusers' name for the number of heads
            layers_per_block=arguments["blocks"],
            cross_attention_dim=width,
            use_linear_projection=linear_projection,
            down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        )
        self.context = torch.nn.Buffer(torch.randn((77, width), generator=torch.Generator().manual_seed(7)))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """`pooled`, then the maps as [B, H, W, C]: of each model's own modules, and of a fresh group norm."""
        taps = [self.vae.encoder.down_blocks[1], *(block.resnets[-1] for block in self.unet.down_blocks[:-1])]
        for index, block in enumerate(self.unet.down_blocks[:-1]):
            taps[1 + index] = block.attentions[-1]
        caught: list[torch.Tensor] = []
        hooks = [tap.register_forward_hook(lambda *call: caught.append(_tensor(call[2]))) for tap in taps]
        latents = self.vae.encode(images).latent_dist.mode() * SCALING_FACTOR
        time = self.unet.time_proj(torch.zeros(len(images), dtype=torch.long))
        time = self.unet.time_embedding(time)
        context = self.context.expand(len(images), -1, -1)
        x = self.unet.conv_in(latents)
        for block in self.unet.down_blocks:
            cross = {"encoder_hidden_states": context} if hasattr(block, "attentions") else {}
            x, _ = block(x, time, **cross)
        x = self.unet.mid_block(x, time, encoder_hidden_states=context)
        for hook in hooks:
            hook.remove()
        maps = [torch.nn.GroupNorm(32, y.shape[1])(y).permute(0, 2, 3, 1) for y in (*caught, x)]
        return [maps[-1].mean((1, 2)), *maps]


def _tensor(output: object) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def randomised(arguments: Mapping, *, linear_projection: bool, seed: int = 0) -> Reference:
    """A reference whose parameters hide no mistake."""
    reference = Reference(arguments, linear_projection=linear_projection)
    context = reference.context.clone()
    randomise(reference, seed)
    reference.context.copy_(context)
    return reference


def ours(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    """Our names and layouts of the encoder's tensors (parameters or gradients) among those of a `Reference`."""
    parts = tuple([f"vae.{part}" for part in VAE_PARTS] + [f"unet.{part}" for part in UNET_PARTS])
    kept = [(name, tensor) for name, tensor in tensors if name.startswith((*parts, "context"))]
    arrays = renamed(kept, NAMES)
    for name, array in arrays.items():
        if array.ndim == 4 and ("proj_in" in name or "proj_out" in name):
            arrays[name] = array[0, 0]  # the 1x1 convolutions of v1
    return arrays
