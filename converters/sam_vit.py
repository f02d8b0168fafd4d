"""Key layouts of Segment Anything's image encoder."""

from converters.rules import Rule, Table, conv, linear

ATTENTION = r"blocks\.\d+\.attn\."
NORM = r"blocks\.\d+\.norm[12]|neck\.[13]"

SHARED = (
    Rule(r"(pos_embed)", r"\1"),
    Rule(r"patch_embed\.proj\.bias", "patch_embed.proj.bias"),
    Rule(r"(patch_embed\.proj|neck\.[02])\.weight", r"\1.kernel", conv),
    Rule(rf"({ATTENTION}(?:qkv|proj))\.weight", r"\1.kernel", linear),
    Rule(rf"({ATTENTION}(?:qkv|proj))\.bias", r"\1.bias"),
    Rule(rf"({ATTENTION}rel_pos_[hw])", r"\1"),
    Rule(rf"({NORM})\.weight", r"\1.scale"),
    Rule(rf"({NORM})\.bias", r"\1.bias"),
)


def _perceptron(name: str) -> tuple[Rule, ...]:
    """Rules for the two layers of the perceptron, which the checkpoint calls `name`1 and `name`2."""
    return (
        Rule(rf"(blocks\.\d+\.mlp\.){name}([12])\.weight", r"\1fc\2.kernel", linear),
        Rule(rf"(blocks\.\d+\.mlp\.){name}([12])\.bias", r"\1fc\2.bias"),
    )


TIMM_SAM_VIT = Table((*SHARED, *_perceptron("fc")), (r"head\..*",))

# The authors' file: what is not under `image_encoder` makes masks from its output.
SAM_VIT = Table((*SHARED, *_perceptron("lin"))).prefixed(r"image_encoder\.", (r"(?:prompt_encoder|mask_decoder)\..*",))
