"""Named numpy arrays from a checkpoint file: .safetensors, .npz, and PyTorch's .pth, .pt, .bin, .tar, .ckpt.

A file is data, never a program: pickles are read by PyTorch's safe loader alone, .npz without pickles. A safetensors
file needs no torch, whatever its dtypes.
"""

import contextlib
import json
import math
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bob_jax.errors import BobError

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt")


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint file by name; the keys of nested dictionaries are joined by dots.

    Raises:
        BobError: no such file, an unknown format, a damaged file, a pickle with code in it, or torch is missing.
    """
    if not path.is_file():
        raise BobError(f"no checkpoint at {path}: give the path of an existing file")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return read_safetensors(path)
    if suffix == ".npz":
        return _read_npz(path)
    if suffix in TORCH_SUFFIXES:
        return _read_torch(path)
    known = ", ".join((".safetensors", ".npz", *TORCH_SUFFIXES))
    raise BobError(f"{path}: unknown checkpoint format '{path.suffix}': known are {known}")


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file.

    Raises:
        BobError: the file is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, error) from error


class Tensor(NamedTuple):
    """Where a tensor of a safetensors file lies.

    Attributes:
        dtype: as the format writes it, e.g. "F32".
        shape: of the tensor.
        start: its first byte in the file.
        stop: the first byte behind it.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    """What a safetensors file says of itself."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor]


def read_safetensors_header(path: Path) -> Header:
    """The metadata of a safetensors file and what tensors it holds, without reading them.

    Raises:
        BobError: the file is damaged.
    """
    with path.open("rb") as file:
        return _header(file, path)


@contextlib.contextmanager
def stream_safetensors(path: Path) -> Iterator[tuple[Header, Iterator[tuple[str, np.ndarray]]]]:
    """The header of a safetensors file of float32 tensors, and its arrays by name, in alphabetical order.

    Each array is read, into memory of its own, when its turn comes: whoever puts it elsewhere needs no memory for the
    whole file. (`safe_open` maps the file: until it is closed, every page that was read counts as memory too.)

    Raises:
        BobError: the file is damaged, or holds something other than float32.
    """
    with path.open("rb", buffering=0) as file:
        header = _header(file, path)
        yield header, ((name, _array(file, header.tensors[name], path)) for name in sorted(header.tensors))


def _header(file: IO[bytes], path: Path) -> Header:
    """Checked only for what could mislead a reader; https://huggingface.co/docs/safetensors says how it is written."""
    try:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if length > size - 8:
            raise ValueError("cut off in its header")
        entries = json.loads(file.read(length))
        metadata = entries.pop("__metadata__", {})
        tensors = {
            name: Tensor(entry["dtype"], tuple(entry["shape"]), *(8 + length + at for at in entry["data_offsets"]))
            for name, entry in entries.items()
        }
        if max((tensor.stop for tensor in tensors.values()), default=8 + length) != size:
            raise ValueError("cut off, or longer than its header says")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    return Header(metadata, tensors)


def _array(file: IO[bytes], tensor: Tensor, path: Path) -> np.ndarray:
    if tensor.dtype != "F32" or tensor.stop - tensor.start != 4 * math.prod(tensor.shape):
        raise _damaged(path, ValueError(f"{tensor.stop - tensor.start} bytes of {tensor.dtype} for {tensor.shape}"))
    array = np.empty(tensor.shape, np.float32)
    file.seek(tensor.start)
    view = array.reshape(-1).view(np.uint8)
    while view.size:
        if not (count := file.readinto(view)):  # type: ignore[attr-defined]
            raise _damaged(path, EOFError("cut off"))
        view = view[count:]
    return array


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here: numpy leaves the file open when it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except ValueError as error:  # no archive, or pickles in it: numpy goes on to explain how to load those unsafely
        raise _damaged(path, ValueError("no .npz archive of plain arrays")) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise BobError(f"{path} is a PyTorch file and PyTorch is not installed: pip install torch") from error
    if _is_torchscript(path):
        raise BobError(
            f"{path} is a TorchScript archive, a program, so it is refused: take the publisher's .safetensors file, or "
            "save its state dict alone, where you trust it"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what cannot be read is an error anyway
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        # Torch's own message goes on to explain how to run the code: not repeated here.
        if found := re.search(r"Unsupported (?:global|class)\W+(?:GLOBAL )?(\S+)", str(error)):
            raise BobError(
                f"{path} holds more than tensors ({found[1]}), and reading it could run code, so it is refused: take "
                "the publisher's .safetensors file, or save its state dict alone, where you trust it"
            ) from error
        raise _damaged(path, pickle.UnpicklingError("no pickle of tensors")) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    return dict(_tensors(content, ""))


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _tensors(content: Any, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of nested dictionaries and lists with their dotted names."""
    import torch

    if isinstance(content, torch.Tensor):
        # numpy has no bfloat16 of torch's; every narrower float is exact in float32
        tensor = content.detach()
        yield name, (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, Sequence) and not isinstance(content, str):
        for index, value in enumerate(content):
            yield from _tensors(value, f"{name}.{index}" if name else str(index))


def _damaged(path: Path, error: Exception) -> BobError:
    return BobError(f"{path} is damaged or not what its name says: delete it and fetch it again ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    """What an exception says, short enough for one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
