"""What the zoo knows of a backbone: architecture, pretraining, weights, licence, preprocessing."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
IN1K = "ImageNet-1k"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How the checkpoint's authors turn a picture into its input at evaluation.

    The short side is resized to `floor(input_size / crop_pct)`, antialiased, then the centre square is cut out; with
    `crop_mode="squash"` both sides are resized to that length, whatever the aspect ratio.
    Pixels are scaled to [0, 1] before `mean` and `std` apply.
    """

    input_size: int = 224
    crop_pct: float = 0.875
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_mode: Literal["center", "squash"] = "center"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclasses.dataclass(frozen=True)
class WeightSource:
    """Where the original weights are: on the Hugging Face hub, at a URL, or in this package; exactly one of the three.

    Attributes:
        hub: repository on the hub, e.g. "timm/vit_base_patch16_224.dino".
        revision: commit, tag or branch of the hub repository.
        file: file name inside the hub repository.
        url: direct address; `file://` and an absolute path for a file of the user's own.
        shipped: file name in the folder `weights` beside this module.
        sha256: full digest, or its leading hexadecimal digits where only those are published.
        parts: (prefix, file) where weights are spread over several files of the hub repository, which then stand for
            `file`; the prefix goes before the names in that file.
    """

    hub: str | None = None
    revision: str = "main"
    file: str = "model.safetensors"
    url: str | None = None
    shipped: str | None = None
    sha256: str | None = None
    parts: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class TextCard:
    """The other half of a vision-language checkpoint: what names classes instead of learning them from images.

    Attributes:
        name: of its converted weights, e.g. "vit_b16_clip.text".
        arguments: what `text.TextTower` is called with.
        source: the whole checkpoint in OpenCLIP's layout, of which the image tower is left out.
        tokenizer: the `tokenizer.json` that its texts were split by.
        padding: token that fills a text up.
        licence: of the weights.
    """

    architecture: ClassVar[str] = "text"
    table: ClassVar[str] = "openclip_text"

    name: str
    arguments: Mapping[str, Any]
    source: WeightSource
    tokenizer: WeightSource
    padding: int
    licence: str


@dataclasses.dataclass(frozen=True)
class Card:
    """A competitor.

    Attributes:
        name: key in the zoo, e.g. "vit_b16_clip".
        architecture: family, the name of a builder in `zoo.ARCHITECTURES`, e.g. "vit".
        arguments: what the builder is called with.
        table: name of the converter's table for the source's key names, e.g. "timm_vit"; None for random twins.
        method: pretraining method: "supervised", "dino", "mae", "mocov3", "vicreg", "clip", "random", ...
        data: pretraining data, e.g. "ImageNet-1k", "LAION-2B".
        source: where the weights are; None for random twins.
        licence: of the weights, as their publisher states it.
        commercial: whether that licence allows commercial use.
        preprocessing: the evaluation input the weights expect.
        parameters: millions of parameters, without head.
        feature_dim: width of the pooled descriptor.
        pooling: what the descriptor is: "cls", "mean", "map", "attention", ...
        scores: published figures with their source, e.g. {"imagenet top-1": "84.53 (timm results)"}.
        notes: what a user must know.
        gated: whether the publisher's terms must be accepted, with an account, before the weights can be fetched.
        classifier: `IN1K` where a linear layer that tells the classes of ImageNet-1k apart was published with the
            weights; else None.
        classifier_source: where that layer is, if it has a file of its own.
        text: the text side of a vision-language checkpoint; None for any other, and where only images are left of it.
    """

    name: str
    architecture: str
    arguments: Mapping[str, Any]
    table: str | None
    method: str
    data: str
    source: WeightSource | None
    licence: str
    commercial: bool
    preprocessing: Preprocessing
    parameters: float
    feature_dim: int
    pooling: str
    scores: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: str = ""
    gated: bool = False
    classifier: str | None = None
    classifier_source: WeightSource | None = None
    text: TextCard | None = None
