"""What the parity tests share: random timm weights, their names in bob_jax, and both frameworks run on them.

Written apart from converters/ on purpose, so that a mistake there does not hide here.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from bob_jax.backbones import parameters
from bob_jax.backbones.base import Backbone, Features

# Compiles in half the time and computes the same; for programs that run once. `outputs` keeps XLA's defaults.
FAST_COMPILE = {"xla_backend_optimization_level": 0}
LEAVES = {"running_mean": "mean", "running_var": "var"}
CLIP_NAMES = [
    (r"^stem\.conv(\d)\.conv", r"conv\1"),
    (r"^stem\.conv(\d)\.bn", r"bn\1"),
    (r"^stages\.(\d)\.", lambda found: f"layer{int(found[1]) + 1}."),
    (r"conv(\d)_\w+\.conv", r"conv\1"),
    (r"conv(\d)_\w+\.bn", r"bn\1"),
    (r"shortcut\.conv\.(conv|bn)", r"downsample.\1"),
    (r"^head\.", "attn_pool."),
]
RESNET_NAMES = [(r"downsample\.0", "downsample.conv"), (r"downsample\.1", "downsample.bn")]


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draws every parameter and statistic anew, so that nothing is 0, 1 or too small to matter; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        with torch.no_grad():
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.2 * noise.abs())
            elif name.endswith("weight") and tensor.ndim > 1:
                tensor.copy_(noise * tensor[0].numel() ** -0.5)
            elif name.endswith("weight") or name.endswith("gamma"):
                tensor.copy_(0.7 + 0.2 * noise)
            else:
                tensor.copy_(0.2 * noise)
    return model.eval()


def renamed(tensors: Iterable[tuple[str, torch.Tensor]], names: list = ()) -> dict[str, np.ndarray]:
    """Names and layouts of bob_jax for named tensors (parameters, statistics or gradients) of timm."""
    arrays = {}
    for name, tensor in tensors:
        if name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        module, _, leaf = name.rpartition(".")
        array = tensor.detach().numpy()
        if leaf == "weight":
            leaf = "scale" if array.ndim == 1 else "kernel"
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        arrays[".".join(filter(None, [module, LEAVES.get(leaf, leaf)]))] = array
    return arrays


def filled(make: Callable[[], Backbone], model: torch.nn.Module, names: list = ()) -> Backbone:
    """The backbone that `make` builds, with the weights of a timm model."""
    backbone = nnx.eval_shape(make)
    parameters.assign(backbone, renamed(model.state_dict().items(), names), "timm")
    return backbone


def drawn(make: Callable[[], Backbone], seed: int = 0) -> Backbone:
    """The backbone that `make` builds, with random weights like `randomise`'s; quicker than its own initialisation."""
    backbone = nnx.eval_shape(make)
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, leaf in parameters.flatten(backbone).items():
        noise = rng.standard_normal(leaf.shape, np.float32)
        if name.endswith("kernel"):
            arrays[name] = noise * np.prod(leaf.shape[:-1]) ** -0.5
        elif name.endswith(("scale", "gamma", "var")):
            arrays[name] = 0.7 + 0.2 * np.abs(noise)
        else:
            arrays[name] = 0.2 * noise
    parameters.assign(backbone, arrays, "drawn")
    return backbone


def initialised(make: Callable[[nnx.Rngs], nnx.Module]) -> dict[str, jax.Array]:
    """What `parameters.flatten` says of a module's own random start; "rbg" because it compiles fastest."""
    rngs = nnx.Rngs(jax.random.key(0, impl="rbg"))
    return jax.jit(lambda rngs: parameters.flatten(make(rngs)), compiler_options=FAST_COMPILE)(rngs)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(graph: nnx.GraphDef, state: nnx.State, inputs: jax.Array) -> Features:
    return nnx.merge(graph, state)(inputs)


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST_COMPILE)
def _train(graph: nnx.GraphDef, state: nnx.State, inputs: jax.Array, key: jax.Array) -> tuple[Features, nnx.State]:
    module = nnx.merge(graph, state)
    return module(inputs, rngs=nnx.Rngs(key)), nnx.state(module)


def outputs(backbone: Backbone, inputs: np.ndarray) -> list[np.ndarray]:
    """`pooled`, then the maps, of an evaluation under jit."""
    features = _evaluate(*nnx.split(backbone), inputs)
    return [np.asarray(x) for x in (features.pooled, *features.maps)]


def trained(backbone: Backbone, inputs: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """The same of a training call, whose new statistics go back into the backbone."""
    features, state = _train(*nnx.split(backbone), inputs, jax.random.key(seed))
    nnx.update(backbone, state)
    return [np.asarray(x) for x in (features.pooled, *features.maps)]


def images(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """[B, H, W, 3] standard normal."""
    return np.random.default_rng(seed).standard_normal((batch, height, width, 3), np.float32)


def to_torch(array: np.ndarray) -> torch.Tensor:
    """[B, H, W, C] to [B, C, H, W]."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute value of the reference."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def smooth_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts SiLU where our residual networks have ReLU, for gradient tests against timm models built with SiLU.

    The gradient of ReLU jumps at 0, and among two million activations one or two lie so near to 0 that rounding decides
    their sign: float32 PyTorch then differs from float64 PyTorch by 2e-3 (measured), with SiLU by 5e-6.
    """
    monkeypatch.setattr(jax.nn, "relu", jax.nn.silu)


def scalar_weights(arrays: list[np.ndarray], seed: int = 1) -> list[np.ndarray]:
    """Random weights that turn a list of outputs into one scalar, each output with about the same influence."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(x.shape).astype(np.float32) / np.sqrt(x.size) for x in arrays]


def gradients(backbone: Backbone, inputs: np.ndarray, weights: list[np.ndarray], train: bool) -> dict[str, np.ndarray]:
    """Gradient of the weighted sum of all outputs with respect to every `nnx.Param`."""
    graph, params, rest = nnx.split(backbone, nnx.Param, ...)

    def loss(params: nnx.State, x: jax.Array) -> jax.Array:
        features = nnx.merge(graph, params, rest, copy=True)(x, rngs=nnx.Rngs(0) if train else None)
        return sum(jnp.vdot(w, x) for w, x in zip(weights, (features.pooled, *features.maps), strict=True))

    grads = nnx.to_pure_dict(jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)(params, inputs))
    return {".".join(str(key.key) for key in path): np.asarray(x) for path, x in jax.tree.leaves_with_path(grads)}


def torch_gradients(
    model: torch.nn.Module, results: list[torch.Tensor], weights: list[np.ndarray], names: list = ()
) -> dict[str, np.ndarray]:
    """The same in PyTorch; `results` are the outputs, in [B, H, W, C] layout."""
    loss = sum((torch.from_numpy(w) * x).sum() for w, x in zip(weights, results, strict=True))
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return renamed([(name, g) for name, g in zip(named, found, strict=True) if g is not None], names)


def gradient_errors(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Per tensor, the norm of the difference over the norm of the reference: one tensor's scale, not one entry's."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    return {name: float(np.linalg.norm(ours[name] - g) / np.linalg.norm(g)) for name, g in theirs.items()}
