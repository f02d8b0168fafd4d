"""Whether a backbone keeps the contract of `base.py`: tried on a small batch before a user's own is taken in."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bob_jax.backbones import parameters, torch_program, zoo
from bob_jax.backbones.base import Backbone
from bob_jax.backbones.torch_program import Origin
from bob_jax.errors import BobError

IMAGES = 2
TOLERANCE = 1e-5  # against PyTorch on the same weights: largest difference over the largest value, float32


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found of a backbone that keeps the contract.

    Attributes:
        parameters: their number.
        feature_dim: width of the descriptor.
        strides: of the feature maps.
        layers: for layer decay.
        parity: relative error against PyTorch; None for a module in Flax.
    """

    parameters: int
    feature_dim: int
    strides: tuple[int, ...]
    layers: int
    parity: float | None


def check(name: str) -> Found:
    """Builds a backbone, loads its weights and runs it.

    Args:
        name: known to the zoo.

    Raises:
        BobError: it cannot be built, its weights do not fit, or it breaks the contract; the message says in what.
    """
    try:
        skeleton, again = zoo.skeleton(name, dtype=jnp.float32), zoo.skeleton(name, dtype=jnp.float32)
    except BobError:
        raise
    except Exception as error:
        words = torch_program.first_line(error)
        raise BobError(f"{name}: nnx.eval_shape cannot build it ({words}): keep no arrays but nnx.Variables") from error
    _check_structure(name, skeleton, again)
    side = skeleton.input_size
    images = np.random.default_rng(0).standard_normal((IMAGES, side, side, 3), np.float32)
    _check_shapes(name, skeleton, images)
    module = zoo.load(name, dtype=jnp.float32).module
    graph, state = nnx.split(module)

    @jax.jit
    def evaluate(state: nnx.State, images: jax.Array) -> tuple:
        merged = nnx.merge(graph, state)
        return merged(images), nnx.state(merged)

    with jax.default_matmul_precision("float32"):
        features, after = evaluate(state, images)
    for what, array in (("descriptor", features.pooled), *(("map", x) for x in features.maps)):
        if not np.isfinite(array).all():
            raise BobError(f"{name}: a {what} is not finite on standard normal images: look at weights and norms")
    for path, same in jax.tree.leaves_with_path(jax.tree.map(np.array_equal, state, after)):
        if not same:
            place = ".".join(str(getattr(key, "key", key)) for key in path)
            raise BobError(f"{name}: evaluation changes {place}: a call without rngs must leave the module as it is")
    return Found(
        parameters.count(skeleton),
        skeleton.feature_dim,
        tuple(skeleton.strides),
        skeleton.num_layers,
        _parity(name, module, images, features),
    )


def _check_structure(name: str, module: Backbone, again: Backbone) -> None:
    first, second = nnx.graphdef(module), nnx.graphdef(again)
    try:
        equal = hash(first) == hash(second) and first == second
    except TypeError as error:
        raise BobError(f"{name}: a static attribute is not hashable ({error}): tuples, no lists") from error
    if not equal:
        raise BobError(f"{name}: two instances have different graph definitions: no lambdas or new objects in it")
    if jax.tree.leaves(nnx.state(module, nnx.Not(nnx.Any(nnx.Param, nnx.BatchStat)))):
        raise BobError(f"{name}: has state other than nnx.Param and nnx.BatchStat: compute constants in the call")
    for path in parameters.flatten(module):
        try:
            layer = module.layer_of(path)
        except KeyError as error:
            raise BobError(f"{name}: layer_of knows no parameter '{path}'") from error
        if not 0 <= layer < module.num_layers:
            raise BobError(f"{name}: layer_of('{path}') is {layer}, outside of [0, {module.num_layers})")


def _check_shapes(name: str, module: Backbone, images: np.ndarray) -> None:
    """Evaluation, and one gradient in training, without computing them."""
    graph, *states = nnx.split(module, nnx.Param, ...)
    params, rest = map(nnx.to_pure_dict, states)

    def run(params: dict, rest: dict, images: jax.Array, train: bool) -> tuple[jax.Array, tuple]:
        merged = nnx.merge(graph, params, rest)
        features = merged(images, rngs=nnx.Rngs(0)) if train else merged(images)
        return jnp.sum(features.pooled), tuple(features)

    evaluate, train = functools.partial(run, train=False), jax.grad(functools.partial(run, train=True), has_aux=True)
    try:
        _, (pooled, maps) = jax.eval_shape(evaluate, params, rest, images)
        jax.eval_shape(train, params, rest, images)
    except BobError:
        raise
    except Exception as error:
        raise BobError(f"{name} fails on images {images.shape}: {torch_program.first_line(error)}") from error
    if pooled.shape != (len(images), module.feature_dim):
        raise BobError(f"{name}: the descriptor is {pooled.shape}, and feature_dim says {module.feature_dim}")
    if not len(maps) == len(module.strides) == len(module.widths):
        raise BobError(
            f"{name}: {len(maps)} maps, {len(module.strides)} strides and {len(module.widths)} widths: one each a map"
        )
    for x, stride, width in zip(maps, module.strides, module.widths, strict=True):
        sides = {images.shape[1] // stride, -(-images.shape[1] // stride)}
        if x.ndim != 4 or x.shape[3] != width or not {x.shape[1], x.shape[2]} <= sides:
            raise BobError(f"{name}: a map is {x.shape}, and stride {stride}, width {width} say otherwise")


def _parity(name: str, module: Backbone, images: np.ndarray, features: tuple) -> float | None:
    """How far a bridged backbone is from PyTorch.

    Raises:
        BobError: too far.
    """
    origin = getattr(module, "origin", None)
    if not isinstance(origin, Origin):
        return None
    arrays = {path: np.asarray(leaf) for path, leaf in parameters.flatten(module).items()}
    pooled, maps = torch_program.evaluate(origin, arrays, images.transpose(0, 3, 1, 2))
    ours = [features[0], *(x.transpose(0, 3, 1, 2) for x in features[1])]
    error = max(
        float(np.abs(np.asarray(mine) - theirs).max() / max(np.abs(theirs).max(), 1e-30))
        for mine, theirs in zip(ours, [pooled, *maps], strict=True)
    )
    if not error < TOLERANCE:
        raise BobError(f"{name}: torchax computes another function than PyTorch does: relative error {error:.1e}")
    return error
