"""Key layouts of ResNet checkpoints."""

from converters.rules import Rule, Table, conv, linear
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

# SSCD on torchvision's ResNet, and on Classy Vision's ResNeXt, which counts stages from 0 and calls a block's
# convolutions and norms by their places in a sequence; the norm at its end stands outside of it.
SSCD_TORCHVISION = Table(
    rules=(*RULES, Rule(r"fc\.weight", "fc.kernel", linear), Rule(r"fc\.bias", "fc.bias")),
    ignore=(r".*\.num_batches_tracked",),
).prefixed(r"backbone\.")


def _classy_stage(number: int) -> tuple[Rule, ...]:
    block, target = rf"blocks\.{number - 1}\.(?:block{number - 1}-)?(\d+)\.(?:_module\.)?", rf"layer{number}.\1."
    return (
        *(
            Rule(rf"{block}convolutional_block\.{3 * i}\.weight", f"{target}conv{i + 1}.kernel", conv)
            for i in (0, 1, 2)
        ),
        *norm_rules(rf"{block}convolutional_block\.1", f"{target}bn1"),
        *norm_rules(rf"{block}convolutional_block\.4", f"{target}bn2"),
        *norm_rules(rf"{block}bn", f"{target}bn3"),
        Rule(rf"{block}downsample\.0\.weight", f"{target}downsample.conv.kernel", conv),
        *norm_rules(rf"{block}downsample\.1", f"{target}downsample.bn"),
    )


SSCD_CLASSY = Table(
    rules=(
        Rule(r"backbone\.initial_block\._module\.0\.weight", "conv1.kernel", conv),
        *norm_rules(r"backbone\.initial_block\._module\.1", "bn1"),
        *Table(tuple(rule for number in (1, 2, 3, 4) for rule in _classy_stage(number))).prefixed(r"backbone\.").rules,
        Rule(r"embeddings\.1\.weight", "fc.kernel", linear),
        Rule(r"embeddings\.1\.bias", "fc.bias"),
    ),
    ignore=(r".*\.num_batches_tracked",),
)
