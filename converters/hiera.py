"""Key layouts of Hiera checkpoints."""

from converters.rules import Rule, Table, conv, linear

LINEAR = r"blocks\.\d+\.(?:proj|attn\.(?:qkv|proj)|mlp\.fc[12])"
NORM = r"blocks\.\d+\.norm[12]"
LAST_NORM = r"(?:head\.norm|norm|encoder_norm)"  # timm; the authors' fine-tuned and their pretrained models

# timm's files, and the authors' own under `model_state`. The head and the decoder of MAE are not the backbone's.
TIMM_HIERA = Table(
    rules=(
        Rule(r"(pos_embed)", r"\1"),
        Rule(r"patch_embed\.proj\.weight", "patch_embed.proj.kernel", conv),
        Rule(r"patch_embed\.proj\.bias", "patch_embed.proj.bias"),
        Rule(rf"({LINEAR})\.weight", r"\1.kernel", linear),
        Rule(rf"({LINEAR})\.bias", r"\1.bias"),
        Rule(rf"({NORM})\.weight", r"\1.scale"),
        Rule(rf"({NORM})\.bias", r"\1.bias"),
        Rule(rf"{LAST_NORM}\.weight", "norm.scale"),
        Rule(rf"{LAST_NORM}\.bias", "norm.bias"),
    ),
    ignore=(r"head\.(?:fc|projection)\..*", r"mask_token|decoder_.*|multi_scale_fusion_heads\..*"),
).prefixed(r"(?:model_state\.)?")
