"""Key layouts of Vision Transformer checkpoints."""

from converters.rules import Rule, Table, conv, flat, linear, merge_heads_in, merge_heads_out, reshaped

LINEAR = r"blocks\.\d+\.(?:attn\.(?:qkv|proj)|mlp\.fc[12])"
NORM = r"blocks\.\d+\.norm[12]|norm|norm_pre|fc_norm"
POOL_LINEAR = r"attn_pool\.(?:q|kv|proj|mlp\.fc[12])"

ENCODER = (
    Rule(r"(cls_token|reg_token|pos_embed)", r"\1"),
    Rule(r"patch_embed\.proj\.weight", "patch_embed.proj.kernel", conv),
    Rule(r"patch_embed\.proj\.bias", "patch_embed.proj.bias"),
    Rule(rf"({LINEAR})\.weight", r"\1.kernel", linear),
    Rule(rf"({LINEAR})\.bias", r"\1.bias"),
    Rule(rf"({NORM})\.weight", r"\1.scale"),
    Rule(rf"({NORM})\.bias", r"\1.bias"),
    Rule(r"(blocks\.\d+\.ls[12]\.gamma)", r"\1"),
    Rule(r"(blocks\.\d+\.)gamma_([12])", r"\1ls\2.gamma"),  # DeiT III as published
)
ATTENTION_POOL = (
    Rule(r"(attn_pool\.latent)", r"\1"),
    Rule(rf"({POOL_LINEAR})\.weight", r"\1.kernel", linear),
    Rule(rf"({POOL_LINEAR})\.bias", r"\1.bias"),
    Rule(r"attn_pool\.norm\.weight", "attn_pool.norm.scale"),
    Rule(r"attn_pool\.norm\.bias", "attn_pool.norm.bias"),
)
# The mask token and the representation layer `pre_logits` have no part in the descriptor; a head is not the backbone's.
IGNORED = (r"(?:head|head_dist|pre_logits)\..*", "mask_token")

# timm's VisionTransformer, and what it grew from: DINO, MAE and DeiT as published, under their wrapping key if any.
TIMM_VIT = Table((*ENCODER, *ATTENTION_POOL), IGNORED).prefixed(r"(?:model\.|state_dict\.)?")

# A SigLIP whose attention pool is left out, because the mean of patches is the descriptor.
TIMM_VIT_WITHOUT_POOL = Table(ENCODER, (*IGNORED, r"attn_pool\..*"))

# MoCo v3 as published: the momentum encoder, the predictor and the optimizer stand beside the encoder.
MOCOV3_IGNORED = (r"state_dict\.module\.(?:momentum_encoder|predictor)\..*", r"(?:optimizer|scaler)\..*")
MOCOV3_VIT = Table(ENCODER, IGNORED).prefixed(r"state_dict\.module\.base_encoder\.", MOCOV3_IGNORED)

# AugReg as Google publishes it (.npz): Flax layouts already, query, key and value apart and split into heads.
BLOCK = r"Transformer/encoderblock_(\d+)/"
ATTENTION = BLOCK + "MultiHeadDotProductAttention_1/"
AUGREG_VIT = Table(
    rules=(
        Rule("cls", "cls_token"),
        Rule("Transformer/posembed_input/pos_embedding", "pos_embed"),
        Rule("embedding/(kernel|bias)", r"patch_embed.proj.\1"),
        Rule("Transformer/encoder_norm/(scale|bias)", r"norm.\1"),
        Rule(BLOCK + "LayerNorm_0/(scale|bias)", r"blocks.\1.norm1.\2"),
        Rule(BLOCK + "LayerNorm_2/(scale|bias)", r"blocks.\1.norm2.\2"),
        Rule(BLOCK + "MlpBlock_3/Dense_0/(kernel|bias)", r"blocks.\1.mlp.fc1.\2"),
        Rule(BLOCK + "MlpBlock_3/Dense_1/(kernel|bias)", r"blocks.\1.mlp.fc2.\2"),
        Rule(ATTENTION + "out/kernel", r"blocks.\1.attn.proj.kernel", merge_heads_in),
        Rule(ATTENTION + "out/bias", r"blocks.\1.attn.proj.bias"),
        *(
            rule
            for index, part in enumerate(("query", "key", "value"))
            for rule in (
                Rule(ATTENTION + f"{part}/kernel", r"blocks.\1.attn.qkv.kernel", merge_heads_out, (index, 3)),
                Rule(ATTENTION + f"{part}/bias", r"blocks.\1.attn.qkv.bias", flat, (index, 3)),
            )
        ),
    ),
    ignore=("head/.*", "pre_logits/.*"),
)


# Position table [N, C] as [1, N, C], class token [C] as [1, 1, C].
with_batch = reshaped(lambda table: table[None])
token = reshaped(lambda vector: vector.reshape(1, 1, -1))

# CLIP as OpenAI and OpenCLIP publish it (`open_clip_pytorch_model.bin`): what is outside of `visual` is the text tower.
RESBLOCK = r"visual\.transformer\.resblocks\.(\d+)\."
OPENCLIP_VIT = Table(
    rules=(
        Rule(r"visual\.class_embedding", "cls_token", token),
        Rule(r"visual\.positional_embedding", "pos_embed", with_batch),
        Rule(r"visual\.conv1\.weight", "patch_embed.proj.kernel", conv),
        Rule(r"visual\.ln_pre\.weight", "norm_pre.scale"),
        Rule(r"visual\.ln_pre\.bias", "norm_pre.bias"),
        Rule(r"visual\.ln_post\.weight", "norm.scale"),
        Rule(r"visual\.ln_post\.bias", "norm.bias"),
        Rule(RESBLOCK + r"ln_([12])\.weight", r"blocks.\1.norm\2.scale"),
        Rule(RESBLOCK + r"ln_([12])\.bias", r"blocks.\1.norm\2.bias"),
        Rule(RESBLOCK + r"attn\.in_proj_weight", r"blocks.\1.attn.qkv.kernel", linear),
        Rule(RESBLOCK + r"attn\.in_proj_bias", r"blocks.\1.attn.qkv.bias"),
        Rule(RESBLOCK + r"attn\.out_proj\.weight", r"blocks.\1.attn.proj.kernel", linear),
        Rule(RESBLOCK + r"attn\.out_proj\.bias", r"blocks.\1.attn.proj.bias"),
        Rule(RESBLOCK + r"mlp\.c_fc\.weight", r"blocks.\1.mlp.fc1.kernel", linear),
        Rule(RESBLOCK + r"mlp\.c_fc\.bias", r"blocks.\1.mlp.fc1.bias"),
        Rule(RESBLOCK + r"mlp\.c_proj\.weight", r"blocks.\1.mlp.fc2.kernel", linear),
        Rule(RESBLOCK + r"mlp\.c_proj\.bias", r"blocks.\1.mlp.fc2.bias"),
    ),
    ignore=(r"visual\.proj", r"(?!visual\.).*"),
)
