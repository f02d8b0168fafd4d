"""Key layouts of Vision Transformers with rotary positions: EVA-02, EVA-02-CLIP, DINOv3, EUPE, Perception Encoder."""

from converters.rules import Rule, Table, linear
from converters.vit import ATTENTION_POOL, ENCODER, IGNORED

BLOCK = r"(blocks\.\d+\.)"

# What a plain ViT has not: biases of query and value alone, norms inside of the branches, and several matrices where
# there is one here: query, key and value in EVA-02 B and L, gate and value where SwiGLU has a norm or is DINOv3's.
# The second name of each is the publisher's, the first timm's. No checkpoint holds timm's key bias, which is zero.
BRANCHES = (
    Rule(BLOCK + r"attn\.([qv])_(?:bias|proj\.bias)", r"\1attn.\2_bias"),
    *(
        Rule(BLOCK + rf"attn\.{part}_proj\.weight", r"\1attn.qkv.kernel", linear, (index, 3))
        for index, part in enumerate("qkv")
    ),
    *(
        rule
        for index, part in enumerate(("(?:fc1_g|w1)", "(?:fc1_x|w2)"))  # the gate first
        for rule in (
            Rule(BLOCK + rf"mlp\.{part}\.weight", r"\1mlp.fc1.kernel", linear, (index, 2)),
            Rule(BLOCK + rf"mlp\.{part}\.bias", r"\1mlp.fc1.bias", part=(index, 2)),
        )
    ),
    Rule(BLOCK + r"mlp\.w12\.weight", r"\1mlp.fc1.kernel", linear),
    Rule(BLOCK + r"mlp\.w12\.bias", r"\1mlp.fc1.bias"),
    Rule(BLOCK + r"mlp\.w3\.weight", r"\1mlp.fc2.kernel", linear),
    Rule(BLOCK + r"mlp\.w3\.bias", r"\1mlp.fc2.bias"),
    Rule(BLOCK + r"(attn|mlp)\.(?:norm|inner_attn_ln|ffn_ln)\.weight", r"\1\2.norm.scale"),
    Rule(BLOCK + r"(attn|mlp)\.(?:norm|inner_attn_ln|ffn_ln)\.bias", r"\1\2.norm.bias"),
)
# Rotary tables follow from the grid of an image: they are computed, also where a checkpoint has them.
ROTARY = r"(?:.*\.)?rope(?:_embed)?\..*"

# timm's Eva. The head of a CLIP model is the projection to the joint space, and the descriptor stands before it.
TIMM_EVA = Table((*ENCODER, *ATTENTION_POOL, *BRANCHES), (*IGNORED, ROTARY))

# EVA-02 after masked image modelling alone. The last norm, `norm` where it is the publisher's and `fc_norm` where timm
# has saved it anew, stands behind the mean of the patches; `lm_head` predicted the masked ones.
NOT_THE_LAST_NORM = r"(?!norm\.)"
TIMM_EVA_MIM = Table(
    rules=(
        *TIMM_EVA.prefixed(NOT_THE_LAST_NORM).rules,
        Rule(r"norm\.weight", "fc_norm.scale"),
        Rule(r"norm\.bias", "fc_norm.bias"),
    ),
    ignore=(*TIMM_EVA.ignore, r"lm_head\..*"),
)

# DINOv3 as Meta publishes it, for those who have its files. Its biases of query, key and value are all zero in the
# models of the zoo, so that their architecture has none, as in timm; the mask keeps those of the key at zero.
ZERO = r"blocks\.\d+\.attn\.qkv\.bias(?:_mask)?"
DINOV3 = Table(
    rules=(Rule("storage_tokens", "reg_token"), *TIMM_EVA.prefixed(rf"(?!{ZERO}$)").rules),
    ignore=(*TIMM_EVA.ignore, ZERO, r"local_cls_norm\..*"),
)
