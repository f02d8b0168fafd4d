"""TensorFlow Datasets as a store: prepared with TensorFlow in another process, read here without it."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bob_jax.cache import cache_dir
from bob_jax.data.base import Example
from bob_jax.data.decode import decode_image
from bob_jax.errors import BobError

_PREPARE = """
import sys
import tensorflow_datasets as tfds
name, directory = sys.argv[1:]
tfds.builder(name, data_dir=directory, file_format="array_record").download_and_prepare()
"""


class TfdsSource:
    """One split of a prepared data set, in array_record files.

    The labels and names of all examples are read once, in a pass over the records, and kept in the cache folder.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        id_feature: str | None = None,
        label: Callable[[Any], int] | None = None,
        classes: tuple[str, ...] = (),
        pixels: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        """
        Args:
            directory: of the prepared version, where `dataset_info.json` is.
            split: TFDS's name of the split.
            id_feature: feature that names the image, e.g. "file_name"; `split/row` when None.
            label: class index from an example's features (of `tf_example_pb2.Features`); that named "label" when None.
            classes: names in label order, where TFDS has none of its own.
            pixels: what is made of a decoded image [H, W, 3].
        """
        self.directory = directory
        self.split = split
        self.id_feature = id_feature
        self.label = label or _label
        self.pixels = pixels
        info = json.loads((directory / "dataset_info.json").read_text())
        (found,) = (entry for entry in info["splits"] if entry["name"] == split)
        names = directory / "label.labels.txt"
        self.classes = classes or (tuple(names.read_text().splitlines()) if names.exists() else ())
        self._length = sum(map(int, found["shardLengths"]))
        shards = sorted((file.name, file.stat().st_size) for file in directory.glob(f"*-{split}.array_record-*"))
        held = [info["name"], info["version"], found, shards, self.classes]
        held += [function.__qualname__ for function in (label, pixels) if function]  # other labels of the same records
        self.fingerprint = hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        """Reads and decodes one image.

        Raises:
            CorruptImage: the record holds no whole image.
        """
        features = self._record(index)
        name = self._name(features, index)
        (encoded,) = features["image"].bytes_list.value
        image = decode_image(encoded, name)
        return {"image": self.pixels(image) if self.pixels else image, "label": self.label(features), "id": name}

    @property
    def ids(self) -> list[str]:
        """[N] names of the images."""
        return self._index[0]

    @property
    def labels(self) -> np.ndarray:
        """[N] int32 class indices."""
        return self._index[1]

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a data worker: open files stay behind."""
        return {key: value for key, value in self.__dict__.items() if key != "_records"}

    @cached_property
    def _records(self) -> Any:
        import tensorflow_datasets

        builder = tensorflow_datasets.builder_from_directory(self.directory)
        raw = tensorflow_datasets.decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(self.split, deserialize_method=raw)

    def _record(self, index: int) -> Any:
        from tensorflow_datasets.proto import tf_example_pb2

        return tf_example_pb2.Example.FromString(self._records[index]).features.feature

    def _name(self, features: Any, index: int) -> str:
        if self.id_feature is None:
            return f"{self.split}/{index:07d}"
        (name,) = features[self.id_feature].bytes_list.value
        return name.decode()

    @cached_property
    def _index(self) -> tuple[list[str], np.ndarray]:
        path = cache_dir("data") / "index" / f"{self.fingerprint[:32]}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as stored:
                return stored["ids"].tolist(), stored["labels"]
        ids, labels = [], np.empty(len(self), np.int32)
        for index in range(len(self)):
            features = self._record(index)
            ids.append(self._name(features, index))
            labels[index] = self.label(features)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        try:
            with partial.open("wb") as file:
                np.savez(file, ids=np.array(ids, np.str_), labels=labels)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return ids, labels


def _label(features: Any) -> int:
    (label,) = features["label"].int64_list.value
    return int(label)


def default_dir(root: Path) -> Path:
    """Where TFDS data sets are: `$TFDS_DATA_DIR`, else `root/tfds`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or root / "tfds").expanduser()


def find(builder: str, data_dir: Path) -> Path | None:
    """The folder of the newest prepared array_record version of a data set; None when there is none."""
    found = {}
    for file in (data_dir / builder).glob("*/dataset_info.json"):
        version = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", file.parent.name)
        if version and json.loads(file.read_text()).get("fileFormat") == "array_record":
            found[tuple(map(int, version.groups()))] = file.parent
    return found[max(found)] if found else None


def by_hand(data_dir: Path) -> Path:
    """Where TFDS looks for what it cannot fetch."""
    return data_dir / "downloads" / "manual"


def prepare(builder: str, name: str, data_dir: Path) -> Path:
    """Downloads and prepares a data set, unless it is there; TensorFlow runs in a process of its own.

    Args:
        builder: TFDS's name, e.g. "oxford_flowers102".
        name: ours, for messages.
        data_dir: TFDS's data folder.

    Returns:
        The folder of the prepared version.

    Raises:
        BobError: TensorFlow or TFDS is not installed, or the preparation failed.
    """
    found = find(builder, data_dir)
    if found is not None:
        return found
    if importlib.util.find_spec("tensorflow") is None or importlib.util.find_spec("tensorflow_datasets") is None:
        raise BobError(
            f"data set {name} is not prepared in {data_dir}: run `pip install 'bob_jax[tfds]'`, then "
            f"`bob data prepare {name}` (TensorFlow is needed for this step only)"
        )
    data_dir.mkdir(parents=True, exist_ok=True)
    code, output = _run([sys.executable, "-c", _PREPARE, builder, str(data_dir)])
    found = find(builder, data_dir)
    if code or found is None:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else f"exit code {code}"
        raise BobError(f"TFDS could not prepare {name} ({builder}) in {data_dir}: {reason}")
    return found


def _run(command: list[str]) -> tuple[int, str]:
    """Exit code and end of the output of a command; the output is also shown as it comes: it tells of progress."""
    output = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 1 << 16).decode(errors="replace"):
            sys.stderr.write(chunk)
            output = (output + chunk)[-10_000:]
    return process.returncode, output
