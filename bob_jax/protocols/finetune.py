"""End-to-end fine-tuning: AdamW with layer-wise decay, one recipe for every backbone, its grid chosen on validation.

The recipe is that of the original benchmark (BEiT's and MAE's): layer decay, mixup and cutmix, RandAugment, random
erasing, label smoothing, drop path, cosine with warm-up. All backbones start with the same kind of head.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bob_jax.data import on_device
from bob_jax.data.base import Dataset, MultilabelDataset, Task
from bob_jax.data.loader import Loader
from bob_jax.data.transforms import Eval, Train
from bob_jax.protocols import tuning
from bob_jax.protocols.base import Competitor, Context, Protocol, Result
from bob_jax.protocols.head import Head
from bob_jax.protocols.inference import Rows, infer
from bob_jax.protocols.scoring import judged, validation_score
from bob_jax.protocols.tuning import Point, Weights, weights_of
from bob_jax.training import optimizer as optimizers
from bob_jax.training.checkpoint import Checkpointing
from bob_jax.training.loop import Diverged, FitResult, fit
from bob_jax.training.mesh import batch_sharding, place, to_host
from bob_jax.training.step import Aux, LossFn

HEAD_STD = 0.01  # of the head's truncated normal initialisation


@dataclasses.dataclass(frozen=True)
class Finetune(Protocol):
    """Fine-tuning with the learning rate, weight decay and epoch that are best on validation.

    Attributes:
        learning_rates: peak rates of the head, for `batch_size` images a step.
        weight_decays: decoupled, of kernels; biases, norms, tokens and position tables have none.
        layer_decay: the rate of layer l is multiplied by layer_decay^(layers - l); 1 switches it off.
        batch_size: images a step, over all devices and micro-batches.
        accumulate: micro-batches a step.
        epochs: passes over the training split,
        min_steps: but at least so many steps, so that a thousand images are enough to learn from;
        max_steps: and at most so many, so that a million are not too many; 0 sets no limit.
        warmup_epochs: of `epochs` with a linearly rising rate; the same share of the steps where a limit changed them.
        evaluations: how often, evenly spaced and last at the end, validation is scored.
        drop_path: rate of the last block; it rises linearly from 0.
        label_smoothing: share of the target that is spread over all classes; over yes and no of several labels.
        mixup: alpha of the Beta distribution; 0 switches it off.
        cutmix: likewise. With both, each batch takes one of the two with equal chance.
        crop_scale: smallest and largest area of the random resized crop.
        horizontal_flip: mirror half of the images.
        randaugment: magnitude (of 10), two operations an image; 0 switches it off.
        random_erasing: probability of erasing a rectangle.
        clip_norm: largest global norm of the gradient; 0 switches clipping off.
        ema: decay of the average of weights and statistics that is judged instead of the last ones; 0 switches it off.
    """

    name: ClassVar[str] = "finetune"
    tasks: ClassVar[tuple[Task, ...]] = ("classification", "multilabel")
    makes_head: ClassVar[bool] = True
    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    layer_decay: float
    batch_size: int
    accumulate: int
    epochs: int
    min_steps: int
    max_steps: int
    warmup_epochs: int
    evaluations: int
    drop_path: float
    label_smoothing: float
    mixup: float
    cutmix: float
    crop_scale: tuple[float, float]
    horizontal_flip: bool
    randaugment: int
    random_erasing: float
    clip_norm: float
    ema: float

    @property
    def trains_backbone(self) -> bool:
        """Always."""
        return True

    def drop_path_rate(self) -> float:
        """The backbone is trained: its blocks are dropped at this rate."""
        return self.drop_path

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Trains every grid point on train, chooses point and epoch on validation, reads test once."""
        trainer = _Trainer(self, competitor, dataset, context)
        points = [
            trainer.train(number, rate, decay)
            for number, (rate, decay) in enumerate(itertools.product(self.learning_rates, self.weight_decays))
        ]
        chosen = tuning.best(points, self.name)
        weights = points[chosen].weights
        assert weights is not None
        placed = place(weights, context.mesh)
        validation, test = (trainer.predict(placed, split) for split in ("validation", "test"))
        judgement = judged(dataset, test, test.values, validation, validation.values)
        return Result(
            **judgement._asdict(),
            cost=dataclasses.replace(test.cost, device_seconds=sum(point.device_seconds for point in points)),
            grid=tuple(point.grid for point in points),
            chosen=chosen,
            skipped={"train": points[chosen].skipped, "validation": validation.skipped, "test": test.skipped},
            weights=tuning.named(weights),
        )


class _Trainer:
    """What the grid points share: the structure of the model, the loss, the jitted prediction."""

    def __init__(self, protocol: Finetune, competitor: Competitor, dataset: Dataset, context: Context):
        self.protocol, self.competitor, self.dataset, self.context = protocol, competitor, dataset, context
        parts: Any = nnx.split(competitor.module, nnx.Param, nnx.BatchStat)
        self.graphdef, params, stats = parts
        shape = (competitor.module.feature_dim, len(dataset.classes))
        kernel = HEAD_STD * jax.random.truncated_normal(jax.random.key(context.seed), -2, 2, shape)
        head = {"kernel": kernel, "bias": jnp.zeros(shape[1])}
        self.params = {"backbone": nnx.to_pure_dict(params), "head": head}
        self.stats = nnx.to_pure_dict(stats)
        self.apply = self._prediction()

    def train(self, number: int, learning_rate: float, weight_decay: float) -> Point:
        """One point of the grid, from its latest checkpoint where there is one."""
        protocol, folder = self.protocol, self.context.workdir / f"point_{number:02d}"
        loader = self._loader()
        steps_per_epoch = len(self.dataset.splits["train"]) / loader.batch_size
        total = max(1, round(protocol.epochs * steps_per_epoch), protocol.min_steps)
        total = min(total, protocol.max_steps or total)
        warmup = round(total * protocol.warmup_epochs / protocol.epochs)
        point = {"learning_rate": learning_rate, "weight_decay": weight_decay}
        try:
            result = self._fit(point, folder, loader, total, warmup)
        except Diverged:
            return Point(None, {**point, "validation": None}, 0.0, tuple(loader.skipped))
        point |= {"epoch": result.step / steps_per_epoch, "validation": result.metrics["validation"]}
        weights = to_host(weights_of(result.state))  # off the devices: the next point needs the room
        return Point(weights, point, result.cost.device_seconds, tuple(loader.skipped))

    def _fit(self, point: dict[str, float], folder: Path, loader: Loader, total: int, warmup: int) -> FitResult:
        protocol = self.protocol
        return fit(
            self.params,
            self._loss(),
            self._optimizer(point["learning_rate"], point["weight_decay"], total, warmup),
            loader.batches,
            total_steps=total,
            mesh=self.context.mesh,
            key=jax.random.key(self.context.seed),
            stats=self.stats,
            accumulate=protocol.accumulate,
            ema_decay=protocol.ema or None,
            checkpointing=Checkpointing(
                folder / "checkpoints",
                every=max(200, total // 20),
                keep=1,
                best="validation",
                identity={**point, "cell": folder.parent.name},
            ),
            evaluate=lambda state: {"validation": self._score(self.predict(weights_of(state), "validation"))},
            eval_every=-(-total // protocol.evaluations),  # rounded up: never more often than asked
            journal=folder / "metrics.jsonl",
            description=f"{self.competitor.card.name}: lr {point['learning_rate']:g}, wd {point['weight_decay']:g}",
        )

    def predict(self, weights: Weights, split: str) -> Rows:
        """Logits [N, C] of a split."""
        return infer(
            self.apply,
            weights,
            self.dataset.splits[split],
            Eval(self.competitor.card.preprocessing),
            self.context,
            self.protocol.batch_size,
            f"{self.competitor.card.name}: {split}",
        )

    def _score(self, rows: Rows) -> float:
        # The loss is of the parameters before the step: it does not tell yet that the step led nowhere.
        if not np.isfinite(rows.values).all():
            raise Diverged("class scores of validation images are NaN or infinite")
        return validation_score(self.dataset, rows.values, rows.labels)

    def _loader(self) -> Loader:
        protocol, preprocessing = self.protocol, self.competitor.card.preprocessing
        return Loader(
            self.dataset.splits["train"],
            Train(preprocessing, scale=protocol.crop_scale, randaugment=protocol.randaugment),
            batch_size=protocol.batch_size,
            seed=self.context.seed,
            shuffle=True,
            epochs=None,
            num_workers=self.context.num_workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            skip_corrupt=self.context.skip_corrupt,
        )

    def _optimizer(self, rate: float, decay: float, total: int, warmup: int) -> optax.GradientTransformation:
        paths, module = optimizers.dotted_paths(self.params), self.competitor.module

        def layer_of(path: str) -> int:
            room, _, name = path.partition(".")
            return module.num_layers if room == "head" else module.layer_of(name)

        # A bridged backbone's kernels have PyTorch's name.
        mask = optimizers.decay_mask([path for path in paths if not path.endswith(("kernel", "weight"))])
        scales = optimizers.layer_multipliers(paths, layer_of, module.num_layers, self.protocol.layer_decay)

        def adamw(rate: Any, decay: Any) -> optax.GradientTransformation:
            shape = optimizers.schedule(rate, total, min(warmup, total - 1))
            clip_norm = self.protocol.clip_norm or None
            return optimizers.adamw(shape, decay, mask=mask, layer_scales=scales, clip_norm=clip_norm)

        # Rate and decay are part of the state, not of the program: all grid points share one compilation.
        return optax.inject_hyperparams(adamw)(rate=rate, decay=decay)

    def _loss(self) -> LossFn:
        protocol, graphdef, classes = self.protocol, self.graphdef, len(self.dataset.classes)
        preprocessing, several = self.competitor.card.preprocessing, isinstance(self.dataset, MultilabelDataset)

        def loss(
            params: Any, frozen: Any, stats: Any, batch: dict[str, jax.Array], key: jax.Array
        ) -> tuple[jax.Array, Aux]:
            view_key, mix_key, path_key = jax.random.split(key, 3)
            images = on_device.augment(
                batch["image"],
                view_key,
                mean=preprocessing.mean,
                std=preprocessing.std,
                horizontal_flip=protocol.horizontal_flip,
                random_erasing=protocol.random_erasing,
            )
            images, targets = on_device.mix(
                images,
                batch["label"],
                mix_key,
                classes=classes,
                mixup=protocol.mixup,
                cutmix=protocol.cutmix,
                label_smoothing=protocol.label_smoothing,
            )
            module = nnx.merge(graphdef, params["backbone"], stats)
            pooled = module(images, rngs=nnx.Rngs(path_key)).pooled.astype(jnp.float32)
            logits = Head(**params["head"]).logits(pooled)
            if several:
                losses = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)
            else:
                losses = optax.softmax_cross_entropy(logits, targets)
            new_stats = nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
            mask = batch["mask"]
            if protocol.mixup or protocol.cutmix:
                mask = mask & mask[::-1]  # what was mixed with an image that cannot be decoded shows no class
            return jnp.sum(losses * mask), Aux(jnp.sum(mask, dtype=jnp.float32), new_stats, {})

        return loss

    def _prediction(self) -> Callable[[Any, jax.Array], jax.Array]:
        graphdef, preprocessing = self.graphdef, self.competitor.card.preprocessing

        @functools.partial(jax.jit, out_shardings=batch_sharding(self.context.mesh))
        def apply(weights: Weights, images: jax.Array) -> jax.Array:
            params = weights["params"]
            module = nnx.merge(graphdef, params["backbone"], weights["stats"])
            images = on_device.normalize(images, preprocessing.mean, preprocessing.std)
            pooled = module(images).pooled.astype(jnp.float32)
            return Head(**params["head"]).logits(pooled)

        return apply
