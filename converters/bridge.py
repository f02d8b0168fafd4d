"""Checkpoints of bridged backbones: nothing is renamed, since the parameters keep their PyTorch names.

What timm publishes, or a user trained with timm, goes through timm's own loading code (its filters rename old keys and
resample position tables), strictly. Everything else is taken as it is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bob_jax.backbones import torch_program
from bob_jax.backbones.card import Card
from bob_jax.backbones.pytorch import import_library
from bob_jax.backbones.torch_program import TIMM, Origin
from bob_jax.errors import BobError
from converters.reference import Reference
from converters.rules import Rule, Table

AS_IS = Table((Rule("(.*)", r"\1"),))
WRAPPERS = ("state_dict", "model", "module")  # what training scripts put around a state dict


def is_bridged(card: Card) -> bool:
    """Whether the backbone is a PyTorch module."""
    return card.architecture in ("timm", "torch")


def reference(card: Card) -> Reference:
    """The PyTorch module of a bridged card itself: what is compared is torchax with PyTorch, at the card's size."""
    module = torch_program.reference(_origin(card))

    def fill(module: Any, original: Any) -> None:
        arrays = prepared(original.read(), original.table, card, what=original.source)
        torch_program.fill(module, arrays)

    return Reference(
        module=module,
        run=module,
        stages=(),  # one program on both sides: its parts have no names in JAX
        layout="NCHW",
        table="as_is",
        fill=fill,
        sizes=(card.preprocessing.input_size,),
        library="timm" if card.architecture == "timm" else "torchax",
    )


def _origin(card: Card) -> Origin:
    arguments = card.arguments
    return Origin(arguments["source"], arguments["input_size"], sha256=arguments.get("sha256", ""))


def prepared(arrays: Mapping[str, np.ndarray], table: str, card: Card, *, what: str) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint under the names that the table maps.

    Args:
        arrays: of the file.
        table: name of the table that will map them.
        card: of the backbone.
        what: the checkpoint, for the message.

    Raises:
        BobError: timm's loader refuses the weights.
    """
    if not is_bridged(card) or table not in ("timm", "as_is"):
        return dict(arrays)
    origin = _origin(card)
    facts = torch_program.facts(origin)
    found = unwrapped(arrays, {*facts.layers, *facts.constants})
    if table == "timm":
        found = _through_timm(found, origin, card, what)
    return {name: array for name, array in found.items() if name not in facts.constants}


def unwrapped(arrays: Mapping[str, np.ndarray], wanted: set[str]) -> dict[str, np.ndarray]:
    """The arrays without the wrapping prefixes of training scripts; names outside of the innermost wrapper are left."""
    found = dict(arrays)
    while not wanted & found.keys():
        for wrapper in WRAPPERS:
            inner = {name.removeprefix(f"{wrapper}."): x for name, x in found.items() if name.startswith(f"{wrapper}.")}
            if inner:
                found = inner
                break
        else:
            return dict(arrays)
    return found


def _through_timm(arrays: dict[str, np.ndarray], origin: Origin, card: Card, what: str) -> dict[str, np.ndarray]:
    """The state dict of timm's model, classifier removed, after timm has loaded the arrays into it."""
    timm, torch = import_library("timm"), import_library("torch")
    model = origin.source.removeprefix(TIMM)
    hub = card.source.hub if card.source else None
    known = timm.get_pretrained_cfg(model)
    if hub and hub.startswith(f"timm/{model}."):
        known = timm.get_pretrained_cfg(hub.removeprefix("timm/"))
    classes = _classes(known, arrays) if known.num_classes else 0
    overlay = {
        "state_dict": {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()},
        "num_classes": classes,
        "label_offset": known.label_offset or 0,
        "custom_load": False,
    }
    try:
        filled = torch_program.make_timm(
            origin,
            pretrained=True,
            num_classes=classes,
            pretrained_cfg=known.to_dict(),
            pretrained_cfg_overlay=overlay,
        )
    except BobError as error:
        raise BobError(f"{what} does not fit timm's {model}: {error}") from error
    filled.reset_classifier(0)
    return {name: tensor.numpy() for name, tensor in filled.state_dict().items()}


def _classes(known: Any, arrays: Mapping[str, np.ndarray]) -> int:
    """Outputs of the classifier in the checkpoint; 0 if it has none."""
    names = (known.classifier,) if isinstance(known.classifier, str) else tuple(known.classifier or ())
    found = [arrays[f"{name}.weight"] for name in names if f"{name}.weight" in arrays]
    return int(found[0].shape[0]) - (known.label_offset or 0) if found else 0
