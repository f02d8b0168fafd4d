"""The classifier that was published with a checkpoint, as it is: what its authors' accuracy is the accuracy of.

Nothing is trained and nothing is chosen; validation images only calibrate. It tells whether weights, preprocessing and
data are those of the published figure, before anything is built on them.
"""

import dataclasses
from typing import ClassVar

from bob_jax.backbones import zoo
from bob_jax.backbones.card import Card
from bob_jax.data import catalog
from bob_jax.data.base import Dataset
from bob_jax.errors import BobError
from bob_jax.protocols.base import Competitor, Context, Protocol, Result
from bob_jax.protocols.features import extract
from bob_jax.protocols.head import Head, predict
from bob_jax.protocols.prompts import imagenet_names
from bob_jax.protocols.scoring import judged


@dataclasses.dataclass(frozen=True)
class PublishedHead(Protocol):
    """The authors' own classifier of ImageNet-1k.

    Attributes:
        batch_size: images through the backbone at a time.
    """

    name: ClassVar[str] = "published_head"
    makes_head: ClassVar[bool] = True
    batch_size: int

    def unfit(self, card: Card, dataset: str) -> str | None:
        """A backbone without a published classifier, and data with other classes than its."""
        if card.classifier is None:
            return f"{card.name} has no published classifier"
        if not dataset.startswith(catalog.FOLDER) and catalog.card(dataset).classes != len(imagenet_names()):
            return f"data set {dataset} has other classes than {card.classifier}"
        return None

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Classifies the test images."""
        if dataset.classes != tuple(imagenet_names()):
            raise BobError(
                f"data set {dataset.name} has other classes than the 1000 of ImageNet-1k, in the order of their "
                "WordNet ids, which a published classifier tells apart: train one with linear_probe"
            )
        head = Head(*zoo.load_classifier(competitor.card.name))
        return judge_as_it_is(head, competitor, dataset, context, self.batch_size)


def judge_as_it_is(head: Head, competitor: Competitor, dataset: Dataset, context: Context, batch_size: int) -> Result:
    """What a head that nobody trains here says of the test images; the validation images only calibrate it."""
    validation, test = (
        extract(competitor, dataset.splits[split], f"{dataset.name}/{split}", context, batch_size)
        for split in ("validation", "test")
    )
    judgement = judged(dataset, test, predict(head, test.values), validation, predict(head, validation.values))
    return Result(
        **judgement._asdict(),
        cost=test.cost,
        skipped={"validation": validation.skipped, "test": test.skipped},
        weights=head.named(),
    )
