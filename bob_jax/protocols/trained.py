"""A head that an earlier cell left behind, ready to be judged further."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx

from bob_jax.backbones import parameters
from bob_jax.data.base import Dataset
from bob_jax.protocols.base import Competitor, Trained
from bob_jax.protocols.head import Head
from bob_jax.training import mesh as meshes

BACKBONE = "backbone."  # before the paths of its weights


def restore(
    competitor: Competitor,
    weights: Mapping[str, np.ndarray],
    dataset: Dataset,
    temperature: float,
    cell: str,
    mesh: jax.sharding.Mesh,
) -> Trained:
    """Head and backbone from the weights of a cell.

    Args:
        competitor: the backbone as it was before; it is not changed.
        weights: by dotted path below `head.` and, where the backbone was trained, `backbone.`.
        dataset: that they were trained on.
        temperature: of the calibrated logits.
        cell: id of the cell.
        mesh: devices.

    Raises:
        BobError: weights that do not fit the backbone.
    """
    tuned = {name.removeprefix(BACKBONE): array for name, array in weights.items() if name.startswith(BACKBONE)}
    if tuned:
        module = nnx.clone(competitor.module)
        place = functools.partial(meshes.place, mesh=mesh)
        parameters.assign(module, {name: place(array) for name, array in tuned.items()}, where=f"the weights of {cell}")
        competitor = dataclasses.replace(competitor, module=module, weights_sha256=_digest(tuned))
    return Trained(competitor, Head.from_named(weights), dataset, temperature, cell)


def _digest(weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()
