"""Cards of the small backbones that come with the package: learned from printed characters, for 32-pixel images.

`configs/glyphs.py` says how they were made; `weights/NAME.json` is the record of that run.
"""

import dataclasses

from bob_jax.backbones.card import Card, WeightSource
from bob_jax.backbones.cards_random import RANDOM_CARDS

NOTES = (
    "Made by this project: `{twin}` fine-tuned by `configs/glyphs.py` on characters drawn from matplotlib's fonts, its "
    "classifier left out. How the characters are drawn and how long it learned was chosen on validation images of "
    "scikit-learn's digits; their test images were not looked at. Comes with the package."
)


def _card(name: str, table: str, sha256: str, accuracy: str) -> Card:
    """A backbone that started as its random twin, and is that in all but the weights."""
    twin_name = name.replace("_glyphs", "_random")
    twin = next(card for card in RANDOM_CARDS if card.name == twin_name)
    return dataclasses.replace(
        twin,
        name=name,
        table=table,
        method="supervised",
        data="glyphs (18,800 printed characters)",
        source=WeightSource(shipped=f"{name}.safetensors", sha256=sha256),
        licence="apache-2.0",
        scores={"glyphs top-1, typefaces of the test split": accuracy},
        notes=NOTES.format(twin=twin_name),
    )


GLYPHS_CARDS: tuple[Card, ...] = (
    _card("vit_nano8_glyphs", "timm_vit", "0" * 64, "0"),
    _card("resnet10_nano_glyphs", "timm_resnet", "0" * 64, "0"),
)
