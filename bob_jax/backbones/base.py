"""What every backbone is: a Flax NNX module from normalised images to a descriptor and feature maps."""

import abc
from typing import NamedTuple

import jax
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones import parameters
from bob_jax.errors import BobError

AFTER_BLOCKS = ("norm", "fc_norm", "attn_pool", "neck")  # parts of a `BlockedBackbone`


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
        side_multiple: inputs work whose sides are multiples of it (and not smaller than the last stride); 0: no other
            size than `input_size` is promised.
        num_layers: layers for layer-wise learning-rate decay, counted from the stem (0) to the last block.
        dtype: of the computation; parameters are float32.
    """

    feature_dim: int
    input_size: int
    strides: tuple[int, ...]
    widths: tuple[int, ...]
    side_multiple: int = 0
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


class BlockedBackbone(Backbone):
    """Base of those whose depth is one list, `blocks`: block i is layer i + 1, what stands before it 0.

    What stands behind the blocks belongs to the last one.
    """

    def layer_of(self, path: str) -> int:
        """The layer of a parameter for learning-rate decay; see the class."""
        parameters.variable(self, path)
        part, _, rest = path.partition(".")
        if part == "blocks":
            return int(rest.partition(".")[0]) + 1
        return self.num_layers - 1 if part in AFTER_BLOCKS else 0


def patch_grid(images: jax.Array, patch_size: int, backbone: Backbone) -> tuple[int, int]:
    """Rows and columns of patches in [B, H, W, 3] images.

    Raises:
        BobError: the patch size does not divide both sides.
    """
    height, width = images.shape[1:3]
    if height % patch_size or width % patch_size:
        raise BobError(
            f"{type(backbone).__name__}: input of {height}x{width} pixels is not divisible by the patch size "
            f"{patch_size}: resize the images to a multiple of it, e.g. {backbone.input_size}"
        )
    return height // patch_size, width // patch_size
