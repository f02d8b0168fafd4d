"""The contract of a protocol: a frozen set of hyper-parameters that judges one backbone on one data set."""

import abc
import dataclasses
import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from bob_jax.backbones.base import Backbone
from bob_jax.backbones.card import Card
from bob_jax.data.base import Dataset, Task
from bob_jax.errors import BobError, unknown_name
from bob_jax.metrics.bootstrap import Estimate
from bob_jax.protocols.head import Head

# What hyper-parameters of these names mean anything for, in every protocol: the smallest and the largest value, and
# whether these two themselves do. Each number of a list is held against it.
RANGES: Mapping[str, tuple[float, float, bool, bool]] = {
    **dict.fromkeys(
        (
            *("batch_size", "accumulate", "epochs", "evaluations", "k", "max_iterations", "images", "top_k"),
            *("size", "slots", "mask_side"),
        ),
        (1, math.inf, True, False),
    ),
    **dict.fromkeys(
        ("temperature", "tolerance", "learning_rates", "base_learning_rates", "gem_p", "scales", "scale"),
        (0, math.inf, False, False),
    ),
    **dict.fromkeys(
        (
            *("regularisation", "weight_decays", "weight_decay", "warmup_epochs", "warmup_steps", "min_steps"),
            *("max_steps", "clip_norm", "mixup", "cutmix", "randaugment", "input_size", "whitening", "window"),
        ),
        (0, math.inf, True, False),
    ),
    **dict.fromkeys(("drop_path", "label_smoothing", "ema"), (0, 1, True, False)),
    **dict.fromkeys(("layer_decay", "stem_rate", "crop_scale"), (0, 1, False, True)),
    **dict.fromkeys(("random_erasing", "flip"), (0, 1, True, True)),
}
ASCENDING = ("crop_scale", "scale")  # the smaller of the two comes first


@dataclasses.dataclass(frozen=True)
class Competitor:
    """A backbone with its weights.

    Attributes:
        card: what the zoo knows of it; its preprocessing is used in every protocol.
        module: the weights; frozen protocols leave it bit-identical.
        weights_sha256: digest of the weights, key of the features cache.
    """

    card: Card
    module: Backbone
    weights_sha256: str


@dataclasses.dataclass(frozen=True)
class Trained:
    """What an earlier cell left to those that judge its head further.

    Attributes:
        competitor: the backbone below the head: the fine-tuned one where fine-tuning made it.
        head: from its pooled features to the classes of `dataset`.
        dataset: that the head was trained on.
        temperature: that its logits are divided by to be calibrated, fitted on `dataset`'s validation split.
        cell: id of the earlier cell.
    """

    competitor: Competitor
    head: Head
    dataset: Dataset
    temperature: float
    cell: str


@dataclasses.dataclass(frozen=True)
class Context:
    """What a run has beside backbone and data.

    Attributes:
        mesh: devices, axes ("data", "fsdp").
        workdir: folder of this cell for checkpoints and logs; a restarted cell finds it again.
        seed: of everything random in the cell.
        num_workers: data worker processes; None lets the loader decide.
        skip_corrupt: mask undecodable images instead of failing.
        trained: the head to judge, for a protocol that needs one.
    """

    mesh: jax.sharding.Mesh
    workdir: Path
    seed: int = 0
    num_workers: int | None = None
    skip_corrupt: bool = False
    trained: Trained | None = None


@dataclasses.dataclass(frozen=True)
class Cost:
    """What judging cost; None where it was not measured.

    Attributes:
        device_seconds: time in which the devices worked, times the number of devices.
        images_per_second: forward passes through the backbone, over all devices.
        flops_per_image: of one forward pass, as the compiler counts them.
    """

    device_seconds: float | None = None
    images_per_second: float | None = None
    flops_per_image: float | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What a protocol found.

    Attributes:
        outputs: what it says of each test example, [N, ...] by name, "id" [N] among them; undecodable images are left
            out. Every metric whose inputs are all here is scored. And [1 + R] under `drawn_NAME` of a score that does
            not follow from them: its value, and that on each bootstrap draw of the examples.
        cost: of the whole.
        grid: every hyper-parameter point with its validation score; empty where nothing was chosen.
        chosen: index into `grid`.
        skipped: ids of undecodable images, per split.
        weights: the head, and the backbone where it was trained, float32 by dotted path below `head.` and `backbone.`.
        scores: those that do not follow from `outputs` alone.
        higher_is_better: whether that holds for each of `scores`.
        main_metric: the score that ranks backbones, where it is not the data set's.
        notes: facts for the record, plain data.
        pictures: [H, W, 3] uint8 by name, kept beside the record for people to look at.
    """

    outputs: Mapping[str, np.ndarray]
    cost: Cost
    grid: tuple[Mapping[str, Any], ...] = ()
    chosen: int = 0
    skipped: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, np.ndarray] | None = None
    scores: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    main_metric: str | None = None
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Protocol(abc.ABC):
    """Base of all protocols: the fields of a subclass are its hyper-parameters, all of them in the record.

    Attributes:
        name: in configs and records.
        tasks: kinds of data set it can judge.
        makes_head: whether the result has weights: a head that other protocols can judge further.
        needs_head: whether it judges such a head, and trains nothing.
        keeps_weights: whether the weights are kept with the record without being asked for.
    """

    name: typing.ClassVar[str]
    tasks: typing.ClassVar[tuple[Task, ...]] = ("classification",)
    makes_head: typing.ClassVar[bool] = False
    needs_head: typing.ClassVar[bool] = False
    keeps_weights: typing.ClassVar[bool] = False

    @property
    def trains_backbone(self) -> bool:
        """Whether the backbone itself learns; all others leave it as it came."""
        return False

    def drop_path_rate(self) -> float:
        """Rate the backbone is built with; only a protocol that trains the backbone has one."""
        return 0.0

    def attention_window(self) -> int:
        """Side in tokens of the windows a plain ViT attends in, for images much larger than its own; 0: none."""
        return 0

    def unfit(self, card: Card, dataset: str) -> str | None:
        """Why it cannot judge a backbone on a data set of its kind, in words; None where it can."""
        return None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The protocol with the hyper-parameters of a config section.

        Raises:
            BobError: a key that is no hyper-parameter (the nearest is named), a missing one, a wrong type, or a number
                out of range.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        types = typing.get_type_hints(cls)
        for key in config:
            if key not in fields:
                raise unknown_name(f"key in protocols.{cls.name}", key, fields)
        missing = [name for name in fields if name not in config]
        if missing:
            raise BobError(f"protocols.{cls.name} lacks {', '.join(missing)}: give each a value in the config")
        values = {key: _typed(f"protocols.{cls.name}.{key}", value, types[key]) for key, value in config.items()}
        for key in RANGES.keys() & values.keys():
            _check_range(f"protocols.{cls.name}.{key}", values[key], *RANGES[key], ascending=key in ASCENDING)
        return cls(**values)

    @abc.abstractmethod
    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Judges the backbone: everything is chosen on the validation split, the test split is read once.

        A protocol with `needs_head` judges `context.trained`, whose backbone may be another than the competitor.
        """


def _typed(key: str, value: Any, kind: Any) -> Any:
    """The value as the field's type; whole numbers pass as floats, lists as tuples."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        wanted = "at least one" if arguments[-1] is Ellipsis else str(len(arguments))
        fits = isinstance(value, list | tuple) and (
            len(value) == len(arguments) or (arguments[-1] is Ellipsis and value)
        )
        if not fits:
            raise BobError(f"{key} is {value!r}: it takes a list of {wanted} {arguments[0].__name__}")
        return tuple(_typed(key, item, arguments[0]) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BobError(f"{key} is {value!r}: it takes {kind.__name__}")
    return value


def _check_range(
    key: str, value: Any, least: float, most: float, least_too: bool, most_too: bool, *, ascending: bool
) -> None:
    """Raises a BobError where a number, or one of a list, is out of range."""
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if not (least < number < most or (least_too and number == least) or (most_too and number == most)):
            wanted = f"{'at least' if least_too else 'above'} {least}"
            if most < math.inf:
                wanted += f" and {'at most' if most_too else 'below'} {most}"
            raise BobError(f"{key} is {value!r}: it must be {wanted}")
    if ascending and list(numbers) != sorted(numbers):
        raise BobError(f"{key} is {value!r}: the smaller number comes first")
