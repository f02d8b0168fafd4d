"""Data sets that come with installed packages: nothing is downloaded."""

from bob_jax.data import digits, glyphs
from bob_jax.data.cards.card import DatasetCard, Embedded

CARDS = (
    DatasetCard(
        name="digits",
        title="Optical Recognition of Handwritten Digits (scikit-learn)",
        classes=10,
        sizes={"train": 1077, "validation": 360, "test": 360},
        validation="20 % of all images, stratified, seed 0; test likewise",
        validation_fraction=None,
        metric="accuracy",
        licence="CC BY 4.0",
        url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        get="comes with scikit-learn",
        source=Embedded(digits.load),
    ),
    DatasetCard(
        name="glyphs",
        title="Printed characters drawn from matplotlib's fonts",
        classes=47,
        sizes={"train": 18800, "validation": 1880, "test": 1880},
        validation="typefaces of its own, as test has",
        validation_fraction=None,
        metric="accuracy",
        licence="free for any use, as the fonts are",
        url="https://matplotlib.org/stable/users/explain/text/fonts.html",
        get="drawn from fonts that come with matplotlib",
        source=Embedded(glyphs.load),
    ),
)
