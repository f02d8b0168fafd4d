"""Key layouts of ConvNeXt checkpoints."""

from converters.rules import Rule, Table, Transform, conv, flat, identity

# A dense layer [out, in], or the same as a 1x1 convolution [out, in, 1, 1] (timm, small models), as a kernel [in, out].
dense = Transform(
    lambda weight: weight.reshape(weight.shape[:2]).T,
    lambda kernel, shape: kernel.T.reshape(shape),
)


def layer(source: str, target: str, weight: tuple[str, Transform] = ("scale", identity)) -> tuple[Rule, Rule]:
    """Weight and bias of a kind of layer; `weight` is the name and layout of the first here, a norm's unless told."""
    name, transform = weight
    return Rule(rf"{source}\.weight", f"{target}.{name}", transform), Rule(rf"{source}\.bias", f"{target}.bias")


CONVOLUTION, DENSE = ("kernel", conv), ("kernel", dense)
FINAL_NORM = layer(r"head\.norm", "fc_norm")

BLOCK = r"(stages\.[0-3]\.blocks\.\d+\.)"
TIMM_TRUNK = (
    *layer(r"stem\.0", "stem.0", CONVOLUTION),
    *layer(r"stem\.1", "stem.1"),
    *layer(r"(stages\.[1-3]\.downsample\.0)", r"\1"),
    *layer(r"(stages\.[1-3]\.downsample\.1)", r"\1", CONVOLUTION),
    *layer(BLOCK + "conv_dw", r"\1conv_dw", CONVOLUTION),
    *layer(BLOCK + r"(norm|mlp\.grn)", r"\1\2"),
    *layer(BLOCK + r"(mlp\.fc[12])", r"\1\2", DENSE),
    Rule(BLOCK + "gamma", r"\1gamma"),
)

# timm's ConvNeXt; the head of a CLIP model is its projection to the joint space.
TIMM_CONVNEXT = Table((*TIMM_TRUNK, *FINAL_NORM, *layer("norm_pre", "norm")), ignore=(r"head\.fc\..*",))

# FCMAE's encoder has no final norm of its own: where a file has one, it is the identity that timm builds. A file with a
# classifier is a fine-tuned one, whose norm means something: it is refused.
TIMM_CONVNEXT_FCMAE = Table(TIMM_TRUNK, ignore=(r"head\.norm\.(?:weight|bias)",))

# OpenCLIP's checkpoints with a trunk of timm's: what is outside of `visual.trunk` is the projection and the text tower.
OPENCLIP_CONVNEXT = Table((*TIMM_TRUNK, *FINAL_NORM)).prefixed(r"visual\.trunk\.", (r"(?!visual\.trunk\.).*",))

FACEBOOK_BLOCK = r"stages\.([0-3])\.(\d+)\."
FACEBOOK_TRUNK = (
    *layer(r"downsample_layers\.0\.0", "stem.0", CONVOLUTION),
    *layer(r"downsample_layers\.0\.1", "stem.1"),
    *layer(r"downsample_layers\.([1-3])\.0", r"stages.\1.downsample.0"),
    *layer(r"downsample_layers\.([1-3])\.1", r"stages.\1.downsample.1", CONVOLUTION),
    *layer(FACEBOOK_BLOCK + "dwconv", r"stages.\1.blocks.\2.conv_dw", CONVOLUTION),
    *layer(FACEBOOK_BLOCK + "norm", r"stages.\1.blocks.\2.norm"),
    *layer(FACEBOOK_BLOCK + "pwconv([12])", r"stages.\1.blocks.\2.mlp.fc\3", DENSE),
    Rule(FACEBOOK_BLOCK + r"grn\.gamma", r"stages.\1.blocks.\2.mlp.grn.scale", flat),
    Rule(FACEBOOK_BLOCK + r"grn\.beta", r"stages.\1.blocks.\2.mlp.grn.bias", flat),
    Rule(FACEBOOK_BLOCK + "gamma", r"stages.\1.blocks.\2.gamma"),
)
# DINOv3 stores its final norm a second time; EUPE's norms and projectors belong to its distillation.
FACEBOOK_IGNORED = (r"head\..*", r"(?:norms|projectors)\..*")

# The authors' files: ConvNeXt, V2, DINOv3, EUPE; the encoder of FCMAE; VICRegL, whose final norm has another place.
FACEBOOK_CONVNEXT = Table((*FACEBOOK_TRUNK, *layer("norm", "fc_norm")), FACEBOOK_IGNORED).prefixed(r"(?:model\.)?")
FACEBOOK_CONVNEXT_FCMAE = Table(FACEBOOK_TRUNK).prefixed(r"(?:model\.)?")
VICREGL_CONVNEXT = Table((*FACEBOOK_TRUNK, *layer("norm", "norm")))
