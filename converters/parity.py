"""Our backbone against the original implementation, on the same published weights, stage by stage."""

import dataclasses
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.base import Backbone
from bob_jax.backbones.card import Card
from bob_jax.errors import BobError
from converters import cache, references
from converters.receipt import Receipt, StageError
from converters.reference import Reference
from converters.stages import recorded, recorded_torch

Outputs = dict[str, np.ndarray]


def verify(card: Card, original: cache.Original) -> Receipt:
    """Converts the original weights, compares both implementations on them, and writes the figures into the receipt.

    Every stage is compared in float32 at the card's input size and at a larger one, which tries the resampling of
    positions, and in bfloat16 at the card's.

    Raises:
        BobError: the weights cannot be had, do not fit either side, or the original's library is missing.
    """
    arrays, receipt = cache.convert(card, original)
    reference = references.build(card)
    reference.fill(reference.module, original)
    full, half = (zoo.skeleton(card.name, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    for module in (full, half):
        parameters.assign(module, arrays, where=original.source)
    size = card.preprocessing.input_size
    receipt = dataclasses.replace(
        receipt,
        parity=compare(full, reference, reference.sizes or (size, size + 2 * max(full.strides)), half),
        verified=datetime.now(UTC).isoformat(timespec="seconds"),
        libraries=receipt.libraries | {name: version(name) for name in ("torch", reference.library)},
    )
    cache.save(card, arrays, receipt)
    return receipt


def compare(
    module: Backbone, reference: Reference, sizes: Sequence[int], half: Backbone | None = None
) -> tuple[StageError, ...]:
    """How far our stages, descriptor and maps are from theirs.

    Args:
        module: our backbone in float32.
        reference: theirs with the same weights; with `half` it is cast to bfloat16, and stays so.
        sizes: sides of the images.
        half: our backbone in bfloat16, compared too, at the first of the sizes.

    Raises:
        BobError: a stage that is not finite.
    """
    import torch

    theirs = {size: original_outputs(reference, _images(size), torch.float32) for size in sizes}
    found = []
    for size in sizes:
        ours = outputs(module, reference, _images(size))
        found += [StageError(size, stage, relative(ours[stage], exact)) for stage, exact in theirs[size].items()]
    if half is not None:
        low = original_outputs(reference, _images(sizes[0]), torch.bfloat16)
        ours = outputs(half, reference, _images(sizes[0]))
        for index, (stage, exact) in enumerate(theirs[sizes[0]].items()):
            found[index] = dataclasses.replace(
                found[index],
                bfloat16=relative(ours[stage], exact),
                bfloat16_original=relative(low[stage], exact),
                bfloat16_between=relative(ours[stage], low[stage]),
            )
    for one in found:
        if not all(map(math.isfinite, filter(None, dataclasses.astuple(one)[2:]))):
            raise BobError(
                f"{one.stage} at {one.input_size} pixels is not finite in one of the implementations: the weights are "
                "damaged, or not this architecture's"
            )
    return tuple(found)


def outputs(module: Backbone, reference: Reference, images: np.ndarray) -> Outputs:
    """What our backbone computes of [B, H, W, 3] images: the stages of the reference, descriptor, maps; float32."""
    paths = [ours for ours, _ in reference.stages]
    graph, state = nnx.split(module)

    @jax.jit
    def run(state: nnx.State, images: jax.Array) -> dict[str, jax.Array]:
        module = nnx.merge(graph, state)
        with recorded(module, paths) as seen:
            features = module(images)
        maps = {f"map {stride}": x for stride, x in zip(module.strides, features.maps, strict=True)}
        return {**{path: seen[path] for path in paths}, "pooled": features.pooled, **maps}

    with jax.default_matmul_precision("float32"):
        return {name: np.asarray(value, np.float32) for name, value in run(state, images).items()}


def original_outputs(reference: Reference, images: np.ndarray, dtype: Any) -> Outputs:
    """The same of the reference, in our layouts; its module is cast to `dtype`, and stays so."""
    import torch

    module = reference.module.to(dtype)
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(dtype)
    with torch.no_grad(), recorded_torch(module, [theirs for _, theirs in reference.stages]) as seen:
        pooled, maps = reference.run(batch)
    stages = {ours: seen[theirs] for ours, theirs in reference.stages}
    if reference.layout == "NCHW":
        stages = {name: value.permute(0, 2, 3, 1) if value.ndim == 4 else value for name, value in stages.items()}
    named = {f"map {images.shape[1] // value.shape[2]}": value.permute(0, 2, 3, 1) for value in maps}
    return {name: value.float().numpy() for name, value in {**stages, "pooled": pooled, **named}.items()}


def relative(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the largest value of `theirs`; tokens [B, N, C] are compared with a map [B, h, w, C]."""
    return float(np.abs(mine.reshape(theirs.shape) - theirs).max() / np.abs(theirs).max())


def _images(size: int) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((2, size, size, 3), np.float32)
