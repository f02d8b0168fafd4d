"""A feature map cut into square windows, and joined again: what transformers with local attention share."""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bob_jax.errors import BobError

RUNS = 4  # of a plain ViT's blocks, each closed by one with global attention (ViTDet, arXiv 2203.16527, section 3)


def to_windows(x: jax.Array, window: int) -> jax.Array:
    """[B, H, W, C] as [B, M, window², C]: M windows row by row, the tokens of each row by row.

    A side that `window` does not divide is padded with zeros at its end.
    """
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % window), (0, -x.shape[2] % window), (0, 0)))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, window**2, channels)


def to_map(x: jax.Array, height: int, width: int) -> jax.Array:
    """[B, M, window², C] as [B, H, W, C], the way back; padding is dropped."""
    batch, _, tokens, channels = x.shape
    window = math.isqrt(tokens)
    x = x.reshape(batch, -(-height // window), -(-width // window), window, window, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, x.shape[1] * window, x.shape[3] * window, channels)[:, :height, :width]


def in_windows(attend: Callable[[jax.Array], jax.Array], x: jax.Array, window: int) -> jax.Array:
    """Attention inside windows, [B, H, W, C] to [B, H, W, C].

    Where whole windows need padding it is attended to like any token, as in ViTDet and Segment Anything.

    Args:
        attend: attention of maps [N, window, window, C], each by itself.
        x: the normed map.
        window: side of a window in tokens.
    """
    windows = to_windows(x, window)
    out = attend(windows.reshape(-1, window, window, x.shape[3]))
    return to_map(out.reshape(windows.shape), x.shape[1], x.shape[2])


def attend(attention: Callable[[jax.Array], jax.Array], x: jax.Array, window: int) -> jax.Array:
    """Attention of a plain ViT's block: of [B, N, C] tokens or a map [B, H, W, C], to the same shape.

    Args:
        attention: of sequences [N, T, C], each by itself.
        x: the normed tokens; a map where `window` is not 0.
        window: side of a window in tokens; 0 attends over all tokens.
    """

    def flat(x: jax.Array) -> jax.Array:
        return attention(x.reshape(x.shape[0], -1, x.shape[-1])).reshape(x.shape)

    return in_windows(flat, x, window) if window else flat(x)


def of_blocks(depth: int, window: int, grid: tuple[int, int]) -> list[int]:
    """The window of each block of a plain ViT, 0 where it attends over the whole map.

    As in ViTDet the blocks are cut into four runs, as equal as can be, and the last of each is global. All are where
    one window would hold the whole grid: then there is nothing to cut, and padding would only disturb.

    Args:
        depth: number of blocks.
        window: side of a window in tokens; 0 makes all blocks global.
        grid: (h, w) tokens of the image.

    Raises:
        BobError: a negative window.
    """
    if window < 0:
        raise BobError(f"window {window} must be a number of tokens, or 0 for global attention")
    if window == 0 or window >= max(grid):
        return [0] * depth
    ends = [depth * run // RUNS for run in range(RUNS + 1)]
    return [0 if index + 1 == end else window for start, end in itertools.pairwise(ends) for index in range(start, end)]
