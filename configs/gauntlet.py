"""The gauntlet: every benchmark at once, so that one command judges a backbone from all sides.

    python main.py --config=configs/gauntlet.py:digits
    python main.py --config=configs/gauntlet.py:paper --dry_run
    python main.py --config=configs/gauntlet.py:modern,frozen,commercial,max_parameters=100
    python main.py --config=configs/gauntlet.py:vit_b16_clip,benchmark=fgvc+retrieval
    bob plan configs/gauntlet.py:paper,frozen --budget 50h

    argument := item ("," item)*
    item     := WHO | "digits" | "frozen" | "commercial" | KEY "=" value ("+" value)*
    WHO      := "paper" | "modern" | "all" | BACKBONE; several add up, `paper` when none is named
    KEY      := "benchmark" | "protocol" | "head" | "seed" | "licence" | "max_parameters"

paper           what the repositories of the 2023 study judge in any of their four suites (arXiv 2310.19909)
modern          what pretraining has brought since, and random twins beside it
all             every backbone of full size
digits          the embedded data and backbones instead, in minutes on a laptop; `digits,all` is all of these backbones
frozen          only what never trains a backbone: no fine-tuning, no heads of it, detectors on frozen backbones
commercial      only weights that may be used commercially; `licence=mit+apache-2.0` only those under one of these
max_parameters  at most so many million
benchmark       only these files of configs/: classification, fgvc, ood, robustness, retrieval, detection
protocol, head  only these, of all that the benchmarks offer; else each benchmark's defaults

Needs: what the benchmarks need; `bob plan` says what of it is missing, what all of it will take, and what to run in
less time than that.
Expected: what the single benchmarks expect. Their cells are these cells, and their records, in `results/BENCHMARK`, are
these records: what one has judged the other does not judge again. `--config.parts.fgvc.protocols.knn.temperature=0.1`
changes one of them.
"""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from bob_jax import grid
from bob_jax.backbones import zoo
from bob_jax.errors import BobError, unknown_name
from configs import digits
from configs.recipes import BACKBONES

BENCHMARKS = ("classification", "fgvc", "ood", "robustness", "retrieval", "detection")
KEYS = ("benchmark", "protocol", "head", "seed", "licence", "max_parameters")
SWITCHES = ("digits", "frozen", "commercial")

PAPER = (
    # Those with a config in its classification suite.
    *("resnet50_in1k", "resnet101_in1k", "resnet50_dino", "resnet50_vicreg", "resnet50_clip"),
    *("vit_s16_in21k_ft_in1k", "vit_b16_in21k_ft_in1k", "vit_s16_dino", "vit_b16_dino"),
    *("vit_s16_mocov3", "vit_b16_mocov3", "vit_b16_mae", "vit_l16_mae", "vit_b16_clip", "vit_l14_clip"),
    *("convnext_t_in1k", "convnext_b_in1k", "convnext_b_in22k", "convnext_xl_in22k_ft_in1k", "convnext_xl_vicregl"),
    *("swinv2_t_in1k", "swinv2_b_in1k", "swinv2_b_in22k_ft_in1k", "swinv2_b_384_in22k_ft_in1k"),
    *("swinv2_t_midas", "swinv2_b_midas", "sd_v14_encoder"),
    # Of its retrieval suite; the model it calls "resnet50_disc" is this ResNeXt.
    *("vit_s16_in1k", "vit_b16_in1k", "vit_l16_in21k_ft_in1k", "resnet101_clip", "resnet50x64_clip"),
    *("convnext_s_in1k", "convnext_s_in22k_ft_in1k", "convnext_b_in22k_ft_in1k"),
    *("swinv2_l_in22k_ft_in1k", "swinv2_l_384_in22k_ft_in1k", "resnet50_sscd", "resnext101_sscd_disc"),
    # Of its detection suite.
    *("resnet50_tv_in1k", "resnet101_tv_in1k", "vit_s16_deit", "vit_b16_384_deit", "vit_b16_sam"),
)
# Ways of pretraining that the study did not have; the random twins are the floor.
SINCE = (
    *("dinov2", "dinov3", "siglip", "siglip2", "tipsv2", "aimv2", "eupe", "pe", "eva02", "beitv2"),
    *("fcmae", "fcmae+supervised", "clip+supervised", "random"),
)
MODERN = tuple(name for name in BACKBONES if zoo.CARDS[name].method in SINCE)
WHO = {"paper": PAPER, "modern": MODERN, "all": BACKBONES}


@dataclasses.dataclass(frozen=True)
class Wish:
    """What an argument says: the bare words, and the values of each key; none of a key means no restriction."""

    words: tuple[str, ...]
    values: dict[str, list[str]]


def get_config(argument: str | None = None) -> ConfigDict:
    """The grid of all benchmarks that the argument asks for; the grammar is at the head of this file."""
    wish = _read(argument)
    backbones = _backbones(wish)
    if "digits" in wish.words and wish.values["benchmark"]:
        raise BobError("digits is one benchmark, the embedded one: take off digits, or benchmark=")
    benchmarks = ("digits",) if "digits" in wish.words else wish.values["benchmark"] or BENCHMARKS
    parts = {name: part for name in benchmarks if (part := _part(name, backbones, wish)) is not None}
    if not parts:
        raise BobError(
            f"no benchmark of {', '.join(benchmarks)} has what '{argument}' asks for: take off a restriction"
        )
    shared = {key: next(iter(parts.values()))[key] for key in grid.RUN}
    sections = {name: {key: part[key] for key in grid.GRID} for name, part in parts.items()}
    return ConfigDict({"benchmark": "gauntlet", "parts": sections} | shared | {"results": "results"})


def _read(argument: str | None) -> Wish:
    words, values = [], {key: list[str]() for key in KEYS}
    for item in filter(None, (part.strip() for part in (argument or "").split(","))):
        key, equals, value = item.partition("=")
        if not equals:
            words.append(item)
        elif key in KEYS:
            values[key] += filter(None, value.split("+"))
        else:
            raise unknown_name("key in the config's argument", key, KEYS)
    for key, known in (("benchmark", BENCHMARKS), ("protocol", grid.PROTOCOLS), ("head", grid.PROTOCOLS)):
        for name in values[key]:
            if name not in known:
                raise unknown_name(key, name, known)
    return Wish(tuple(words), values)


def _backbones(wish: Wish) -> list[str]:
    """Who is asked for, without those that a filter takes out."""
    embedded = "digits" in wish.words
    offered: Sequence[str] = digits.BACKBONES if embedded else BACKBONES
    groups = {"all": offered} if embedded else WHO
    named: list[str] = []
    for word in wish.words:
        if word in SWITCHES:
            continue
        if word not in groups and word not in offered and not zoo.is_brought(word):
            raise unknown_name("backbone", word, [*groups, *SWITCHES, *offered])
        named += groups.get(word, (word,))
    cards = [zoo.card(name) for name in dict.fromkeys(named or (digits.DEFAULT if embedded else PAPER))]
    licences = wish.values["licence"]
    for licence in licences:
        if licence not in (known := {card.licence for card in zoo.CARDS.values()} | {card.licence for card in cards}):
            raise unknown_name("licence", licence, known)
    for text in wish.values["max_parameters"]:
        most = _number(text)
        cards = [card for card in cards if card.parameters <= most]
    if licences:
        cards = [card for card in cards if card.licence in licences]
    if "commercial" in wish.words:
        cards = [card for card in cards if card.commercial]
    if not cards:
        raise BobError("no backbone is left: take off commercial, licence or max_parameters, or name others")
    return [card.name for card in cards]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise BobError(f"max_parameters '{text}' is no number: write max_parameters=100 for 100 million") from error


def _part(benchmark: str, backbones: Sequence[str], wish: Wish) -> ConfigDict | None:
    """The config of one benchmark; None where it has nothing of what is asked for."""
    get = importlib.import_module(f"configs.{benchmark}").get_config
    default, offered = get(None), get("protocol=all,head=all")
    frozen = "frozen" in wish.words
    chosen = {}
    for key, section in (("protocol", "protocols"), ("head", "heads")):
        names = wish.values[key] or default[section]
        recipes = {
            name: _frozen(offered[section][name]) if frozen else offered[section][name]
            for name in names
            if name in offered[section]
        }
        chosen[section] = {
            name: recipe
            for name, recipe in recipes.items()
            if not (frozen and grid.PROTOCOLS[name].from_config(recipe).trains_backbone)
        }
    if not chosen["heads"]:
        chosen["protocols"] = {
            name: recipe for name, recipe in chosen["protocols"].items() if not grid.PROTOCOLS[name].needs_head
        }
    if not chosen["protocols"]:
        return None
    asked = [*backbones, f"protocol={'+'.join(chosen['protocols'])}", f"seed={'+'.join(wish.values['seed'])}"]
    if chosen["heads"]:
        asked.append(f"head={'+'.join(chosen['heads'])}")
    part: ConfigDict = get(",".join(asked))
    for section in ("protocols", "heads"):
        for name in part[section]:
            part[section][name] = chosen[section][name]
    return part


def _frozen(recipe: Any) -> dict[str, Any]:
    """The recipe with the backbone frozen, where that is a matter of choice."""
    return dict(recipe) | ({"mode": "frozen"} if "mode" in recipe else {})
