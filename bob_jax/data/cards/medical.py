"""Tissue, eyes and chests."""

from bob_jax.data import chexpert
from bob_jax.data.cards.card import BY_TFDS, DatasetCard, Official, Tfds

CARDS = (
    DatasetCard(
        name="patch_camelyon",
        title="PatchCamelyon: metastases in lymph nodes",
        classes=2,
        sizes={"train": 262144, "validation": 32768, "test": 32768},
        validation="official",
        validation_fraction=None,
        metric="accuracy",
        licence="CC0 1.0",
        url="https://github.com/basveeling/pcam",
        get=BY_TFDS.format("patch_camelyon"),
        source=Tfds("patch_camelyon", "id", classes=("normal tissue", "metastasis")),
        download_size=8_028_000_000,
    ),
    DatasetCard(
        name="diabetic_retinopathy",
        title="Diabetic Retinopathy Detection (Kaggle 2015), at a radius of 300 pixels",
        classes=5,
        sizes={"train": 35126, "validation": 10906, "test": 42670},
        validation="images of the public leaderboard; test are those of the private one",
        validation_fraction=None,
        metric="accuracy",
        licence="the competition's rules",
        url="https://www.kaggle.com/c/diabetic-retinopathy-detection/data",
        get="accept the rules on its page and unpack its files into {downloads}: folders sample, train and test of "
        "images, and trainLabels.csv; `pip install 'bob_jax[tfds]' opencv-python-headless`, then "
        "`bob data prepare diabetic_retinopathy`",
        source=Tfds(
            "diabetic_retinopathy_detection/btgraham-300",
            "name",
            classes=("no retinopathy", "mild", "moderate", "severe", "proliferative"),
            manual=("sample", "train", "test", "trainLabels.csv"),
        ),
        download_size=88_000_000_000,
    ),
    DatasetCard(
        name="chexpert",
        title="CheXpert-v1.0-small, frontal views, five findings",
        classes=len(chexpert.FINDINGS),
        sizes={"train": 191027, "test": 202},
        validation=chexpert.VALIDATION,
        validation_fraction=chexpert.HELD_OUT,
        metric="mean_auc",
        licence="Stanford University's research use agreement, non-commercial",
        url="https://stanfordmlgroup.github.io/competitions/chexpert/",
        get="sign the agreement on its page and put CheXpert-v1.0-small.zip, or the folder CheXpert-v1.0-small of what "
        "is in it, into {downloads}, then `bob data prepare chexpert`",
        source=Official(chexpert.read),
        task="multilabel",
        download_size=11_500_000_000,
        variants={name: Official(read) for name, read in chexpert.VARIANTS.items()},
    ),
)
