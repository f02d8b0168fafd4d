"""Cards of the small backbones that come with the package: learned from printed characters, for 32-pixel images.

`configs/glyphs.py` gives the commands that made them; `weights/NAME.json` is the record of that run.
"""

import dataclasses

from bob_jax.backbones.card import Card, WeightSource
from bob_jax.backbones.cards.twins import RANDOM_CARDS

NOTES = (
    "Made by this project: `{twin}` fine-tuned by `configs/glyphs.py` on characters drawn from matplotlib's fonts, its "
    "classifier left out. How the characters are drawn and how long it learned was chosen on validation images of "
    "scikit-learn's digits; their test images were not looked at. Comes with the package."
)


def _card(name: str, sha256: str, accuracy: float) -> Card:
    """A backbone that started as its random twin, and differs from it in the weights alone."""
    twin_name = name.replace("_glyphs", "_random")
    twin = next(card for card in RANDOM_CARDS if card.name == twin_name)
    return dataclasses.replace(
        twin,
        name=name,
        table=f"timm_{twin.architecture}",
        method="supervised",
        data="glyphs: 18,800 printed characters",
        source=WeightSource(shipped=f"{name}.safetensors", sha256=sha256),
        licence="apache-2.0",
        scores={"glyphs top-1": f"{accuracy} (typefaces that it has not seen; weights/{name}.json)"},
        notes=NOTES.format(twin=twin_name),
    )


GLYPHS_CARDS: tuple[Card, ...] = (
    _card("vit_nano8_glyphs", "e56e15f19f0f0ce1d133ded29a68aaaef1e199ddae53d2d0a1c9ce3ed1fef60b", 76.8),
    _card("resnet10_nano_glyphs", "99e69b28eacd822a9aa200c745dd3f28fe5c04ab701f1123fe025aa7cac2f591", 87.8),
    _card("convnext_nano_glyphs", "28a6373e6f58669953dda93356ebc8ed890273310c72c91c3e6053bf741c9d9a", 84.1),
)
