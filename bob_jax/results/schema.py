"""Frozen dataclasses to plain JSON data and back, strictly: every field there, of its type, and none besides."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from bob_jax.errors import BobError

REMEDY = "the file was changed or is damaged; delete it to run its cell again"


def plain(value: Any, field: str) -> Any:
    """The value as JSON data: dataclasses and mappings as dict, sequences as list, numpy scalars as numbers.

    Args:
        value: what to convert.
        field: its name, for the error.

    Raises:
        BobError: a number that is NaN or infinite, which JSON does not have.
        TypeError: something that is no data, e.g. an array or an object.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{field}.{key}" if field else str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{field}.{i}") for i, item in enumerate(value)]
    if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise BobError(f"{field} is {value}: a record holds finite numbers only; leave the score out or find the cause")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{field} is a {type(value).__name__}: a record holds plain data only")


def parse(kind: Any, value: Any, file: str, field: str = "") -> Any:
    """Plain JSON data as the type of a field.

    Args:
        kind: a dataclass, str, int, float, bool, Any, `X | None`, Literal, `tuple[X, ...]` or `dict[str, X]`.
        value: as `json.loads` gives it.
        file: where it stands, for the error.
        field: dotted name of the field, for the error.

    Raises:
        BobError: an unknown, missing or mistyped field; the message names file and field.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _parse_fields(kind, _of(dict, value, "an object", file, field), file, field)
    if origin is types.UnionType:
        (kind,) = (argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else parse(kind, value, file, field)
    if origin is typing.Literal:
        if value not in arguments:
            raise BobError(f"{file}: {field} is {value!r}, not {' or '.join(map(repr, arguments))}: {REMEDY}")
        return value
    if origin is tuple:
        items = _of(list, value, "a list", file, field)
        return tuple(parse(arguments[0], item, file, f"{field}.{i}") for i, item in enumerate(items))
    if origin is dict:
        items = _of(dict, value, "an object", file, field)
        return {key: parse(arguments[1], item, file, f"{field}.{key}") for key, item in items.items()}
    if kind is float and type(value) is int:
        return float(value)
    if kind is float and type(value) is float and not math.isfinite(value):  # JSON reads 1e999 as infinite
        raise _mistyped("a finite number", value, file, field)
    if type(value) is not kind:  # not isinstance: true is no number
        raise _mistyped(kind.__name__, value, file, field)
    return value


def _parse_fields(kind: Any, value: dict[str, Any], file: str, field: str) -> Any:
    names = typing.get_type_hints(kind)
    prefix = f"{field}." if field else ""
    for name in value:
        if name not in names:
            raise BobError(f"{file}: unknown field '{prefix}{name}': {REMEDY}")
    for name in names:
        if name not in value:
            raise BobError(f"{file}: field '{prefix}{name}' is missing: {REMEDY}")
    return kind(**{name: parse(hint, value[name], file, f"{prefix}{name}") for name, hint in names.items()})


def _of(kind: type, value: Any, words: str, file: str, field: str) -> Any:
    if not isinstance(value, kind):
        raise _mistyped(words, value, file, field)
    return value


def _mistyped(words: str, value: Any, file: str, field: str) -> BobError:
    shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}..."
    return BobError(f"{file}: {field or 'the whole'} is {shown}, it takes {words}: {REMEDY}")
