"""A feature map cut into square windows, and joined again: what transformers with local attention share."""

import math

import jax


def to_windows(x: jax.Array, window: int) -> jax.Array:
    """[B, H, W, C] as [B, M, window², C]: M windows row by row, the tokens of each row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, window**2, channels)


def to_map(x: jax.Array, height: int, width: int) -> jax.Array:
    """[B, M, window², C] as [B, H, W, C], the way back."""
    batch, _, tokens, channels = x.shape
    window = math.isqrt(tokens)
    x = x.reshape(batch, height // window, width // window, window, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)
