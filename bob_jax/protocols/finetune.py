"""End-to-end fine-tuning: AdamW with layer-wise decay, the same recipe for every backbone, its grid chosen on validation.

The recipe is that of the original benchmark (BEiT's and MAE's): layer decay, mixup and cutmix, RandAugment, random erasing,
label smoothing, drop path, cosine with warm-up. All backbones start with the same head.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bob_jax.data import on_device
from bob_jax.data.base import Dataset, Source
from bob_jax.data.loader import Loader
from bob_jax.data.transforms import Train
from bob_jax.metrics.classification import METRICS, per_example
from bob_jax.protocols.base import Competitor, Context, Cost, Protocol, Result
from bob_jax.protocols.predict import Predictions, predict
from bob_jax.training import optimizer as optimizers
from bob_jax.training.loop import fit
from bob_jax.training.step import Aux

HEAD_STD = 0.01  # of the head's truncated normal initialisation


@dataclasses.dataclass(frozen=True)
class Finetune(Protocol):
    """Fine-tuning with the learning rate, weight decay and epoch that are best on validation.

    Attributes:
        learning_rates: peak rates of the head, for `batch_size` images a step.
        weight_decays: decoupled decay of matrices; vectors, tokens and position tables have none.
        layer_decay: the rate of layer l is multiplied by layer_decay^(layers - l); 1 switches it off.
        batch_size: images a step, over all devices and micro-batches.
        accumulate: micro-batches a step.
        epochs: passes over the training split.
        warmup_epochs: of them with a linearly rising rate.
        evaluations: how often, evenly spaced and last at the end, validation is scored.
        drop_path: rate of the last block; it rises linearly from 0.
        label_smoothing: share of the target that is spread over all classes.
        mixup: alpha of the Beta distribution; 0 switches it off.
        cutmix: likewise. With both, each batch takes one of the two with equal chance.
        crop_scale: smallest and largest area of the random resized crop.
        horizontal_flip: mirror half of the images.
        randaugment: magnitude (of 10), two operations an image; 0 switches it off.
        random_erasing: probability of erasing a rectangle.
        clip_norm: largest global norm of the gradient; 0 switches clipping off.
        ema: decay of the average of the weights that is judged instead of the last ones; 0 switches it off.
    """

    name: ClassVar[str] = "finetune"
    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    layer_decay: float
    batch_size: int
    accumulate: int
    epochs: int
    warmup_epochs: int
    evaluations: int
    drop_path: float
    label_smoothing: float
    mixup: float
    cutmix: float
    crop_scale: tuple[float, ...]
    horizontal_flip: bool
    randaugment: int
    random_erasing: float
    clip_norm: float
    ema: float

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Trains every grid point on train, chooses point and epoch on validation, reads test once."""
        points = []
        for number, (rate, decay) in enumerate(itertools.product(self.learning_rates, self.weight_decays)):
            points.append(self._train(competitor, dataset, context, number, rate, decay))
        chosen = max(range(len(points)), key=lambda i: points[i].validation)
        best = points[chosen]
        test = predict(best.apply, best.params, dataset.splits["test"], competitor.card, context, self.batch_size)
        return Result(
            logits=test.logits,
            labels=test.labels,
            ids=test.ids,
            grid=tuple(point.summary for point in points),
            chosen=chosen,
            cost=dataclasses.replace(test.cost, device_seconds=sum(point.device_seconds for point in points)),
            skipped={"test": test.skipped, "validation": best.skipped_validation, "train": best.skipped_train},
        )
