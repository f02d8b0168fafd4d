"""Ground truth in a pickle, read as data: a pickle is a program, and this reader runs none.

Only what plain containers, strings, numbers and numeric NumPy arrays need is admitted, and what a pickle says of NumPy
is answered by the few lines here, never by NumPy's own reconstruction. Any other name in it is refused.
"""

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bob_jax.errors import BobError

NUMBERS = re.compile(r"[biuf][1248]")
# What a pickle of garbage raises, besides pickle's own error.
FAILURES = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    MemoryError,
    RecursionError,
    OverflowError,
)


def load(file: Path) -> Any:
    """Reads containers, strings, numbers and arrays from a pickle.

    Args:
        file: of any protocol, of Python 2 or 3, with arrays of NumPy 1 or 2.

    Raises:
        BobError: no such file, a damaged one, or one that names anything else.
    """
    try:
        with file.open("rb") as stream:
            return _plain(_Reader(stream, encoding="latin1").load())
    except OSError as error:
        raise BobError(f"cannot read {file}: {error.strerror}; fetch the official file") from error
    except FAILURES as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BobError(f"{file} is no pickle of plain data ({reason}): fetch the official file, or its .mat") from error


class _Dtype:
    """A numeric type, from "f8" and the byte order that NumPy pickles as its state."""

    def __init__(self, code: str, *_: object):
        if not NUMBERS.fullmatch(code):
            raise pickle.UnpicklingError(f"arrays of {code!r} are not read")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def number(self, content: bytes | str, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        array = np.frombuffer(raw, np.dtype(self.order + self.code))
        if array.size != math.prod(shape):
            raise pickle.UnpicklingError(f"an array of shape {shape} has {array.size} numbers")
        return array.reshape(shape, order="F" if order == "F" else "C")


class _Array:
    """An array whose content comes as its state: (version, shape, type, Fortran order, bytes)."""

    value = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.value = dtype.number(content, shape, "F" if fortran else "C")


def _array(*_: object) -> _Array:
    return _Array()


def _from_buffer(content: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return dtype.number(content, shape, order)


def _scalar(dtype: _Dtype, content: bytes | str) -> Any:
    return dtype.number(content, ()).item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as {encoding!r} are not read")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""  # the content of an empty array in the older protocols


class _Answer:
    """Stands for a function that a pickle names; it can be called, and nothing about it changed."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *arguments: object) -> Any:
        return self.function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes a function")


_ANSWERS = {
    ("_codecs", "encode"): _Answer(_encode),
    ("__builtin__", "bytes"): _Answer(_no_bytes),
    ("numpy", "dtype"): _Answer(_Dtype),
    ("numpy", "ndarray"): "ndarray",  # only an argument of the next
    **{(f"{core}.multiarray", "_reconstruct"): _Answer(_array) for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.multiarray", "scalar"): _Answer(_scalar) for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.numeric", "_frombuffer"): _Answer(_from_buffer) for core in ("numpy.core", "numpy._core")},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ANSWERS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is code, not data") from None


def _plain(value: Any) -> Any:
    """The value with its arrays put in; anything but plain data in it is refused."""
    match value:
        case dict():
            return {_plain(key): _plain(held) for key, held in value.items()}
        case list() | tuple():
            return type(value)(_plain(held) for held in value)
        case _Array():
            return value.value
        case str() | bytes() | int() | float() | None | np.ndarray():
            return value
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")
