"""Object detection and instance segmentation: the same Cascade Mask R-CNN on every backbone, scored as COCO scores.

The backbone is fine-tuned with the detector, or frozen: then no gradient and no optimizer state of it exists. One that
starts from random weights is a backbone by its own name (`convnext_t_random`): it learns at the full rate in all
layers, and its batch statistics are learned, where those of a pretrained one stay as they are.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bob_jax.backbones.card import Card
from bob_jax.backbones.layers import Fixed
from bob_jax.data import coco, on_device
from bob_jax.data.base import Dataset, Task
from bob_jax.data.detection_transforms import Fit, Jitter, SceneTransform, Slots
from bob_jax.data.loader import Loader
from bob_jax.data.multi_scale import MultiScale, SingleScale
from bob_jax.detection.design import Design
from bob_jax.detection.detector import Heads, total_loss
from bob_jax.detection.objects import Found, Objects
from bob_jax.errors import BobError, unknown_name
from bob_jax.metrics import coco as average_precision
from bob_jax.metrics.bootstrap import Estimate
from bob_jax.protocols import drawing, tuning
from bob_jax.protocols.base import Competitor, Context, Protocol, Result
from bob_jax.protocols.detections import Looked, look
from bob_jax.protocols.tuning import Point, Weights, weights_of
from bob_jax.training import optimizer as optimizers
from bob_jax.training.checkpoint import Checkpointing
from bob_jax.training.loop import Diverged, FitResult, fit
from bob_jax.training.mesh import batch_sharding, place, to_host
from bob_jax.training.step import Aux, LossFn

MODES = ("finetune", "frozen")
VIEWS = ("jitter", "multi_scale")
SCHEDULES = ("cosine", "steps")
STEPS = (27 / 36, 33 / 36)  # of a schedule in steps: there the rate falls to a tenth
SHIFTED = "shifted"  # split of images of another kind than those of training

# What one architecture family was given in 2023, as `Detection2023` offers it.
PLAIN = ("vit", "eva", "beit", "aimv2", "sam_vit")
DIFFUSION = ("stable_diffusion",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection(Design, Protocol):
    """A detector trained on a backbone, its learning rate and epoch chosen on validation.

    Attributes:
        mode: "finetune" trains the backbone too, "frozen" the detector alone.
        views: "jitter": large-scale jitter on a square; "multi_scale": mmdetection's, on four canvases.
        size: side of the square in pixels, rounded down to what the backbone takes; the short side of "multi_scale".
        scale: smallest and largest longer side of a jittered picture, as a fraction of `size`.
        flip: how often a jittered picture is mirrored.
        slots: objects of an image that can be learned from.
        mask_side: cells along a side of the grid that an object's mask is kept on.
        learning_rates: peak rates of the heads, for `batch_size` images a step.
        weight_decay: decoupled; biases, norms, tokens and position tables have none.
        stem_rate: rate of the backbone's first layer over that of the heads, geometric in the layers between; so
            depth does not change what the stem learns. 1 where the backbone is random.
        batch_size: images a step, over all devices and micro-batches.
        accumulate: micro-batches a step.
        epochs: passes over the training split.
        warmup_steps: with a linearly rising rate.
        schedule: "cosine" to 0, or "steps": a tenth from 27/36 on, a hundredth from 33/36 on.
        evaluations: how often, evenly spaced and last at the end, validation is scored.
        drop_path: rate of the last block; it rises linearly from 0.
        window: side in patches of the windows that plain backbones attend in; 0 is global attention. A frozen one
            attends as it did when it was trained.
        clip_norm: largest global norm of the gradient; 0 switches clipping off.
    """

    name: ClassVar[str] = "detection"
    tasks: ClassVar[tuple[Task, ...]] = ("detection",)
    keeps_weights: ClassVar[bool] = True
    mode: str
    views: str
    size: int
    scale: tuple[float, float]
    flip: float
    slots: int
    mask_side: int
    learning_rates: tuple[float, ...]
    weight_decay: float
    stem_rate: float
    batch_size: int
    accumulate: int
    epochs: int
    warmup_steps: int
    schedule: str
    evaluations: int
    drop_path: float
    window: int
    clip_norm: float

    def __post_init__(self) -> None:
        for name, value, known in (
            ("mode", self.mode, MODES),
            ("views", self.views, VIEWS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if value not in known:
                raise unknown_name(f"protocols.{self.name}.{name}", value, known)
        if not 0 < self.stem_rate <= 1:
            raise BobError(f"protocols.{self.name}.stem_rate is {self.stem_rate}: it must be above 0 and at most 1")
        self.check()

    def drop_path_rate(self) -> float:
        """A frozen backbone drops nothing."""
        return self.drop_path if self.mode == "finetune" else 0.0

    def attention_window(self) -> int:
        """A frozen backbone attends as it was trained to."""
        return self.window if self.mode == "finetune" else 0

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Trains a detector with every learning rate, chooses rate and epoch on validation, reads test once."""
        trainer = _Trainer(self, competitor, dataset, context)
        points = [trainer.train(number, rate) for number, rate in enumerate(self.learning_rates)]
        chosen = tuning.best(points, self.name)
        weights = points[chosen].weights
        assert weights is not None
        placed = place(weights, context.mesh)
        looked = {split: trainer.look(placed, split) for split in ("test", SHIFTED) if split in dataset.splits}
        test = looked["test"]
        scores = trainer.scores(looked)
        if dataset.metric not in scores:
            raise BobError(f"the test split of {dataset.name} holds no object: there is nothing to score")
        return Result(
            outputs=_outputs(test, self.detections),
            cost=dataclasses.replace(test.cost, device_seconds=sum(point.device_seconds for point in points)),
            grid=tuple(point.grid for point in points),
            chosen=chosen,
            skipped={"train": points[chosen].skipped} | {split: found.skipped for split, found in looked.items()},
            weights=tuning.named(weights),
            scores=scores,
            higher_is_better={name: not name.startswith("gap_") for name in scores},
            notes={
                "classes": list(dataset.classes),
                "canvases": [list(sides) for sides in trainer.test_view.canvases],
                "images_with_uncertain_detections": {split: found.uncertain for split, found in looked.items()},
            },
            pictures=drawing.samples(dataset.splits["test"], test.found, dataset.classes),
        )


class Detection2023(Detection):
    """The recipes of the 2023 benchmark, which differ from family to family; without its bugs."""

    families: ClassVar[str]

    def unfit(self, card: Card, dataset: str) -> str | None:
        """Each recipe is for one family."""
        own = family(card)
        return None if own == self.families else f"{card.name} is of the {own} family, the recipe is not"


class Hierarchical2023(Detection2023):
    """ResNet, ConvNeXt, Swin: multi-scale pictures, group norms and GIoU in the heads."""

    name: ClassVar[str] = "bob2023_hierarchical"
    families: ClassVar[str] = "hierarchical"


class Plain2023(Detection2023):
    """Plain ViTs: large-scale jitter, layer norms, a cascade whose stages all start at an overlap of a half."""

    name: ClassVar[str] = "bob2023_plain"
    families: ClassVar[str] = "plain"


class Diffusion2023(Detection2023):
    """The Stable Diffusion encoder: 512 pixels, flips alone."""

    name: ClassVar[str] = "bob2023_diffusion"
    families: ClassVar[str] = "diffusion"


def family(card: Card) -> str:
    """The family that the 2023 benchmark gave a recipe of its own."""
    if card.architecture in PLAIN:
        return "plain"
    return "diffusion" if card.architecture in DIFFUSION else "hierarchical"


@dataclasses.dataclass(frozen=True)
class Detector:
    """A backbone with its heads as pure functions of their weights; what a training run and a picture's user share.

    Attributes:
        protocol: hyper-parameters.
        competitor: the backbone.
        heads: structure of the heads, with the weights they start from.
        multiple: the inputs' sides are multiples of it.
    """

    protocol: Detection
    competitor: Competitor
    heads: Heads

    @classmethod
    def new(cls, protocol: Detection, competitor: Competitor, classes: int, masks: bool, seed: int) -> "Detector":
        """With fresh heads.

        Args:
            protocol: hyper-parameters.
            competitor: the backbone.
            classes: their number.
            masks: whether the data have masks; without, no mask head is built.
            seed: of the heads' weights.

        Raises:
            BobError: a backbone that no detector can be built on.
        """
        if not masks:
            protocol = dataclasses.replace(protocol, mask_heads=0)
        design = Design(**{field.name: getattr(protocol, field.name) for field in dataclasses.fields(Design)})
        module = competitor.module
        heads = nnx.jit(
            lambda key: Heads(module, classes, design, dtype=module.dtype, rngs=nnx.Rngs(key)),
        )(jax.random.key(seed))
        return cls(protocol, competitor, heads)

    @property
    def slots(self) -> Slots:
        """Room for the objects of an image."""
        return Slots(self.protocol.slots, self.protocol.mask_side)

    @property
    def size(self) -> int:
        """Side of the inputs, or their short side, that the backbone takes.

        Raises:
            BobError: the backbone takes its own input size alone, and that is another one.
        """
        multiple, wanted = self.competitor.module.side_multiple, self.protocol.size
        if not multiple:
            return self.competitor.module.input_size
        if wanted < multiple:
            raise BobError(f"size {wanted}: {self.competitor.card.name} takes multiples of {multiple} pixels; raise it")
        return wanted // multiple * multiple

    def train_view(self) -> SceneTransform:
        """From a scene to a training input."""
        protocol = self.protocol
        if protocol.views == "multi_scale":
            return MultiScale(self.size, self.slots)
        return Jitter(self.size, self.slots, protocol.scale, protocol.flip)

    def test_view(self) -> SceneTransform:
        """From a scene to an evaluation input."""
        return (SingleScale if self.protocol.views == "multi_scale" else Fit)(self.size, self.slots)

    def prediction(self, mesh: jax.sharding.Mesh) -> Callable[[Weights, jax.Array, jax.Array], Found]:
        """Jitted: weights, images [B, H, W, 3] uint8 and extents [B, 2] to what is found."""
        (graph, _), preprocessing = nnx.split(self.competitor.module), self.competitor.card.preprocessing
        heads, _ = nnx.split(self.heads)

        @functools.partial(jax.jit, out_shardings=batch_sharding(mesh))
        def apply(weights: Weights, images: jax.Array, extents: jax.Array) -> Found:
            params = weights["params"]
            images = on_device.normalize(images, preprocessing.mean, preprocessing.std)
            backbone = nnx.merge(graph, params["backbone"], weights["stats"])
            return nnx.merge(heads, params["heads"]).detect(backbone(images).maps, extents)

        return apply


class _Trainer:
    """What the grid points share: the structure of the detector, the loss, the jitted prediction."""

    def __init__(self, protocol: Detection, competitor: Competitor, dataset: Dataset, context: Context):
        self.protocol, self.competitor, self.dataset, self.context = protocol, competitor, dataset, context
        self.kinds: tuple[average_precision.Kind, ...] = ("box", "mask") if dataset.metric == "mask_ap" else ("box",)
        self.detector = Detector.new(protocol, competitor, len(dataset.classes), len(self.kinds) > 1, context.seed)
        parts: Any = nnx.split(competitor.module, nnx.Param, nnx.BatchStat)
        self.graphdef, params, stats = parts
        self.backbone, self.stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
        self.headsdef, heads = nnx.split(self.detector.heads)
        self.params = {"heads": nnx.to_pure_dict(heads)}
        self.frozen: dict[str, Any] = {}
        trained = self.params if protocol.mode == "finetune" else self.frozen
        trained["backbone"] = self.backbone
        self.random = competitor.card.source is None
        self.apply = self.detector.prediction(context.mesh)
        self.test_view = self.detector.test_view()
        self.truth = {name: coco.truth(source) for name, source in dataset.splits.items() if name != "train"}

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

    def scores(self, looked: dict[str, Looked]) -> dict[str, Estimate]:
        """Average precision of each kind on each split; of shifted images under `shifted_`, what it loses `gap_`."""
        scores: dict[str, Estimate] = {}
        judged = {split: (self._truth(split, seen), seen.found) for split, seen in looked.items()}
        for kind in self.kinds:
            if SHIFTED in judged:
                scores |= average_precision.compare(judged["test"], judged[SHIFTED], kind)
            else:
                scores |= average_precision.evaluate(*judged["test"], kind)
        return scores

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
            eval_every=max(1, total // protocol.evaluations),
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


def _outputs(looked: Looked, size: int) -> dict[str, np.ndarray]:
    """What was found on each image, the surest first: arrays [N, D, ...]; D slots, `detection_valid` says which are."""
    found, count = looked.found, len(looked.found.images)
    first = np.searchsorted(found.image, np.arange(count))
    slot = np.arange(len(found.image)) - first[found.image]
    outputs: dict[str, np.ndarray] = {"id": np.array(found.images)}
    for name, values in {
        "detection_box": found.boxes.astype(np.float32),
        "detection_class": found.label.astype(np.int32),
        "detection_score": found.score.astype(np.float32),
        "detection_valid": np.ones(len(found.image), bool),
    }.items():
        outputs[name] = np.zeros((count, size, *values.shape[1:]), values.dtype)
        outputs[name][found.image, slot] = values
    return outputs
