"""torchax made to work beside the current torch, and to compute what PyTorch computes.

torchax runs a PyTorch program on JAX arrays. Version 0.0.13 (the newest release) was written for torch <= 2.9; beside
torch 2.13 it needs the repairs of this file, which are applied once, when the first bridged backbone runs:

- `import torchax` fails: it names overloads of operators (`aten.prod.dim_Dimname` and 20 more) that torch 2.13 removed.
  They are never called here; empty stand-ins are enough.
- `batch_norm` in training forgets the running statistics, and would keep the biased variance.
- `layer_norm`, `group_norm` and `softmax` compute in the dtype of their input; here means, variances and softmax are
  float32 in every architecture.
- `linear` takes no keyword arguments (Swin v2 gives them), `interpolate` knows bicubic alone, and `bernoulli_` (drop
  path) fails for want of a key.

The operators are replaced in an environment of our own: torchax's default one is left as it is.
"""

import functools
import importlib.util
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from bob_jax.errors import BobError

INSTALL = "install them: pip install 'bob_jax[bridge]'"

TORCHVISION_OPERATORS = (  # noqa: SIM905
    "nms qnms roi_align _roi_align_backward ps_roi_align _ps_roi_align_backward roi_pool _roi_pool_backward "
    "ps_roi_pool _ps_roi_pool_backward qroi_align deform_conv2d _deform_conv2d_backward"
).split()
_libraries: list[Any] = []  # a registration lasts as long as its object


def import_torch() -> ModuleType:
    """PyTorch.

    Raises:
        BobError: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise BobError(f"a PyTorch backbone needs torch, torchax and timm: {INSTALL}") from error
    return torch


def import_timm() -> ModuleType:
    """timm, also beside a torch that torchvision's compiled operators do not fit (a CPU build, most often).

    Then `import torchvision`, and timm with it, fails with "operator torchvision::nms does not exist". Classifiers
    never call those operators: it is enough that their names are known.

    Raises:
        BobError: timm or torch is not installed, or does not load.
    """
    torch = import_torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about deprecations inside of timm
        try:
            import timm
        except ImportError as error:
            raise BobError(f"a timm backbone needs torch, torchax and timm: {INSTALL} ({error})") from error
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise BobError(f"timm does not load: {_first_line(error)}") from error
            library = torch.library.Library("torchvision", "DEF")
            _libraries.append(library)
            for name in TORCHVISION_OPERATORS:
                library.define(f"{name}(Tensor x) -> Tensor")
            import timm
    return timm


@functools.cache
def environment() -> Any:
    """The torchax environment in which bridged backbones run.

    Raises:
        BobError: torch or torchax is not installed.
    """
    torch = import_torch()
    _restore_removed_overloads(torch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchax.tensor import Environment

        made = Environment()
    _replace_operators(torch, made)
    return made


def _restore_removed_overloads(torch: ModuleType) -> None:
    spec = importlib.util.find_spec("torchax")
    if spec is None or not spec.submodule_search_locations:
        raise BobError(f"a PyTorch backbone needs torchax beside torch: {INSTALL}")
    for file in ("amp.py", "decompositions.py"):
        text = (Path(spec.submodule_search_locations[0]) / file).read_text(encoding="utf-8")
        for operator, overload in re.findall(r"torch\.ops\.aten\.(\w+)\.(\w+)", text):
            packet = getattr(torch.ops.aten, operator)
            if not hasattr(packet, overload):
                setattr(packet, overload, object())


def _replace_operators(torch: ModuleType, made: Any) -> None:
    from torchax.ops.ops_registry import Operator

    functional = torch.nn.functional
    for operators, function in (
        ((functional.linear,), _linear),
        ((functional.layer_norm,), _layer_norm),
        ((functional.group_norm,), _group_norm),
        ((functional.softmax, torch.softmax, torch.Tensor.softmax), _softmax),
        ((functional.interpolate,), _interpolate),
    ):
        for operator in operators:
            made._ops[operator] = Operator(operator, function, True, True, False, False)
    # These change a tensor in place, so they see torchax's tensors and not the arrays inside.
    for operator, function in ((functional.batch_norm, _batch_norm), (torch.Tensor.bernoulli_, _bernoulli)):
        made._ops[operator] = Operator(operator, function, False, True, False, False)


def _linear(input: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    out = jnp.einsum("...i,oi->...o", input, weight)
    return out if bias is None else out + bias


def _layer_norm(
    input: jax.Array,
    normalized_shape: Any,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
) -> jax.Array:
    axes = tuple(range(input.ndim - len(tuple(normalized_shape)), input.ndim))
    return _affine(_normalised(input, axes, eps), weight, bias).astype(input.dtype)


def _group_norm(
    input: jax.Array,
    num_groups: int,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
) -> jax.Array:
    groups = input.reshape(input.shape[0], num_groups, -1)
    y = _normalised(groups, (2,), eps).reshape(input.shape)
    return _affine(y, *(_per_channel(x, input.ndim) for x in (weight, bias))).astype(input.dtype)


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """As PyTorch: normalised with the biased variance, remembered with the unbiased one."""
    x, scale, shift = (None if tensor is None else tensor.jax() for tensor in (input, weight, bias))
    assert x is not None
    axes = (0, *range(2, x.ndim))
    x32 = x.astype(jnp.float32)
    if training:
        count = x.size // x.shape[1]
        if count == 1:
            raise BobError(
                f"batch norm: shape {x.shape} has one value per channel in training: use more or larger images"
            )
        mean, var = jnp.mean(x32, axes), jnp.var(x32, axes)
        for running, new in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
            if running is not None:
                running._elem = (1 - momentum) * running._elem + momentum * jax.lax.stop_gradient(new)
    else:
        mean, var = (running.jax().astype(jnp.float32) for running in (running_mean, running_var))
    y = (x32 - _per_channel(mean, x.ndim)) * _per_channel(jax.lax.rsqrt(var + eps), x.ndim)
    y = _affine(y, *(_per_channel(vector, x.ndim) for vector in (scale, shift)))
    return input._env.j2t_iso(y.astype(x.dtype))


def _softmax(input: jax.Array, dim: int = -1, _stacklevel: int = 3, dtype: Any = None) -> jax.Array:
    return jax.nn.softmax(input.astype(jnp.float32), axis=dim).astype(input.dtype)


def _bernoulli(tensor: Any, p: float = 0.5, *, generator: Any = None) -> Any:
    key = tensor._env.get_and_rotate_prng_key(generator)
    tensor._elem = jax.random.bernoulli(key, p, tensor.shape).astype(tensor._elem.dtype)
    return tensor


def _interpolate(
    input: jax.Array,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> jax.Array:
    """[B, C, *sides] resized, in the cases where JAX has PyTorch's function."""
    sides = input.shape[2:]
    if size is None:
        scales = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor,) * len(sides)
        size = tuple(int(side * scale) for side, scale in zip(sides, scales, strict=True))
    size = (size,) * len(sides) if isinstance(size, int) else tuple(size)
    if size == sides:
        return input
    if mode == "nearest":  # JAX rounds half a pixel further
        for axis, (old, new) in enumerate(zip(sides, size, strict=True), 2):
            input = jnp.take(input, jnp.arange(new) * old // new, axis=axis)
        return input
    if align_corners or mode not in ("bilinear", "bicubic") or (mode == "bicubic" and not antialias):
        from torchax.tensor import OperatorNotFound

        raise OperatorNotFound(f"interpolate(mode={mode}, align_corners={align_corners}, antialias={antialias})")
    return jax.image.resize(input, (*input.shape[:2], *size), mode, antialias=antialias)


def _normalised(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axes, keepdims=True) + epsilon)


def _affine(x: jax.Array, scale: jax.Array | None, shift: jax.Array | None) -> jax.Array:
    x = x if scale is None else x * scale.astype(jnp.float32)
    return x if shift is None else x + shift.astype(jnp.float32)


def _per_channel(vector: jax.Array | None, ndim: int) -> Any:
    """[C] as [1, C, 1, ...], where PyTorch has its channels."""
    return None if vector is None else vector.reshape((1, -1) + (1,) * (ndim - 2))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
