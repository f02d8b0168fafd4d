"""Stable Diffusion (Rombach et al. 2022, arXiv 2112.10752) as a backbone: what its U-Net knows of a clean image.

The image goes through the autoencoder's encoder, and its latents, without noise and at timestep 0, through the U-Net's
down path and middle, which attend to a constant text. The up path and the decoder are not built.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones import parameters
from bob_jax.backbones.base import Backbone, Features
from bob_jax.backbones.layers import Fixed, compute_dtype, drop_path_ramp, normalise_groups
from bob_jax.backbones.unet_encoder import UNetEncoder
from bob_jax.backbones.vae_encoder import LEVELS, VAEEncoder
from bob_jax.errors import BobError

CONTEXT_TOKENS = 77  # length of CLIP's text
LATENT_STRIDE = 2 ** (LEVELS - 1)


class StableDiffusionEncoder(Backbone):
    """Stable Diffusion's encoder, v1 and v2, on images with pixels in [-1, 1] (mean and std 0.5).

    The publisher defines no descriptor. As in Battle of the Backbones (arXiv 2310.19909), `pooled` is the mean over
    the positions of the middle's map after a fresh group norm, and each map is handed out after one too: the residual
    streams have no common scale. Theirs has a scale of 1 and a bias of 0 per channel that training may move. Here it
    has neither: there is nothing to load, and the first layer of any head, being linear, can hold both.

    Maps: the autoencoder's behind its second level (stride 4), the U-Net's before each halving of the resolution (8,
    16, 32) and the middle's (64). Sides of the input must be divisible by 8, as the publisher's own pipeline demands;
    where a halving meets an odd side, half of it is rounded up: 224 pixels give 28, 14, 7, 4.

    The embedding of the text is fixed state: stored with the weights (see `converters.stable_diffusion`), not trained.

    Layers for learning-rate decay: the first convolution is 0; then every residual block is one, in order, with the
    transformer and the strided convolution behind it, first the autoencoder's (its middle and last convolutions are
    one layer together), then the U-Net's (what stands before its first block belongs to that; its middle is one).

    Args:
        vae_widths: channels of the autoencoder's four levels.
        unet_widths: channels of the U-Net's levels; all but the last have transformers.
        num_heads: attention heads of the U-Net's levels; the middle has as many as the last.
        blocks: residual blocks in each level of both.
        context_features: width of the text's embedding.
        input_size: side of the square input that the weights are used with.
        drop_path: stochastic depth rate of the last branch; one linear ramp from 0 over all residual blocks. A
            transformer has the rate of the block before it.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights: PyTorch's defaults, and zeros, as the publisher has them, where the U-Net's
            residual blocks and transformers end. The text is noise of unit variance, as a layer norm leaves it.

    Raises:
        BobError: arguments that contradict each other.
    """

    def __init__(
        self,
        *,
        vae_widths: Sequence[int] = (128, 256, 512, 512),
        unet_widths: Sequence[int] = (320, 640, 1280, 1280),
        num_heads: Sequence[int] = (8, 8, 8, 8),
        blocks: int = 2,
        context_features: int = 768,
        input_size: int = 512,
        drop_path: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        _check_arguments(vae_widths, unet_widths, num_heads, input_size)
        self.blocks, self.levels, self.input_size = blocks, len(unet_widths), input_size
        self.feature_dim, self.side_multiple = unet_widths[-1], LATENT_STRIDE
        self.strides = (4, *(LATENT_STRIDE * 2**level for level in range(self.levels)))
        self.widths = (vae_widths[1], *unet_widths)
        self.first_unet_layer = LEVELS * blocks + 2  # behind the stem, the autoencoder's blocks and its middle
        self.num_layers = self.first_unet_layer + self.levels * blocks + 1
        self.dtype = dtype = compute_dtype(dtype)

        rates = iter(drop_path_ramp(drop_path, (LEVELS + self.levels) * blocks + 4))
        self.vae = VAEEncoder(vae_widths, blocks, rates, dtype=dtype, rngs=rngs)
        self.context = Fixed(jax.random.normal(rngs.params(), (CONTEXT_TOKENS, context_features)))
        self.unet = UNetEncoder(unet_widths, num_heads, blocks, context_features, rates, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> Features:
        """Features of [B, H, W, 3] images; `pooled` is [B, D] float32."""
        height, width = images.shape[1:3]
        if height % LATENT_STRIDE or width % LATENT_STRIDE:
            raise BobError(
                f"Stable Diffusion: input of {height}x{width} pixels is not divisible by {LATENT_STRIDE}: "
                f"resize the images to a multiple of it, e.g. {self.input_size}"
            )
        latents, fine = self.vae(images, rngs=rngs)
        maps = [normalise_groups(x, 1e-5) for x in (fine, *self.unet(latents, self.context[...][None], rngs=rngs))]
        return Features(jnp.mean(maps[-1], axis=(1, 2)), tuple(x.astype(self.dtype) for x in maps))

    def layer_of(self, path: str) -> int:
        """The layer of a parameter for learning-rate decay; see the class."""
        parameters.variable(self, path)
        part, _, rest = path.partition(".")
        if part == "vae":
            return self._block(rest, first=1, levels=LEVELS, stem=0)
        return self._block(rest, first=self.first_unet_layer, levels=self.levels, stem=self.first_unet_layer)

    def _block(self, path: str, *, first: int, levels: int, stem: int) -> int:
        """The layer within the autoencoder or the U-Net, whose first residual block is layer `first`."""
        part, *rest = path.split(".")
        if part == "down_blocks":
            index = self.blocks - 1 if rest[1] == "downsample" else int(rest[2])
            return first + int(rest[0]) * self.blocks + index
        behind = ("mid_block", "conv_norm_out", "conv_out", "quant_conv")
        return first + levels * self.blocks if part in behind else stem


def _check_arguments(
    vae_widths: Sequence[int], unet_widths: Sequence[int], num_heads: Sequence[int], input_size: int
) -> None:
    if len(vae_widths) != LEVELS:
        raise BobError(f"Stable Diffusion: vae_widths {tuple(vae_widths)} must be {LEVELS} numbers of channels")
    if len(unet_widths) < 2 or len(num_heads) != len(unet_widths):
        raise BobError(
            f"Stable Diffusion: unet_widths {tuple(unet_widths)} and num_heads {tuple(num_heads)} must have an entry "
            "for each level, of which there are at least two"
        )
    if input_size % LATENT_STRIDE:
        raise BobError(f"Stable Diffusion: input_size {input_size} is not divisible by {LATENT_STRIDE}")
