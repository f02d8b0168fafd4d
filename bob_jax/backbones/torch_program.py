"""A PyTorch module as a function of named arrays: how it is built, what it says of itself, how it runs in JAX.

Everything of PyTorch stays on this side: a backbone holds an `Origin`, a few hashable words, and finds the program that
belongs to it in this module's cache.
"""

import dataclasses
import functools
import math
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bob_jax.backbones import own
from bob_jax.backbones.pytorch import import_library
from bob_jax.backbones.torchax_repair import environment
from bob_jax.errors import BobError, unknown_name

TIMM = "timm:"
FINEST = 4  # stride of the finest feature map that necks and probes read
_running = threading.RLock()  # a torch module is trained or evaluated, never both: one trace at a time


@dataclasses.dataclass(frozen=True)
class Origin:
    """Which PyTorch module, in words that can be compared and hashed.

    Attributes:
        source: `timm:MODEL`, or `FILE.py:FUNCTION`.
        input_size: side in pixels of the square input.
        drop_path: stochastic depth rate, for constructors that know it.
        sha256: of the file; a file that changed is another backbone.
    """

    source: str
    input_size: int
    drop_path: float = 0.0
    sha256: str = ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a module is, without its values.

    Attributes:
        parameters: name -> shape of all that is trained.
        fixed: likewise of parameters without gradient.
        statistics: likewise of the floating-point buffers that belong to the state dict.
        constants: names of all other entries of the state dict (integer tables, counters): part of the program.
        feature_dim: D of the descriptor [B, D].
        strides: of the feature maps, finest first.
        widths: channels of the feature maps.
        side_multiple: the last stride, where another multiple of it than `input_size` was seen to work as input; else
            0: many models know their own size alone.
        layers: name -> layer, of everything in the first three.
        num_layers: layers in use.
    """

    parameters: Mapping[str, tuple[int, ...]]
    fixed: Mapping[str, tuple[int, ...]]
    statistics: Mapping[str, tuple[int, ...]]
    constants: frozenset[str]
    feature_dim: int
    strides: tuple[int, ...]
    widths: tuple[int, ...]
    side_multiple: int
    layers: Mapping[str, int]
    num_layers: int


@dataclasses.dataclass(frozen=True)
class Program:
    """What runs: a module whose own parameters take no memory, and the arrays that are part of the program."""

    forward: Any
    constants: Mapping[str, np.ndarray]


@functools.cache
def facts(origin: Origin) -> Facts:
    """What a module is: its tensors, widths, strides and layers.

    Raises:
        BobError: there is no such module, or it is not an image backbone.
    """
    torch = import_library("torch")
    device = "meta" if origin.source.startswith(TIMM) else "cpu"  # a user's function may load what it needs
    with torch.device(device), torch.no_grad():
        module = make(origin).eval()
        side = origin.input_size
        try:
            pooled, maps = _forwarding(module)(torch.zeros(2, 3, side, side))
        except BobError as error:
            raise BobError(f"{origin.source}: {error}") from error
        except Exception as error:
            raise BobError(f"{origin.source} fails on images [2, 3, {side}, {side}]: {first_line(error)}") from error
        strides = _strides(module, maps, side, origin.source)
        side_multiple = _side_multiple(module, strides, side)
    if pooled.ndim != 2 or len(pooled) != 2:
        raise BobError(f"{origin.source} gives a descriptor {tuple(pooled.shape)} for 2 images: it must be [2, D]")
    stored = set(module.state_dict())
    trained = {name: tuple(x.shape) for name, x in module.named_parameters() if x.requires_grad}
    fixed = {name: tuple(x.shape) for name, x in module.named_parameters() if not x.requires_grad}
    statistics = {
        name: tuple(x.shape) for name, x in module.named_buffers() if name in stored and x.is_floating_point()
    }
    if not trained:
        raise BobError(f"{origin.source} has no parameters")
    layers = _layers(module, [*fixed, *statistics])
    return Facts(
        trained,
        fixed,
        statistics,
        frozenset(stored - {*trained, *fixed, *statistics}),
        pooled.shape[1],
        strides,
        tuple(x.shape[1] for x in maps),
        side_multiple,
        layers,
        1 + max(layers.values()),
    )


def size(known: Facts) -> int:
    """Number of parameters, those without gradient included."""
    return sum(math.prod(shape) for group in (known.parameters, known.fixed) for shape in group.values())


@functools.cache
def program(origin: Origin) -> Program:
    """The module itself, built once a process; its own weights are given up, those of the backbone take their place."""
    torch = import_library("torch")
    module = make(origin)
    known = facts(origin)
    state = {*known.parameters, *known.fixed, *known.statistics}
    constants = {name: tensor.numpy() for name, tensor in _tensors(module) if name not in state}
    for name, tensor in _tensors(module):
        if name in state:
            tensor.data = torch.empty(0, dtype=tensor.dtype)  # in place: what shares a tensor goes on sharing it
    return Program(_forwarding(module), constants)


def make(origin: Origin) -> Any:
    """A new `torch.nn.Module` without classifier, with the weights that its constructor draws.

    Raises:
        BobError: there is no such module, or its function fails.
    """
    if origin.source.startswith(TIMM):
        return make_timm(origin)
    torch = import_library("torch")
    module = own.call(origin.source, origin.sha256, drop_path=origin.drop_path)
    if not isinstance(module, torch.nn.Module):
        raise BobError(f"{origin.source} returns {type(module).__name__}, not a torch.nn.Module")
    if hasattr(module, "reset_classifier"):
        module.reset_classifier(0)
    return module


def make_timm(origin: Origin, **more: Any) -> Any:
    """A timm model, told of the input size and the drop path rate where its constructor knows them.

    Args:
        origin: the model.
        more: further arguments of `timm.create_model`.

    Raises:
        BobError: timm has no such model, or cannot build it so.
    """
    timm = import_library("timm")
    name = origin.source.removeprefix(TIMM)
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    size = {"img_size": origin.input_size} if origin.input_size != timm.get_pretrained_cfg(name).input_size[-1] else {}
    drop = {"drop_path_rate": origin.drop_path} if origin.drop_path else {}
    for options in (size | drop, drop, size, {}):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return timm.create_model(name, **{"num_classes": 0, **options, **more})
        except TypeError as error:  # the constructor does not know one of them: the next options are fewer
            if not options:
                raise BobError(f"{origin.source} cannot be built: {first_line(error)}") from error
        except Exception as error:
            raise BobError(f"{origin.source} of {origin.input_size} pixels: {_all_lines(error)}") from error
    raise AssertionError("the last of the options is none")


def is_module(thing: object) -> bool:
    """Whether something is a `torch.nn.Module`; False where torch is not even loaded."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.nn.Module)


def has_linear_classifier(origin: Origin, name: str) -> bool:
    """Whether the classifier of a timm model is one linear layer on its descriptor.

    LeViT for instance has a batch norm between the two: its linear layer alone gives other class scores.

    Args:
        origin: the model.
        name: of its classifier.
    """
    torch = import_library("torch")
    with torch.device("meta"), torch.no_grad():
        model = make_timm(origin, num_classes=2).eval()
        layer = model.get_submodule(name)
        found = model.forward_features(torch.zeros(2, 3, origin.input_size, origin.input_size))
        called: set[Any] = set()
        for module in model.modules():
            if next(module.parameters(recurse=False), None) is not None:
                module.register_forward_hook(lambda module, *_: called.add(module))
        model.forward_head(found, pre_logits=True)
        before = set(called)
        model.forward_head(found)
    return isinstance(layer, torch.nn.Linear) and called - before == {layer}


def evaluate(
    origin: Origin, arrays: Mapping[str, np.ndarray], images: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """What PyTorch itself computes with these weights: images [B, 3, H, W] -> descriptor [B, D], maps [B, C, h, w]."""
    torch = import_library("torch")
    program = reference(origin)
    fill(program, arrays)
    with torch.no_grad():
        pooled, maps = program(torch.from_numpy(np.array(images)))
    return pooled.numpy(), [x.numpy() for x in maps]


def reference(origin: Origin) -> Any:
    """The PyTorch program itself, in evaluation mode: images [B, 3, H, W] -> (descriptor [B, D], maps [B, C, h, w])."""
    return _forwarding(make(origin)).eval()


def fill(reference: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Puts weights and statistics, under their PyTorch names, into what `reference` gave."""
    torch = import_library("torch")
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    reference.module.load_state_dict({**reference.module.state_dict(), **tensors})


def initial(origin: Origin, seed: int) -> dict[str, np.ndarray]:
    """Fresh weights and statistics, as the module's own constructor draws them from PyTorch's generator."""
    torch = import_library("torch")
    known = facts(origin)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make(origin)
    state = {*known.parameters, *known.fixed, *known.statistics}
    return {name: x.detach().float().numpy().copy() for name, x in _tensors(module) if name in state}


def run(
    origin: Origin,
    state: Mapping[str, jax.Array],
    images: jax.Array,
    *,
    train: bool,
    key: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...], dict[str, jax.Array]]:
    """The module on JAX arrays, inside or outside of `jax.jit`.

    Args:
        origin: the module.
        state: every parameter and statistic by name, in the dtype to compute in.
        images: [B, 3, H, W].
        train: PyTorch's training mode.
        key: of dropout and drop path.

    Returns:
        Descriptor [B, D]; maps [B, C, h, w]; the statistics that training changed, by name.

    Raises:
        BobError: the module does not run through torchax, or not on images of this size.
    """
    env = environment()
    torch = import_library("torch")
    from torchax.tensor import OperatorNotFound, Tensor

    dtype = images.dtype
    with _running, warnings.catch_warnings(), jax.numpy_rank_promotion("allow"), torch.no_grad():
        warnings.simplefilter("ignore")  # int64 becomes int32, which says so each time
        known = program(origin)
        constants = {
            name: jnp.asarray(value, dtype if value.dtype.kind == "f" else None)
            for name, value in known.constants.items()
        }
        # `functional_call` writes into these names what the module does to its tensors in place.
        tensors = {f"module.{name}": Tensor(value, env) for name, value in {**constants, **state}.items()}
        known.forward.train(train)
        try:
            with env, env.override_property(prng=key), torch.device("jax"):
                pooled, maps = torch.func.functional_call(known.forward, tensors, (Tensor(images, env),))
            changed = {
                name: tensors[f"module.{name}"].jax()
                for name in facts(origin).statistics
                if train and tensors[f"module.{name}"].jax() is not state[name]
            }
            return pooled.jax(), tuple(x.jax() for x in maps), changed
        except BobError as error:
            raise BobError(f"{origin.source}: {error}") from error
        except OperatorNotFound as error:
            operator = str(error).removeprefix("Operator with name ").removesuffix(" has no lowering")
            raise BobError(f"{origin.source} uses the operator {operator}, which torchax has not in JAX") from error
        except Exception as error:
            raise BobError(
                f"{origin.source} does not run through torchax on images {images.shape}: {first_line(error)}"
            ) from error


def _forwarding(module: Any) -> Any:
    """The module under the name `module` in one whose output is always (descriptor, maps)."""
    torch = import_library("torch")
    indices = _feature_indices(module)

    class Forward(torch.nn.Module):  # type: ignore[name-defined]
        gives_features = True

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, images: Any) -> tuple[Any, Sequence[Any]]:
            if indices:
                final, maps = self.module.forward_intermediates(images, indices=list(indices), output_fmt="NCHW")
                return self.module.forward_head(final, pre_logits=True), maps
            return _read(self.module(images))

    return Forward()


def _read(output: Any) -> tuple[Any, Sequence[Any]]:
    """Descriptor and maps of what a module without timm's interface returns.

    Raises:
        BobError: none of the three forms that are understood.
    """
    torch = import_library("torch")
    if isinstance(output, torch.Tensor) and output.ndim == 2:
        return output, ()
    if isinstance(output, torch.Tensor) and output.ndim == 4:
        return output.mean((2, 3)), (output,)
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], list | tuple):
        return output[0], tuple(output[1])
    shape = f"a tensor {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
    raise BobError(f"the module returns {shape}: return [B, D], or [B, C, h, w], or ([B, D], list of [B, C, h, w])")


def _feature_info(module: Any) -> list[dict[str, Any]]:
    """timm's table of the module's features: width, stride and place of each; empty for other modules."""
    info = getattr(module, "feature_info", None)
    if not hasattr(module, "forward_intermediates") or info is None:
        return []
    return list(info) if isinstance(info, list) else info.get_dicts()


def _feature_indices(module: Any) -> tuple[int, ...]:
    """Of each stride from 4 on the last feature, finest first."""
    last = {one["reduction"]: index for index, one in enumerate(_feature_info(module)) if one["reduction"] >= FINEST}
    return tuple(last[stride] for stride in sorted(last))


def _strides(module: Any, maps: Sequence[Any], side: int, source: str) -> tuple[int, ...]:
    """Strides of the maps: timm's own figure, else by the size of the map; both must fit what was measured."""
    info, indices = _feature_info(module), _feature_indices(module)
    strides = [info[index]["reduction"] for index in indices] or [round(side / x.shape[-1]) for x in maps]
    for stride, x in zip(strides, maps, strict=True):
        if x.ndim != 4 or x.shape[-1] not in (side // stride, -(-side // stride)):
            raise BobError(f"{source}: a map {tuple(x.shape)} of {side} pixels is not [B, C, {side}/{stride}, ...]")
    return tuple(strides)


def _side_multiple(module: Any, strides: tuple[int, ...], side: int) -> int:
    """`Facts.side_multiple`; some models accept another size and then say that two of their shapes do not agree."""
    if not strides:
        return 0
    torch = import_library("torch")
    other = strides[-1] * (side // strides[-1] + 1)
    try:
        _, maps = _forwarding(module)(torch.zeros(1, 3, other, other))
    except Exception:  # whatever a module of someone else's says of a size it does not know
        return 0
    return strides[-1] if all(x.shape[-1] == other // one for x, one in zip(maps, strides, strict=True)) else 0


def _tensors(module: Any) -> Iterable[tuple[str, Any]]:
    """Every tensor of a module by name: parameters, buffers, and what stands as a plain attribute."""
    torch = import_library("torch")
    yield from module.named_parameters()
    yield from module.named_buffers()
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                yield (f"{prefix}.{name}" if prefix else name), value


def _layers(module: Any, others: Iterable[str]) -> dict[str, int]:
    """The layer of every parameter and of `others`, counted from the stem without gaps."""
    names = [name for name, _ in module.named_parameters()]
    found = _timm_layers(module) or _layers_by_order(module, names)
    used = {layer: number for number, layer in enumerate(sorted(set(found.values())))}
    layers = {name: used[layer] for name, layer in found.items()}
    for name in set(others) - set(layers):
        owner = name
        while owner and not (near := [layers[other] for other in names if other.startswith(f"{owner}.")]):
            owner = owner.rpartition(".")[0]
        layers[name] = max(near) if owner else 0
    return layers


def _timm_layers(module: Any) -> dict[str, int]:
    """timm's own assignment for layer decay; empty for a module that makes none."""
    if not hasattr(module, "group_matcher"):
        return {}
    from timm.models import group_parameters

    try:
        matcher = module.group_matcher(coarse=False)
    except (AssertionError, NotImplementedError):
        return {}  # so timm says that a model has none; then the order of modules counts
    found: dict[str, int] = group_parameters(module, matcher, reverse=True)
    return found


def _layers_by_order(module: Any, names: Sequence[str]) -> dict[str, int]:
    """One layer a child in the order they were made; the parts of a list or sequence are children themselves."""
    units: list[str] = []

    def visit(part: Any, prefix: str) -> None:
        for name, child in part.named_children():
            if type(child).__name__ in ("Sequential", "ModuleList", "ModuleDict"):
                visit(child, f"{prefix}{name}.")
            else:
                units.append(f"{prefix}{name}.")

    visit(module, "")
    return {name: next((number for number, unit in enumerate(units, 1) if name.startswith(unit)), 0) for name in names}


def _all_lines(error: BaseException) -> str:
    """What an exception says, all of it that fits a line: timm's loader lists the names that do not fit."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"


def first_line(error: BaseException) -> str:
    """What an exception says, short enough for one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
