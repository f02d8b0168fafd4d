"""timm, the reference of the parity tests, importable also beside a CPU-only torch."""

from types import ModuleType

from bob_jax.backbones.pytorch import import_library


def import_timm() -> ModuleType:
    """timm, or the error that says how to install it."""
    return import_library("timm")
