"""What the submodules of a network return on the way, in Flax and in PyTorch."""

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any

from flax import nnx


def submodule(module: Any, path: str) -> Any:
    """The part of a Flax module at a dotted path, e.g. `blocks.0.attn`; None where the module has none there."""
    for name in path.split("."):
        module = module[int(name)] if name.isdecimal() else getattr(module, name)
    return module


@contextlib.contextmanager
def recorded(module: nnx.Module, paths: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Records what the submodules at these paths return while the block runs, also under a trace.

    Python looks `__call__` up on the class, so for that time the classes are wrapped; other instances pass through.
    """
    watched = {id(submodule(module, path)): (type(submodule(module, path)), path) for path in paths}
    seen: dict[str, Any] = {}

    def wrapped(call: Any) -> Any:
        @functools.wraps(call)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            output = call(self, *args, **kwargs)
            if id(self) in watched:
                seen[watched[id(self)][1]] = output
            return output

        return wrapper

    with contextlib.ExitStack() as undo:
        for kind in {kind for kind, _ in watched.values()}:
            if "__call__" in vars(kind):
                undo.callback(setattr, kind, "__call__", vars(kind)["__call__"])
            else:  # inherited
                undo.callback(delattr, kind, "__call__")
            setattr(kind, "__call__", wrapped(kind.__call__))  # noqa: B010  (mypy allows no assignment to a method)
        yield seen


@contextlib.contextmanager
def recorded_torch(module: Any, paths: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The same of a `torch.nn.Module`, of several outputs the first; copies, as an activation in place may follow."""
    seen: dict[str, Any] = {}

    def keep(path: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            seen[path] = (output[0] if isinstance(output, tuple) else output).detach().clone()

        return hook

    with contextlib.ExitStack() as undo:
        for path in paths:
            undo.callback(module.get_submodule(path).register_forward_hook(keep(path)).remove)
        yield seen
