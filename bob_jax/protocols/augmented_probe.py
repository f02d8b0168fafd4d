"""The linear probe of MAE and of the original benchmark: augmented images, LARS, batch norm before the head.

Every image of a step goes through the frozen backbone once, and that pass serves the heads of all learning rates of
the grid (He et al. 2021, arXiv 2111.06377, table 10; LARS: You et al. 2017, arXiv 1708.03888).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bob_jax.data import on_device
from bob_jax.data.base import Dataset, Task
from bob_jax.data.loader import Loader
from bob_jax.data.transforms import Train
from bob_jax.protocols.base import Competitor, Context, Protocol, Result
from bob_jax.protocols.features import extract
from bob_jax.protocols.head import Head, predict
from bob_jax.protocols.scoring import cross_entropy, judged, validation_score
from bob_jax.training import optimizer as optimizers
from bob_jax.training.checkpoint import Checkpointing
from bob_jax.training.loop import Diverged, fit
from bob_jax.training.mesh import to_host
from bob_jax.training.step import Aux, LossFn

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
    tasks: ClassVar[tuple[Task, ...]] = ("classification", "multilabel")
    makes_head: ClassVar[bool] = True
    base_learning_rates: tuple[float, ...]
    batch_size: int
    epochs: int
    warmup_epochs: int
    crop_scale: tuple[float, float]
    horizontal_flip: bool

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Trains all heads together on train, chooses one on validation, reads test once."""
        heads, device_seconds, skipped = self._train(competitor, dataset, context)
        validation, test = (
            extract(competitor, dataset.splits[split], f"{dataset.name}/{split}", context, self.batch_size)
            for split in ("validation", "test")
        )
        scored = [predict(head, validation.values) for head in heads]
        grid: list[dict[str, Any]] = [
            {
                "base_learning_rate": rate,
                "validation": (
                    validation_score(dataset, logits, validation.labels) if np.isfinite(logits).all() else None
                ),
            }
            for rate, logits in zip(self.base_learning_rates, scored, strict=True)
        ]
        finite = [i for i, point in enumerate(grid) if point["validation"] is not None]
        if not finite:
            raise Diverged("all heads of protocols.augmented_probe diverged: lower its base_learning_rates")
        chosen = max(finite, key=lambda i: grid[i]["validation"])
        judgement = judged(dataset, test, predict(heads[chosen], test.values), validation, scored[chosen])
        return Result(
            **judgement._asdict(),
            cost=dataclasses.replace(test.cost, device_seconds=device_seconds),
            grid=tuple(grid),
            chosen=chosen,
            skipped={"train": skipped, "validation": validation.skipped, "test": test.skipped},
            weights=heads[chosen].named(),
        )

    def _train(
        self, competitor: Competitor, dataset: Dataset, context: Context
    ) -> tuple[list[Head], float, tuple[str, ...]]:
        """A head per learning rate, device seconds, ids of skipped images."""
        width, classes, count = competitor.module.feature_dim, len(dataset.classes), len(self.base_learning_rates)
        kernel = HEAD_STD * jax.random.truncated_normal(jax.random.key(context.seed), -2, 2, (width, classes))
        # All heads start alike: what tells them apart is their learning rate.
        params = {"kernel": jnp.tile(kernel[None], (count, 1, 1)), "bias": jnp.zeros((count, classes))}
        stats = {"mean": jnp.zeros(width), "var": jnp.ones(width)}
        graphdef, frozen = nnx.split(competitor.module)
        loader = Loader(
            dataset.splits["train"],
            Train(competitor.card.preprocessing, scale=self.crop_scale, randaugment=0),
            batch_size=self.batch_size,
            seed=context.seed,
            shuffle=True,
            epochs=None,
            num_workers=context.num_workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            skip_corrupt=context.skip_corrupt,
        )
        steps_per_epoch = len(dataset.splits["train"]) / self.batch_size
        total = max(1, round(self.epochs * steps_per_epoch))
        warmup = min(round(self.warmup_epochs * steps_per_epoch), total - 1)
        rates = jnp.asarray(self.base_learning_rates) * self.batch_size / 256
        result = fit(
            params,
            self._loss(graphdef, competitor),
            optimizers.grid(lambda rate: optimizers.lars(optimizers.schedule(rate, total, warmup)), rates),
            loader.batches,
            total_steps=total,
            mesh=context.mesh,
            key=jax.random.key(context.seed),
            stats=stats,
            frozen=nnx.to_pure_dict(frozen),
            checkpointing=Checkpointing(
                context.workdir / "checkpoints",
                every=max(200, total // 20),
                keep=1,
                identity={"cell": context.workdir.name},
                finite=False,  # a head whose rate is too high must not stop the others
            ),
            journal=context.workdir / "metrics.jsonl",
            description=f"{competitor.card.name}: {count} heads",
        )
        params, stats = to_host((result.state.params, result.state.stats))
        scale = np.sqrt(stats["var"] + EPSILON)
        heads = [Head(params["kernel"][i], params["bias"][i], stats["mean"], scale) for i in range(count)]
        return heads, result.cost.device_seconds, tuple(loader.skipped)

    def _loss(self, graphdef: nnx.GraphDef, competitor: Competitor) -> LossFn:
        preprocessing = competitor.card.preprocessing

        def loss(
            params: Any, frozen: Any, stats: Any, batch: dict[str, jax.Array], key: jax.Array
        ) -> tuple[jax.Array, Aux]:
            images = on_device.augment(
                batch["image"],
                key,
                mean=preprocessing.mean,
                std=preprocessing.std,
                horizontal_flip=self.horizontal_flip,
                random_erasing=0.0,
            )
            # Without rngs the backbone is in evaluation mode: running statistics, and they stay as they are.
            features = nnx.merge(graphdef, frozen)(images).pooled.astype(jnp.float32)
            normalized, stats = batch_norm(features, batch["mask"], stats)
            logits = jnp.einsum("bd,gdc->gbc", normalized, params["kernel"], precision="float32")
            logits = logits + params["bias"][:, None]
            losses = jax.vmap(cross_entropy, in_axes=(0, None))(logits, batch["label"])
            losses = jnp.sum(losses * batch["mask"][None], axis=1)
            # Summed over the heads: they share nothing that is trained, so each gets its own gradient. A head whose
            # rate is too high must not stop the others.
            return jnp.sum(jnp.where(jnp.isfinite(losses), losses, 0)), Aux(
                jnp.sum(batch["mask"], dtype=jnp.float32), stats, {}
            )

        return loss


def batch_norm(features: jax.Array, mask: jax.Array, stats: dict[str, jax.Array]) -> tuple[jax.Array, dict]:
    """Batch norm without affine, in training, as `torch.nn.BatchNorm1d(D, affine=False, eps=1e-6)`.

    Args:
        features: [B, D] float32.
        mask: [B]; rows without count neither in the batch's statistics nor in the running ones.
        stats: running mean and (unbiased) variance [D].

    Returns:
        Normalised features [B, D], and the new running statistics.
    """
    weight = mask.astype(jnp.float32)[:, None]
    count = jnp.maximum(weight.sum(), 1)
    mean = (features * weight).sum(0) / count
    var = (jnp.square(features - mean[None]) * weight).sum(0) / count
    unbiased = var * count / jnp.maximum(count - 1, 1)
    running = {
        "mean": MOMENTUM * stats["mean"] + (1 - MOMENTUM) * mean,
        "var": MOMENTUM * stats["var"] + (1 - MOMENTUM) * unbiased,
    }
    return (features - mean[None]) * jax.lax.rsqrt(var + EPSILON)[None], running
