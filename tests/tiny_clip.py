"""A small CLIP of transformers' with random weights, and its files as the hub has them: OpenCLIP's names, tokenizer.

Written apart from converters/ on purpose, so that a mistake there does not hide here.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch_reference import import_timm

from bob_jax.backbones.card import CLIP_MEAN, CLIP_STD, Card, Preprocessing, TextCard, WeightSource

import_timm()  # registers torchvision's operators, without which transformers does not load beside a CPU-only torch
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import open_clip
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

REPOSITORY = "timm/tiny_clip.openai"
START, END = "<|startoftext|>", "<|endoftext|>"
IMAGE = {"patch_size": 8, "width": 48, "depth": 2, "num_heads": 3, "input_size": 32}
JOINT_DIM = 40

NAMES = [
    (r"^text_model\.", ""),
    (r"^vision_model\.", "visual."),
    (r"embeddings\.token_embedding", "token_embedding"),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"embeddings\.class_embedding", "class_embedding"),
    (r"embeddings\.patch_embedding", "conv1"),
    (r"encoder\.layers\.", "transformer.resblocks."),
    (r"layer_norm([12])", r"ln_\1"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"final_layer_norm", "ln_final"),
    (r"pre_layrnorm", "ln_pre"),
    (r"post_layernorm", "ln_post"),
    (r"^head\.", "text_projection."),
]


def from_transformers(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """transformers' names and layouts as OpenCLIP's; query, key and value in one, projections as bare kernels."""
    renamed = {}
    for name, array in arrays.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = array
    for name in [name for name in renamed if ".self_attn.q_proj." in name]:
        parts = [renamed.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        renamed[name.partition(".self_attn")[0] + f".attn.in_proj_{name.rpartition('.')[2]}"] = np.concatenate(parts)
    if "visual_projection.weight" in renamed:
        renamed["visual.proj"] = np.ascontiguousarray(renamed.pop("visual_projection.weight").T)
    return renamed


def model(seed: int = 0) -> CLIPModel:
    """Two towers of two blocks; weights that tell texts and images apart."""
    config = CLIPConfig(
        text_config={
            "vocab_size": 49408,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        },
        vision_config={
            "hidden_size": IMAGE["width"],
            "intermediate_size": 4 * IMAGE["width"],
            "num_hidden_layers": IMAGE["depth"],
            "num_attention_heads": IMAGE["num_heads"],
            "image_size": IMAGE["input_size"],
            "patch_size": IMAGE["patch_size"],
            "hidden_act": "quick_gelu",
        },
        projection_dim=JOINT_DIM,
    )
    made = CLIPModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in made.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("weight") and tensor.ndim > 1:
                tensor.copy_(noise * (0.3 if "embedding" in name else tensor[0].numel() ** -0.5))
            elif name.endswith("weight"):
                tensor.copy_(1 + 0.2 * noise)
            elif name == "logit_scale":
                tensor.fill_(3.0)
            else:
                tensor.copy_(0.2 * noise)
    return made.eval()


def tokenizer() -> CLIPTokenizer:
    """With OpenAI's vocabulary, which comes with OpenCLIP."""
    simple = open_clip.tokenizer.SimpleTokenizer()
    vocabulary = dict(simple.encoder)
    vocabulary[START], vocabulary[END] = vocabulary.pop("<start_of_text>"), vocabulary.pop("<end_of_text>")
    return CLIPTokenizer(vocab=vocabulary, merges=list(simple.bpe_ranks))


def publish(folder: Path, made: CLIPModel) -> None:
    """The repository with the checkpoint in OpenCLIP's layout and the tokenizer."""
    repository = folder / REPOSITORY
    repository.mkdir(parents=True)
    arrays = {name: tensor.numpy() for name, tensor in made.state_dict().items()}
    converted = {
        name: array.T.copy() if name == "text_projection.weight" else array
        for name, array in from_transformers(arrays).items()
    }
    converted["text_projection"] = converted.pop("text_projection.weight")
    save_file(converted, repository / "open_clip_model.safetensors")
    tokenizer().backend_tokenizer.save(str(repository / "tokenizer.json"))


def card(name: str = "tiny_clip", **changes: Any) -> Card:
    """The competitor that stands for it in the zoo."""
    source = WeightSource(hub=REPOSITORY, file="open_clip_model.safetensors")
    text = TextCard(
        name=f"{name}.text",
        arguments={
            "kind": "clip",
            "width": 64,
            "depth": 2,
            "num_heads": 1,
            "vocabulary": 49408,
            "context": 77,
            "joint_dim": JOINT_DIM,
            "activation": "quick_gelu",
            "image_projection": "linear",
            "image_dim": IMAGE["width"],
        },
        source=source,
        tokenizer=WeightSource(hub=REPOSITORY, file="tokenizer.json"),
        padding=0,
        licence="mit",
    )
    fields: dict[str, Any] = {
        "name": name,
        "architecture": "vit",
        "arguments": {**IMAGE, "pre_norm": True, "epsilon": 1e-5, "activation": "quick_gelu"},
        "table": "openclip_vit",
        "method": "clip",
        "data": "noise",
        "source": source,
        "licence": "mit",
        "commercial": True,
        "preprocessing": Preprocessing(input_size=32, crop_pct=1.0, mean=CLIP_MEAN, std=CLIP_STD),
        "parameters": 0.1,
        "feature_dim": IMAGE["width"],
        "pooling": "cls",
        "text": text,
    }
    return Card(**fields | changes)
