"""The part after the colon: `configs/fgvc.py:vit_b16_clip,dataset=cub+cars,protocol=finetune`.

    argument := item ("," item)*
    item     := BACKBONE | "all" | ("backbone" | "dataset" | "protocol" | "seed") "=" value ("+" value)*

Bare items are backbones; `timm:MODEL.TAG` and what `bob backbones add` added are too. What is left out takes the benchmark's default; `all` is every value the benchmark offers.
"""

import dataclasses
from collections.abc import Sequence

from bob_jax.backbones import own, zoo
from bob_jax.errors import BobError, unknown_name

KEYS = ("backbone", "dataset", "protocol", "seed")


@dataclasses.dataclass(frozen=True)
class Choice:
    """What an argument asks for, every name checked."""

    backbones: tuple[str, ...]
    datasets: tuple[str, ...]
    protocols: tuple[str, ...]
    seeds: tuple[int, ...]


def parse(
    argument: str | None,
    *,
    backbones: Sequence[str],
    datasets: Sequence[str],
    protocols: Sequence[str],
    default_backbones: Sequence[str],
    default_protocols: Sequence[str] | None = None,
) -> Choice:
    """Reads the argument of a config file.

    Args:
        argument: the text after the colon; None or empty takes all defaults.
        backbones: the names that may be asked for; `all` means all of them. The user's own backbones and
            `timm:MODEL.TAG` are always allowed.
        datasets: likewise; all of them are the default. `folder:PATH` is always allowed.
        protocols: likewise.
        default_backbones: what runs when no backbone is named.
        default_protocols: what runs when no protocol is named; None means all.

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
    return Choice(
        backbones=_names("backbone", given["backbone"], backbones, default_backbones),
        datasets=_names("dataset", given["dataset"], datasets, datasets),
        protocols=_names("protocol", given["protocol"], protocols, default_protocols or protocols),
        seeds=tuple(_seed(text) for text in given["seed"]) or (0,),
    )


def _names(kind: str, given: list[str], known: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    if "all" in given:
        return tuple(known)
    for name in given:
        if name in known or (kind == "dataset" and name.startswith("folder:")):
            continue
        if kind == "backbone" and zoo.is_brought(name):
            zoo.card(name)  # says what is wrong with it
            continue
        raise unknown_name(kind, name, [*known, *(own.cards() if kind == "backbone" else ())])
    return tuple(dict.fromkeys(given)) or tuple(default)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise BobError(f"seed '{text}' is not a whole number: write seed=0 or seed=0+1+2")
    return int(text)
