"""A user's own backbone is tried, then written into the file of own cards; or taken out of it."""

import dataclasses
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from flax import nnx

from bob_jax.backbones import contract, own, torch_program, zoo
from bob_jax.backbones.card import Card, Preprocessing, WeightSource
from bob_jax.backbones.cards import any_timm
from bob_jax.backbones.layers import compute_dtype
from bob_jax.backbones.torch_program import TIMM
from bob_jax.errors import BobError, unknown_name

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def add(
    target: str,
    *,
    name: str | None = None,
    weights: Path | None = None,
    preprocessing: dict[str, Any] | None = None,
    licence: str | None = None,
) -> tuple[Card, contract.Found]:
    """Tries a backbone and makes its name known to every benchmark on this machine.

    Args:
        target: `FILE.py:FUNCTION`, or `timm:MODEL.TAG`; with weights of one's own `timm:MODEL` is enough.
        name: of the backbone; by default that of the file, or of the model and tag.
        weights: a checkpoint, strictly for this architecture; None for those that the function or the tag gives.
        preprocessing: fields of `Preprocessing` that differ from the default, or from timm's for the model.
        licence: of the weights.

    Returns:
        Its card, and what was found of it.

    Raises:
        BobError: there is no such file, function or model, it fails, breaks the contract, its weights do not fit, or
            the name is taken.
    """
    card = _card(target, name, weights, preprocessing or {}, licence)
    if not NAME.fullmatch(card.name):
        raise BobError(f"'{card.name}' is no name: use small letters, digits, '_', '-' and '.'")
    if card.name in zoo.CARDS or card.name in own.cards():
        raise BobError(f"the name '{card.name}' is taken: choose another with --name, or `bob backbones remove` it")
    with own.on_trial(card):
        found = contract.check(card.name)
    card = dataclasses.replace(card, parameters=round(found.parameters / 1e6, 3), feature_dim=found.feature_dim)
    _write(lambda cards: cards | {card.name: card})
    return card, found


def remove(name: str) -> None:
    """Forgets a backbone of the user's, and the converted copy of its weights; the user's files stay.

    Raises:
        BobError: the user has added none of this name.
    """
    from converters import cache  # lazily: the zoo itself needs no converter

    added = own.cards()
    if name not in added:
        if name in zoo.CARDS:
            raise BobError(f"'{name}' is the zoo's: only what you added can be removed")
        raise unknown_name("backbone of your own", name, added)
    _write(lambda cards: {other: card for other, card in cards.items() if other != name})
    cache.path_of(added[name]).unlink(missing_ok=True)


def _card(target: str, name: str | None, weights: Path | None, changes: dict[str, Any], licence: str | None) -> Card:
    if target.startswith(TIMM):
        return _timm_card(target, name, weights, changes, licence)
    path, function = own.split(target)
    source, sha256 = f"{path}:{function}", own.digest(path)
    preprocessing = Preprocessing(**changes)
    _check(preprocessing)
    size = preprocessing.input_size
    made = own.call(source, sha256, input_size=size, drop_path=0.0, dtype=compute_dtype(None), rngs=nnx.Rngs(0))
    if isinstance(made, str) and made.startswith(TIMM):
        return _timm_card(made, name or path.stem, weights, changes, licence)
    if not isinstance(made, nnx.Module) and not torch_program.is_module(made):
        raise BobError(
            f"{source} returns {type(made).__name__}: it must return an nnx.Module, a torch.nn.Module or '{TIMM}...'"
        )
    return Card(
        name=name or path.stem,
        architecture="nnx" if isinstance(made, nnx.Module) else "torch",
        arguments={"source": source, "sha256": sha256, "input_size": size},
        table="as_is" if weights else None,
        method="own",
        data="unknown",
        source=_source(weights),
        licence=licence or "your own",
        commercial=True,
        preprocessing=preprocessing,
        parameters=0.0,  # measured when it is tried
        feature_dim=0,
        pooling="own",
    )


def _timm_card(
    target: str, name: str | None, weights: Path | None, changes: dict[str, Any], licence: str | None
) -> Card:
    model, _, tag = target.removeprefix(TIMM).partition(".")
    known = any_timm.changed_card_of(target if tag or not weights else f"{target}.{any_timm.RANDOM}", changes)
    _check(known.preprocessing)
    card = dataclasses.replace(known, name=name or "_".join(filter(None, (model, tag))))
    if weights:
        card = dataclasses.replace(
            card, table="timm", source=_source(weights), method="own", data="unknown", licence="your own", notes=""
        )
    return dataclasses.replace(card, licence=licence) if licence else card


def _check(preprocessing: Preprocessing) -> None:
    if preprocessing.input_size < 1 or not 0 < preprocessing.crop_pct <= 1 or min(preprocessing.std) <= 0:
        raise BobError(f"{preprocessing}: input_size and std must be positive, and crop_pct in (0, 1]")


def _source(weights: Path | None) -> WeightSource | None:
    if weights is None:
        return None
    path = weights.expanduser().absolute()
    return WeightSource(url=f"file://{path}", sha256=own.digest(path))


def _write(change: Any) -> None:
    """The file of own cards, changed at once or not at all, also when several processes change it."""
    from filelock import FileLock

    path = own.file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            cards = {name: dataclasses.asdict(card) for name, card in change(own.cards()).items()}
            with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
                written = Path(folder) / path.name
                written.write_text(json.dumps(cards, indent=1) + "\n", encoding="utf-8")
                written.replace(path)
    except OSError as error:
        raise BobError(f"cannot write {path} ({error.strerror}): free space, or set BOB_CACHE elsewhere") from error
