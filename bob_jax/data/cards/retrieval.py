"""Retrieval: what finds what, by the protocols the field uses; `NAME@bob2023` is the original benchmark's rule.

The original (hsouri/bob-retrieval, 2023) publishes the mean reciprocal rank, so that is what ranks under its rule.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from bob_jax.data.base import RetrievalDataset
from bob_jax.data.cards.card import FETCHED, DatasetCard, Embedded, Official, Part
from bob_jax.data.retrieval import class_folders, digits, landmarks, lists, names, revisited
from bob_jax.data.retrieval.found import Found, as_dataset

Reader = Callable[[Path], Found]

NOTHING_SELECTED = "none: nothing is selected"
_RESEARCH = "none stated; images of {}, for research"
_REVISITOP = "http://cmp.felk.cvut.cz/revisitop/data/datasets"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
_LANDMARKS = "https://s3.amazonaws.com/google-landmark"
_COPYDAYS = "https://dl.fbaipublicfiles.com/vissl/datasets"  # the publisher's own host no longer answers
_INSTRE = "ftp://ftp.irisa.fr/local/texmex/corpus/instre"


def _read(read: Reader, variant: str, metric: str, place: Path, card: DatasetCard) -> RetrievalDataset:
    return as_dataset(read(place), f"{card.name}@{variant}" if variant else card.name, metric, card.licence)


def _card(
    name: str,
    title: str,
    read: Reader,
    metric: str,
    sizes: Mapping[str, int],
    *,
    licence: str,
    url: str,
    download_size: int,
    get: str = "",
    classes: int = 0,
    folder: str | None = None,
    parts: tuple[Part, ...] = (),
    variants: Mapping[str, tuple[Reader, str]] | None = None,
) -> DatasetCard:
    """A card; `variants` gives, by name, another reader of the same folder and the score that ranks under it."""
    return DatasetCard(
        name=name,
        title=title,
        classes=classes,
        sizes=sizes,
        validation=NOTHING_SELECTED,
        validation_fraction=None,
        metric=metric,
        licence=licence,
        url=url,
        get=get or FETCHED.format(name),
        source=Official(partial(_read, read, "", metric), parts),
        task="retrieval",
        download_size=download_size,
        folder=folder,
        variants={
            variant: Official(partial(_read, reader, variant, score))
            for variant, (reader, score) in (variants or {}).items()
        },
    )


def _revisited(
    name: str, city: str, gallery: int, others: int, archives: tuple[str, ...], download_size: int
) -> list[DatasetCard]:
    """The three difficulties of ROxford5k or RParis6k; the original benchmark's is medium, with whole queries."""
    whole = partial(revisited.revisited, name=name, difficulty="medium", crop=False)
    return [
        _card(
            f"{name}_{difficulty}",
            f"Revisited {city}, {difficulty}",
            partial(revisited.revisited, name=name, difficulty=difficulty),
            "map_trapezoid",
            {"query": 70, "gallery": gallery, "whitening": others},
            licence="none stated; images of Flickr, each under its own terms",
            url="http://cmp.felk.cvut.cz/revisitop/",
            download_size=download_size,
            folder=name,
            parts=(
                *(Part(f"{_OXFORD}/{archive}", folder="jpg") for archive in archives),
                Part(f"{_REVISITOP}/{name}/gnd_{name}.mat"),
            ),
            variants={"bob2023": (whole, "mrr")} if difficulty == "medium" else {},
        )
        for difficulty in revisited.DIFFICULTIES
    ]


def _copydays(attack: str, copies: int, parts: tuple[Part, ...] = (), get: str = "") -> DatasetCard:
    return _card(
        f"copydays_{attack}",
        f"INRIA Copydays, {attack}",
        partial(names.copydays, attack=attack),
        "map_trapezoid",
        {"query": copies, "gallery": 157},
        licence=_RESEARCH.format("INRIA"),
        url="https://lear.inrialpes.fr/~jegou/data.php#copydays",
        download_size=400_000_000,
        get=get,
        folder="copydays",
        parts=parts,
    )


def _landmarks(name: str, queries: int, usage: tuple[str, ...]) -> DatasetCard:
    return _card(
        name,
        f"Google Landmarks v2, retrieval, {' and '.join(usage).lower()} queries",
        partial(landmarks.landmarks, usage=usage),
        "map@100",
        {"query": queries, "gallery": 761757},
        licence="annotations CC BY 4.0; index and test images CC0 or public domain",
        url="https://github.com/cvdfoundation/google-landmark",
        download_size=95_000_000_000,
        folder="gldv2",
        get=f"95 GB: fetch {_LANDMARKS}/index/images_000.tar to images_099.tar and unpack them into {{folder}}/index, "
        f"{_LANDMARKS}/test/images_000.tar to images_019.tar into {{folder}}/test, and put {_LANDMARKS}/metadata/"
        f"index.csv and {_LANDMARKS}/ground_truth/retrieval_solution_v2.1.csv into {{folder}}",
    )


CARDS: tuple[DatasetCard, ...] = (
    DatasetCard(
        name="digits_retrieval",
        title="Handwritten digits (scikit-learn) that look for the same digit",
        classes=10,
        sizes={"query": 360, "gallery": 1077, "whitening": 360},
        validation=NOTHING_SELECTED,
        validation_fraction=None,
        metric="map",
        licence="CC BY 4.0",
        url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        get="comes with scikit-learn",
        source=Embedded(lambda: as_dataset(digits.handwritten(), "digits_retrieval", "map", "CC BY 4.0")),
        task="retrieval",
    ),
    _card(
        "cub_retrieval",
        "Caltech-UCSD Birds-200-2011, the last 100 classes",
        lists.cub,
        "hit@1",
        {"query": 5924, "gallery": 5924, "whitening": 5864},
        classes=200,
        licence="non-commercial research and education; images are their photographers'",
        url="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        download_size=1_150_000_000,
        parts=(
            Part(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "97eceeb196236b17998738112f37df78",
            ),
        ),
        variants={"bob2023": (lists.cub_2023, "mrr")},
    ),
    _card(
        "sop",
        "Stanford Online Products",
        lists.products,
        "hit@1",
        {"query": 60502, "gallery": 60502, "whitening": 59551},
        licence=_RESEARCH.format("eBay listings"),
        url="https://cvgl.stanford.edu/projects/lifted_struct/",
        download_size=3_080_000_000,
        parts=(
            Part(
                "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
                "7f73d41a2f44250d4779881525aea32e",
            ),
        ),
    ),
    _card(
        "in_shop",
        "In-Shop Clothes Retrieval (DeepFashion)",
        lists.in_shop,
        "hit@1",
        {"query": 14218, "gallery": 12612, "whitening": 25882},
        licence="non-commercial research and education",
        url="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
        download_size=400_000_000,
        get="fetch Img/img.zip and Eval/list_eval_partition.txt from the links on its page, put both into {downloads}, "
        "then `bob data prepare in_shop`",
    ),
    _card(
        "inat_retrieval",
        "iNaturalist 2021, validation",
        class_folders.inaturalist,
        "map",
        {"query": 100000, "gallery": 100000},
        classes=10000,
        licence="non-commercial research and education; each image has its own licence",
        url="https://github.com/visipedia/inat_comp/tree/master/2021",
        download_size=8_930_000_000,
        get="`bob data prepare inat_retrieval` fetches it (8 GB)",
        parts=(
            Part(
                "https://ml-inat-competition-datasets.s3.amazonaws.com/2021/val.tar.gz",
                "f6f6e0e242e3d4c9569ba56400938afc",
            ),
        ),
        variants={"bob2023": (class_folders.inaturalist_2023, "mrr")},
    ),
    _card(
        "objectnet",
        "ObjectNet 1.0",
        class_folders.objectnet,
        "map",
        {"query": 50273, "gallery": 50273},
        classes=313,
        licence="CC BY 4.0, if it is never used to tune parameters; images are shown with their red border alone",
        url="https://objectnet.dev",
        download_size=190_000_000_000,
        get="agree to its terms on https://objectnet.dev, fetch objectnet-1.0.zip (its password is told there) and "
        "unpack it into {folder}",
        variants={"bob2023": (class_folders.objectnet_2023, "mrr")},
    ),
    _card(
        "instre",
        "INSTRE, by the protocol of Iscen et al. 2017",
        revisited.instre,
        "map_trapezoid",
        {"query": 1250, "gallery": 27293},
        licence=_RESEARCH.format("INSTRE's authors and the web"),
        url="http://123.57.42.89/instre/home.html",
        download_size=2_300_000_000,
        folder="instre",
        parts=(Part(f"{_INSTRE}/instre.tar.gz"), Part(f"{_INSTRE}/gnd_instre.mat")),
    ),
    _card(
        "instre_s1",
        "INSTRE-S1: one object per image",
        class_folders.instre_s1,
        "map",
        {"query": 11011, "gallery": 11011},
        classes=100,
        licence=_RESEARCH.format("INSTRE's authors and the web"),
        url="http://123.57.42.89/instre/home.html",
        download_size=2_300_000_000,
        folder="instre",
        parts=(Part(f"{_INSTRE}/instre.tar.gz"), Part(f"{_INSTRE}/gnd_instre.mat")),
        variants={"bob2023": (class_folders.instre_s1_2023, "mrr")},
    ),
    _card(
        "gpr1200",
        "GPR1200: general-purpose retrieval",
        names.gpr1200,
        "map",
        {"query": 12000, "gallery": 12000},
        licence="that of the six sets its images are from, among them GLDv2, iNaturalist, INSTRE and SOP",
        url="https://github.com/Visual-Computing/GPR1200",
        download_size=1_000_000_000,
        parts=(Part("https://visual-computing.com/files/GPR1200/GPR1200.zip"),),
        variants={"published": (names.gpr1200_published, "map")},
    ),
    *_revisited("roxford5k", "Oxford", 4993, 6322, ("oxbuildings/oxbuild_images-v1.tgz",), 1_940_000_000),
    *_revisited(
        "rparis6k",
        "Paris",
        6322,
        4993,
        ("parisbuildings/paris_1-v1.tgz", "parisbuildings/paris_2-v1.tgz"),
        2_500_000_000,
    ),
    _landmarks("gldv2", 1129, ("Public", "Private")),
    _landmarks("gldv2_public", 379, ("Public",)),
    _landmarks("gldv2_private", 750, ("Private",)),
    _copydays(
        "strong",
        229,
        tuple(Part(f"{_COPYDAYS}/copydays_{block}.tar.gz", folder=block) for block in ("original", "strong")),
    ),
    *(
        _copydays(
            attack,
            1413,
            get=f"its publisher's host no longer answers: `bob data prepare copydays_strong`, then unpack {archive}."
            f"tar.gz of a mirror in {{folder}}, which gives it the folder {attack}",
        )
        for attack, archive in (("jpegqual", "copydays_jpeg"), ("crops", "copydays_crop"))
    ),
)
