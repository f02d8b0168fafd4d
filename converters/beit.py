"""Key layouts of BEiT checkpoints."""

from converters.eva import BRANCHES
from converters.rules import Rule, Table
from converters.vit import ENCODER, IGNORED

# timm's Beit, and Microsoft's files under their wrapping key. The index into the bias table follows from the grid.
TIMM_BEIT = Table(
    rules=(
        *ENCODER,
        BRANCHES[0],  # biases of query and value
        Rule(r"(blocks\.\d+\.attn\.relative_position_bias_table)", r"\1"),
    ),
    ignore=(*IGNORED, r"blocks\.\d+\.attn\.relative_position_index"),
).prefixed(r"(?:model\.|module\.)?")
