"""Key layout of the text side of vision-language checkpoints, as OpenCLIP writes them (`open_clip_model.safetensors`).

CLIP's own classes have the text tower at the top level; OpenCLIP's `CustomTextCLIP`, which holds SigLIP, EVA-CLIP and
the Perception Encoder, has it below `text.`. The image tower is left out, but for its projection to the joint space.
"""

from converters.rules import Rule, Table, linear

BLOCK = r"(?:text\.)?transformer\.resblocks\.(\d+)\."
# A Linear of PyTorch has a `.weight` [out, in]; a bare parameter is a kernel [in, out] already.
OPENCLIP_TEXT = Table(
    rules=(
        Rule(r"(?:text\.)?token_embedding\.weight", "token_embed"),
        Rule(r"(?:text\.)?positional_embedding", "pos_embed"),
        Rule(BLOCK + r"ln_([12])\.weight", r"blocks.\1.norm\2.scale"),
        Rule(BLOCK + r"ln_([12])\.bias", r"blocks.\1.norm\2.bias"),
        Rule(BLOCK + r"attn\.in_proj_weight", r"blocks.\1.attn.qkv.kernel", linear),
        Rule(BLOCK + r"attn\.in_proj_bias", r"blocks.\1.attn.qkv.bias"),
        Rule(BLOCK + r"attn\.out_proj\.weight", r"blocks.\1.attn.proj.kernel", linear),
        Rule(BLOCK + r"attn\.out_proj\.bias", r"blocks.\1.attn.proj.bias"),
        Rule(BLOCK + r"mlp\.c_fc\.weight", r"blocks.\1.mlp.fc1.kernel", linear),
        Rule(BLOCK + r"mlp\.c_fc\.bias", r"blocks.\1.mlp.fc1.bias"),
        Rule(BLOCK + r"mlp\.c_proj\.weight", r"blocks.\1.mlp.fc2.kernel", linear),
        Rule(BLOCK + r"mlp\.c_proj\.bias", r"blocks.\1.mlp.fc2.bias"),
        Rule(r"(?:text\.)?ln_final\.weight", "norm.scale"),
        Rule(r"(?:text\.)?ln_final\.bias", "norm.bias"),
        Rule(r"(?:text\.)?text_projection", "proj.kernel"),
        Rule(r"(?:text\.)?text_projection\.weight", "proj.kernel", linear),
        Rule(r"(?:text\.)?text_projection\.bias", "proj.bias"),
        Rule(r"visual\.proj", "image_proj.kernel"),
        Rule(r"visual\.(?:head\.proj|trunk\.head)\.weight", "image_proj.kernel", linear),
        Rule(r"visual\.trunk\.head\.bias", "image_proj.bias"),
        Rule(r"(logit_scale|logit_bias)", r"\1"),
    ),
    # `attn_mask` is a constant that old files hold.
    ignore=(
        r"visual\.(?!proj$|head\.proj\.weight$|trunk\.head\.(?:weight|bias)$).*",
        r"(?:text\.)?attn_mask",
        "input_resolution|context_length|vocab_size",
    ),
)
