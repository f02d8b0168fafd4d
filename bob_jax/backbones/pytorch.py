"""PyTorch libraries, imported when they are needed, also beside a build of torch that torchvision does not fit.

torchvision's compiled operators do not load beside a CPU-only torch from another index, and then `import timm` fails,
which imports torchvision. Backbones never call those operators: registering their names is enough.
"""

import contextlib
import importlib
import warnings
from typing import Any

from bob_jax.errors import BobError

TORCHVISION_OPERATORS = (  # noqa: SIM905
    "nms qnms roi_align _roi_align_backward ps_roi_align _ps_roi_align_backward roi_pool _roi_pool_backward "
    "ps_roi_pool _ps_roi_pool_backward qroi_align deform_conv2d _deform_conv2d_backward"
).split()
_registered: list[Any] = []  # the registration lasts as long as this object


def import_library(name: str) -> Any:
    """torch, timm, diffusers or another library that stands on torch.

    Raises:
        BobError: it is not installed, or does not work with the torch that is.
    """
    try:
        if not _registered:
            _registered.append(_torchvision_operators())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        raise BobError(f"this needs {name}, and it cannot be imported ({error}): {_how_to_install(name)}") from error


def _torchvision_operators() -> Any:
    """The operators' names, where the operators themselves did not load."""
    import torch

    with contextlib.suppress(ImportError, RuntimeError):
        importlib.import_module("torchvision")
        return None  # they fit: nothing to do
    library = torch.library.Library("torchvision", "DEF")
    for operator in TORCHVISION_OPERATORS:
        with contextlib.suppress(RuntimeError):  # this one is there
            library.define(f"{operator}(Tensor x) -> Tensor")
    return library


def _how_to_install(name: str) -> str:
    return "pip install 'bob_jax[bridge]'" if name in ("torch", "timm", "torchax") else f"pip install torch {name}"
