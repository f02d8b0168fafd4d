"""Any PyTorch module as a backbone, without a port: its program runs through torchax inside `jax.jit`.

Parameters and running statistics are JAX arrays under their PyTorch names (`stages.0.blocks.1.conv.weight`, in
PyTorch's layout), so they shard, train and checkpoint like those of any other backbone. Evaluation is PyTorch's
evaluation mode, training its training mode: batch norm moves its running statistics as PyTorch does, and dropout and
drop path draw from `rngs.drop_path`. With a compute dtype other than float32 all parameters are cast to it; means,
variances and softmax stay in float32.

Needs the extra `bridge`: torch, torchax, timm. They are imported when the first bridged backbone is made.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones import torch_program
from bob_jax.backbones.base import Backbone, Features
from bob_jax.backbones.layers import Fixed, compute_dtype
from bob_jax.backbones.torch_program import Origin
from bob_jax.errors import BobError


class Part(nnx.Module):
    """A PyTorch submodule's place in the tree of names; it has no code of its own."""


class Bridge(Backbone):
    """A backbone whose program is a PyTorch module.

    Two instances of the same origin have equal graph definitions: the module itself is no part of them, but kept by
    `torch_program`, once a process.
    """

    def __init__(
        self,
        source: str,
        *,
        input_size: int = 224,
        sha256: str = "",
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Fresh weights, drawn by PyTorch from a seed that `rngs` gives.

        Args:
            source: `timm:MODEL`, or `FILE.py:FUNCTION` where the function returns a `torch.nn.Module`.
            input_size: side in pixels of the square input.
            sha256: of FILE.py, for a function.
            drop_path: stochastic depth rate; a constructor without one trains without.
            dtype: of the computation; parameters are float32.
            rngs: of the initialisation.

        Raises:
            BobError: there is no such module, it cannot be built, or torch is missing.
        """
        self.origin = Origin(source, input_size, drop_path, sha256)
        facts = torch_program.facts(self.origin)
        self.feature_dim = facts.feature_dim
        self.input_size = input_size
        self.strides = facts.strides
        self.widths = facts.widths
        self.side_multiple = facts.side_multiple
        self.num_layers = facts.num_layers
        self.dtype = compute_dtype(dtype)
        kinds = ((nnx.Param, facts.parameters), (Fixed, facts.fixed), (nnx.BatchStat, facts.statistics))
        arrays = _drawn(self.origin, {name: shape for _, group in kinds for name, shape in group.items()}, rngs)
        for kind, group in kinds:
            for name in group:
                self._plant(name, kind(arrays[name]))

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of normalised images [B, H, W, 3]; with `rngs` the running statistics move."""
        dtype = jnp.dtype(self.dtype)
        facts = torch_program.facts(self.origin)
        variables = {name: self._variable(name) for name in facts.layers}
        running = [name for name in facts.statistics if name.endswith(("running_mean", "running_var"))]
        state = {name: one[...] if name in running else one[...].astype(dtype) for name, one in variables.items()}
        pooled, maps, changed = torch_program.run(
            self.origin,
            state,
            images.astype(dtype).transpose(0, 3, 1, 2),
            train=rngs is not None,
            key=jax.random.key(0) if rngs is None else rngs.drop_path(),
        )
        for name, value in changed.items():
            variables[name][...] = value.astype(jnp.float32)
        return Features(pooled.astype(jnp.float32), tuple(x.astype(dtype).transpose(0, 2, 3, 1) for x in maps))

    def layer_of(self, path: str) -> int:
        """timm's assignment for layer decay; for other modules the place in the order of submodules."""
        return torch_program.facts(self.origin).layers[path]

    def _plant(self, name: str, variable: nnx.Variable) -> None:
        *parts, leaf = name.split(".")
        node: nnx.Module = self
        for part in parts:
            if not hasattr(node, part):
                setattr(node, part, Part())
            node = getattr(node, part)
            if not isinstance(node, Part):
                raise BobError(f"{self.origin.source}: a submodule may not be called '{part}': rename it")
        if hasattr(node, leaf):
            raise BobError(f"{self.origin.source}: a parameter may not be called '{name}': rename it")
        setattr(node, leaf, variable)

    def _variable(self, name: str) -> nnx.Variable:
        node: object = self
        for part in name.split("."):
            node = getattr(node, part)
        assert isinstance(node, nnx.Variable)
        return node


def _drawn(origin: Origin, shapes: dict[str, tuple[int, ...]], rngs: nnx.Rngs) -> dict[str, jax.Array]:
    """The initial arrays. PyTorch draws them, on the host: under `jit` in a callback, under `eval_shape` not at all."""
    wanted = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def draw(bits: np.ndarray) -> dict[str, np.ndarray]:
        return torch_program.initial(origin, int(np.asarray(bits)))

    drawn: dict[str, jax.Array] = jax.pure_callback(draw, wanted, jax.random.bits(rngs.params()))
    return drawn
