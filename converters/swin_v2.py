"""Key layouts of Swin Transformer V2 checkpoints."""

from converters.rules import Rule, Table, conv, flat, linear

BLOCK = r"layers\.\d+\.blocks\.\d+\."
LINEAR = BLOCK + r"(?:attn\.(?:qkv|proj)|mlp\.fc[12])"
NORM = rf"patch_embed\.norm|{BLOCK}norm[12]|norm"

SHARED = (
    Rule(r"patch_embed\.proj\.weight", "patch_embed.proj.kernel", conv),
    Rule(r"patch_embed\.proj\.bias", "patch_embed.proj.bias"),
    Rule(rf"({LINEAR})\.weight", r"\1.kernel", linear),
    Rule(rf"({LINEAR})\.bias", r"\1.bias"),
    Rule(rf"({NORM})\.weight", r"\1.scale"),
    Rule(rf"({NORM})\.bias", r"\1.bias"),
    Rule(rf"({BLOCK}attn\.[qv]_bias)", r"\1"),
    Rule(rf"({BLOCK}attn\.logit_scale)", r"\1", flat),  # [heads, 1, 1]
    Rule(rf"({BLOCK}attn\.cpb_mlp)\.0\.weight", r"\1.fc1.kernel", linear),
    Rule(rf"({BLOCK}attn\.cpb_mlp)\.0\.bias", r"\1.fc1.bias"),
    Rule(rf"({BLOCK}attn\.cpb_mlp)\.2\.weight", r"\1.fc2.kernel", linear),
)
# Constants of the window size, computed anew in every call, are stored by some versions; a head is not the backbone's.
IGNORED = (rf"{BLOCK}(?:attn_mask|attn\.relative_(?:position_index|coords_table))", r"head\..*")


def _merging(moved: int) -> tuple[Rule, ...]:
    """Rules for the three patch mergings; the checkpoint counts the stage of each so many lower than we do."""
    rules = []
    for stage in (1, 2, 3):
        theirs, ours = rf"layers\.{stage - moved}\.downsample\.", f"layers.{stage}.downsample."
        rules += [
            Rule(theirs + r"reduction\.weight", ours + "reduction.kernel", linear),
            Rule(theirs + r"norm\.weight", ours + "norm.scale"),
            Rule(theirs + r"norm\.bias", ours + "norm.bias"),
        ]
    return tuple(rules)


# timm from 0.9 on: a patch merging opens the stage whose width it makes.
TIMM_SWIN_V2 = Table((*SHARED, *_merging(0)), IGNORED)

# Microsoft's files and timm up to 0.6: a patch merging closes the stage before. Microsoft wraps the weights in `model`,
# beside the state of the training.
ENDING = Table((*SHARED, *_merging(1)), IGNORED)
MICROSOFT_SWIN_V2 = ENDING.prefixed(
    r"(?:model\.)?", (r"(?:optimizer|lr_scheduler|scaler|config|max_accuracy|epoch)(?:\..*)?",)
)

# MiDaS v3.1, from timm 0.6.12: the encoder of a depth model. What is not under `pretrained.model` is its decoder.
MIDAS_SWIN_V2 = ENDING.prefixed(
    r"(?:model\.)?pretrained\.model\.",
    (r"(?:model\.)?(?:scratch|pretrained\.act_postprocess\d)\..*", r"optimizer\..*"),
)
