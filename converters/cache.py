"""Converted weights on disk: safetensors keyed by dotted parameter path, with the receipt in the header.

`load` is what the zoo calls: it reads the cache where the receipt still fits the card and the converter, and otherwise
fetches and converts.
"""

import dataclasses
import hashlib
import json
import platform
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.card import Card
from bob_jax.cache import cache_dir
from bob_jax.errors import BobError
from converters import bridge, formats, rules, sources
from converters.download import sha256_of
from converters.tables import table_of

CONVERTER_VERSION = 1  # raise it when a table or a transform changes what comes out


@dataclasses.dataclass(frozen=True)
class Receipt:
    """Where converted weights come from.

    Attributes:
        backbone: name in the zoo.
        card: digest of what decides the conversion: architecture, arguments, table and source.
        source: address of the original weights, or `file:NAME` of a file that the user gave.
        commit: what the hub's revision resolved to.
        source_sha256: digest of the original file.
        weights_sha256: digest of the converted parameters (names, shapes, values), the same on every machine.
        converter: `CONVERTER_VERSION`.
        licence: of the weights.
        libraries: versions of what took part.
        date: of the conversion, ISO 8601, UTC.
        parity: largest relative error against the original implementation, by input size and stage; None before
            `python -m converters verify`.
    """

    backbone: str
    card: str
    source: str
    commit: str | None
    source_sha256: str
    weights_sha256: str
    converter: int
    licence: str
    libraries: dict[str, str]
    date: str
    parity: dict[str, float] | None = None


@dataclasses.dataclass(frozen=True)
class Original:
    """The weights as published.

    Attributes:
        source: address, or `file:NAME` of a file that the user gave.
        path: the file on this machine.
        sha256: its digest.
        commit: what the hub's revision resolved to.
        table: name of the key layout in `tables.TABLES`.
    """

    source: str
    path: Path
    sha256: str
    commit: str | None
    table: str


def path_of(card: Card) -> Path:
    """Where the converted weights of a card are kept."""
    return cache_dir("weights") / f"{card.name.replace(':', '--')}.safetensors"


def shapes_of(card: Card) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and statistic of a card's architecture; nothing is initialised."""
    return {name: leaf.shape for name, leaf in parameters.flatten(zoo.skeleton(card.name)).items()}


def load(card: Card) -> tuple[dict[str, np.ndarray], Receipt]:
    """The parameters of a card by dotted path, float32, and their receipt.

    Raises:
        BobError: the weights can be neither read nor fetched, or do not fit the architecture.
    """
    receipt = read_receipt(card)
    if receipt is not None:
        arrays = formats.read_safetensors(path_of(card))
        if digest(arrays) == receipt.weights_sha256:
            return arrays, receipt
    return convert(card, original_of(card))


def read_receipt(card: Card) -> Receipt | None:
    """The receipt of the converted weights in the cache; None if there are none that can be used.

    A file that is cut off or was made from another card or by another converter counts as none: it is made anew.
    """
    if not path_of(card).exists():
        return None
    try:
        receipt = Receipt(**json.loads(formats.read_safetensors_metadata(path_of(card))["receipt"]))
    except (BobError, KeyError, ValueError, TypeError):
        return None
    return receipt if (receipt.card, receipt.converter) == (_fingerprint(card), CONVERTER_VERSION) else None


def original_of(card: Card, file: Path | None = None, table: str | None = None) -> Original:
    """The card's published weights, fetched if need be; or a file that the user has.

    Args:
        card: a card with a source.
        file: a checkpoint of this very backbone on this machine.
        table: key layout of `file`; the card's own by default.

    Raises:
        BobError: the backbone has no weights, they cannot be fetched, or no table has this name.
    """
    if card.source is None or card.table is None:
        raise BobError(f"{card.name} is a random twin: it has no weights to convert")
    table = table or card.table
    table_of(table)  # a wrong name is told before anything is fetched
    if file is None:
        fetched = sources.fetch(card.source)
        return Original(sources.address(card.source), fetched.path, fetched.sha256, fetched.commit, table)
    if not file.is_file():
        raise BobError(f"no checkpoint at {file}: give the path of an existing file")
    return Original(f"file:{file.name}", file, sha256_of(file), None, table)


def convert(card: Card, original: Original) -> tuple[dict[str, np.ndarray], Receipt]:
    """Converts published weights and keeps the result in the cache.

    Raises:
        BobError: the file cannot be read, or does not fit the architecture.
    """
    what = f"{original.source} for {card.name}"
    source = bridge.prepared(formats.read(original.path), original.table, card, what=what)
    arrays = rules.convert(source, table_of(original.table), shapes_of(card), what=what)
    receipt = Receipt(
        backbone=card.name,
        card=_fingerprint(card),
        source=original.source,
        commit=original.commit,
        source_sha256=original.sha256,
        weights_sha256=digest(arrays),
        converter=CONVERTER_VERSION,
        licence=card.licence,
        libraries={
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "safetensors", "jax", "flax")},
        },
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    save(card, arrays, receipt)
    return arrays, receipt


def save(card: Card, arrays: Mapping[str, np.ndarray], receipt: Receipt) -> None:
    """Writes converted weights with their receipt, at once or not at all; the last of several writers wins.

    Raises:
        BobError: the disk is full or may not be written.
    """
    path = path_of(card)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
            written = Path(folder) / path.name
            save_file(dict(arrays), written, metadata={"receipt": json.dumps(dataclasses.asdict(receipt))})
            written.replace(path)
    except OSError as error:
        raise BobError(
            f"cannot write {path} ({error.strerror}): free space, or set BOB_CACHE to another disk"
        ) from error


def with_parity(receipt: Receipt, errors: Mapping[str, float]) -> Receipt:
    """The receipt with the figures of a comparison, and the versions that it was made with."""
    libraries = receipt.libraries | {name: version(name) for name in ("timm", "torch")}
    return dataclasses.replace(receipt, parity=dict(errors), libraries=libraries)


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, shapes, dtypes and values, independent of order, date and library versions."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.data)
    return total.hexdigest()


def _fingerprint(card: Card) -> str:
    decisive = [card.architecture, dict(card.arguments), card.table, card.source and dataclasses.asdict(card.source)]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
