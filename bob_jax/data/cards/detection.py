"""Where the objects are, and their outlines."""

from pathlib import Path

from bob_jax.data import coco, digits, scenes
from bob_jax.data.base import DetectionDataset
from bob_jax.data.cards.card import FETCHED, DatasetCard, Embedded, Official, Part

_COCO = "http://images.cocodataset.org"
HELD_OUT = "{:.0%} of official train, by hash of the image's id, seed 0"


def _coco(place: Path, card: DatasetCard) -> DetectionDataset:
    assert card.validation_fraction is not None
    return coco.load(place, name=card.name, licence=card.licence, validation_fraction=card.validation_fraction)


CARDS: tuple[DatasetCard, ...] = (
    DatasetCard(
        name=scenes.NAME,
        title="Scenes of handwritten digits, composed of scikit-learn's",
        classes=10,
        sizes=scenes.COUNTS,
        validation="scenes of the handwriting of the validation split of `digits`",
        validation_fraction=None,
        metric="mask_ap",
        licence=digits.LICENCE,
        url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        get="composed of images that come with scikit-learn",
        source=Embedded(scenes.load),
        task="detection",
    ),
    DatasetCard(
        name="coco",
        title="COCO 2017: common objects in context",
        classes=80,
        sizes={"train": 118287, "test": 5000},
        validation=HELD_OUT.format(0.04),  # nearly as many images as test; the official validation images are the test
        validation_fraction=0.04,
        metric="mask_ap",
        licence="annotations CC BY 4.0; images of Flickr, each under its own terms",
        url="https://cocodataset.org",
        get=FETCHED.format("coco"),
        source=Official(
            _coco,
            (
                Part(f"{_COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
                Part(f"{_COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
                Part(f"{_COCO}/annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"),
            ),
        ),
        task="detection",
        download_size=20_405_000_000,
    ),
)
