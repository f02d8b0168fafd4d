"""CLIP's text tower (Radford et al. 2021, arXiv 2103.00020), for embeddings that are computed once and stored.

In float64 numpy, apart from the backbones: a conversion must give the same weights on every machine, and what a float32
matrix product leaves in the last digits depends on the processor. It runs once in the life of a checkpoint, in seconds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from scipy.special import erf, expit

from bob_jax.errors import BobError
from converters.rules import summarise

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))),
    "quick_gelu": lambda x: x * expit(1.702 * x),
}
EPSILON = 1e-5
HEAD_DIM = 64  # of every CLIP
BLOCK = ("layer_norm1", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
         "layer_norm2", "mlp.fc1", "mlp.fc2")  # fmt: skip


def last_hidden_state(arrays: Mapping[str, np.ndarray], tokens: Sequence[int], activation: str) -> np.ndarray:
    """What the tower says of each token of a text, after the final norm.

    A tower without its last block gives the penultimate state of the whole one, normalised: what OpenCLIP's towers are
    read out at in Stable Diffusion v2, and how v2 is published.

    Args:
        arrays: transformers' `CLIPTextModel`, names from `embeddings` on; any float dtype.
        tokens: [N] identifiers, start and end tokens included.
        activation: "quick_gelu" for OpenAI's towers, "gelu" for OpenCLIP's.

    Returns:
        [N, width] float64.

    Raises:
        BobError: arrays are missing, or there are others.
    """
    depth = depth_of(arrays)
    layers = [f"encoder.layers.{index}.{part}" for index in range(depth) for part in BLOCK]
    wanted = {f"{layer}.{leaf}" for layer in (*layers, "final_layer_norm") for leaf in ("weight", "bias")}
    wanted |= {f"embeddings.{kind}_embedding.weight" for kind in ("token", "position")}
    if wanted != set(arrays):
        raise BobError(
            f"no CLIP text tower: {summarise(sorted(wanted - set(arrays))) or 'nothing'} missing, "
            f"{summarise(sorted(set(arrays) - wanted)) or 'nothing'} not known"
        )
    tower = {name: np.asarray(array, np.float64) for name, array in arrays.items() if "token_embedding" not in name}
    table = np.asarray(arrays["embeddings.token_embedding.weight"])
    x = table[list(tokens)].astype(np.float64) + tower["embeddings.position_embedding.weight"][: len(tokens)]
    for index in range(depth):
        x = _block(x, tower, f"encoder.layers.{index}", ACTIVATIONS[activation])
    return _norm(x, tower, "final_layer_norm")


def depth_of(arrays: Iterable[str]) -> int:
    """The number of blocks of a tower with these names."""
    return len({name.split(".")[2] for name in arrays if name.startswith("encoder.layers.")})


def _block(
    x: np.ndarray, tower: Mapping[str, np.ndarray], name: str, activation: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Causal attention and perceptron, each a pre-norm residual branch: [N, C] to [N, C]."""
    y = _norm(x, tower, f"{name}.layer_norm1")
    query, key, value = (
        _linear(y, tower, f"{name}.self_attn.{part}_proj").reshape(len(x), -1, HEAD_DIM).swapaxes(0, 1)
        for part in ("q", "k", "v")
    )
    logits = query @ key.swapaxes(1, 2) / np.sqrt(HEAD_DIM)
    logits = np.where(np.tri(len(x), dtype=bool), logits, -np.inf)  # no token sees a later one
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ value
    x = x + _linear(mixed.swapaxes(0, 1).reshape(x.shape), tower, f"{name}.self_attn.out_proj")
    hidden = activation(_linear(_norm(x, tower, f"{name}.layer_norm2"), tower, f"{name}.mlp.fc1"))
    return x + _linear(hidden, tower, f"{name}.mlp.fc2")


def _linear(x: np.ndarray, tower: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return x @ tower[f"{name}.weight"].T + tower[f"{name}.bias"]


def _norm(x: np.ndarray, tower: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    factor = 1 / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + EPSILON)
    return centred * factor * tower[f"{name}.weight"] + tower[f"{name}.bias"]
