"""The original weights as a file on this machine: from the Hugging Face hub, from a URL or from the package, verified.

A card names the commit and the digest where they are known (`cards.pins`). What a source outside of the package
resolved to the first time is pinned beside (trust on first use): later fetches ask for that very commit, and bytes with
another sha256 are an error, never a silent change of a competitor.
"""

import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from bob_jax.backbones import card
from bob_jax.backbones.card import WeightSource
from bob_jax.cache import cache_dir
from bob_jax.errors import BobError
from converters.download import download, sha256_of, target_of, unwritable

LOCAL = "file://"
DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A source that is on this machine.

    Attributes:
        path: the file; of a source in several parts, the folder that their names count from.
        sha256: its digest, in full; of several parts, that of their names and digests.
        commit: what the hub's revision resolved to; None for any other source.
        parts: digest of each part by its name.
    """

    path: Path
    sha256: str
    commit: str | None
    parts: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Pin:
    """What a source was when it was first fetched; kept as JSON in the `pins` folder of the weights cache."""

    source: str
    sha256: str
    commit: str | None
    date: str


def address(source: WeightSource) -> str:
    """The source in one word: its URL, `package://file`, or `hf://repository@revision/file` (in parts: no file)."""
    if source.shipped:
        return f"package://{source.shipped}"
    file = "" if source.parts else f"/{source.file}"
    return source.url or f"hf://{source.hub}@{source.revision}{file}"


def shipped_path(source: WeightSource) -> Path:
    """Where a file that comes with the package is."""
    return Path(card.__file__).parent / "weights" / (source.shipped or "")


def pin_path(source: WeightSource) -> Path:
    """Where the pin of a source is kept. Deleting it accepts whatever the publisher offers now."""
    return cache_dir("weights") / "pins" / (re.sub(r"[^\w.@-]+", "--", address(source)) + ".json")


def fetch(source: WeightSource) -> Fetched:
    """The file or files of a source: downloaded once, then from the cache, and the same bytes ever after.

    Raises:
        BobError: it cannot be reached, is gated, does not exist, or is not the file that was published or pinned.
    """
    return _fetch_parts(source) if source.parts else _fetch_file(source)


def digest_of_parts(parts: Mapping[str, str]) -> str:
    """One digest for several files: of what `sha256sum` would print of them, in the order of their names."""
    listing = "".join(f"{sha256}  {file}\n" for file, sha256 in sorted(parts.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _fetch_parts(source: WeightSource) -> Fetched:
    """All parts of a source, of one and the same commit; each has a pin of its own."""
    fetched = {file: _fetch_file(dataclasses.replace(source, file=file, parts=())) for _, file in source.parts}
    commits = {part.commit for part in fetched.values()}
    if len(commits) > 1:
        raise BobError(
            f"{address(source)}: its files are of different commits ({', '.join(sorted(map(str, commits)))}): the "
            f"publisher changed it between two fetches; delete its pins in {pin_path(source).parent} and start again"
        )
    file, first = next(iter(fetched.items()))
    folder = first.path.parents[len(Path(file).parts) - 1]
    digests = {file: part.sha256 for file, part in fetched.items()}
    return Fetched(folder, digest_of_parts(digests), first.commit, digests)


def _fetch_file(source: WeightSource) -> Fetched:
    if source.shipped:
        return _shipped(source)
    if source.url and source.url.startswith(LOCAL):
        return _local(source)
    pin = _read_pin(source)
    if source.url:
        path, commit = download(source.url, cache_dir("weights") / "sources", sha256=source.sha256), None
    else:
        path, commit = _fetch_hub(source, pin)
    fetched = Fetched(path, sha256_of(path), commit)
    _check_blob(fetched)
    if source.sha256 and not fetched.sha256.startswith(source.sha256.lower()):
        raise BobError(
            f"{path} has sha256 {fetched.sha256} where the card of {address(source)} says {source.sha256}: "
            "delete the file to fetch it again; if it stays so the publisher changed it, and only a file that you have "
            "from before can be converted, with --from"
        )
    if pin is None:
        _write_pin(source, fetched)
    elif pin.sha256 != fetched.sha256:
        raise BobError(
            f"{address(source)} has sha256 {fetched.sha256} where it had {pin.sha256} on {pin.date}, when it was first "
            f"fetched: the publisher changed it or the file is damaged; to accept what is there now, delete "
            f"{pin_path(source)}, or to fetch again, delete {path}"
        )
    return fetched


def _shipped(source: WeightSource) -> Fetched:
    """A file of the package; its card pins it."""
    path = shipped_path(source)
    found = sha256_of(path) if path.is_file() else "none"
    if found != source.sha256:
        raise BobError(f"{path} has sha256 {found} where its card says {source.sha256}: install bob_jax anew")
    return Fetched(path, found, None)


def cached(source: WeightSource) -> Path | None:
    """The file of a source where it is on this machine already; None where it must be fetched, or is several files."""
    if source.parts:
        return None
    if source.shipped:
        return shipped_path(source) if shipped_path(source).exists() else None
    if source.url:
        path = target_of(source.url, cache_dir("weights") / "sources")
        return path if path.exists() else None
    from huggingface_hub import try_to_load_from_cache

    pin = _read_pin(source)
    revision = pin.commit if pin and pin.commit else source.revision
    found = try_to_load_from_cache(source.hub or "", source.file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _local(source: WeightSource) -> Fetched:
    """A file of the user's own: it is pinned by the card that names it."""
    path = Path((source.url or "").removeprefix(LOCAL))
    if not path.is_file():
        raise BobError(f"no weights at {path}: put them back, or remove the backbone and add it again")
    found = sha256_of(path)
    if source.sha256 and found != source.sha256:
        raise BobError(f"{path} has changed since its backbone was added: remove the backbone and add it again")
    return Fetched(path, found, None)


def _fetch_hub(source: WeightSource, pin: Pin | None) -> tuple[Path, str]:
    """The file in the hub's own cache, and the commit that it belongs to."""
    import huggingface_hub
    from huggingface_hub import errors

    endpoint = os.environ.get("HF_ENDPOINT")
    page = f"{endpoint or DEFAULT_ENDPOINT}/{source.hub}"
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    revision = pin.commit if pin and pin.commit else source.revision
    try:
        path = huggingface_hub.hf_hub_download(
            source.hub or "", source.file, revision=revision, endpoint=endpoint, local_files_only=offline
        )
    except errors.GatedRepoError as error:
        raise BobError(f"{page} is gated: accept its licence there, run `hf auth login`, and start again") from error
    except errors.RevisionNotFoundError as error:
        hint = (
            f"it was pinned; to accept what is there now, delete {pin_path(source)}"
            if revision != source.revision
            else _way_out(source)
        )
        raise BobError(f"{page} has no revision {revision}: {hint}") from error
    except errors.RepositoryNotFoundError as error:
        raise BobError(f"{page} does not exist, or is private: run `hf auth login` if you have access") from error
    except errors.LocalEntryNotFoundError as error:
        reason = "HF_HUB_OFFLINE is set and the file is not in the hub's cache" if offline else "no connection"
        raise BobError(
            f"could not fetch {address(source)} ({reason}): fetch it once online, or convert a file with --from"
        ) from error
    except errors.EntryNotFoundError as error:
        raise BobError(f"{page} has no file {source.file} at revision {revision}: {_way_out(source)}") from error
    except (errors.HTTPError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BobError(
            f"could not fetch {address(source)}: {reason}; start again, it goes on where it stopped"
        ) from error
    return Path(path), Path(path).parts[-len(Path(source.file).parts) - 1]


def _way_out(source: WeightSource) -> str:
    """What to do where the hub does not have what a card names."""
    if re.fullmatch("[0-9a-f]{40}", source.revision):
        return (
            "the card pins this commit and the publisher has removed it; download the file from there yourself and "
            "convert it with --from, or get a newer bob_jax"
        )
    return "correct the card"


def _check_blob(fetched: Fetched) -> None:
    """The hub's cache names large files by their sha256: a file that does not fit its name is damaged."""
    if fetched.path.is_symlink():
        name = fetched.path.readlink().name
        if re.fullmatch("[0-9a-f]{64}", name) and name != fetched.sha256:
            raise BobError(f"{fetched.path.resolve()} is damaged: delete it and start again")


def _read_pin(source: WeightSource) -> Pin | None:
    path = pin_path(source)
    if not path.exists():
        return None
    try:
        return Pin(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise BobError(f"{path} is damaged: delete it to pin the source anew") from error


def _write_pin(source: WeightSource, fetched: Fetched) -> None:
    path = pin_path(source)
    pin = Pin(address(source), fetched.sha256, fetched.commit, datetime.now(UTC).date().isoformat())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: a temporary file would be for its owner alone, and others may share the cache.
        with tempfile.TemporaryDirectory(prefix=".pin-", dir=path.parent) as folder:
            written = Path(folder) / path.name
            written.write_text(json.dumps(dataclasses.asdict(pin), indent=1) + "\n")
            written.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
