"""Counting, distance and pose: the structured sets of VTAB (arXiv 1910.04867), most of them rendered."""

from bob_jax.data import vtab
from bob_jax.data.cards.card import BY_TFDS, DatasetCard, Tfds


def _clevr(name: str, title: str, source: Tfds) -> DatasetCard:
    return DatasetCard(
        name=name,
        title=title,
        classes=len(source.classes),
        sizes={"train": 70000, "test": 15000},
        validation="10 % of official train, stratified, seed 0",
        validation_fraction=0.1,
        metric="accuracy",
        licence="CC BY 4.0",
        url="https://cs.stanford.edu/people/jcjohns/clevr/",
        get=BY_TFDS.format(name),
        source=source,
        download_size=19_022_000_000,
    )


def _dsprites(name: str, title: str, source: Tfds) -> DatasetCard:
    return DatasetCard(
        name=name,
        title=title,
        classes=len(source.classes),
        sizes={"all": 737280},
        validation="10 % of all images, stratified, seed 0; test likewise",
        validation_fraction=0.1,
        test_fraction=0.1,
        metric="accuracy",
        licence="Apache 2.0",
        url="https://github.com/google-deepmind/dsprites-dataset",
        get=BY_TFDS.format(name),
        source=source,
        download_size=28_000_000,
    )


def _smallnorb(name: str, title: str, source: Tfds) -> DatasetCard:
    return DatasetCard(
        name=name,
        title=title,
        classes=len(source.classes),
        sizes={"train": 24300, "test": 24300},
        validation="10 % of official train, stratified, seed 0",
        validation_fraction=0.1,
        metric="accuracy",
        licence="research only, not for sale",
        url="https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
        get=BY_TFDS.format(name),
        source=source,
        download_size=263_000_000,
    )


CARDS = (
    DatasetCard(
        name="dmlab",
        title="DMLab frames: how far and what kind the nearest object is",
        classes=6,
        sizes={"train": 65550, "validation": 22628, "test": 22735},
        validation="official",
        validation_fraction=None,
        metric="accuracy",
        licence="none stated",
        url="https://github.com/google-research/task_adaptation",
        get=BY_TFDS.format("dmlab"),
        source=Tfds("dmlab", classes=tuple("012345")),
        download_size=3_017_000_000,
    ),
    _clevr(
        "clevr_count",
        "CLEVR: how many objects",
        Tfds(
            "clevr",
            "file_name",
            splits={"test": "validation"},
            label=vtab.clevr_count,
            classes=tuple(f"{count} objects" for count in range(3, 11)),
        ),
    ),
    _clevr(
        "clevr_distance",
        "CLEVR: how far the nearest object is",
        Tfds(
            "clevr",
            "file_name",
            splits={"test": "validation"},
            label=vtab.clevr_distance,
            classes=("up to 8", "up to 8.5", "up to 9", "up to 9.5", "up to 10", "farther than 10"),
        ),
    ),
    _dsprites(
        "dsprites_location",
        "dSprites: horizontal position, 16 bins",
        Tfds(
            "dsprites",
            splits={"all": "train"},
            label=vtab.dsprites_location,
            classes=tuple(f"columns {2 * place} and {2 * place + 1}" for place in range(16)),
            pixels=vtab.dsprites_pixels,
        ),
    ),
    _dsprites(
        "dsprites_orientation",
        "dSprites: rotation, 16 bins",
        Tfds(
            "dsprites",
            splits={"all": "train"},
            label=vtab.dsprites_orientation,
            classes=tuple(f"from {place * 22.5:g} degrees" for place in range(16)),
            pixels=vtab.dsprites_pixels,
        ),
    ),
    _smallnorb(
        "smallnorb_azimuth",
        "smallNORB: turn of the object",
        Tfds(
            "smallnorb",
            label=vtab.smallnorb_azimuth,
            classes=tuple(f"{angle} degrees" for angle in range(0, 360, 20)),
        ),
    ),
    _smallnorb(
        "smallnorb_elevation",
        "smallNORB: height of the camera",
        Tfds(
            "smallnorb",
            label=vtab.smallnorb_elevation,
            classes=tuple(f"{angle} degrees" for angle in range(30, 75, 5)),
        ),
    ),
    DatasetCard(
        name="kitti_distance",
        title="KITTI: how far the nearest vehicle is",
        classes=4,
        sizes={"train": 6347, "validation": 423, "test": 711},
        validation="TFDS's, of other drives than train and test",
        validation_fraction=None,
        metric="accuracy",
        licence="CC BY-NC-SA 3.0",
        url="https://www.cvlibs.net/datasets/kitti/eval_object.php",
        get="`pip install 'bob_jax[tfds]' opencv-python-headless`, then `bob data prepare kitti_distance` fetches it "
        "through TFDS",
        source=Tfds(
            "kitti",
            "image/file_name",
            label=vtab.kitti_distance,
            classes=("up to 8 m", "up to 20 m", "farther than 20 m", "no vehicle"),
        ),
        download_size=12_576_000_000,
    ),
)
