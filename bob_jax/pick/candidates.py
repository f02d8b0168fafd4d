"""Who may compete, in which order, and who cannot: smallest and most informative first, without those out of reach."""

import dataclasses
import os
import urllib.error
import urllib.request
from collections.abc import Sequence

from bob_jax.backbones import flops, own, pretraining, zoo
from bob_jax.backbones.card import Card
from bob_jax.errors import BobError, unknown_name

SMALL_TWIN = 1.0  # millions of parameters up to which a random twin competes unasked, as a floor
TIMEOUT = 5.0  # seconds until the hub counts as out of reach
NAMED = 3


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A backbone that may be tried.

    Attributes:
        card: what the zoo knows of it.
        gflops: of one image; None for a backbone of the user's own, which nobody has counted.
        download: bytes to fetch first, about; 0 where the weights are here.
    """

    card: Card
    gflops: float | None
    download: float

    @property
    def name(self) -> str:
        """Of the card."""
        return self.card.name

    @property
    def random(self) -> bool:
        """Whether it is a random twin: a yardstick, never the answer where anything else was tried."""
        return self.card.method == "random"

    @property
    def cost(self) -> float:
        """GFLOPs of an image; where nobody has counted, as a plain ViT of as many parameters."""
        return self.gflops if self.gflops is not None else 0.4 * self.card.parameters


def candidates(
    names: Sequence[str] = (),
    *,
    licences: Sequence[str] = (),
    commercial: bool = False,
    max_parameters: float | None = None,
) -> tuple[list[Candidate], list[str]]:
    """All that may compete, the most promising first, and a line for those that are left out.

    Args:
        names: only these; when empty all cards with weights, the user's own, and small random twins.
        licences: only weights under one of these.
        commercial: only weights that may be used commercially.
        max_parameters: only up to so many million.

    Raises:
        BobError: an unknown name or licence, or nobody is left.
    """
    everyone = [*own.cards().values(), *zoo.CARDS.values()]
    cards = [zoo.card(name) for name in dict.fromkeys(names)] or [
        card for card in everyone if card.method != "random" or card.parameters < SMALL_TWIN
    ]
    for licence in licences:
        if licence not in (known := {card.licence for card in everyone}):
            raise unknown_name("licence", licence, known)
    cards = [
        card
        for card in cards
        if (not licences or card.licence in licences)
        and (not commercial or card.commercial)
        and (max_parameters is None or card.parameters <= max_parameters)
    ]
    if not cards:
        raise BobError("no backbone is left: take off --commercial, --licence or --max-parameters, or name others")
    gflops = flops.known()
    found = [Candidate(card, gflops.get(card.name), 0.0 if _is_here(card) else 4e6 * card.parameters) for card in cards]
    far = [one for one in found if one.download]
    left_out = []
    if far and (reason := _out_of_reach()):
        found = [one for one in found if not one.download]
        left_out.append(
            f"{reason}: {_count(len(far))} whose weights are not on this machine are left out "
            f"({_some([one.name for one in far])})"
        )
    if not found:
        raise BobError(f"{left_out[0]}, and nobody else is asked for: name others, or go online once")
    return sorted(found, key=_promise), left_out


def _promise(one: Candidate) -> tuple:
    """Smallest first, in steps of four times the cost; of a step, who has seen most images (arXiv 2310.19909 finds
    pretraining size the best single guide, Spearman 0.72 for ViTs) first, and what is here before what must be fetched.
    """
    step, cost = 0, max(one.cost, 1e-9)
    while cost > 0.1:
        cost, step = cost / 4, step + 1
    seen = pretraining.images(one.card.data) or 0
    return (one.random, step, one.download > 0, -seen, one.cost, one.name)


def _is_here(card: Card) -> bool:
    if card.source is None or card.source.shipped or (card.source.url or "").startswith("file://"):
        return True
    from converters import cache, sources

    return cache.read_receipt(card) is not None or sources.cached(card.source) is not None


def _out_of_reach() -> str | None:
    """Why weights cannot be fetched; None where they can."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        urllib.request.urlopen(urllib.request.Request(hub, method="HEAD"), timeout=TIMEOUT).close()
    except urllib.error.HTTPError as error:
        error.close()  # it answers
    except (OSError, ValueError):
        return f"{hub} cannot be reached"
    return None


def _count(number: int) -> str:
    return "1 backbone" if number == 1 else f"{number} backbones"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
