"""What one forward pass of each card costs at the card's input size: `python -m bob_jax.backbones.flops` counts anew.

The compiler counts, on the traced network: nothing is compiled, no memory taken. That is half a second a card and a
minute for the zoo, too long for `bob backbones`, so the figures stand in flops.json; a test counts some of them again
and misses none. A multiply-add is two operations, elementwise work is included, multiplications with the zeros of a
padding are not: 35.7 GFLOPs for a ViT-B/16, whose published 17.6 GMACs are its matrix products alone.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bob_jax.backbones import zoo

FILE = Path(__file__).with_name("flops.json")


@functools.cache
def known() -> dict[str, float]:
    """GFLOPs of one image by card, from the file."""
    return dict(json.loads(FILE.read_text()))


def count(name: str) -> float:
    """GFLOPs of one image at the card's input size, to four digits, counted now.

    Raises:
        BobError: unknown name.
    """
    graph, state = nnx.split(zoo.skeleton(name, dtype=jnp.float32))
    side = zoo.card(name).preprocessing.input_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    lowered = jax.jit(lambda state, images: nnx.merge(graph, state)(images)).lower(state, images)
    analysis: Any = lowered.cost_analysis()
    return float(f"{analysis['flops'] / 1e9:.4g}")


def main() -> None:
    """Writes the file, counting once what several cards share."""
    counted: dict[str, float] = {}
    figures = {}
    for name, card in zoo.CARDS.items():
        shared = json.dumps([card.architecture, dict(card.arguments), card.preprocessing.input_size], sort_keys=True)
        if shared not in counted:
            counted[shared] = count(name)
        figures[name] = counted[shared]
    FILE.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"{FILE}: {len(figures)} cards", file=sys.stderr)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
