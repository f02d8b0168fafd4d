"""Reading checkpoint files: every format, and what a damaged, unknown or dangerous one says."""

import builtins
import pickle
import warnings

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from bob_jax.errors import BobError
from converters import formats

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(7, dtype=np.int64)}


def write(path, arrays=ARRAYS):
    if path.suffix == ".safetensors":
        save_file(arrays, path, metadata={"format": "pt"})
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth", ".pt", ".bin", ".pth.tar", ".ckpt"])
def test_reads_every_format(tmp_path, suffix):
    arrays = formats.read(write(tmp_path / f"weights{suffix}"))
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
@pytest.mark.parametrize("kept", [0, 5, 60, -7])
def test_truncated_file_is_one_line_that_names_it(tmp_path, suffix, kept):
    path = write(tmp_path / f"weights{suffix}")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BobError, match="is damaged or not what its name says: delete it and fetch it again") as caught:
        formats.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_a_web_page_instead_of_weights_is_told(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    with pytest.raises(BobError, match="is damaged or not what its name says"):
        formats.read(path)


def test_bfloat16_needs_no_torch_in_safetensors(tmp_path, monkeypatch):
    values = np.array([1.0, 1.5, -3.140625], ml_dtypes.bfloat16)
    path = write(tmp_path / "weights.safetensors", {"x": values})
    without_torch(monkeypatch)
    read = formats.read(path)["x"]
    assert read.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read.astype(np.float32), [1.0, 1.5, -3.140625])


def test_torch_half_precision_arrives_exactly(tmp_path):
    torch.save({"x": torch.tensor([1.5, -3.140625], dtype=torch.bfloat16)}, tmp_path / "weights.pth")
    read = formats.read(tmp_path / "weights.pth")["x"]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, [1.5, -3.140625])


def test_nested_state_becomes_dotted_names_and_the_rest_is_left_out(tmp_path):
    state = {"state_dict": {"module.x": torch.ones(2)}, "epoch": 3, "arch": "vit", "optimizer": [{"m": torch.zeros(1)}]}
    torch.save(state, tmp_path / "weights.pth.tar")
    assert set(formats.read(tmp_path / "weights.pth.tar")) == {"state_dict.module.x", "optimizer.0.m"}


class Dangerous:
    """A pickle that creates a file when an unsafe loader reads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return builtins.open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", [".pth", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_with_code_are_refused_and_never_run(tmp_path, suffix, zipped):
    path = tmp_path / f"weights{suffix}"
    torch.save({"x": Dangerous(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        BobError, match=r"more than tensors \(io\.open\), and reading it could run code, so it is refused"
    ) as caught:
        formats.read(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_plain_pickles_with_code_are_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Dangerous(tmp_path / "ran")))
    with pytest.raises(BobError, match=r"weights\.pth"):
        formats.read(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


def test_objects_in_npz_are_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", x=np.array([Dangerous(tmp_path / "ran")], dtype=object))
    with pytest.raises(BobError, match=r"no \.npz archive of plain arrays"):
        formats.read(tmp_path / "weights.npz")
    assert not (tmp_path / "ran").exists()


def test_torchscript_archives_are_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torch.jit says that it is deprecated; CLIP's published files are such archives
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "weights.pt")
    with pytest.raises(BobError, match=r"weights\.pt .*TorchScript"):
        formats.read(tmp_path / "weights.pt")


def without_torch(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.partition(".")[0] == "torch":
            raise ImportError("No module named 'torch'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_missing_torch_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "weights.pth")
    without_torch(monkeypatch)
    with pytest.raises(
        BobError, match=r"weights\.pth is a PyTorch file and PyTorch is not installed: pip install torch"
    ):
        formats.read(path)


def test_unknown_and_missing_files(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(BobError, match=r"unknown checkpoint format '\.h5': known are \.safetensors, \.npz"):
        formats.read(tmp_path / "weights.h5")
    with pytest.raises(BobError, match=r"no checkpoint at .*gone\.pth"):
        formats.read(tmp_path / "gone.pth")


def test_header_without_arrays(tmp_path):
    header = formats.read_safetensors_header(write(tmp_path / "weights.safetensors"))
    assert header.metadata == {"format": "pt"}
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in header.tensors.items()} == {
        "a.weight": ("F32", (2, 3)),
        "b": ("I64", ()),
    }


def test_stream_gives_every_array_in_alphabetical_order_in_memory_of_its_own(tmp_path):
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(7.0), "c": np.ones((0, 4))}
    path = write(
        tmp_path / "weights.safetensors", {name: np.array(array, np.float32) for name, array in arrays.items()}
    )
    with formats.stream_safetensors(path) as (header, stream):
        read = dict(stream)
    assert list(read) == ["a", "b", "c"] == sorted(header.tensors)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].flags.owndata


@pytest.mark.parametrize("kept", [0, 5, 60, -7])
def test_header_and_stream_of_a_truncated_file_say_so(tmp_path, kept):
    path = write(tmp_path / "weights.safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BobError, match="is damaged or not what its name says"):
        formats.read_safetensors_header(path)
    with pytest.raises(BobError, match="is damaged"), formats.stream_safetensors(path):
        pass


def test_stream_is_of_float32_alone(tmp_path):
    with (
        formats.stream_safetensors(write(tmp_path / "weights.safetensors")) as (_, stream),
        pytest.raises(BobError, match=r"is damaged .*\(8 bytes of I64 for \(\)\)"),
    ):
        dict(stream)
