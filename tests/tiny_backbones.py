"""A tiny backbone of every architecture, and of every switch that changes its parts."""

from collections.abc import Callable

from flax import nnx

from bob_jax.backbones.aimv2 import AIMv2
from bob_jax.backbones.base import Backbone
from bob_jax.backbones.beit import Beit
from bob_jax.backbones.clip_resnet import CLIPResNet
from bob_jax.backbones.convnext import ConvNeXt
from bob_jax.backbones.eva import Eva
from bob_jax.backbones.hiera import Hiera
from bob_jax.backbones.resnet import ResNet
from bob_jax.backbones.sam_vit import SamViT
from bob_jax.backbones.sscd import SSCD
from bob_jax.backbones.stable_diffusion import StableDiffusionEncoder
from bob_jax.backbones.swin_v2 import SwinV2
from bob_jax.backbones.vit import ViT

TINY: dict[str, Callable[..., Backbone]] = {
    "vit": lambda **more: ViT(
        **{"patch_size": 8, "width": 16, "depth": 3, "num_heads": 2, "input_size": 32, "rngs": nnx.Rngs(0), **more}
    ),
    "siglip": lambda **more: TINY["vit"](pooling="map", class_token=False, **more),
    "dinov2_reg": lambda **more: TINY["vit"](registers=2, layer_scale=0.1, position="learned_patches", **more),
    "mae_mean": lambda **more: TINY["vit"](pooling="mean", fc_norm=True, **more),
    "clip": lambda **more: TINY["vit"](pre_norm=True, **more),
    "resnet": lambda **more: ResNet(stages=(2, 1, 1, 1), width=8, input_size=64, rngs=nnx.Rngs(0), **more),
    "resnet_basic": lambda **more: ResNet(
        stages=(2, 1, 1, 1), block="basic", width=8, input_size=64, rngs=nnx.Rngs(0), **more
    ),
    "sscd": lambda **more: SSCD(
        stages=(2, 1, 1, 1), width=8, groups=2, group_width=4, input_size=64, rngs=nnx.Rngs(0), **more
    ),
    "clip_resnet_gap": lambda **more: TINY["clip_resnet"](pooling="mean", **more),
    "clip_resnet": lambda **more: CLIPResNet(
        stages=(2, 1, 1, 1), width=8, input_size=64, projection_dim=24, rngs=nnx.Rngs(0), **more
    ),
    "convnext": lambda **more: ConvNeXt(
        depths=(2, 1, 1, 1), widths=(8, 12, 16, 24), input_size=64, rngs=nnx.Rngs(0), **more
    ),
    "convnextv2": lambda **more: TINY["convnext"](grn=True, layer_scale=None, **more),
    "convnextv2_fcmae": lambda **more: TINY["convnextv2"](final_norm="plain", **more),
    "vicregl": lambda **more: TINY["convnext"](layer_scale=None, final_norm="before_pool", **more),
    "swin_v2": lambda **more: SwinV2(
        width=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 2), window=4, input_size=64, rngs=nnx.Rngs(0), **more
    ),
    "sam_vit": lambda **more: SamViT(
        width=8, depth=2, num_heads=2, window=3, global_blocks=(1,), input_size=64, rngs=nnx.Rngs(0), **more
    ),
    "hiera": lambda **more: Hiera(width=8, stages=(1, 1, 1, 1), input_size=64, rngs=nnx.Rngs(0), **more),
    "eva": lambda **more: Eva(
        **{"patch_size": 8, "width": 16, "depth": 3, "num_heads": 2, "input_size": 32, "rngs": nnx.Rngs(0), **more}
    ),
    "eva02": lambda **more: TINY["eva"](
        activation="swiglu", mlp_norm=True, attention_norm=True, pooling="mean", final_norm="fc_norm", **more
    ),
    "dinov3": lambda **more: TINY["eva"](
        registers=4, rotary="dinov3", position_table=False, layer_scale=0.1, qkv_bias="none", **more
    ),
    "pe_core": lambda **more: TINY["eva"](pre_norm=True, rotary="pe", qkv_bias="qkv", pooling="map", **more),
    "aimv2": lambda **more: AIMv2(
        **{"patch_size": 8, "width": 16, "depth": 3, "num_heads": 2, "input_size": 32, "rngs": nnx.Rngs(0), **more}
    ),
    "beit": lambda **more: Beit(
        **{"patch_size": 8, "width": 16, "depth": 3, "num_heads": 2, "input_size": 32, "rngs": nnx.Rngs(0), **more}
    ),
    "stable_diffusion": lambda **more: StableDiffusionEncoder(
        vae_widths=(64,) * 4,
        unet_widths=(64, 64),
        num_heads=(2, 2),
        blocks=1,
        context_features=16,
        input_size=64,
        rngs=nnx.Rngs(0),
        **more,
    ),
}
