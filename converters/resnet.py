"""Key layouts of ResNet checkpoints."""

from converters.rules import Rule, Table, conv
from converters.vit import MOCOV3_IGNORED

CONV = r"conv1|layer[1-4]\.\d+\.conv[123]"
NORM = r"bn1|layer[1-4]\.\d+\.bn[123]"
SHORTCUT = r"(layer[1-4]\.\d+\.downsample)"


def norm_rules(source: str, target: str) -> tuple[Rule, ...]:
    """Batch norm: PyTorch's four arrays under `source` to ours under `target`."""
    names = (("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var"))
    return tuple(Rule(rf"{source}\.{theirs}", f"{target}.{ours}") for theirs, ours in names)


RULES = (
    Rule(rf"({CONV})\.weight", r"\1.kernel", conv),
    *norm_rules(f"({NORM})", r"\1"),
    Rule(SHORTCUT + r"\.0\.weight", r"\1.conv.kernel", conv),
    *norm_rules(SHORTCUT + r"\.1", r"\1.bn"),
)
IGNORED = (r".*\.num_batches_tracked", r"fc\..*")

# torchvision's names, which timm, DINO and VICReg share.
TIMM_RESNET = Table(RULES, IGNORED).prefixed(r"(?:model\.|state_dict\.)?")
MOCOV3_RESNET = Table(RULES, IGNORED).prefixed(r"state_dict\.module\.base_encoder\.", MOCOV3_IGNORED)
