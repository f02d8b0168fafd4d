"""What goes with a good score: size, speed and pretraining data, architecture family, and the pretraining method.

A correlation with size over the whole zoo mixes everything that large backbones have in common. The apples-to-apples
groups do not: the same architecture, the same pretraining data, another method.
"""

import dataclasses
import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from bob_jax.metrics import bootstrap
from bob_jax.metrics.bootstrap import Estimate
from bob_jax.results.ranking.correlation import Correlation, Kind, correlate
from bob_jax.results.ranking.settings import PLAIN
from bob_jax.results.ranking.standings import Ranking
from bob_jax.results.record import Record

Family = Literal["ViT", "CNN", "other"]
Supervision = Literal["supervised", "self-supervised", "vision-language", "other"]
Quantity = Literal["parameters", "flops", "images_per_second", "pretraining_images"]

FAMILIES: dict[Family, tuple[str, ...]] = {
    "ViT": ("vit", "eva", "beit", "aimv2", "hiera", "sam_vit", "swin_v2"),
    "CNN": ("resnet", "clip_resnet", "convnext", "sscd"),
}
CNN_PREFIXES = ("efficientnet", "mobilenet", "tf_efficientnet", "regnet", "resnet", "convnext")  # of timm's names
# Labels of people against none; what has both, or learns from a teacher that had, is "other".
SUPERVISIONS: dict[Supervision, tuple[str, ...]] = {
    "supervised": ("supervised",),
    "self-supervised": ("dino", "dinov2", "dinov3", "mae", "mocov3", "vicreg", "vicregl", "fcmae", "beit", "sscd"),
    "vision-language": ("clip", "siglip", "siglip2", "pe", "tipsv2", "aimv2"),
}
# Those of a card's arguments that make another network of it; the rest are details of the same one.
SIZES = (
    *("input_size", "width", "widths", "depth", "depths", "stages", "num_heads", "patch_size", "mlp_ratio"),
    *("block", "groups", "group_width", "window", "grn", "source"),
)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a backbone beside its scores.

    Attributes:
        network: architecture and what sets its size, equal for equal networks.
        data: pretraining data.
        parameters: millions, without head.
        flops: of one image at the card's own input size, the median over its records that tell (`comparable`).
        images_per_second: the median over such records on the device that most backbones ran on.
        pretraining_images: distinct images in `data`.
    """

    family: Family
    supervision: Supervision
    method: str
    network: str
    data: str
    parameters: float | None
    flops: float | None
    images_per_second: float | None
    pretraining_images: float | None


@dataclasses.dataclass(frozen=True)
class Match:
    """Backbones of one network and one pretraining data set that differ in method.

    Attributes:
        backbones: names by method, best first by the figure that ranks; several of one method are several entries.
    """

    network: str
    data: str
    backbones: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Contrast:
    """One kind of supervision against another on the same networks and pretraining data.

    Attributes:
        task: "all" for the figure that ranks, else a task's mean z-score.
        difference: first minus second, larger is better, the mean over matches; `n` counts them. Its interval is that
            of these backbones' scores: it does not hold that others of the same kind might do otherwise.
    """

    task: str
    first: Supervision
    second: Supervision
    difference: Estimate


def facts(records: Sequence[Record], pretraining_images: Callable[[str], int | None]) -> dict[str, Facts]:
    """The facts of every backbone that has a record.

    Args:
        records: of any cells.
        pretraining_images: distinct images in the data that a card names; `backbones.pretraining.images`.
    """
    by_backbone: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.created):
        by_backbone.setdefault(record.cell.backbone, []).append(record)
    device, timed = most_common_device(records), {record.cell.id for record in comparable(records)}
    return {
        name: _facts(group, [one for one in group if one.cell.id in timed], device, pretraining_images)
        for name, group in by_backbone.items()
    }


def comparable(records: Sequence[Record]) -> list[Record]:
    """Those whose speed and FLOPs are of the backbone alone, on its own input; all where there is no such record.

    A detector on pictures of 1,024 pixels takes fifty times as long as the k-NN of the same backbone: a median over
    both would depend on which cells have run.
    """
    return [record for record in records if record.protocol.name.startswith(PLAIN)] or list(records)


def most_common_device(records: Sequence[Record]) -> tuple[str, int]:
    """The device that the speeds of `facts` are of, and how many of it: those that most backbones ran on."""
    timed = {
        (record.cell.backbone, record.environment.device_kind, record.environment.device_count)
        for record in comparable(records)
        if record.cost.images_per_second is not None
    }
    count = Counter((kind, devices) for _, kind, devices in timed)
    return max(count, key=lambda device: (count[device], device), default=("", 0))


def _facts(
    records: Sequence[Record],
    timed: Sequence[Record],
    device: tuple[str, int],
    pretraining_images: Callable[[str], int | None],
) -> Facts:
    card = records[-1].backbone.card
    method, data = str(card.get("method", "unknown")), str(card.get("data", "unknown"))
    there = [one.cost for one in timed if (one.environment.device_kind, one.environment.device_count) == device]
    return Facts(
        family=family(card),
        supervision=next((kind for kind, methods in SUPERVISIONS.items() if method in methods), "other"),
        method=method,
        network=_network(card),
        data=data,
        parameters=_number(card.get("parameters")),
        flops=_median([one.cost.flops_per_image for one in timed]),
        images_per_second=_median([cost.images_per_second for cost in there]),
        pretraining_images=_number(pretraining_images(data)),
    )


def family(card: Mapping[str, Any]) -> Family:
    """Whether a card's network is a transformer, convolutional, or neither of them clearly."""
    architecture, source = card.get("architecture"), str((card.get("arguments") or {}).get("source", ""))
    if architecture == "timm" and source.removeprefix("timm:").startswith(CNN_PREFIXES):
        return "CNN"
    return next((name for name, members in FAMILIES.items() if architecture in members), "other")


def _network(card: Mapping[str, Any]) -> str:
    arguments = card.get("arguments") or {}
    sizes = [f"{name} {json.dumps(arguments[name])}" for name in SIZES if name in arguments]
    return ", ".join([str(card.get("architecture", "unknown")), *sizes])


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def against(
    ranking: Ranking, known: Mapping[str, Facts], quantity: Quantity, kind: Kind = "spearman"
) -> dict[str, Correlation]:
    """The rank correlation of the figure that ranks (larger is better) with a quantity.

    Args:
        ranking: of the backbones.
        known: their facts.
        quantity: which of the facts.
        kind: whose coefficient.

    Returns:
        "all", "ViT" and "CNN"; those without a known quantity do not count, and `n` says how many did.
    """
    names = ranking.table.backbones
    value = np.array([getattr(known[name], quantity) for name in names], dtype=np.float64)  # None is NaN
    in_group = {
        group: np.array([group in ("all", known[name].family) for name in names]) for group in ("all", *FAMILIES)
    }
    return {group: correlate(ranking.value[chosen], value[chosen], kind) for group, chosen in in_group.items()}


def apples_to_apples(ranking: Ranking, known: Mapping[str, Facts]) -> list[Match]:
    """All groups of backbones that differ in their pretraining method alone, those of most methods first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for standing in ranking.standings:  # best first
        one = known[standing.backbone]
        groups.setdefault((one.network, one.data), []).append(standing.backbone)
    found = [
        Match(network, data, tuple((known[name].method, name) for name in names))
        for (network, data), names in groups.items()
        if len({known[name].method for name in names}) > 1
    ]
    return sorted(found, key=lambda match: (-len({method for method, _ in match.backbones}), match.network, match.data))


def contrasts(
    ranking: Ranking,
    known: Mapping[str, Facts],
    first: Supervision = "self-supervised",
    second: Supervision = "supervised",
) -> list[Contrast]:
    """Self-supervised against supervised on the same network and data, over all and in each task.

    In each match the mean of the one kind less the mean of the other; then the mean over matches.

    Returns:
        "all" first, then the tasks; none where no match has both kinds.
    """
    place = {name: b for b, name in enumerate(ranking.table.backbones)}
    sides = []
    for match in apples_to_apples(ranking, known):
        members: dict[Supervision, list[int]] = {first: [], second: []}
        for _, name in match.backbones:
            if known[name].supervision in members:
                members[known[name].supervision].append(place[name])
        if members[first] and members[second]:
            sides.append((members[first], members[second]))
    if not sides:
        return []

    def difference(scores: np.ndarray) -> np.ndarray:
        """[..., B] -> [...]."""
        each = [scores[..., one].mean(axis=-1) - scores[..., two].mean(axis=-1) for one, two in sides]
        return np.mean(each, axis=0)

    found = {"all": (ranking.value, ranking.drawn)} | {
        task: (ranking.task_z[:, t], ranking.task_drawn[:, :, t]) for t, task in enumerate(ranking.tasks)
    }
    return [
        Contrast(task, first, second, _estimate(difference(value), difference(drawn), len(sides)))
        for task, (value, drawn) in found.items()
        if np.isfinite(difference(value))
    ]


def _estimate(value: np.ndarray, drawn: np.ndarray, n: int) -> Estimate:
    low, high = bootstrap.percentiles(drawn[np.isfinite(drawn)])
    return Estimate(float(value), float(low), float(high), n)
