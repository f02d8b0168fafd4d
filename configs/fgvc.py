"""Fine-grained classification: which backbone tells apart what looks alike.

    python main.py --config=configs/fgvc.py:vit_b16_clip
    python main.py --config=configs/fgvc.py:vit_b16_clip,dataset=cub,protocol=finetune
    python main.py --config=configs/fgvc.py:all,protocol=knn+linear_probe --dry_run

Needs: the weights (fetched on first use) and the data (`bob data prepare NAME`; `bob data list` says what each set
asks for). Expected: `EXPECTED` below (`bob reproduce NAME` runs a row and says whether it matches); MAE far behind CLIP
and DINO in k-NN, as its authors say of linear separability.
"""

from ml_collections import ConfigDict

from configs.argument import Offer, config
from configs.expected import Expected
from configs.recipes import BACKBONES, DEFAULT_BACKBONES, PROTOCOLS

DATASETS = ("cub", "cars", "aircraft", "dogs", "flowers", "pets", "inat2021")


def get_config(argument: str | None = None) -> ConfigDict:
    """The grid that the argument asks for; see `configs/argument.py` for its grammar."""
    offer = Offer(
        backbones=BACKBONES,
        datasets=DATASETS,
        protocols=("knn", "linear_probe", "augmented_probe", "finetune", "transferability"),
        default_protocols=("knn", "linear_probe", "augmented_probe", "finetune"),
        default_backbones=DEFAULT_BACKBONES,
    )
    return config("fgvc", argument, offer, PROTOCOLS)


EXPECTED = (
    Expected(
        name="aircraft_linear_probe_vit_l14_clip_openai",
        benchmark="fgvc",
        argument="vit_l14_clip_openai,dataset=aircraft,protocol=linear_probe",
        metric="accuracy",
        value=0.694,
        tolerance=0.02,
        source="LAION-AI/CLIP_benchmark, pull request 107",
    ),
)
