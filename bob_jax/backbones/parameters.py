"""A module's weights as a flat dictionary with dotted names, and back again, strictly."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bob_jax.backbones.layers import Fixed
from bob_jax.errors import BobError

LISTED = 8  # names of each kind that an error message shows before it only counts


def flatten(module: nnx.Module) -> dict[str, jax.Array]:
    """All parameters and batch statistics under their dotted paths, e.g. `blocks.0.attn.qkv.kernel`.

    The leaves of a module made under `nnx.eval_shape` are `jax.ShapeDtypeStruct`.
    """
    state = nnx.to_pure_dict(nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {".".join(str(key.key) for key in path): leaf for path, leaf in jax.tree.leaves_with_path(state)}


def variable(module: nnx.Module, path: str) -> nnx.Variable:
    """The parameter or statistic with this dotted path.

    Raises:
        KeyError: the module has none.
    """
    node: object = module
    for name in path.split("."):
        if isinstance(node, nnx.List) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            node = getattr(node, name, None) if isinstance(node, nnx.Module) else None
    if not isinstance(node, nnx.Variable):
        raise KeyError(path)
    return node


def assign(module: nnx.Module, arrays: Mapping[str, np.ndarray | jax.Array], where: str) -> None:
    """Fills a module, also one made under `nnx.eval_shape`, in float32.

    Args:
        module: what is filled, in place; left as it was when an error is raised.
        arrays: exactly the names and shapes of `flatten(module)`, any float dtype. Arrays of JAX are used where they
            lie, those of NumPy are copied to the default device.
        where: origin of the arrays, for the error message.

    Raises:
        BobError: names are missing, unused or mis-shaped; one line lists all kinds.
    """
    wanted = flatten(module)
    missing = [name for name in wanted if name not in arrays]
    unused = [name for name in arrays if name not in wanted]
    wrong = [
        f"{name} {tuple(arrays[name].shape)} instead of {leaf.shape}"
        for name, leaf in wanted.items()
        if name in arrays and tuple(arrays[name].shape) != leaf.shape
    ]
    kinds = (("missing", missing), ("unused", unused), ("mis-shaped", wrong))
    problems = [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names]
    if problems:
        raise BobError(f"{where}: the weights do not fit the architecture: {'; '.join(problems)}")
    for name in wanted:
        value = arrays[name]
        if not isinstance(value, jax.Array) or value.dtype != jnp.float32:
            # A copy: on CPU JAX would otherwise share memory with an array that the caller may still change.
            value = jnp.array(value, dtype=jnp.float32, copy=True)
        variable(module, name).set_value(value)


def count(module: nnx.Module) -> int:
    """Number of parameters, fixed tables included and batch statistics not; a backbone has no head to leave out."""
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(module, nnx.Any(nnx.Param, Fixed))))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _some(names: list[str]) -> str:
    rest = f" ... and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest
