"""Data sets of the catalogue as Scenic data sets, prepared as the card of a backbone asks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bob_jax.backbones import zoo
from bob_jax.backbones.card import Preprocessing
from bob_jax.data import catalog
from bob_jax.data.base import Dataset
from bob_jax.data.loader import Loader
from bob_jax.data.transforms import Eval, Train
from bob_jax.errors import BobError


def get_dataset(
    *,
    batch_size: int,
    eval_batch_size: int,
    num_shards: int,
    dtype_str: str = "float32",
    shuffle_seed: int | None = None,
    rng: jax.Array | None = None,
    dataset_configs: Mapping[str, Any],
    dataset_service_address: str | None = None,
) -> Any:
    """What Scenic's `get_dataset` gives: endless iterators over train, validation and test.

    Args:
        batch_size: of this process, in training.
        eval_batch_size: of this process, otherwise.
        num_shards: devices of this process; batches are [num_shards, batch_size / num_shards, ...].
        dtype_str: of the inputs.
        shuffle_seed: of order and crops; drawn from `rng` when None.
        rng: a key.
        dataset_configs: "name" of the data set, "backbone" whose card says how images are prepared; and, if wanted,
            "root", "limit" (as `catalog.load`), "crop_scale", "horizontal_flip", "randaugment".
        dataset_service_address: not supported.

    Returns:
        `scenic.dataset_lib.dataset_utils.Dataset`, of batches with "inputs", "label" and "batch_mask".

    Raises:
        BobError: an unknown name, data that are not there, or data that are not one class an image.
    """
    from scenic.dataset_lib import dataset_utils

    if dataset_service_address:
        raise BobError("bob_jax reads its own data: leave dataset_service_address empty")
    dataset = _load(dataset_configs)
    preprocessing = zoo.card(dataset_configs["backbone"]).preprocessing
    train = Train(
        preprocessing,
        scale=tuple(dataset_configs.get("crop_scale", (0.08, 1.0))),
        randaugment=dataset_configs.get("randaugment", 0),
    )
    if shuffle_seed is None:
        shuffle_seed = 0 if rng is None else int(jax.random.bits(rng) >> 1)
    flip = dataset_configs.get("horizontal_flip", True)

    def batches(split: str) -> Iterator[dict[str, np.ndarray]]:
        learning = split == "train"
        loader = Loader(
            dataset.splits[split],
            train if learning else Eval(preprocessing),
            batch_size=(batch_size if learning else eval_batch_size) * jax.process_count(),
            seed=shuffle_seed,
            shuffle=learning,
            epochs=None,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        random = np.random.default_rng([shuffle_seed, jax.process_index()]) if learning and flip else None
        for batch in loader.batches():
            yield dataset_utils.shard(_as_scenic(batch, preprocessing, dtype_str, random), n_devices=num_shards)

    sizes = {split: len(source) for split, source in dataset.splits.items()}
    side = preprocessing.input_size
    meta_data = {
        "num_classes": len(dataset.classes),
        "input_shape": (-1, side, side, 3),
        "input_dtype": jnp.dtype(dtype_str),
        "num_train_examples": sizes["train"],
        "num_eval_examples": sizes["validation"],
        "num_test_examples": sizes["test"],
        "target_is_onehot": False,
    }
    return dataset_utils.Dataset(batches("train"), batches("validation"), batches("test"), meta_data)


def _load(options: Mapping[str, Any]) -> Dataset:
    root = options.get("root")
    dataset = catalog.load(options["name"], root=Path(root) if root else None, limit=options.get("limit") or None)
    if dataset.task != "classification":
        raise BobError(
            f"{dataset.name} asks for {dataset.task}: Scenic's classification trainer takes one class an image"
        )
    return dataset


def _as_scenic(
    batch: Mapping[str, np.ndarray], preprocessing: Preprocessing, dtype: str, random: np.random.Generator | None
) -> dict[str, np.ndarray]:
    """uint8 to normalised inputs, mirrored by halves where `random` is given; masks as weights."""
    images = batch["image"]
    if random is not None:
        mirrored = random.random(len(images)) < 0.5
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    mean, std = np.array(preprocessing.mean, np.float32), np.array(preprocessing.std, np.float32)
    inputs = (images.astype(np.float32) / 255 - mean) / std
    weights = batch["mask"].astype(np.float32)
    return {"inputs": inputs.astype(dtype), "label": batch["label"], "batch_mask": weights}
