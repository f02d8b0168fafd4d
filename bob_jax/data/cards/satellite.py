"""Land use seen from above. Neither set has an official split: 60 % train, 20 % validation, 20 % test, stratified."""

from bob_jax.data.cards.card import BY_TFDS, DatasetCard, Tfds

CARDS = (
    DatasetCard(
        name="eurosat",
        title="EuroSAT, RGB (Sentinel-2)",
        classes=10,
        sizes={"all": 27000},
        validation="20 % of all images, stratified, seed 0; test likewise",
        validation_fraction=0.2,
        test_fraction=0.2,
        metric="accuracy",
        licence="MIT",
        url="https://github.com/phelber/EuroSAT",
        get=BY_TFDS.format("eurosat"),
        source=Tfds("eurosat/rgb", "filename", splits={"all": "train"}),
        download_size=94_000_000,
    ),
    DatasetCard(
        name="resisc45",
        title="NWPU-RESISC45 (Google Earth)",
        classes=45,
        sizes={"all": 31500},
        validation="20 % of all images, stratified, seed 0; test likewise",
        validation_fraction=0.2,
        test_fraction=0.2,
        metric="accuracy",
        licence="none stated; images of Google Earth",
        url="https://gcheng-nwpu.github.io/#Datasets",
        get="fetch NWPU-RESISC45.rar from its page (or https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs) and extract it "
        "to {downloads}/NWPU-RESISC45, `pip install 'bob_jax[tfds]'`, then `bob data prepare resisc45`",
        source=Tfds("resisc45", "filename", splits={"all": "train"}, manual=("NWPU-RESISC45",)),
        download_size=427_000_000,
    ),
)
