"""Battle of the Backbones in JAX: which pretrained vision backbone is best, for what, and how sure are we."""

__version__ = "0.1.0"
