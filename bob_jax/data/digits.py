"""Real handwritten digits that come with scikit-learn: the data set that is always there.

1,797 grey images of 8 x 8 pixels, values 0 to 16: the test part of the UCI "Optical Recognition of Handwritten Digits"
(Alpaydin and Kaynak 1998).
"""

import numpy as np

from bob_jax.data.arrays import ArraySource
from bob_jax.data.base import Dataset
from bob_jax.data.subset import hold_out

NOTE = "{} % of the 1,797 images, stratified by class, seed 0"


CLASSES = tuple("0123456789")
LICENCE = "CC BY 4.0 (UCI Machine Learning Repository)"


def everything() -> ArraySource:
    """All 1,797 images [8, 8, 3] uint8, bright ink on a dark ground."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return ArraySource(np.repeat(grey[..., None], 3, axis=-1), digits.target)


def load() -> Dataset:
    """The digits: 1077 train, 360 validation and 360 test images, 10 classes."""
    source = everything()
    rest, test = hold_out(source, 0.2)
    train, validation = hold_out(rest, 0.25)
    return Dataset(
        name="digits",
        version=source.fingerprint[:16],
        classes=CLASSES,
        splits={"train": train, "validation": validation, "test": test},
        split_notes={"train": NOTE.format(60), "validation": NOTE.format(20), "test": NOTE.format(20)},
        metric="accuracy",
        licence=LICENCE,
    )
