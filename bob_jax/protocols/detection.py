"""Object detection and instance segmentation: the same Cascade Mask R-CNN on every backbone, scored as COCO scores.

The backbone is fine-tuned with the detector, or frozen: then no gradient and no optimizer state of it exists. One that
starts from random weights is a backbone by its own name (`convnext_t_random`): it learns at the full rate in all
layers, and its batch statistics are learned, where those of a pretrained one stay as they are.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from bob_jax.backbones.card import Card
from bob_jax.data.base import Dataset, Task
from bob_jax.detection.design import Design
from bob_jax.errors import BobError, unknown_name
from bob_jax.metrics.bootstrap import DRAWN
from bob_jax.protocols import drawing, tuning
from bob_jax.protocols.base import Competitor, Context, Protocol, Result
from bob_jax.protocols.detection_training import SHIFTED, Trainer
from bob_jax.protocols.detections import Looked
from bob_jax.training.mesh import place

MODES = ("finetune", "frozen")
VIEWS = ("jitter", "multi_scale")
SCHEDULES = ("cosine", "steps")

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
        accumulate: micro-batches a step. Each divides its losses by what learns in it, so the step is nearly, not
            exactly, that of one large batch.
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
        if self.batch_size % self.accumulate:
            raise BobError(
                f"protocols.{self.name}.batch_size is {self.batch_size}: it must be a multiple of accumulate, "
                f"{self.accumulate}"
            )
        self.check()

    @property
    def trains_backbone(self) -> bool:
        """As `mode` says."""
        return self.mode == "finetune"

    def drop_path_rate(self) -> float:
        """A frozen backbone drops nothing."""
        return self.drop_path if self.mode == "finetune" else 0.0

    def attention_window(self) -> int:
        """A frozen backbone attends as it was trained to."""
        return self.window if self.mode == "finetune" else 0

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Trains a detector with every learning rate, chooses rate and epoch on validation, reads test once."""
        trainer = Trainer(self, competitor, dataset, context)
        points = [trainer.train(number, rate) for number, rate in enumerate(self.learning_rates)]
        chosen = tuning.best(points, self.name)
        weights = points[chosen].weights
        assert weights is not None
        placed = place(weights, context.mesh)
        looked = {split: trainer.look(placed, split) for split in ("test", SHIFTED) if split in dataset.splits}
        test = looked["test"]
        scores, drawn = trainer.scores(looked)
        for split, name in (("test", dataset.metric), (SHIFTED, f"{SHIFTED}_{dataset.metric}")):
            if split in looked and name not in scores:
                raise BobError(f"the {split} split of {dataset.name} holds no object: there is nothing to score")
        return Result(
            outputs=_outputs(test, self.detections) | {f"{DRAWN}{name}": values for name, values in drawn.items()},
            cost=dataclasses.replace(test.cost, device_seconds=sum(point.device_seconds for point in points)),
            grid=tuple(point.grid for point in points),
            chosen=chosen,
            skipped={"train": points[chosen].skipped} | {split: found.skipped for split, found in looked.items()},
            weights=tuning.named(weights),
            scores=scores,
            main_metric=f"{SHIFTED}_{dataset.metric}" if SHIFTED in looked else None,
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
