"""Key layouts of AIMv2 checkpoints."""

from converters.eva import BLOCK
from converters.rules import Rule, Table, conv, linear
from converters.vit import IGNORED

# timm's, a plain ViT with RMS norms, gate and value in two matrices.
TIMM_AIMV2 = Table(
    rules=(
        Rule("pos_embed", "pos_embed"),
        Rule(r"patch_embed\.proj\.weight", "patch_embed.proj.kernel", conv),
        Rule(r"patch_embed\.proj\.bias", "patch_embed.proj.bias"),
        Rule(BLOCK + r"(attn\.(?:qkv|proj)|mlp\.fc2)\.weight", r"\1\2.kernel", linear),
        Rule(BLOCK + r"mlp\.fc1_g\.weight", r"\1mlp.fc1.kernel", linear, (0, 2)),
        Rule(BLOCK + r"mlp\.fc1_x\.weight", r"\1mlp.fc1.kernel", linear, (1, 2)),
        Rule(r"(patch_embed\.norm|blocks\.\d+\.norm[12]|norm)\.weight", r"\1.scale"),
    ),
    ignore=IGNORED,
)

# Apple's: `fc1` is the gate and `fc3` the value.
TRUNK = r"trunk\.(blocks\.\d+\.)"
AIMV2 = Table(
    rules=(
        Rule(r"preprocessor\.pos_embed", "pos_embed"),
        Rule(r"preprocessor\.patchifier\.proj\.weight", "patch_embed.proj.kernel", conv),
        Rule(r"preprocessor\.patchifier\.proj\.bias", "patch_embed.proj.bias"),
        Rule(r"preprocessor\.patchifier\.norm\.weight", "patch_embed.norm.scale"),
        Rule(TRUNK + r"(attn\.(?:qkv|proj)|mlp\.fc2)\.weight", r"\1\2.kernel", linear),
        Rule(TRUNK + r"mlp\.fc1\.weight", r"\1mlp.fc1.kernel", linear, (0, 2)),
        Rule(TRUNK + r"mlp\.fc3\.weight", r"\1mlp.fc1.kernel", linear, (1, 2)),
        Rule(TRUNK + r"norm_([12])\.weight", r"\1norm\2.scale"),
        Rule(r"trunk\.post_trunk_norm\.weight", "norm.scale"),
    ),
)
