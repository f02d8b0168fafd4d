"""Where the objects are, and their outlines."""

from collections.abc import Callable, Mapping
from pathlib import Path

from bob_jax.data import cityscapes, coco, digits, lvis, scenes, sim10k
from bob_jax.data.base import DetectionDataset
from bob_jax.data.cards.card import FETCHED, DatasetCard, Embedded, Official, Part

_COCO, _LVIS = "http://images.cocodataset.org", "https://dl.fbaipublicfiles.com/LVIS"
HELD_OUT = "{:.0%} of official train, by hash of the image's id, seed 0"


def _coco(place: Path, card: DatasetCard) -> DetectionDataset:
    assert card.validation_fraction is not None
    return coco.load(place, name=card.name, licence=card.licence, validation_fraction=card.validation_fraction)


def _sim10k(
    name: str,
    title: str,
    sizes: Mapping[str, int],
    read: Callable[[Path, DatasetCard], DetectionDataset],
    more: str,
    download_size: int,
) -> DatasetCard:
    """With or without the shift; both read the same folder."""
    return DatasetCard(
        name=name,
        title=title,
        classes=len(sim10k.CLASSES),
        sizes=sizes,
        validation=f"{sim10k.VALIDATION:.0%} of all images, in blocks of neighbours, seed 0; test likewise",
        validation_fraction=sim10k.VALIDATION,
        test_fraction=sim10k.TEST,
        metric="box_ap",
        licence="non-commercial research" + (", and Cityscapes' terms: the same" if more else ""),
        url="https://fcav.engin.umich.edu/projects/driving-in-the-matrix",
        get="fetch repro_10k_images.tgz and repro_10k_annotations.tgz from its page, put both into {downloads}, then "
        f"`bob data prepare {name}`{more}",
        source=Official(read),
        task="detection",
        download_size=download_size,
        folder="sim10k",
    )


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
    DatasetCard(
        name="lvis",
        title="LVIS v1: a large vocabulary on COCO's images",
        classes=1203,
        sizes={"train": 100170, "test": 19809},
        validation=f"{HELD_OUT.format(0.04)}, of images without rare classes",
        validation_fraction=0.04,
        metric="mask_ap",
        licence="annotations CC BY 4.0; images of Flickr, each under its own terms",
        url="https://www.lvisdataset.org",
        get="`bob data prepare coco` for its images, and `bob data prepare lvis` fetches its annotations",
        source=Official(lvis.read, tuple(Part(f"{_LVIS}/lvis_v1_{part}.json.zip") for part in ("train", "val"))),
        task="detection",
        download_size=400_000_000,
    ),
    _sim10k("sim10k", "Sim10k: cars in a driving game", {"train": 10000}, sim10k.read, "", 6_600_000_000),
    _sim10k(
        "sim10k_to_cityscapes",
        "Sim10k, and the cars of real streets in Cityscapes as shifted test images",
        {"train": 10000, "shifted": 500},
        sim10k.read_shifted,
        f"; {cityscapes.GET.format('the folder cityscapes beside {folder}')}",
        18_500_000_000,
    ),
)
