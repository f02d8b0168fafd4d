"""Text towers, by the backbone whose other half they are: sizes and activations as in OpenCLIP's configurations.

The checkpoints are those of OpenCLIP's list of pretrained weights, from which timm took its image towers. Every CLIP
has OpenAI's vocabulary, so one tokenizer serves them all.
"""

import dataclasses
from typing import Any

from bob_jax.backbones.card import Card, TextCard, WeightSource
from bob_jax.backbones.cards.pins import LAION, OPEN_CLIP, TOKENIZER, on_hub

VOCABULARY = {"vocabulary": 49408, "context": 77}
CLIP_TOKENIZER = on_hub("openai/clip-vit-large-patch14", TOKENIZER)

# Backbone, repository, width of tower, width of the joint space, and what differs from 12 blocks, exact GELU and a
# projection of the image descriptor without bias.
QUICK: dict[str, Any] = {"activation": "quick_gelu"}
RESNET: dict[str, Any] = QUICK | {"image_projection": "none"}  # the attention pool ends in the joint space
AFFINE: dict[str, Any] = {"image_projection": "affine"}
CLIP: tuple[tuple[str, str, int, int, dict[str, Any]], ...] = (
    ("vit_b16_clip", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K", 512, 512, {}),
    ("vit_l14_clip", "laion/CLIP-ViT-L-14-laion2B-s32B-b82K", 768, 768, {}),
    ("vit_b32_clip_openai", "timm/vit_base_patch32_clip_224.openai", 512, 512, QUICK),
    ("vit_b16_clip_openai", "timm/vit_base_patch16_clip_224.openai", 512, 512, QUICK),
    ("vit_l14_clip_openai", "timm/vit_large_patch14_clip_224.openai", 768, 768, QUICK),
    ("vit_b16_clip_datacomp", "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", 512, 512, {}),
    ("vit_b16_clip_dfn", "apple/DFN2B-CLIP-ViT-B-16", 512, 512, QUICK),
    ("vit_b16_clip_metaclip400m", "timm/vit_base_patch16_clip_224.metaclip_400m", 512, 512, QUICK),
    ("vit_b16_clip_metaclip", "timm/vit_base_patch16_clip_224.metaclip_2pt5b", 512, 512, QUICK),
    ("eva02_b16_clip", "timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k", 512, 512, AFFINE),
    ("eva02_l14_clip", "timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k", 768, 768, AFFINE),
    ("vit_b16_pe_core", "timm/PE-Core-B-16", 1024, 1024, AFFINE | {"depth": 24, "context": 32}),
    ("convnext_b_clip", "laion/CLIP-convnext_base_w-laion2B-s13B-b82K", 640, 640, {}),
    ("convnext_b_clip_augreg", "laion/CLIP-convnext_base_w-laion2B-s13B-b82K-augreg", 640, 640, {}),
    ("convnext_b_clip_laiona", "laion/CLIP-convnext_base_w-laion_aesthetic-s13B-b82K", 640, 640, {}),
    ("convnext_b_320_clip_laiona", "laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K", 640, 640, {}),
    (
        "convnext_b_320_clip_laiona_augreg", "laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K-augreg",
        640, 640, {},
    ),
    ("resnet50_clip", "timm/resnet50_clip.openai", 512, 1024, RESNET),
    ("resnet50_clip_cc12m", "timm/resnet50_clip.cc12m", 512, 1024, RESNET),
    ("resnet50_clip_yfcc15m", "timm/resnet50_clip.yfcc15m", 512, 1024, RESNET),
    ("resnet101_clip", "timm/resnet101_clip.openai", 512, 512, RESNET),
    ("resnet50x4_clip", "timm/resnet50x4_clip.openai", 640, 640, RESNET),
    ("resnet50x16_clip", "timm/resnet50x16_clip.openai", 768, 768, RESNET),
    ("resnet50x64_clip", "timm/resnet50x64_clip.openai", 1024, 1024, RESNET),
)  # fmt: skip

# SigLIP's towers for texts and images have the same size. The second kind reads Gemma's vocabulary.
SIZE = ("width", "depth", "num_heads", "mlp_ratio")
FIRST: dict[str, Any] = {"vocabulary": 32000, "activation": "gelu"}
SECOND: dict[str, Any] = {"vocabulary": 256000, "activation": "gelu_tanh"}
SIGLIP: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("vit_b16_siglip", "timm/ViT-B-16-SigLIP", FIRST),
    ("vit_b16_siglip2", "timm/ViT-B-16-SigLIP2", SECOND),
    ("vit_b16_256_siglip2", "timm/ViT-B-16-SigLIP2-256", SECOND),
    ("vit_b16_512_siglip2", "timm/ViT-B-16-SigLIP2-512", SECOND),
    ("vit_b32_siglip2", "timm/ViT-B-32-SigLIP2-256", SECOND),
    ("vit_l16_siglip2", "timm/ViT-L-16-SigLIP2-256", SECOND),
    ("vit_so400m14_siglip2", "timm/ViT-SO400M-14-SigLIP2", SECOND),
    ("vit_so400m14_378_siglip2", "timm/ViT-SO400M-14-SigLIP2-378", SECOND),
    ("vit_so400m16_siglip2", "timm/ViT-SO400M-16-SigLIP2-256", SECOND),
)


# Published zero-shot accuracy on ImageNet: OpenCLIP's table, of its own prompts; SigLIP 2 as its authors say.
OPENCLIP, BIG_VISION = "open_clip docs/openclip_results.csv", "google-research/big_vision README_siglip2.md"
ZERO_SHOT: dict[str, dict[str, float]] = {
    OPENCLIP: {
        "vit_b16_clip": 70.23,
        "vit_l14_clip": 75.25,
        "vit_b32_clip_openai": 63.32,
        "vit_b16_clip_openai": 68.34,
        "vit_l14_clip_openai": 75.54,
        "vit_b16_clip_datacomp": 73.49,
        "vit_b16_clip_dfn": 76.24,
        "vit_b16_clip_metaclip400m": 70.80,
        "vit_b16_clip_metaclip": 72.12,
        "eva02_b16_clip": 74.72,
        "eva02_l14_clip": 79.77,
        "convnext_b_clip": 70.78,
        "convnext_b_clip_augreg": 71.47,
        "convnext_b_clip_laiona": 70.99,
        "convnext_b_320_clip_laiona": 71.67,
        "convnext_b_320_clip_laiona_augreg": 71.28,
        "resnet50_clip": 59.82,
        "resnet50_clip_cc12m": 36.47,
        "resnet50_clip_yfcc15m": 32.75,
        "resnet101_clip": 62.28,
        "resnet50x4_clip": 66.27,
        "resnet50x16_clip": 70.72,
        "resnet50x64_clip": 73.91,
        "vit_b16_siglip": 76.04,
    },
    BIG_VISION: {
        "vit_b16_siglip2": 78.2,
        "vit_b16_256_siglip2": 79.1,
        "vit_b16_512_siglip2": 81.2,
        "vit_b32_siglip2": 74.0,
        "vit_l16_siglip2": 82.5,
        "vit_so400m14_siglip2": 83.2,
        "vit_so400m16_siglip2": 83.4,
    },
}


def with_text(card: Card) -> Card:
    """The card with its text side, if it has one here."""
    for name, hub, width, joint_dim, more in CLIP:
        if name == card.name:
            size = {"width": width, "depth": 12, "num_heads": width // 64, "joint_dim": joint_dim}
            arguments = {"kind": "clip", **size, **VOCABULARY, "image_projection": "linear", **more}
            file = OPEN_CLIP if hub.startswith("timm/") else LAION
            return _with(card, arguments, on_hub(hub, file), CLIP_TOKENIZER, padding=0)
    for name, hub, more in SIGLIP:
        if name == card.name:
            size = {part: card.arguments[part] for part in SIZE if part in card.arguments}
            arguments = {"kind": "siglip", **size, "context": 64, "joint_dim": size["width"], **more}
            tokenizer = on_hub(hub, TOKENIZER)
            padding = 0 if more is SECOND else 1
            return _with(card, arguments, on_hub(hub, OPEN_CLIP), tokenizer, padding)
    return card


def _with(card: Card, arguments: dict[str, Any], source: WeightSource, tokenizer: WeightSource, padding: int) -> Card:
    arguments = {**arguments, "image_dim": card.feature_dim}
    text = TextCard(f"{card.name}.text", arguments, source, tokenizer, padding, card.licence)
    published = [f"{known[card.name]:.2f} ({where})" for where, known in ZERO_SHOT.items() if card.name in known]
    scores = {**card.scores, **({"imagenet zero-shot": published[0]} if published else {})}
    return dataclasses.replace(card, text=text, scores=scores)
