"""Converted weights on disk: safetensors keyed by dotted parameter path, with the receipt in the header.

`load` is what the zoo calls: it reads the cache where the receipt still fits the card and the converter, and otherwise
fetches and converts.
"""

import dataclasses
import hashlib
import json
import platform
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.card import Card, TextCard
from bob_jax.cache import cache_dir
from bob_jax.errors import BobError
from converters import bridge, formats, rules, sources
from converters.download import sha256_of
from converters.receipt import Receipt
from converters.tables import table_of

CONVERTER_VERSION = 1  # raise it when a table or a transform changes what comes out


@dataclasses.dataclass(frozen=True)
class Original:
    """The weights as published.

    Attributes:
        source: address, or `file:NAME` of a file that the user gave.
        path: the file on this machine; of several, the folder that their names count from.
        sha256: its digest; of several files, `sources.digest_of_parts`.
        commit: what the hub's revision resolved to.
        table: name of the key layout in `tables.TABLES`.
        prefixes: of several files, what goes before the names in each.
        parts: of several files, the digest of each.
    """

    source: str
    path: Path
    sha256: str
    commit: str | None
    table: str
    prefixes: dict[str, str] = dataclasses.field(default_factory=dict)
    parts: dict[str, str] = dataclasses.field(default_factory=dict)

    def read(self) -> dict[str, np.ndarray]:
        """All arrays by name.

        Raises:
            BobError: a file is missing, damaged, or of an unknown format.
        """
        if not self.parts:
            return formats.read(self.path)
        return {
            self.prefixes[file] + name: array
            for file in self.parts
            for name, array in formats.read(self.path / file).items()
        }


def path_of(card: Card | TextCard) -> Path:
    """Where the converted weights of a card are kept."""
    return cache_dir("weights") / f"{card.name.replace(':', '--')}.safetensors"


def shapes_of(card: Card | TextCard) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and statistic of a card's architecture; nothing is initialised."""
    module = zoo.text_skeleton(card) if isinstance(card, TextCard) else zoo.skeleton(card.name)
    return {name: leaf.shape for name, leaf in parameters.flatten(module).items()}


def as_it_is(array: np.ndarray) -> Any:
    """The array itself: it stays on the host."""
    return array


def load(card: Card | TextCard, place: Callable[[np.ndarray], Any] = as_it_is) -> tuple[dict[str, Any], Receipt]:
    """The parameters of a card by dotted path, float32, and their receipt.

    The file is read tensor by tensor, digested in passing and compared with the receipt: sha256 runs at more than a
    gigabyte a second, faster than most disks, and a result must never stand beside the digest of other weights.

    Args:
        card: a card with a source.
        place: called with each array as soon as it is read; its answer is what is kept. So weights on their way to
            devices take the host's memory for one array only.

    Raises:
        BobError: the weights can be neither read nor fetched, or do not fit the architecture.
    """
    found = _read(card, place)
    if found is None:
        convert(card, original_of(card))
        found = _read(card, place)
    if found is None:
        raise BobError(
            f"{path_of(card)} is not what was just written there: check the disk, or set BOB_CACHE to another"
        )
    return found


def _read(card: Card | TextCard, place: Callable[[np.ndarray], Any]) -> tuple[dict[str, Any], Receipt] | None:
    """What the cache has of a card; None if it has nothing, or nothing that is whole and of this card."""
    digest, placed = Digest(), {}
    try:
        with formats.stream_safetensors(path_of(card)) as (header, arrays):
            receipt = _receipt(header, card)
            if receipt is None:
                return None
            for name, array in arrays:
                digest.update(name, array)
                placed[name] = place(array)
    except (BobError, OSError):
        return None
    return (placed, receipt) if digest.hexdigest() == receipt.weights_sha256 else None


def read_receipt(card: Card | TextCard) -> Receipt | None:
    """The receipt of the converted weights in the cache; None if there are none that can be used.

    A file that is cut off or was made from another card or by another converter counts as none: it is made anew.
    """
    try:
        return _receipt(formats.read_safetensors_header(path_of(card)), card)
    except (BobError, OSError):
        return None


def _receipt(header: formats.Header, card: Card | TextCard) -> Receipt | None:
    try:
        receipt = Receipt.from_json(header.metadata["receipt"])
    except (KeyError, ValueError, TypeError):
        return None
    return receipt if (receipt.card, receipt.converter) == (_fingerprint(card), CONVERTER_VERSION) else None


def original_of(card: Card | TextCard, file: Path | None = None, table: str | None = None) -> Original:
    """The card's published weights, fetched if need be; or a file that the user has.

    Args:
        card: a card with a source.
        file: a checkpoint of this very backbone on this machine; the folder with its files where the card's source is
            in several.
        table: key layout of `file`; the card's own by default.

    Raises:
        BobError: the backbone has no weights, they cannot be fetched, or no table has this name.
    """
    if card.source is None or card.table is None:
        raise BobError(f"{card.name} is a random twin: it has no weights to convert")
    table = table or card.table
    table_of(table)  # a wrong name is told before anything is fetched
    prefixes = {name: prefix for prefix, name in card.source.parts}
    if file is None:
        fetched = sources.fetch(card.source)
        address = sources.address(card.source)
        return Original(address, fetched.path, fetched.sha256, fetched.commit, table, prefixes, fetched.parts)
    if prefixes and file.is_dir():
        parts = {name: sha256_of(_existing(file / name)) for name in prefixes}
        digest_of_all = sources.digest_of_parts(parts)
        return Original(f"file:{file.name}", file, digest_of_all, None, table, prefixes, parts)
    return Original(f"file:{file.name}", file, sha256_of(_existing(file)), None, table)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise BobError(f"no checkpoint at {file}: give the path of an existing file")
    return file


def convert(card: Card | TextCard, original: Original) -> tuple[dict[str, np.ndarray], Receipt]:
    """Converts published weights and keeps the result in the cache.

    Raises:
        BobError: the file cannot be read, or does not fit the architecture.
    """
    what = f"{original.source} for {card.name}"
    source = original.read()
    if isinstance(card, Card):
        source = bridge.prepared(source, original.table, card, what=what)
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
        parts=original.parts,
    )
    save(card, arrays, receipt)
    return arrays, receipt


def save(card: Card | TextCard, arrays: Mapping[str, np.ndarray], receipt: Receipt) -> None:
    """Writes converted weights with their receipt, at once or not at all; the last of several writers wins.

    Raises:
        BobError: the disk is full or may not be written.
    """
    path = path_of(card)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
            written = Path(folder) / path.name
            save_file(dict(arrays), written, metadata={"receipt": receipt.to_json()})
            open_to_others(written)
            written.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BobError(f"cannot write {path} ({reason}): free space, or set BOB_CACHE to another disk") from error


def open_to_others(path: Path) -> None:
    """Gives a file the rights of any new one: safetensors writes for its owner alone, and a cache may be shared."""
    plain = path.with_name(f"{path.name}.plain")
    plain.touch()
    path.chmod(plain.stat().st_mode)
    plain.unlink()


class Digest:
    """sha256 over names, shapes, dtypes and values of arrays given in alphabetical order."""

    def __init__(self) -> None:
        self._total = hashlib.sha256()

    def update(self, name: str, array: np.ndarray) -> None:
        """Takes in one more array."""
        array = np.ascontiguousarray(array)
        self._total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        self._total.update(array.data)

    def hexdigest(self) -> str:
        """The digest of what was taken in."""
        return self._total.hexdigest()


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """The digest of arrays by name, whatever their order: of what they are, not of the file they came in."""
    total = Digest()
    for name in sorted(arrays):
        total.update(name, arrays[name])
    return total.hexdigest()


def _fingerprint(card: Card | TextCard) -> str:
    decisive = [card.architecture, dict(card.arguments), card.table, card.source and dataclasses.asdict(card.source)]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
