"""Rotary position embedding on the two axes of an image (RoFormer, arXiv 2104.09864; for images arXiv 2403.13298).

Half of a head's channel pairs turn with the row of a token, the other half with its column, each pair at a frequency
of its own. Nothing is learned, so that a table is computed for whatever grid an image has, and never stored.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Rotary:
    """How one family of models turns its queries and keys.

    Along an axis of n tokens, token i stands at (i + offset) / n * span + shift, and pair j of an axis' m pairs turns
    by `turn` * position / temperature^(j / m).

    Attributes:
        offset: of the token index.
        span: length onto which every grid is scaled, whatever its size; None is the grid that the model was built for.
        shift: of the scaled position.
        turn: angle of a unit of length at the first frequency, in radians.
        temperature: ratio of the first frequency to the one that would follow the last.
        columns_first: the first half of the pairs turns with the column.
        interleaved: channels 2j and 2j + 1 are a pair; else channels j and j + D / 2 are (rotate-half).
    """

    offset: float = 0.0
    span: float | None = None
    shift: float = 0.0
    turn: float = 1.0
    temperature: float = 10000.0
    columns_first: bool = False
    interleaved: bool = True

    def tables(
        self, grid: tuple[int, int], built_for: tuple[int, int], head_dim: int, num_prefix_tokens: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and sine of every token's angles, for `rotate`.

        Args:
            grid: (h, w) tokens of the image.
            built_for: (h, w) of the model's own input size.
            head_dim: D, channels of a head; divisible by 4.
            num_prefix_tokens: P, tokens before the patches; they stand nowhere and are not turned.

        Returns:
            Two arrays [P + h * w, D / 2], float32.
        """
        pairs = head_dim // 4
        frequencies = self.turn * self.temperature ** (-np.arange(pairs) / pairs)
        axes = [
            ((np.arange(n) + self.offset) / n * (span if self.span is None else self.span) + self.shift)
            for n, span in zip(grid, built_for, strict=True)
        ]
        rows_and_columns = np.meshgrid(*axes, indexing="ij")
        order = (1, 0) if self.columns_first else (0, 1)
        angles = np.concatenate([rows_and_columns[axis].reshape(-1, 1) * frequencies for axis in order], axis=1)
        angles = np.pad(angles, ((num_prefix_tokens, 0), (0, 0)))
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def rotate(self, x: jax.Array, tables: tuple[np.ndarray, np.ndarray]) -> jax.Array:
        """Turns the channel pairs of [B, N, ..., D] queries or keys, in float32."""
        shape = (1, x.shape[1], *(1,) * (x.ndim - 3), -1)
        cos, sin = (table.reshape(shape) for table in tables)
        x32 = x.astype(jnp.float32)
        first, second = (x32[..., 0::2], x32[..., 1::2]) if self.interleaved else jnp.split(x32, 2, axis=-1)
        turned = first * cos - second * sin, second * cos + first * sin
        y = jnp.stack(turned, axis=-1).reshape(x.shape) if self.interleaved else jnp.concatenate(turned, axis=-1)
        return y.astype(x.dtype)


ROTARY = {
    # EVA-02 (arXiv 2303.11331): every grid is scaled onto the 16 x 16 one of its pretraining.
    "eva02": Rotary(span=16.0),
    # Perception Encoder (arXiv 2504.13181): counted from 1, and scaled onto the grid of the checkpoint's input size.
    "pe": Rotary(offset=1.0, columns_first=True),
    # DINOv3 (arXiv 2508.10104): centres of the patches, each axis scaled onto [-1, 1], one turn per unit.
    "dinov3": Rotary(offset=0.5, span=2.0, shift=-1.0, turn=2 * math.pi, temperature=100.0, interleaved=False),
}
