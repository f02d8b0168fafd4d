"""The card of any timm model, made from timm's own: `timm:regnety_016.tv2_in1k`, or `timm:regnety_016.random`."""

import functools
import itertools
import re
from collections.abc import Mapping
from typing import Any

from bob_jax.backbones import torch_program
from bob_jax.backbones.card import IN1K, Card, Preprocessing, WeightSource
from bob_jax.backbones.cards.pins import on_hub
from bob_jax.backbones.pytorch import import_library
from bob_jax.backbones.torch_program import TIMM, Origin
from bob_jax.errors import BobError, unknown_name

RANDOM = "random"  # the tag that stands for fresh weights
COMMERCIAL = ("apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc-by-4.0")
# What the beginning of a word in timm's `MODEL.TAG` says of the pretraining; the last one here that is found counts.
METHODS = {
    "supervised": r"in1k|in12k|in21k|in22k|inw21k",
    "semi-supervised": "ssl_yfcc100m",
    "weakly supervised": r"swsl_ig1b|wsl_ig1b",
    "noisy student": "ns_jft",
    "ijepa": r"in1k_ijepa|in22k_ijepa",
    "seer": "seer",
    "beit": "beit_",
    "beitv2": "beitv2",
    "mae": "mae",
    "fcmae": "fcmae",
    "dino": r"dino$|fb_dino",
    "dinov2": "lvd142m",
    "dinov3": "lvd1689m|sat493m",
    "eupe": "eupe",
    "eva": "eva_",
    "eva02": "mim",
    "swag": "swag",
    "sam": "sa1b",
    "aimv2": "aimv2",
    "clip": r"clip|mclip|tinyclip|openai|laion|datacomp|dfn|metaclip|merged2b",
    "siglip": "webli",
    "siglip2": "v2_webli",
    "tipsv2": "tipsv2|reg1_tipsv2",
    "pe": "pe_(core|lang|spatial)",
}
DATA = {
    "dino": "ImageNet-1k",
    "mae": "ImageNet-1k",
    "fcmae": "ImageNet-1k",
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-22k",
    "yfcc100m": "YFCC100M",
    "yfcc15m": "YFCC15M",
    "cc12m": "CC12M",
    "ig1b": "Instagram-1B",
    "swag": "Instagram-3.6B",
    "jft": "unlabelled JFT-300M",
    "laion400m": "LAION-400M",
    "laion2b": "LAION-2B",
    "laiona": "LAION-Aesthetic",
    "openai": "OpenAI, 400 M pairs",
    "datacompxl": "DataComp-1B",
    "datacomp1b": "DataComp-1B",
    "dfn2b": "DFN-2B",
    "dfn5b": "DFN-5B",
    "merged2b": "Merged-2B",
    "m30m": "Merged-30M",
    "m38m": "Merged-38M",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "sat493m": "SAT-493M",
    "webli": "WebLI",
    "sa1b": "SA-1B",
}


@functools.cache
def card_of(name: str) -> Card:
    """The card of `timm:MODEL.TAG`; timm's tag says which weights, `random` means fresh ones.

    Raises:
        BobError: as `changed_card_of`.
    """
    return changed_card_of(name, {})


def changed_card_of(name: str, changes: Mapping[str, Any]) -> Card:
    """The same with another way to prepare the images.

    Args:
        name: `timm:MODEL.TAG`.
        changes: fields of `Preprocessing` that differ from timm's.

    Raises:
        BobError: timm has no such model or tag, its input is not one that the benchmark makes, or timm is missing.
    """
    timm = import_library("timm")
    model, _, tag = name.removeprefix(TIMM).partition(".")
    if not timm.is_model(model):
        raise unknown_name("timm model", model, timm.list_models())
    tags = [*(known.partition(".")[2] for known in timm.list_pretrained() if known.partition(".")[0] == model), RANDOM]
    if tag not in tags:
        raise BobError(f"'{name}' must say which weights: {', '.join(f'{TIMM}{model}.{one}' for one in tags)}")
    settings = timm.get_pretrained_cfg(model if tag == RANDOM else f"{model}.{tag}")
    preprocessing = preprocessing_of(settings, name, changes)
    source = f"{TIMM}{model}"
    facts = torch_program.facts(Origin(source, preprocessing.input_size))
    fresh = tag == RANDOM
    licence = settings.license or "unknown"
    return Card(
        name=name,
        architecture="timm",
        arguments={"source": source, "input_size": preprocessing.input_size},
        table=None if fresh else "timm",
        method=RANDOM if fresh else _method(f"{model}.{tag}"),
        data="none" if fresh else _data(tag),
        source=None if fresh else _weights(settings, model, tag),
        licence="none: no weights" if fresh else licence,
        commercial=fresh or licence in COMMERCIAL,
        preprocessing=preprocessing,
        parameters=round(torch_program.size(facts) / 1e6, 3),
        feature_dim=facts.feature_dim,
        pooling="timm's",
        notes=_notes(settings, facts, warned=not fresh and "quickgelu" not in model),
        # timm has no other data set of 1000 classes; two classifiers in one file (distillation) are no linear layer.
        classifier=IN1K
        if not fresh
        and settings.num_classes == 1000
        and isinstance(settings.classifier, str)
        and torch_program.has_linear_classifier(Origin(source, preprocessing.input_size), settings.classifier)
        else None,
    )


def preprocessing_of(settings: Any, name: str, changes: Mapping[str, Any]) -> Preprocessing:
    """The evaluation input of a timm model.

    Args:
        settings: timm's `PretrainedCfg`.
        name: of the backbone, for the message.
        changes: fields that differ.

    Raises:
        BobError: the input is not square, has not three channels, or is made in a way that the loader does not know.
    """
    channels, height, width = settings.input_size
    fields = {
        "input_size": height,
        "crop_pct": settings.crop_pct,
        "interpolation": settings.interpolation,
        "crop_mode": settings.crop_mode,
        "mean": tuple(settings.mean),
        "std": tuple(settings.std),
    } | dict(changes)
    if channels != 3 or (height != width and "input_size" not in changes):
        raise BobError(f"{name} takes images [{channels}, {height}, {width}]: only square RGB images are made here")
    if fields["crop_mode"] not in ("center", "squash") or fields["interpolation"] not in ("bicubic", "bilinear"):
        raise BobError(
            f"{name} is prepared with crop_mode={fields['crop_mode']}, interpolation={fields['interpolation']}: choose "
            f"others that are known here with `bob backbones add {name} --crop-mode center`"
        )
    return Preprocessing(**fields)


def _weights(settings: Any, model: str, tag: str) -> WeightSource:
    if settings.hf_hub_id:
        hub = settings.hf_hub_id
        return on_hub(f"{hub}{model}.{tag}" if hub.endswith("/") else hub)
    return WeightSource(url=settings.url if isinstance(settings.url, str) else settings.url[0])


def _notes(settings: Any, facts: torch_program.Facts, *, warned: bool) -> str:
    """What timm warns of (weights that were trained with QuickGELU; it says so of the model that has it, too), and what
    is lacking.
    """
    notes = [f"timm: {note}." for note in settings.notes or ()] if warned else []
    if not facts.strides:
        notes.append("No feature maps: it can be probed and fine-tuned, and not put under a detector.")
    return " ".join(notes)


def _method(name: str) -> str:
    found = [method for method, words in METHODS.items() if re.search(rf"(^|[_.])({words})", name)]
    return found[-1] if found else "unknown"


def _data(tag: str) -> str:
    """In the order of training: `in21k_ft_in1k` is ImageNet-21k, then ImageNet-1k.

    Where the data of one step are not known, the others alone would mislead: then only the tag is told.
    """
    steps = [dict.fromkeys(DATA[word] for word in step.split("_") if word in DATA) for step in tag.split("_ft_")]
    return ", then ".join(itertools.chain(*steps)) if all(steps) else f"as timm's tag {tag} says"
