"""How much a cell has to compute, counted before anything is loaded: images through the backbone.

The unit is a pass: one image forward through the backbone at the card's size. An image of a training step, or its
gradient, counts three (forward, and twice as much backward). Features of a frozen backbone are made once and shared, so
they are counted by what they are features of. Of what a head costs on known features the solver of the linear probe
is counted, which on a million images and a thousand classes takes longer than the features; the rest is part of what a
cell takes beside its passes (see `estimate`).
"""

import dataclasses
import re
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path

from bob_jax.backbones import zoo
from bob_jax.data import catalog
from bob_jax.data.cards.card import DatasetCard
from bob_jax.errors import BobError
from bob_jax.grid import Cell
from bob_jax.launch import detector_work
from bob_jax.protocols.adversarial import Adversarial
from bob_jax.protocols.augmented_probe import AugmentedProbe
from bob_jax.protocols.detection import Detection
from bob_jax.protocols.finetune import Finetune
from bob_jax.protocols.knn import KNN
from bob_jax.protocols.linear_probe import LinearProbe
from bob_jax.protocols.ood import OutOfDistribution
from bob_jax.protocols.published_head import PublishedHead
from bob_jax.protocols.retrieval import Retrieval
from bob_jax.protocols.transferability import Transferability
from bob_jax.protocols.zero_shot import ZeroShot

TRAINING = 3  # passes of a step: forward, and about twice as much backward

Sizes = Mapping[str, int]
Count = Callable[[str, int | None, Path | None], Sizes | None]


@dataclasses.dataclass(frozen=True)
class Work:
    """What a cell computes.

    Attributes:
        features: passes by what they make the features of; no cell makes again what another has made.
        passes: of its own.
        gflops: beside the backbone.
        float32: likewise, in full precision.
    """

    features: Mapping[Hashable, float]
    passes: float = 0.0
    gflops: float = 0.0
    float32: float = 0.0


def of(cell: Cell, root: Path | None = None, count: Count | None = None) -> Work | None:
    """The work of a cell; None where the size of the data is not known.

    Args:
        cell: of a grid.
        root: where data sets are kept; only the user's own are looked at.
        count: `sizes`, or the same with a memory, so that the user's own data are counted once for many cells.

    Raises:
        BobError: a protocol that nobody has counted.
    """
    count = count or sizes
    size = count(cell.dataset, cell.limit, root)
    if size is None:
        return None
    protocol = cell.protocol
    match protocol:
        case KNN():
            return Work(_features(cell, size, "train", "validation", "test"))
        case LinearProbe():
            features = _features(cell, size, "train", "validation", "test")
            return Work(features, float32=_regressions(cell, protocol, size))
        case PublishedHead() | ZeroShot():
            return Work(_features(cell, size, "validation", "test"))
        case Transferability():
            return Work(_features(cell, size, "train"))
        case AugmentedProbe():
            return Work(_features(cell, size, "validation", "test"), protocol.epochs * size["train"])
        case Finetune():
            return Work({}, _finetune(protocol, size))
        case OutOfDistribution():
            return _shift(cell, size, count(cell.source.dataset, cell.limit, root) if cell.source else None)
        case Adversarial():
            return Work({}, _attacks(protocol, size))
        case Retrieval():
            return Work(_retrieval(cell, protocol, size))
        case Detection():
            return _detection(cell, protocol, size)
    raise BobError(f"protocol {protocol.name}: bob_jax/launch/work.py does not say yet how much it computes")


def sizes(name: str, limit: int | None, root: Path | None = None) -> Sizes | None:
    """Images of each split, by the card; the user's own data are counted. None where they are not there.

    Args:
        name: as `catalog.load` takes it.
        limit: images of each split at most.
        root: where data sets are kept.
    """
    if name.startswith(tuple(catalog.OWN)):
        try:
            found = {split: len(source) for split, source in catalog.load(name, root=root).splits.items()}
        except BobError:
            return None
    else:
        card = catalog.card(name)
        found = _little(_splits(card), card, name.partition("@")[2])
    return {split: min(size, limit or size) for split, size in found.items()}


def _splits(card: DatasetCard) -> dict[str, int]:
    """What is held out is taken from what it is held out of."""
    found = dict(card.sizes)
    if card.test_fraction is not None:
        whole = found.pop("all", None) or found.pop("train")
        found["test"] = round(whole * card.test_fraction)
        found["validation"] = round(whole * (card.validation_fraction or 0))
        found["train"] = whole - found["test"] - found["validation"]
    elif card.validation_fraction is not None:
        found["validation"] = round(found["train"] * card.validation_fraction)
        found["train"] -= found["validation"]
    return found


def _little(found: dict[str, int], card: DatasetCard, variant: str) -> dict[str, int]:
    """A low-data variant has less to train and to choose on."""
    match = re.fullmatch(r"(\d+)(shot|pct)", variant)
    if match is None:
        return found
    number = int(match[1])
    few = {
        split: min(found[split], number * card.classes) if match[2] == "shot" else round(found[split] * number / 100)
        for split in ("train", "validation")
        if split in found
    }
    return found | few


def _features(cell: Cell, size: Sizes, *splits: str) -> dict[Hashable, float]:
    """The card's own descriptor of some splits."""
    return {(cell.backbone, cell.dataset, split): size[split] for split in splits}


def _regressions(cell: Cell, protocol: LinearProbe, size: Sizes) -> float:
    """GFLOPs of the solver at most: for each lambda and iteration all features times the head, and the gradient."""
    if cell.dataset.startswith(tuple(catalog.OWN)):
        return 0.0  # how many classes it has is not known before it is read
    products = 4 * size["train"] * zoo.card(cell.backbone).feature_dim * catalog.card(cell.dataset).classes
    return products * protocol.max_iterations * len(protocol.regularisation) / 1e9


def _finetune(protocol: Finetune, size: Sizes) -> float:
    batch = min(protocol.batch_size, size["train"])
    steps = max(1, round(protocol.epochs * size["train"] / batch), protocol.min_steps)
    steps = min(steps, protocol.max_steps or steps)
    point = TRAINING * steps * batch + protocol.evaluations * size["validation"]
    return len(protocol.learning_rates) * len(protocol.weight_decays) * point + size["validation"] + size["test"]


def _shift(cell: Cell, size: Sizes, source: Sizes | None) -> Work | None:
    """All conditions, and the source's test images; those of a fine-tuned backbone are of that backbone alone."""
    if cell.source is None or source is None:
        return None
    seen = {(cell.dataset, split): count for split, count in size.items()}
    seen[cell.source.dataset, "test"] = source["test"]
    whose: Hashable = cell.source if cell.source.protocol.trains_backbone else cell.backbone
    return Work({(whose, *images): count for images, count in seen.items()})


def _attacks(protocol: Adversarial, size: Sizes) -> float:
    """At most: what one attack has fooled the next ones are spared."""
    gradients = 1 + protocol.pgd_steps * protocol.pgd_restarts
    gradients += protocol.apgd_steps * (protocol.apgd_restarts + protocol.apgd_targets)
    each = TRAINING * gradients + protocol.square_queries
    return min(protocol.images, size["test"]) * len(protocol.conditions) * each


def _retrieval(cell: Cell, protocol: Retrieval, size: Sizes) -> dict[Hashable, float]:
    """Every image once; where all images are queries, queries and gallery are the same images."""
    card, data = zoo.card(cell.backbone), None
    if not cell.dataset.startswith(tuple(catalog.OWN)):
        data = catalog.card(cell.dataset)
    pixels = sum(scale**2 for scale in protocol.scales)
    if protocol.input_size:
        pixels *= (protocol.input_size / card.preprocessing.input_size) ** 2
    place = (data and data.folder) or cell.dataset.partition("@")[0]  # several questions may be asked of one folder
    how = (protocol.descriptor, protocol.gem_p, protocol.input_size, protocol.scales)
    asked = [split for split in size if split != "whitening" or protocol.whitening]
    same = size["query"] == size["gallery"]
    splits = {"gallery" if same and split == "query" else split: size[split] for split in asked}
    return {(cell.backbone, place, split, count, how): pixels * count for split, count in splits.items()}


def _detection(cell: Cell, protocol: Detection, size: Sizes) -> Work:
    """The backbone on larger pictures, and the detector on top."""
    step = TRAINING if protocol.trains_backbone else 1
    trained = len(protocol.learning_rates) * protocol.epochs * size["train"]
    looked = len(protocol.learning_rates) * protocol.evaluations * size["validation"]
    looked += size["test"] + size.get("shifted", 0)
    area = detector_work.pixels(protocol.views, protocol.size)
    times = area / zoo.card(cell.backbone).preprocessing.input_size ** 2
    learning, looking = (detector_work.gflops(protocol, area, training=training) for training in (True, False))
    return Work({}, times * (step * trained + looked), TRAINING * learning * trained + looking * looked)
