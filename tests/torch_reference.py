"""timm, the reference of the parity tests, importable also beside a CPU-only torch."""

from bob_jax.backbones.torchax_repair import import_timm

__all__ = ["import_timm"]
