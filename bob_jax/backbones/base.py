"""What every backbone is: a Flax NNX module from normalised images to a descriptor and feature maps."""

import abc
from typing import NamedTuple

import jax
from flax import nnx
from jax.typing import DTypeLike


class Features(NamedTuple):
    """What a backbone says about a batch of images.

    Attributes:
        pooled: [B, D] float; the descriptor that the checkpoint's authors define, before any classifier.
        maps: feature maps [B, H/s, W/s, C], finest first; stride s and width C of each stand on the module.
    """

    pooled: jax.Array
    maps: tuple[jax.Array, ...]


class Backbone(nnx.Module):
    """Base of all backbones.

    A call without `rngs` is evaluation: running batch statistics, no drop path, the module is not changed.
    A call with `rngs` is training: batch statistics of this batch (and the running ones are updated), drop path drawn
    from `rngs`. There is no hidden mode, and no random state inside the module: its state is `nnx.Param` and
    `nnx.BatchStat` only, so it is the same tree in training, evaluation and on disk.

    Attributes (static):
        feature_dim: D, the width of `Features.pooled`.
        input_size: side in pixels of the square input it was built for.
        strides: stride of each feature map, finest first.
        widths: channels of each feature map.
        num_layers: layers for layer-wise learning-rate decay, counted from the stem (0) to the last block.
        dtype: of the computation; parameters are float32.
    """

    feature_dim: int
    input_size: int
    strides: tuple[int, ...]
    widths: tuple[int, ...]
    num_layers: int
    dtype: DTypeLike

    @abc.abstractmethod
    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of normalised images.

        Args:
            images: [B, H, W, 3] float, normalised with the card's mean and std.
            rngs: randomness for drop path, given in training only.
        """

    @abc.abstractmethod
    def layer_of(self, path: str) -> int:
        """The layer, in [0, num_layers), of the parameter with this dotted path, for learning-rate decay.

        Raises:
            KeyError: this architecture has no such parameter.
        """
