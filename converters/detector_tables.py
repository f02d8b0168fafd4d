"""Key layouts of public detectors: torchvision's Mask R-CNN, first and second version, and mmdetection's Cascade Mask
R-CNN, each on ResNet-50.

torchvision's files differ from ours in more than names, and `Table.prepare` settles that: its background class comes
first, the first version's batch norms have no epsilon, and the second version has batch norms where our heads have
none. In use a batch norm behind a convolution is one with it, exactly.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from bob_jax.backbones.layers import BatchNorm
from bob_jax.detection.box_head import SIZE
from bob_jax.errors import BobError
from converters import resnet
from converters.rules import Rule, Table, Transform, conv, linear

Arrays = Mapping[str, np.ndarray]

# A Linear weight that reads RoI features as [C, 7, 7], for our features [7, 7, C].
roi_linear = Transform(
    lambda weight: weight.reshape(len(weight), -1, SIZE, SIZE).transpose(2, 3, 1, 0).reshape(-1, len(weight)),
    lambda kernel, shape: kernel.reshape(SIZE, SIZE, -1, shape[0]).transpose(3, 2, 0, 1).reshape(shape),
)
# ConvTranspose2d's weight [in, out, H, W] as a kernel [H, W, in, out].
deconv = Transform(lambda weight: weight.transpose(2, 3, 0, 1), lambda kernel, shape: kernel.transpose(2, 3, 0, 1))
# The weight [C, width, 1, 1] of a 1x1 convolution as [C, width]: ours computes one class only.
pointwise = Transform(lambda weight: np.squeeze(weight, axis=(2, 3)), lambda kernel, shape: kernel.reshape(shape))


def _layer(source: str, target: str, transform: Transform, kernel: str = "kernel") -> tuple[Rule, Rule]:
    """Weight and bias under `source` to those under `target`."""
    return Rule(rf"{source}\.weight", f"{target}.{kernel}", transform), Rule(rf"{source}\.bias", f"{target}.bias")


def _backbone(prefix: str) -> tuple[Rule, ...]:
    rules = Table(resnet.RULES).prefixed(prefix).rules
    return tuple(dataclasses.replace(rule, target=f"backbone.{rule.target}") for rule in rules)


COUNTERS = r".*\.num_batches_tracked"

# The file of the first version is older than today's modules, which give some layers one more number: both are read.
TORCHVISION_RULES = (
    *_backbone(r"backbone\.body\."),
    *_layer(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)(?:\.0)?", r"heads.neck.\1_blocks.\2.conv", conv),
    *_layer(r"rpn\.head\.conv", "heads.rpn.convs.0.conv", conv),
    *_layer(r"rpn\.head\.conv\.(\d)\.0", r"heads.rpn.convs.\1.conv", conv),
    *_layer(r"rpn\.head\.(cls_logits|bbox_pred)", r"heads.rpn.\1", conv),
    *_layer(r"roi_heads\.box_predictor\.(cls_score|bbox_pred)", r"heads.box_heads.0.\1", linear),
    *_layer(r"roi_heads\.mask_head\.(\d)\.0", r"heads.mask_heads.0.convs.\1.conv", conv),
    *_layer(r"roi_heads\.mask_predictor\.conv5_mask", "heads.mask_heads.0.deconv", deconv),
    *_layer(r"roi_heads\.mask_predictor\.mask_fcn_logits", "heads.mask_heads.0", pointwise),
)


def _background_last(arrays: Arrays) -> dict[str, np.ndarray]:
    """Class scores with the background behind the classes; boxes and masks without it, as nobody reads those."""
    prepared = dict(arrays)
    for leaf in ("weight", "bias"):
        if (name := f"roi_heads.box_predictor.cls_score.{leaf}") in prepared:
            prepared[name] = np.roll(prepared[name], -1, axis=0)
        for layer, rows in (("box_predictor.bbox_pred", 4), ("mask_predictor.mask_fcn_logits", 1)):
            if (name := f"roi_heads.{layer}.{leaf}") in prepared:
                prepared[name] = prepared[name][rows:]
    return prepared


def _without_epsilon(arrays: Arrays) -> dict[str, np.ndarray]:
    """The weights of the first version, for our batch norms.

    Its frozen batch norms divide by the square root of the bare variance: torchvision sets their epsilon to 0 whenever
    it loads these weights (`overwrite_eps`), as they were trained so. Ours have an epsilon, so the scale makes up.

    Raises:
        BobError: a variance that is not positive.
    """
    prepared = _background_last(arrays)
    for name, variance in arrays.items():
        if name.endswith(".running_var"):
            if not np.all(variance > 0):
                raise BobError(f"{name} has values that are not positive: no published file has, fetch it again")
            scale = name.removesuffix("running_var") + "weight"
            exact = variance.astype(np.float64)
            prepared[scale] = (arrays[scale] * np.sqrt(1 + BatchNorm.epsilon / exact)).astype(np.float32)
    return prepared


def _folded(arrays: Arrays) -> dict[str, np.ndarray]:
    """Neck and heads of the second version with every batch norm in the weight and bias of its convolution."""
    prepared = _background_last(arrays)
    for name in arrays:
        if name.startswith("backbone.body.") or not (found := re.fullmatch(r"(.*)\.1\.running_var", name)):
            continue
        source = found[1]
        norm = {
            leaf: prepared.pop(f"{source}.1.{leaf}").astype(np.float64)
            for leaf in ("weight", "bias", "running_mean", "running_var")
        }
        prepared.pop(f"{source}.1.num_batches_tracked", None)
        factor = norm["weight"] / np.sqrt(norm["running_var"] + BatchNorm.epsilon)
        weight = prepared[f"{source}.0.weight"]
        prepared[f"{source}.0.weight"] = (weight * factor[:, None, None, None]).astype(np.float32)
        prepared[f"{source}.0.bias"] = (norm["bias"] - norm["running_mean"] * factor).astype(np.float32)
    return prepared


TORCHVISION = Table(
    rules=(
        *TORCHVISION_RULES,
        *_layer(r"roi_heads\.box_head\.fc6", "heads.box_heads.0.fcs.0", roi_linear),
        *_layer(r"roi_heads\.box_head\.fc7", "heads.box_heads.0.fcs.1", linear),
        *(
            rule
            for i in range(4)
            for rule in _layer(rf"roi_heads\.mask_head\.mask_fcn{i + 1}", f"heads.mask_heads.0.convs.{i}.conv", conv)
        ),
    ),
    ignore=(COUNTERS,),
    prepare=_without_epsilon,
)

TORCHVISION_V2 = Table(
    rules=(
        *TORCHVISION_RULES,
        *_layer(r"roi_heads\.box_head\.(\d)\.0", r"heads.box_heads.0.convs.\1.conv", conv),
        *_layer(r"roi_heads\.box_head\.5", "heads.box_heads.0.fcs.0", roi_linear),
    ),
    ignore=(COUNTERS,),
    prepare=_folded,
)

MMDETECTION_CASCADE = Table(
    rules=(
        *_backbone(r"backbone\."),
        *_layer(r"neck\.lateral_convs\.(\d)\.conv", r"heads.neck.inner_blocks.\1.conv", conv),
        *_layer(r"neck\.fpn_convs\.(\d)\.conv", r"heads.neck.layer_blocks.\1.conv", conv),
        *_layer(r"rpn_head\.rpn_conv", "heads.rpn.convs.0.conv", conv),
        *_layer(r"rpn_head\.rpn_cls", "heads.rpn.cls_logits", conv),
        *_layer(r"rpn_head\.rpn_reg", "heads.rpn.bbox_pred", conv),
        *_layer(r"roi_head\.bbox_head\.(\d)\.shared_fcs\.0", r"heads.box_heads.\1.fcs.0", roi_linear),
        *_layer(r"roi_head\.bbox_head\.(\d)\.shared_fcs\.1", r"heads.box_heads.\1.fcs.1", linear),
        *_layer(r"roi_head\.bbox_head\.(\d)\.fc_cls", r"heads.box_heads.\1.cls_score", linear),
        *_layer(r"roi_head\.bbox_head\.(\d)\.fc_reg", r"heads.box_heads.\1.bbox_pred", linear),
        *_layer(r"roi_head\.mask_head\.(\d)\.convs\.(\d)\.conv", r"heads.mask_heads.\1.convs.\2.conv", conv),
        *_layer(r"roi_head\.mask_head\.(\d)\.upsample", r"heads.mask_heads.\1.deconv", deconv),
        *_layer(r"roi_head\.mask_head\.(\d)\.conv_logits", r"heads.mask_heads.\1", pointwise),
    ),
    ignore=(COUNTERS,),
).prefixed(r"(?:state_dict\.)?")
