"""Training a detector: the loss, the optimizer, the passes over validation and test."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bob_jax.backbones.layers import Fixed
from bob_jax.data import coco, on_device
from bob_jax.data.base import Dataset
from bob_jax.data.loader import Loader
from bob_jax.detection.detector import total_loss
from bob_jax.detection.objects import Objects
from bob_jax.errors import BobError
from bob_jax.metrics import coco as average_precision
from bob_jax.metrics.bootstrap import Estimate
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.detections import Looked, look
from bob_jax.protocols.detector import Detector
from bob_jax.protocols.tuning import Point, Weights, weights_of
from bob_jax.training import optimizer as optimizers
from bob_jax.training.checkpoint import Checkpointing
from bob_jax.training.loop import Diverged, FitResult, fit
from bob_jax.training.mesh import place, to_host
from bob_jax.training.step import Aux, LossFn

if TYPE_CHECKING:
    from bob_jax.protocols.detection import Detection

SHIFTED = "shifted"  # split of images of another kind than those of training
STEPS = (27 / 36, 33 / 36)  # of a schedule in steps: there the rate falls to a tenth


class Trainer:
    """What the grid points share: the structure of the detector, the loss, the jitted prediction."""

    def __init__(self, protocol: "Detection", competitor: Competitor, dataset: Dataset, context: Context):
        self.protocol, self.competitor, self.dataset, self.context = protocol, competitor, dataset, context
        self.kinds: tuple[average_precision.Kind, ...] = ("box", "mask") if dataset.metric == "mask_ap" else ("box",)
        self.detector = Detector.new(protocol, competitor, len(dataset.classes), len(self.kinds) > 1, context.seed)
        parts: Any = nnx.split(competitor.module, nnx.Param, nnx.BatchStat)
        self.graphdef, (self.headsdef, _) = parts[0], nnx.split(self.detector.heads)
        weights = self.detector.weights
        self.params, self.stats, self.frozen = weights["params"], weights["stats"], {}
        if protocol.mode == "frozen":
            self.frozen = {"backbone": self.params.pop("backbone")}
        self.random = competitor.card.source is None
        self.apply = self.detector.prediction(context.mesh)
        self.test_view = self.detector.test_view()
        self.truth = {name: coco.truth(source) for name, source in dataset.splits.items() if name != "train"}
        for split, truth in self.truth.items():
            if all(one["iscrowd"] for one in truth["annotations"]):
                raise BobError(f"the {split} split of {dataset.name} holds no object: there is nothing to score")

    def train(self, number: int, learning_rate: float) -> Point:
        """One point of the grid, from its latest checkpoint where there is one."""
        loader = self._loader()
        steps_per_epoch = len(loader)
        total = max(1, self.protocol.epochs * steps_per_epoch)
        point: dict[str, Any] = {"learning_rate": learning_rate}
        try:
            result = self._fit(number, learning_rate, loader, total)
        except Diverged:
            return Point(None, {**point, "validation": None}, 0.0, loader.skipped)
        point |= {"epoch": result.step / steps_per_epoch, "validation": result.metrics["validation"]}
        weights = to_host(self._whole(weights_of(result.state)))  # off the devices: the next point needs the room
        return Point(weights, point, result.cost.device_seconds, loader.skipped)

    def look(self, weights: Weights, split: str) -> Looked:
        """What is found on a split."""
        return look(
            self.apply,
            weights,
            self.dataset.splits[split],
            self.test_view,
            self.context,
            self.protocol.batch_size,
            f"{self.competitor.card.name}: {split}",
        )

    def scores(self, looked: dict[str, Looked]) -> tuple[dict[str, Estimate], dict[str, np.ndarray]]:
        """Average precision of each kind on each split; of shifted images under `shifted_`, what it loses `gap_`.

        Returns:
            The scores; and of those over all classes and overlaps, by name, [1 + R] the value and that on each
            bootstrap draw.
        """
        scores: dict[str, Estimate] = {}
        drawn: dict[str, np.ndarray] = {}
        for kind in self.kinds:
            found = {
                split: average_precision.scored(self._truth(split, seen), seen.found, kind, seed=int(split == SHIFTED))
                for split, seen in looked.items()
            }
            for split, one in found.items():
                of = f"{SHIFTED}_" if split == SHIFTED else ""
                scores |= {f"{of}{name}": estimate for name, estimate in one.estimates().items()}
                drawn[f"{of}{kind}_ap"] = np.append(one.reference[0], one.drawn[:, 0])
            if SHIFTED in found and (gap := average_precision.lost(found["test"], found[SHIFTED])) is not None:
                scores[f"gap_{kind}_ap"] = gap
        return scores, drawn

    def _truth(self, split: str, seen: Looked) -> dict[str, Any]:
        """The objects of the images that could be decoded."""
        truth = self.truth[split]
        if not seen.skipped:
            return truth
        there = set(seen.found.images)
        return truth | {
            "images": [image for image in truth["images"] if image["id"] in there],
            "annotations": [one for one in truth["annotations"] if one["image_id"] in there],
        }

    def _whole(self, weights: Weights) -> Weights:
        """Weights of the detector, the frozen backbone among them."""
        return {"params": {**self.frozen, **weights["params"]}, "stats": weights["stats"]}

    def _validate(self, weights: Weights) -> dict[str, float]:
        seen = self.look(place(self._whole(weights), self.context.mesh), "validation")
        value = average_precision.score(self._truth("validation", seen), seen.found, self.kinds[-1])
        if np.isnan(value):
            raise BobError(f"the validation split of {self.dataset.name} holds no object: nothing can be chosen on it")
        return {"validation": value}

    def _fit(self, number: int, learning_rate: float, loader: Loader, total: int) -> FitResult:
        protocol, folder = self.protocol, self.context.workdir / f"point_{number:02d}"
        return fit(
            self.params,
            self._loss(),
            self._optimizer(learning_rate, total),
            loader.batches,
            total_steps=total,
            mesh=self.context.mesh,
            key=jax.random.key(self.context.seed),
            stats=self.stats,
            frozen=self.frozen,
            accumulate=protocol.accumulate,
            shapes=len(self.detector.train_view().canvases),
            checkpointing=Checkpointing(
                folder / "checkpoints",
                every=max(200, total // 20),
                keep=1,
                best="validation",
                identity={"learning_rate": learning_rate, "cell": folder.parent.name},
            ),
            evaluate=lambda state: self._validate(weights_of(state)),
            eval_every=-(-total // protocol.evaluations),
            journal=folder / "metrics.jsonl",
            description=f"{self.competitor.card.name}: lr {learning_rate:g}",
        )

    def _loader(self) -> Loader:
        return Loader(
            self.dataset.splits["train"],
            self.detector.train_view(),
            batch_size=self.protocol.batch_size,
            seed=self.context.seed,
            shuffle=True,
            epochs=None,
            num_workers=self.context.num_workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            skip_corrupt=self.context.skip_corrupt,
        )

    def _optimizer(self, rate: float, total: int) -> optax.GradientTransformation:
        protocol, module = self.protocol, self.competitor.module
        paths = optimizers.dotted_paths(self.params)

        def layer_of(path: str) -> int:
            room, _, name = path.partition(".")
            return module.num_layers if room == "heads" else module.layer_of(name)

        even = self.random or protocol.mode == "frozen" or protocol.stem_rate == 1
        decay = 1.0 if even else protocol.stem_rate ** (1 / module.num_layers)
        scales = None if even else optimizers.layer_multipliers(paths, layer_of, module.num_layers, decay)
        # A bridged backbone's kernels have PyTorch's name.
        mask = optimizers.decay_mask([path for path in paths if not path.endswith(("kernel", "weight"))])
        warmup = min(protocol.warmup_steps, total - 1)
        shape = optimizers.schedule(rate, total, warmup)
        if protocol.schedule == "steps":
            shape = optimizers.step_schedule(rate, [round(share * total) for share in STEPS], warmup)
        clip_norm = protocol.clip_norm or None
        return optimizers.adamw(shape, protocol.weight_decay, mask=mask, layer_scales=scales, clip_norm=clip_norm)

    def _loss(self) -> LossFn:
        graphdef, headsdef, preprocessing = self.graphdef, self.headsdef, self.competitor.card.preprocessing
        frozen_backbone = self.protocol.mode == "frozen"
        running = jax.tree.leaves(nnx.state(self.competitor.module, _is_statistic))
        # In training mode batch statistics would be this batch's: only a random backbone has none better.
        trains = not frozen_backbone and (self.random or not running)

        def loss(
            params: Any, frozen: Any, stats: Any, batch: dict[str, jax.Array], key: jax.Array
        ) -> tuple[jax.Array, Aux]:
            path_key, draw_key = jax.random.split(key)
            weights = {**frozen, **params}
            backbone = nnx.merge(graphdef, weights["backbone"], stats)
            images = on_device.normalize(batch["image"], preprocessing.mean, preprocessing.std)
            maps = backbone(images, rngs=nnx.Rngs(path_key) if trains else None).maps
            if frozen_backbone:
                maps = jax.lax.stop_gradient(maps)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(draw_key, batch["index"])
            objects = Objects(batch["boxes"], batch["classes"], batch["valid"], batch["masks"])
            learned = nnx.merge(headsdef, params["heads"]).learn(maps, objects, batch["extent"], batch["mask"], keys)
            there = batch["mask"].astype(jnp.float32)
            images_there = jnp.sum(there)
            counted = learned.counters | {"objects_left_out": batch["overflow"].astype(jnp.float32)}
            metrics = {name: value * images_there for name, value in learned.losses.items()}
            metrics |= {f"counters/{name}": jnp.sum(value * there) for name, value in counted.items()}
            new_stats = nnx.to_pure_dict(nnx.state(backbone, nnx.BatchStat))
            return total_loss(learned.losses) * images_there, Aux(images_there, new_stats, metrics)

        return loss


def _is_statistic(path: Any, leaf: Any) -> bool:
    """Whether a variable is a running statistic of batches, and no fixed table."""
    return isinstance(leaf, nnx.BatchStat) and not isinstance(leaf, Fixed)
