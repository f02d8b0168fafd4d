"""Key layouts of CLIP's ResNets."""

from converters.resnet import NORM, SHORTCUT, norm_rules
from converters.rules import Rule, Table, conv, linear

# As OpenAI publishes them, saved anew as a state dict: everything outside of `visual` is the text tower.
OPENAI_CLIP_RESNET = Table(
    rules=(
        Rule(r"visual\.(conv[123]|layer[1-4]\.\d+\.conv[123])\.weight", r"\1.kernel", conv),
        *norm_rules(rf"visual\.(bn[23]|{NORM})", r"\1"),
        Rule(rf"visual\.{SHORTCUT}\.0\.weight", r"\1.conv.kernel", conv),
        *norm_rules(rf"visual\.{SHORTCUT}\.1", r"\1.bn"),
        Rule(r"visual\.attnpool\.positional_embedding", "attn_pool.pos_embed"),
        Rule(r"visual\.attnpool\.([qkv])_proj\.weight", r"attn_pool.\1.kernel", linear),
        Rule(r"visual\.attnpool\.([qkv])_proj\.bias", r"attn_pool.\1.bias"),
        Rule(r"visual\.attnpool\.c_proj\.weight", "attn_pool.proj.kernel", linear),
        Rule(r"visual\.attnpool\.c_proj\.bias", "attn_pool.proj.bias"),
    ),
    ignore=(r"visual\..*\.num_batches_tracked", r"(?!visual\.).*"),
)


def _stage(number: int) -> tuple[Rule, ...]:
    """timm counts stages from 0 and calls the convolutions by their size; the layers are counted from 1 here."""
    source, target = rf"stages\.{number - 1}\.(\d+)\.", rf"layer{number}.\1."
    pairs = (
        (r"conv1_1x1\.", "conv1", "bn1"),
        (r"conv2_kxk\.", "conv2", "bn2"),
        (r"conv3_1x1\.", "conv3", "bn3"),
        (r"shortcut\.conv\.", "downsample.conv", "downsample.bn"),
    )
    return tuple(
        rule
        for theirs, convolution, norm in pairs
        for rule in (
            Rule(source + theirs + r"conv\.weight", f"{target}{convolution}.kernel", conv),
            *norm_rules(source + theirs + "bn", target + norm),
        )
    )


TIMM_TRUNK = (
    Rule(r"stem\.(conv[123])\.conv\.weight", r"\1.kernel", conv),
    *norm_rules(r"stem\.conv([123])\.bn", r"bn\1"),
    *(rule for number in (1, 2, 3, 4) for rule in _stage(number)),
)
# timm's ByobNet with CLIP's attention pool as its head; and the mean in place of it, a pool in the file or not.
TIMM_CLIP_RESNET = Table(
    rules=(
        *TIMM_TRUNK,
        Rule(r"head\.pos_embed", "attn_pool.pos_embed"),
        Rule(r"head\.([qkv]|proj)\.weight", r"attn_pool.\1.kernel", linear),
        Rule(r"head\.([qkv]|proj)\.bias", r"attn_pool.\1.bias"),
    ),
    ignore=(r".*\.num_batches_tracked",),
)
TIMM_CLIP_RESNET_WITHOUT_POOL = Table(TIMM_TRUNK, ignore=(r".*\.num_batches_tracked", r"head\..*"))
