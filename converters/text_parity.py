"""Our text tower against OpenCLIP's, on the same published weights, block by block."""

import dataclasses
import functools
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bob_jax.backbones import parameters, zoo
from bob_jax.backbones.card import TextCard
from bob_jax.backbones.pytorch import import_library
from bob_jax.backbones.text import TextTower
from bob_jax.errors import BobError
from converters import cache
from converters.parity import Outputs, relative
from converters.receipt import Receipt, StageError
from converters.stages import recorded, recorded_torch

TEXTS = 4


def verify(card: TextCard, original: cache.Original) -> Receipt:
    """Converts the original weights, compares both implementations on them, and writes the figures into the receipt.

    Raises:
        BobError: the weights cannot be had, do not fit either side, or OpenCLIP is missing.
    """
    arrays, receipt = cache.convert(card, original)
    reference = _reference(card)
    _fill(reference, original.read(), original.source)
    tokens = random_texts(card)
    found: dict[str, Outputs] = {}
    for name, ours, theirs in (("full", jnp.float32, "float32"), ("half", jnp.bfloat16, "bfloat16")):
        tower = zoo.text_skeleton(card, dtype=ours)
        parameters.assign(tower, arrays, where=original.source)
        found[name] = _outputs(tower, tokens)
        found[f"their {name}"] = _reference_outputs(reference, tokens, theirs)
    exact = found["their full"]
    parity = tuple(
        StageError(
            tokens.shape[1],
            stage,
            relative(found["full"][stage], exact[stage]),
            relative(found["half"][stage], exact[stage]),
            relative(found["their half"][stage], exact[stage]),
            relative(found["half"][stage], found["their half"][stage]),
        )
        for stage in exact
    )
    receipt = dataclasses.replace(
        receipt,
        parity=parity,
        verified=datetime.now(UTC).isoformat(timespec="seconds"),
        libraries=receipt.libraries | {name: version(name) for name in ("torch", "open_clip_torch")},
    )
    cache.save(card, arrays, receipt)
    return receipt


def random_texts(card: TextCard) -> np.ndarray:
    """[B, N] int32; those of CLIP end at different places, with the highest token."""
    arguments, rng = card.arguments, np.random.default_rng(0)
    tokens = rng.integers(0, arguments["vocabulary"] - 1, (TEXTS, arguments["context"]), np.int32)
    if arguments["kind"] == "clip":
        for row, end in zip(tokens, np.linspace(1, arguments["context"] - 1, TEXTS).astype(int), strict=True):
            row[end], row[end + 1 :] = arguments["vocabulary"] - 1, card.padding
    return tokens


def _reference(card: TextCard) -> Any:
    """OpenCLIP's tower for the card's arguments, with weights of its own."""
    open_clip, torch = import_library("open_clip"), import_library("torch")
    arguments = card.arguments
    siglip = arguments["kind"] == "siglip"
    activations = {
        "gelu": torch.nn.GELU,
        "gelu_tanh": functools.partial(torch.nn.GELU, approximate="tanh"),
        "quick_gelu": open_clip.transformer.QuickGELU,
    }
    tower = open_clip.transformer.TextTransformer(
        context_length=arguments["context"],
        vocab_size=arguments["vocabulary"],
        width=arguments["width"],
        heads=arguments["num_heads"],
        layers=arguments["depth"],
        mlp_ratio=arguments.get("mlp_ratio", 4.0),
        output_dim=arguments["joint_dim"],
        no_causal_mask=siglip,
        pool_type="last" if siglip else "argmax",
        proj_bias=siglip,
        act_layer=activations[arguments["activation"]],
        norm_layer=functools.partial(open_clip.transformer.LayerNorm, eps=1e-6 if siglip else 1e-5),
    )
    return tower.eval()


def _fill(tower: Any, arrays: dict[str, np.ndarray], what: str) -> None:
    torch = import_library("torch")
    inside = {name.removeprefix("text."): array for name, array in arrays.items()}
    wanted = tower.state_dict()
    try:
        tower.load_state_dict({name: torch.from_numpy(np.array(inside[name], np.float32)) for name in wanted})
    except (KeyError, RuntimeError) as error:
        raise BobError(f"{what} does not fit OpenCLIP's text tower: {str(error).splitlines()[0]}") from error


def _outputs(tower: TextTower, tokens: np.ndarray) -> Outputs:
    """What our tower computes: its blocks, the last norm, the embedding; float32."""
    paths = [*(f"blocks.{index}" for index in range(len(tower.blocks))), "norm"]
    graph, state = nnx.split(tower)

    @jax.jit
    def run(state: nnx.State, tokens: jax.Array) -> dict[str, jax.Array]:
        module = nnx.merge(graph, state)
        with recorded(module, paths) as seen:
            embedding = module(tokens)
        return {**{path: seen[path] for path in paths}, "embedding": embedding}

    with jax.default_matmul_precision("float32"):
        return {name: np.asarray(value, np.float32) for name, value in run(state, tokens).items()}


def _reference_outputs(tower: Any, tokens: np.ndarray, dtype: str) -> Outputs:
    """The same of OpenCLIP's, which is cast and stays so."""
    torch = import_library("torch")
    module = tower.to(getattr(torch, dtype))
    blocks = [f"transformer.resblocks.{index}" for index in range(len(tower.transformer.resblocks))]
    with torch.no_grad(), recorded_torch(module, [*blocks, "ln_final"]) as seen:
        embedding = module(torch.from_numpy(tokens).long())
    named = {f"blocks.{index}": seen[block] for index, block in enumerate(blocks)}
    named |= {"norm": seen["ln_final"], "embedding": embedding}
    return {name: value.float().numpy() for name, value in named.items()}
