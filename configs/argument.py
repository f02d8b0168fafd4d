"""The part after the colon: `configs/fgvc.py:vit_b16_clip,dataset=cub+cars,protocol=finetune`.

    argument := item ("," item)*
    item     := BACKBONE | "all" | KEY "=" value ("+" value)*
    KEY      := "backbone" | "dataset" | "protocol" | "head" | "seed"

Bare items are backbones; `timm:MODEL.TAG` and what `bob backbones add` added are some in every benchmark. Data sets may
be the user's own (`folder:PATH`, `coco:PATH`), and have low-data variants (`cifar100@5shot`, `eurosat@10pct`). Heads
are the protocols that train what `ood` and `adversarial` judge. What is left out takes the benchmark's default; `all`
is every value the benchmark offers.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from bob_jax.backbones import own, zoo
from bob_jax.data import catalog
from bob_jax.errors import BobError, unknown_name
from bob_jax.grid import PROTOCOLS

KEYS = ("backbone", "dataset", "protocol", "head", "seed")


@dataclasses.dataclass(frozen=True)
class Offer:
    """What a benchmark has to choose from, and what runs when nothing is named.

    Attributes:
        backbones: names; `all` means all of them.
        datasets: likewise, all of them the default.
        protocols: likewise, all of them the default.
        default_backbones: what runs when no backbone is named.
        heads: protocols that train what others judge.
        default_heads: what runs when no head is named.
        default_datasets: None means all.
        default_protocols: None means all.
        groups: names that stand for several protocols.
    """

    backbones: Sequence[str]
    datasets: Sequence[str]
    protocols: Sequence[str]
    default_backbones: Sequence[str]
    heads: Sequence[str] = ()
    default_heads: Sequence[str] = ()
    default_datasets: Sequence[str] | None = None
    default_protocols: Sequence[str] | None = None
    groups: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What an argument asks for, every name checked."""

    backbones: tuple[str, ...]
    datasets: tuple[str, ...]
    protocols: tuple[str, ...]
    heads: tuple[str, ...]
    seeds: tuple[int, ...]


def config(benchmark: str, argument: str | None, offer: Offer, recipes: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """The config of a benchmark: what the argument asks for, with the recipe of each protocol.

    Args:
        benchmark: its name.
        argument: the text after the colon.
        offer: what there is to choose from.
        recipes: hyper-parameters of each protocol and head.

    Raises:
        BobError: as `parse`.
    """
    choice = parse(argument, offer)
    judging = any(PROTOCOLS[name].needs_head for name in choice.protocols)
    return ConfigDict(
        {
            "benchmark": benchmark,
            "backbones": choice.backbones,
            "datasets": choice.datasets,
            "seeds": choice.seeds,
            "protocols": {name: dict(recipes[name]) for name in choice.protocols},
            "heads": {name: dict(recipes[name]) for name in choice.heads if judging},
            "data": {"root": "", "limit": 0, "num_workers": -1, "skip_corrupt": False},
            "mesh": {"fsdp": 1},
            "results": f"results/{benchmark}",
            "keep_weights": False,
            "only": "",
        }
    )


def parse(argument: str | None, offer: Offer) -> Choice:
    """Reads the argument of a config file.

    Args:
        argument: the text after the colon; None or empty takes all defaults.
        offer: the names that may be asked for. The user's own backbones, `timm:MODEL.TAG` and data sets are always
            allowed.

    Raises:
        BobError: an unknown key or name, with the nearest known one.
    """
    given: dict[str, list[str]] = {key: [] for key in KEYS}
    for item in filter(None, (part.strip() for part in (argument or "").split(","))):
        key, equals, value = item.partition("=")
        if not equals:
            key, value = "backbone", item
        if key not in KEYS:
            raise unknown_name("key in the config's argument", key, KEYS)
        given[key] += filter(None, value.split("+"))
    given["protocol"] = [each for name in given["protocol"] for each in offer.groups.get(name, (name,))]
    protocols = _names("protocol", given["protocol"], offer.protocols, offer.default_protocols or offer.protocols)
    datasets = _names("dataset", given["dataset"], offer.datasets, offer.default_datasets or offer.datasets)
    if not given["dataset"]:  # of the defaults those that the protocols ask for
        asked = {task for name in protocols for task in PROTOCOLS[name].tasks}
        datasets = tuple(name for name in datasets if catalog.task(name) in asked)
    return Choice(
        backbones=_names("backbone", given["backbone"], offer.backbones, offer.default_backbones),
        datasets=datasets,
        protocols=protocols,
        heads=_names("head", given["head"], offer.heads, offer.default_heads),
        seeds=tuple(_seed(text) for text in given["seed"]) or (0,),
    )


def _names(kind: str, given: list[str], known: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    if "all" in given:
        return tuple(known)
    for name in given:
        if name in known:
            continue
        if kind == "dataset" and (":" in name or name.partition("@")[0] in known):
            catalog.task(name)  # says what is wrong with it
            continue
        if kind == "backbone" and zoo.is_brought(name):
            zoo.card(name)
            continue
        raise unknown_name(kind, name, [*known, *(own.cards() if kind == "backbone" else ())])
    return tuple(dict.fromkeys(given)) or tuple(default)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise BobError(f"seed '{text}' is not a whole number: write seed=0 or seed=0+1+2")
    return int(text)
