"""Classification of everyday objects, scenes and textures: ImageNet, CIFAR, and the natural sets of VTAB."""

from bob_jax.data.cards.card import BY_TFDS, DatasetCard, Tfds

IMAGENET_SPLITS = {"test": "validation"}  # labels of the official test images are not public
IMAGENET_FILES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
IMAGENET_GET = (
    "register at https://image-net.org/download-images, put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar "
    "into {{downloads}}, `pip install 'bob_jax[tfds]'`, then `bob data prepare {}`"
)
IMAGENET_LICENCE = "non-commercial research and education (ImageNet's terms)"
IMAGENET_BYTES = 154_642_000_000


def _imagenet_part(percent: int, images: int, held_out: float) -> DatasetCard:
    """The images that SimCLR trains on with few labels (Chen et al. 2020, arXiv 2002.05709); test is ImageNet's."""
    name = f"imagenet_{percent}pct"
    return DatasetCard(
        name=name,
        title=f"ImageNet-1k, SimCLR's {percent} % of the training images",
        classes=1000,
        sizes={"train": images, "test": 50000},
        validation=f"{held_out:.0%} of SimCLR's list, stratified, seed 0",
        validation_fraction=held_out,
        metric="accuracy",
        licence=IMAGENET_LICENCE,
        url="https://github.com/google-research/simclr/tree/master/imagenet_subsets",
        get=IMAGENET_GET.format(name),
        source=Tfds(f"imagenet2012_subset/{percent}pct", "file_name", splits=IMAGENET_SPLITS, manual=IMAGENET_FILES),
        download_size=IMAGENET_BYTES,
    )


CARDS = (
    DatasetCard(
        name="imagenet",
        title="ImageNet-1k (ILSVRC 2012)",
        classes=1000,
        sizes={"train": 1281167, "test": 50000},
        validation="1 % of official train, stratified, seed 0",
        validation_fraction=0.01,
        metric="accuracy",
        licence=IMAGENET_LICENCE,
        url="https://image-net.org/challenges/LSVRC/2012/",
        get=IMAGENET_GET.format("imagenet"),
        source=Tfds("imagenet2012", "file_name", splits=IMAGENET_SPLITS, manual=IMAGENET_FILES),
        download_size=IMAGENET_BYTES,
    ),
    _imagenet_part(10, 128116, 0.1),
    _imagenet_part(1, 12811, 0.2),
    DatasetCard(
        name="cifar10",
        title="CIFAR-10",
        classes=10,
        sizes={"train": 50000, "test": 10000},
        validation="10 % of official train, stratified, seed 0",
        validation_fraction=0.1,
        metric="accuracy",
        licence="none stated",
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
        get=BY_TFDS.format("cifar10"),
        source=Tfds("cifar10", "id"),
        download_size=170_000_000,
    ),
    DatasetCard(
        name="cifar100",
        title="CIFAR-100",
        classes=100,
        sizes={"train": 50000, "test": 10000},
        validation="10 % of official train, stratified, seed 0",
        validation_fraction=0.1,
        metric="accuracy",
        licence="none stated",
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
        get=BY_TFDS.format("cifar100"),
        source=Tfds("cifar100", "id"),
        download_size=169_000_000,
    ),
    DatasetCard(
        name="caltech101",
        title="Caltech-101, with its background class",
        classes=102,
        sizes={"train": 3060, "test": 6084},
        validation="20 % of train (TFDS's 30 images a class), stratified, seed 0",
        validation_fraction=0.2,
        metric="mean_per_class_accuracy",
        licence="CC BY 4.0",
        url="https://data.caltech.edu/records/mzrjq-6wc02",
        get=BY_TFDS.format("caltech101"),
        source=Tfds("caltech101"),  # its file names are the same in every class
        download_size=137_000_000,
    ),
    DatasetCard(
        name="dtd",
        title="Describable Textures (DTD), fold 1",
        classes=47,
        sizes={"train": 1880, "validation": 1880, "test": 1880},
        validation="official",
        validation_fraction=None,
        metric="accuracy",
        licence="research only",
        url="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        get=BY_TFDS.format("dtd"),
        source=Tfds("dtd", "file_name"),
        download_size=625_000_000,
    ),
    DatasetCard(
        name="svhn",
        title="Street View House Numbers, cropped digits",
        classes=10,
        sizes={"train": 73257, "test": 26032},
        validation="10 % of official train (without its extra images), stratified, seed 0",
        validation_fraction=0.1,
        metric="accuracy",
        licence="non-commercial",
        url="http://ufldl.stanford.edu/housenumbers/",
        get=BY_TFDS.format("svhn"),
        source=Tfds("svhn_cropped", "id", classes=tuple("0123456789")),
        download_size=1_576_000_000,
    ),
    DatasetCard(
        name="sun397",
        title="SUN397 scenes, the split of TFDS that VTAB uses",
        classes=397,
        sizes={"train": 76128, "validation": 10875, "test": 21750},
        validation="TFDS's",
        validation_fraction=None,
        metric="accuracy",
        licence="none stated; images are their photographers'",
        url="https://vision.princeton.edu/projects/2010/SUN/",
        get=BY_TFDS.format("sun397"),
        source=Tfds("sun397/tfds", "file_name"),
        download_size=39_096_000_000,
    ),
    DatasetCard(
        name="food101",
        title="Food-101",
        classes=101,
        sizes={"train": 75750, "test": 25250},
        validation="10 % of official train, stratified, seed 0",
        validation_fraction=0.1,
        metric="accuracy",
        licence="scientific fair use; images of Foodspotting",
        url="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        get=BY_TFDS.format("food101"),
        source=Tfds("food101", splits={"test": "validation"}),
        download_size=4_996_000_000,
    ),
)
