"""The user's own backbones: a small file of cards, and the functions in the user's own Python files that build them.

The file is `$BOB_CACHE/backbones.json`: name -> card, with the fields of `card.Card`. `bob backbones add` writes it
after it has tried the backbone; `docs/bring_your_own.md` explains it.
"""

import contextlib
import functools
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.base import Backbone
from bob_jax.backbones.card import Card, Preprocessing, WeightSource
from bob_jax.backbones.layers import compute_dtype
from bob_jax.cache import cache_dir
from bob_jax.errors import BobError, unknown_name

ATTRIBUTES = ("feature_dim", "input_size", "strides", "widths", "side_multiple", "num_layers", "dtype", "layer_of")

_on_trial: dict[str, Card] = {}


def file() -> Path:
    """Where the user's cards are kept; it may not exist yet."""
    return cache_dir("backbones.json")


def cards() -> dict[str, Card]:
    """The user's cards by name.

    Raises:
        BobError: the file is damaged, or a card in it has a field too many or too few.
    """
    path = file()
    return _read(path) | _on_trial


@contextlib.contextmanager
def on_trial(card: Card) -> Iterator[None]:
    """The card counts as one of the user's inside the block, before it is written down."""
    _on_trial[card.name] = card
    try:
        yield
    finally:
        del _on_trial[card.name]


def _read(path: Path) -> dict[str, Card]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BobError(f"cannot read {path} ({error.strerror}): set BOB_CACHE to a folder that can be read") from error
    try:
        return {name: _card(name, fields) for name, fields in json.loads(text).items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BobError(f"{path} is damaged ({error}): correct it, or delete it and add your backbones again") from error


def _card(name: str, fields: Mapping[str, Any]) -> Card:
    preprocessing: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields["preprocessing"].items()
    }
    source = fields["source"] and WeightSource(**fields["source"])
    return Card(**{**fields, "name": name, "preprocessing": Preprocessing(**preprocessing), "source": source})


def build(
    source: str,
    *,
    sha256: str = "",
    input_size: int = 224,
    drop_path: float = 0.0,
    dtype: DTypeLike | None = None,
    rngs: nnx.Rngs,
) -> Backbone:
    """The `nnx.Module` that a user's function returns.

    Args:
        source: `FILE.py:FUNCTION`; of the four arguments below the function gets those that it names.
        sha256: of FILE.py.
        input_size: side in pixels of the square input.
        drop_path: stochastic depth rate.
        dtype: of the computation.
        rngs: of the initialisation.

    Raises:
        BobError: no such function, it fails, or what it returns is not a backbone.
    """
    options = {"input_size": input_size, "drop_path": drop_path, "dtype": compute_dtype(dtype), "rngs": rngs}
    module: Any = call(source, sha256, **options)
    if not isinstance(module, nnx.Module):
        raise BobError(f"{source} returns {type(module).__name__}, not an nnx.Module")
    if lacking := [name for name in ATTRIBUTES if not hasattr(module, name)]:
        raise BobError(f"{source} returns a module without {', '.join(lacking)}: see bob_jax/backbones/base.py")
    return cast(Backbone, module)  # by its attributes, whatever its class


def call(source: str, sha256: str = "", **offered: Any) -> Any:
    """What a user's function returns; of the offered arguments it gets those that its signature names.

    Raises:
        BobError: there is no such file or function, the file is not the one that was added, or the function fails.
    """
    chosen = function(source, sha256)
    known = inspect.signature(chosen).parameters
    try:
        return chosen(**{name: value for name, value in offered.items() if name in known})
    except BobError:
        raise
    except (Exception, SystemExit) as error:  # a script's own exit must not end this program without a word
        raise BobError(f"{source} raises {_words(error)}") from error


def split(source: str) -> tuple[Path, str]:
    """FILE.py and FUNCTION of `FILE.py:FUNCTION`.

    Raises:
        BobError: it is not of this form.
    """
    name, colon, chosen = source.rpartition(":")
    if not colon or not name.endswith(".py") or not chosen.isidentifier():
        raise BobError(f"'{source}' names no function: write FILE.py:FUNCTION, or timm:MODEL.TAG")
    return Path(name).expanduser().absolute(), chosen


def digest(path: Path) -> str:
    """sha256 of a file of the user's.

    Raises:
        BobError: there is none.
    """
    if not path.is_file():
        raise BobError(f"no file {path}: give the path of an existing one")
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def function(source: str, sha256: str = "") -> Callable[..., Any]:
    """The function that `FILE.py:FUNCTION` names; the file is run once a process.

    Raises:
        BobError: there is no such file or function, the file fails, or it is not the one that was added.
    """
    path, name = split(source)
    found = digest(path)
    if sha256 and found != sha256:
        raise BobError(f"{path} has changed since its backbone was added: remove the backbone and add it again")
    module = _imported(path, found)
    chosen = getattr(module, name, None)
    if not callable(chosen):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise unknown_name(f"function in {path}", name, functions)
    return cast(Callable[..., Any], chosen)


@functools.cache
def _imported(path: Path, sha256: str) -> Any:
    name = f"bob_own_{sha256[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up there
    sys.path.insert(0, str(path.parent))  # what lies beside the file can be imported from it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise BobError(f"{path} cannot be imported: {_words(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
