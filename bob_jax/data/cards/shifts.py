"""Shifted test sets, and the sources that are no data sets of another family."""

from collections.abc import Callable, Mapping
from pathlib import Path

from bob_jax.data import glyphs
from bob_jax.data.base import Dataset
from bob_jax.data.cards.card import BY_TFDS, FETCHED, DatasetCard, Embedded, Kind, Official, Part, Tfds
from bob_jax.data.shifts import cifar, digits, domainnet, imagenet, visda

_NOTHING_SELECTED = "none: nothing is selected on shifted images"
_ACCURACY, _PER_CLASS = "accuracy", "mean_per_class_accuracy"
_ZENODO = "https://zenodo.org/record"
_VISDA = "http://csr.bu.edu/ftp/visda17/clf"
_CORRUPTIONS = (
    ("noise.tar", "e80562d7f6c3f8834afb1ecf27252745"),
    ("blur.tar", "2d8e81fdd8e07fef67b9334fa635e45c"),
    ("weather.tar", "33ffea4db4d93fe4a428c40a6ce0c25d"),
    ("digital.tar", "89157860d7b10d5797849337ca2e5c03"),
    ("extra.tar", "d492dfba5fc162d8ec2c3cd8ee672984"),
)
_CONDITIONS = [f"{name}_{severity}" for name in imagenet.CORRUPTIONS for severity in imagenet.SEVERITIES]
_DOMAINNET = {  # official train and test images of each domain, and bytes to fetch
    "real": (120906, 52041, 5_600_000_000),
    "painting": (50416, 21850, 3_400_000_000),
    "clipart": (33525, 14604, 1_200_000_000),
    "quickdraw": (120750, 51750, 438_000_000),
    "infograph": (36023, 15582, 3_800_000_000),
    "sketch": (48212, 20916, 2_500_000_000),
}


def _shift(
    name: str,
    title: str,
    shifted_from: str,
    classes: int,
    sizes: Mapping[str, int],
    source: Kind,
    *,
    licence: str,
    url: str,
    get: str,
    download_size: int | None = None,
) -> DatasetCard:
    return DatasetCard(
        name=name,
        title=title,
        classes=classes,
        sizes=sizes,
        validation=_NOTHING_SELECTED,
        validation_fraction=None,
        metric=_ACCURACY,
        licence=licence,
        url=url,
        get=get,
        source=source,
        task="shift",
        shifted_from=shifted_from,
        download_size=download_size,
    )


def _imagenet(
    name: str, title: str, builder: str, images: int, *, licence: str, url: str, size: int, classes: int = 1000
) -> DatasetCard:
    """One that TFDS fetches, and that is read from its official archive as well."""
    return _shift(
        name,
        title,
        imagenet.SOURCE,
        classes,
        {"test": images},
        Tfds(builder, "file_name", read=imagenet.read),
        licence=licence,
        url=url,
        get=BY_TFDS.format(name) + ", or unpack the official archive into {folder}",
        download_size=size,
    )


def _embedded(name: str, title: str, source: str, sizes: Mapping[str, int], load: Callable[[], Dataset]) -> DatasetCard:
    return _shift(
        name,
        title,
        source,
        10,
        sizes,
        Embedded(load),
        licence="CC BY 4.0",
        url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        get="comes with scikit-learn",
    )


def _visda(
    name: str,
    title: str,
    read: Callable[[Path, DatasetCard], Dataset],
    sizes: Mapping[str, int],
    validation: str,
    held_out: float | None = None,
    shifted_from: str | None = None,
) -> DatasetCard:
    """Both halves lie in one folder."""
    return DatasetCard(
        name=name,
        title=title,
        classes=len(visda.CLASSES),
        sizes=sizes,
        validation=validation,
        validation_fraction=held_out,
        test_fraction=held_out,
        metric=_PER_CLASS,
        licence="none stated; for research",
        url="https://ai.bu.edu/visda-2017/",
        get=FETCHED.format(name),
        source=Official(read, tuple(Part(f"{_VISDA}/{archive}") for archive in ("train.tar", "validation.tar"))),
        task="shift" if shifted_from else "classification",
        shifted_from=shifted_from,
        download_size=10_500_000_000,
        folder="visda2017",
    )


CARDS: tuple[DatasetCard, ...] = (
    _embedded(
        "digits_c",
        "Handwritten digits under five kinds of corruption at five severities",
        "digits",
        {f"{kind}_{severity}": 360 for kind in digits.KINDS for severity in range(1, 6)},
        digits.corrupted,
    ),
    _embedded(
        "digits_from_print",
        "Handwritten digits, for heads trained on printed ones",
        "printed_digits",
        {"test": 1797},
        digits.from_print,
    ),
    DatasetCard(
        name="printed_digits",
        title="Printed digits drawn from matplotlib's fonts",
        classes=10,
        sizes={split: 10 * copies for split, copies in glyphs.COPIES.items()},
        validation="typefaces of its own, as test has",
        validation_fraction=None,
        metric=_ACCURACY,
        licence="free for any use, as the fonts are",
        url="https://matplotlib.org/stable/users/explain/text/fonts.html",
        get="drawn from fonts that come with matplotlib",
        source=Embedded(glyphs.load_digits),
    ),
    *(
        _imagenet(
            name,
            f"ImageNet-V2, {variant}",
            f"imagenet_v2/{config}",
            10000,
            licence="MIT; images are their photographers'",
            url="https://github.com/modestyachts/ImageNetV2",
            size=1_260_000_000,
        )
        for name, variant, config in (
            ("imagenet_v2", "matched frequency", "matched-frequency"),
            ("imagenet_v2_threshold", "threshold 0.7", "threshold-0.7"),
            ("imagenet_v2_top", "top images", "topimages"),
        )
    ),
    _imagenet(
        "imagenet_a",
        "ImageNet-A: natural adversarial examples",
        "imagenet_a",
        7500,
        classes=200,
        licence="MIT; images are their photographers'",
        url="https://github.com/hendrycks/natural-adv-examples",
        size=690_000_000,
    ),
    _imagenet(
        "imagenet_r",
        "ImageNet-R: renditions",
        "imagenet_r",
        30000,
        classes=200,
        licence="MIT; images are their makers'",
        url="https://github.com/hendrycks/imagenet-r",
        size=2_190_000_000,
    ),
    _imagenet(
        "imagenet_sketch",
        "ImageNet-Sketch",
        "imagenet_sketch",
        50889,
        licence="MIT; images are their makers'",
        url="https://github.com/HaohanWang/ImageNet-Sketch",
        size=7_600_000_000,
    ),
    _shift(
        "imagenet_c",
        "ImageNet-C: 19 corruptions at five severities",
        imagenet.SOURCE,
        1000,
        dict.fromkeys(_CONDITIONS, 50000),
        Official(
            imagenet.read_corrupted, tuple(Part(f"{_ZENODO}/2235448/files/{file}", md5) for file, md5 in _CORRUPTIONS)
        ),
        licence="CC BY 4.0; images of ImageNet (non-commercial research)",
        url="https://github.com/hendrycks/robustness",
        get=FETCHED.format("imagenet_c"),
        download_size=75_000_000_000,
    ),
    _shift(
        "imagenet_real",
        'ImageNet\'s validation images with the labels of "Are we done with ImageNet?"',
        imagenet.SOURCE,
        1000,
        {"test": 46837},
        Official(
            imagenet.read_real,
            (Part("https://raw.githubusercontent.com/google-research/reassessed-imagenet/master/real.json"),),
        ),
        licence="labels Apache-2.0; images of ImageNet (non-commercial research)",
        url="https://github.com/google-research/reassessed-imagenet",
        get=FETCHED.format("imagenet_real") + "; the images are those of ImageNet",
        download_size=400_000,
    ),
    _visda(
        visda.SOURCE,
        "VisDA-2017, renderings of 3D models",
        visda.read_synthetic,
        {"all": 152397},
        "10 % of the 3D models of each class, seed 0; test likewise",
        held_out=visda.HELD_OUT,
    ),
    _visda(
        "visda_real",
        "VisDA-2017, photographs",
        visda.read_real,
        {"test": 55388},
        _NOTHING_SELECTED,
        shifted_from=visda.SOURCE,
    ),
    *(
        DatasetCard(
            name=domainnet.source(domain),
            title=f"DomainNet, {domain}",
            classes=345,
            sizes={"train": train, "test": test},
            validation="20 % of official train, stratified, seed 0",
            validation_fraction=0.2,
            metric=_ACCURACY,
            licence="none stated; images are their makers', for research",
            url="http://ai.bu.edu/M3SDA/",
            get=BY_TFDS.format(domainnet.source(domain)),
            source=Tfds(f"domainnet/{domain}"),
            download_size=size,
        )
        for domain, (train, test, size) in _DOMAINNET.items()
    ),
    *(
        _shift(
            f"{domainnet.source(source)}_to_{target}",
            f"DomainNet, from {source} to {target}",
            domainnet.source(source),
            345,
            {"test": _DOMAINNET[target][1]},
            Tfds(f"domainnet/{target}", read=domainnet.read),
            licence="none stated; images are their makers', for research",
            url="http://ai.bu.edu/M3SDA/",
            get=BY_TFDS.format(domainnet.source(target)),
            download_size=_DOMAINNET[target][2],
        )
        for source, target in domainnet.PAIRS
    ),
    _shift(
        "cifar10_1",
        "CIFAR-10.1 v6",
        cifar.SOURCE,
        10,
        {"test": 2000},
        Tfds("cifar10_1/v6", read=cifar.read_again),
        licence="MIT; images of 80 Million Tiny Images",
        url="https://github.com/modestyachts/CIFAR-10.1",
        get=BY_TFDS.format("cifar10_1"),
        download_size=6_000_000,
    ),
    _shift(
        "cifar10_c",
        "CIFAR-10-C: 19 corruptions at five severities",
        cifar.SOURCE,
        10,
        dict.fromkeys(_CONDITIONS, 10000),
        Official(
            cifar.read_corrupted,
            (Part(f"{_ZENODO}/2535967/files/CIFAR-10-C.tar", "56bf5dcef84df0e2308c6dcbcbbd8499"),),
        ),
        licence="CC BY 4.0",
        url="https://github.com/hendrycks/robustness",
        get=FETCHED.format("cifar10_c"),
        download_size=2_918_471_680,
    ),
)
