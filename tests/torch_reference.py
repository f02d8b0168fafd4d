"""timm, the reference of the parity tests, importable also beside a CPU-only torch.

torchvision's compiled operators do not load beside a CPU build of torch, and then `import timm` fails.
Classification models never call those operators: registering their names is enough.
"""

import contextlib
from types import ModuleType

TORCHVISION_OPERATORS = (  # noqa: SIM905
    "nms qnms roi_align _roi_align_backward ps_roi_align _ps_roi_align_backward roi_pool _roi_pool_backward "
    "ps_roi_pool _ps_roi_pool_backward qroi_align deform_conv2d _deform_conv2d_backward"
).split()
_library = None  # the registration lasts as long as this object


def import_timm() -> ModuleType:
    """timm, with torchvision's operator names registered first where the operators are missing."""
    global _library
    import warnings

    import torch

    if _library is None:
        _library = torch.library.Library("torchvision", "DEF")
        for name in TORCHVISION_OPERATORS:
            with contextlib.suppress(RuntimeError):  # already there: the real operators loaded
                _library.define(f"{name}(Tensor x) -> Tensor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
    return timm
