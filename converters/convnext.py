"""Key layouts of ConvNeXt checkpoints."""

from converters.rules import Rule, Table, Transform, conv

# A dense layer [out, in], or the same as a 1x1 convolution [out, in, 1, 1] (timm, small models), as a kernel [in, out].
dense = Transform(
    lambda weight: weight.reshape(weight.shape[:2]).T,
    lambda kernel, shape: kernel.T.reshape(shape),
)

STEM = (
    Rule(r"stem\.0\.weight", "stem.0.kernel", conv),
    Rule(r"stem\.0\.bias", "stem.0.bias"),
    Rule(r"stem\.1\.weight", "stem.1.scale"),
    Rule(r"stem\.1\.bias", "stem.1.bias"),
)
DOWNSAMPLE = r"(stages\.[1-3]\.downsample\.{})"
BLOCK = r"(stages\.[0-3]\.blocks\.\d+\.)"
STAGES = (
    Rule(DOWNSAMPLE.format(0) + r"\.weight", r"\1.scale"),
    Rule(DOWNSAMPLE.format(0) + r"\.bias", r"\1.bias"),
    Rule(DOWNSAMPLE.format(1) + r"\.weight", r"\1.kernel", conv),
    Rule(DOWNSAMPLE.format(1) + r"\.bias", r"\1.bias"),
    Rule(BLOCK + r"conv_dw\.weight", r"\1conv_dw.kernel", conv),
    Rule(BLOCK + r"(conv_dw|norm|mlp\.fc[12]|mlp\.grn)\.bias", r"\1\2.bias"),
    Rule(BLOCK + r"(norm|mlp\.grn)\.weight", r"\1\2.scale"),
    Rule(BLOCK + r"(mlp\.fc[12])\.weight", r"\1\2.kernel", dense),
    Rule(BLOCK + "gamma", r"\1gamma"),
)


def final_norm(source: str, target: str) -> tuple[Rule, Rule]:
    """The norm behind the last stage."""
    return Rule(rf"{source}\.weight", f"{target}.scale"), Rule(rf"{source}\.bias", f"{target}.bias")


# timm's ConvNeXt; the head of a CLIP model is its projection to the joint space.
TIMM_CONVNEXT = Table(
    (*STEM, *STAGES, *final_norm(r"head\.norm", "fc_norm"), *final_norm("norm_pre", "norm")),
    ignore=(r"head\.fc\..*",),
)
