"""The way back: weights of ours, fine-tuned ones for instance, under the names of the original implementation."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from bob_jax.backbones.card import Card
from bob_jax.backbones.pytorch import import_library
from bob_jax.errors import BobError
from converters import bridge, cache, formats, references, rules, sources
from converters.tables import table_of

SUFFIXES = (".safetensors", ".pth")
BACKBONE = "backbone."  # before the backbone's names in the weights of a fine-tuning; beside them stands the head


def export(card: Card, to: Path, weights: Path | None = None) -> None:
    """Writes weights as a state dict that the original implementation loads, at once or not at all.

    Args:
        card: the backbone.
        to: .safetensors or .pth.
        weights: a .safetensors file of exactly the card's parameters by dotted path, or what `keep_weights` kept of a
            fine-tuning, whose classifier is left out; the converted weights by default.

    Raises:
        BobError: another suffix, weights that do not fit the architecture, or a place that cannot be written.
    """
    if to.suffix not in SUFFIXES:
        raise BobError(f"cannot write {to}: give it a name that ends in {' or '.join(SUFFIXES)}")
    arrays = cache.load(card)[0] if weights is None else formats.read(weights)
    if any(name.startswith(BACKBONE) for name in arrays):
        arrays = {name.removeprefix(BACKBONE): array for name, array in arrays.items() if name.startswith(BACKBONE)}
    what = f"{weights or cache.path_of(card)} for {card.name}"
    shapes, table = template(card)
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    exported = rules.export(arrays, table_of(table), shapes, what=what)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as folder:
            written = Path(folder) / to.name
            _write(written, exported, card)
            cache.open_to_others(written)
            written.replace(to)
    except OSError as error:
        raise BobError(f"cannot write {to} ({error.strerror or error}): free space, or choose another place") from error


def template(card: Card) -> tuple[dict[str, rules.Shape], str]:
    """Names and shapes of the original's state dict, and the table that maps them.

    They are in the header of the published file, where that is on this machine and in the original implementation's
    own names; else the implementation itself is asked, built without memory.
    """
    if bridge.is_bridged(card):  # PyTorch's names are ours already
        return dict(cache.shapes_of(card)), "as_is"
    published = card.source and sources.cached(card.source)
    if published and published.suffix == ".safetensors" and card.table:
        tensors = formats.read_safetensors_header(published).tensors
        return {name: tensor.shape for name, tensor in tensors.items()}, card.table
    with import_library("torch").device("meta"):
        reference = references.build(card)
    return {name: tuple(value.shape) for name, value in reference.module.state_dict().items()}, reference.table


def _write(path: Path, arrays: Mapping[str, np.ndarray], card: Card) -> None:
    if path.suffix == ".safetensors":
        save_file(dict(arrays), path, metadata={"format": "pt", "backbone": card.name, "licence": card.licence})
        return
    torch = import_library("torch")
    with path.open("wb") as file:
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, file)
        os.fsync(file.fileno())
