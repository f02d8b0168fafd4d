"""The linear probe of MAE and of the original benchmark: augmented images, LARS, batch norm without affine before the head.

Every image of a step goes through the frozen backbone once, and that pass serves the heads of all learning rates of the grid
(He et al. 2021, arXiv 2111.06377, table 10; LARS: You et al. 2017, arXiv 1708.03888).
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bob_jax.data import on_device
from bob_jax.data.base import Dataset
from bob_jax.data.loader import Loader
from bob_jax.data.transforms import Train
from bob_jax.metrics.classification import METRICS, per_example
from bob_jax.protocols.base import Competitor, Context, Protocol, Result
from bob_jax.protocols.features import extract
from bob_jax.training import optimizer as optimizers
from bob_jax.training.loop import fit
from bob_jax.training.step import Aux

HEAD_STD = 0.01  # of the heads' truncated normal initialisation
EPSILON = 1e-6  # of the batch norm
MOMENTUM = 0.9  # of its running statistics


@dataclasses.dataclass(frozen=True)
class AugmentedProbe(Protocol):
    """One head per learning rate on augmented views; the head that is best on validation is judged.

    Attributes:
        base_learning_rates: rates for 256 images a step; the rate used is base x batch_size / 256.
        batch_size: images a step, over all devices.
        epochs: passes over the training split.
        warmup_epochs: of them with a linearly rising rate; then cosine to 0.
        crop_scale: smallest and largest area of the random resized crop.
        horizontal_flip: mirror half of the images.
    """

    name: ClassVar[str] = "augmented_probe"
    base_learning_rates: tuple[float, ...]
    batch_size: int
    epochs: int
    warmup_epochs: int
    crop_scale: tuple[float, ...]
    horizontal_flip: bool
