"""Text towers of CLIP (Radford et al. 2021, arXiv 2103.00020) and SigLIP (2303.15343), with what joins text and image.

    logit = exp(logit_scale) cos(text, image_proj(descriptor)) + logit_bias

The blocks are the Vision Transformer's. A CLIP tower is causal and says what its end token knows; a SigLIP tower sees
the whole text, padding too, and says what its last position knows. Attribute names follow `vit.ViT`.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones.layers import LayerNorm, Linear, compute_dtype
from bob_jax.backbones.vit import Block
from bob_jax.errors import BobError, unknown_name

KINDS = ("clip", "siglip")
IMAGE_PROJECTIONS = ("none", "linear", "affine")


class TextTower(nnx.Module):
    """From tokens to the joint space of texts and images.

    Attributes:
        image_proj: from the backbone's descriptor to the joint space; None where the descriptor lies in it.
        logit_scale: [] logarithm of what cosines are multiplied by.
        logit_bias: [] added to that; None for CLIP.

    Args:
        kind: "clip": causal, read at the end token, which has the highest number; norms of epsilon 1e-5 and no bias in
            the projection. "siglip": not causal, read at the last position; 1e-6, and a bias.
        width: C, channels of a token.
        depth: number of blocks.
        num_heads: attention heads of each block.
        mlp_ratio: hidden width of the perceptron over `width`, the product rounded down.
        vocabulary: number of tokens.
        context: positions; a text is cut off there.
        joint_dim: E, width of the joint space.
        activation: as of `vit.ViT`.
        image_projection: "none", "linear", or "affine" with a bias.
        image_dim: D, width of the backbone's descriptor.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU.
        rngs: for the initial weights.

    Raises:
        BobError: arguments that contradict each other.
    """

    def __init__(
        self,
        *,
        kind: Literal["clip", "siglip"],
        width: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        vocabulary: int,
        context: int,
        joint_dim: int,
        activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu",
        image_projection: Literal["none", "linear", "affine"] = "none",
        image_dim: int,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if kind not in KINDS:
            raise unknown_name("kind of text tower", kind, KINDS)
        if image_projection not in IMAGE_PROJECTIONS:
            raise unknown_name("image_projection", image_projection, IMAGE_PROJECTIONS)
        if width % num_heads:
            raise BobError(f"TextTower: width {width} is not divisible by num_heads {num_heads}")
        if image_projection == "none" and image_dim != joint_dim:
            raise BobError(
                f"TextTower: image_dim {image_dim} is not joint_dim {joint_dim}: the image needs a projection"
            )
        self.kind, self.width, self.context, self.vocabulary = kind, width, context, vocabulary
        self.joint_dim, self.image_dim = joint_dim, image_dim
        self.dtype = dtype = compute_dtype(dtype)
        causal, epsilon = (True, 1e-5) if kind == "clip" else (False, 1e-6)

        self.token_embed = nnx.Param(0.02 * jax.random.normal(rngs.params(), (vocabulary, width)))
        self.pos_embed = nnx.Param(0.01 * jax.random.normal(rngs.params(), (context, width)))
        self.blocks = nnx.List(
            Block(
                width,
                num_heads,
                int(width * mlp_ratio),
                activation=activation,
                qkv_bias=True,
                layer_scale=None,
                epsilon=epsilon,
                drop_path=0.0,
                causal=causal,
                dtype=dtype,
                rngs=rngs,
            )
            for _ in range(depth)
        )
        self.norm = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.proj = Linear(width, joint_dim, bias=kind == "siglip", dtype=dtype, rngs=rngs)
        self.image_proj = (
            None
            if image_projection == "none"
            else Linear(image_dim, joint_dim, bias=image_projection == "affine", dtype=dtype, rngs=rngs)
        )
        # The authors' starts: a temperature of 0.07, and for SigLIP 0.1 and a bias that makes most pairs no match.
        self.logit_scale = nnx.Param(jnp.log(1 / 0.07 if kind == "clip" else 10.0))
        self.logit_bias = None if kind == "clip" else nnx.Param(jnp.array(-10.0))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[B, N] int32 tokens, N at most `context`, to [B, E] float32 embeddings of no particular length.

        A text of a CLIP tower may be cut off behind its end token, where nothing can reach back; a SigLIP tower needs
        all of `context`.
        """
        if tokens.shape[1] > self.context or (self.kind == "siglip" and tokens.shape[1] != self.context):
            raise BobError(f"TextTower: texts of {tokens.shape[1]} tokens where its positions are {self.context}")
        x = self.token_embed[...][tokens].astype(self.dtype)
        x = x + self.pos_embed[...][None, : tokens.shape[1]].astype(self.dtype)
        for block in self.blocks:
            x = block(x, rngs=None)
        x = self.norm(x)
        if self.kind == "clip":
            x = jnp.take_along_axis(x, jnp.argmax(tokens, axis=1)[:, None, None], axis=1)[:, 0]
        else:
            x = x[:, -1]
        return self.proj(x).astype(jnp.float32)
