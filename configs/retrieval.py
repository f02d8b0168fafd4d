"""Retrieval: which backbone finds the same thing again, without any training.

    python main.py --config=configs/retrieval.py:vit_b16_dino
    python main.py --config=configs/retrieval.py:vit_b16_dino,dataset=roxford5k_medium+roxford5k_hard
    python main.py --config=configs/retrieval.py:vit_b16_dino,dataset=cub_retrieval@bob2023
    python main.py --config=configs/retrieval.py:all,dataset=retrieval:/data/my_images
    python main.py --config=configs/retrieval.py:vit_b16_clip --config.protocols.retrieval.descriptor=gem \\
        "--config.protocols.retrieval.scales=(1.0,0.7071,0.5)" --config.protocols.retrieval.whitening=256

Needs: the weights and the data (`bob data list`; docs/retrieval_data.md says how queries and galleries come to be).
`@bob2023` is the rule of the original benchmark, whose published table is a mean reciprocal rank.

Expected: `EXPECTED` below, from that table, for backbones whose preprocessing there was the checkpoint's own, and for
sets without junk, where its reciprocal ranks are right. Its galleries were read with 256 to 224 pixels in fp32.
`bob reproduce NAME` runs a row and says whether it matches.
"""

from ml_collections import ConfigDict

from bob_jax.data.catalog import CARDS
from configs.argument import Offer, config
from configs.expected import Expected
from configs.recipes import BACKBONES, DEFAULT_BACKBONES, PROTOCOLS

EMBEDDED = ("digits_retrieval",)  # that of configs/digits.py


def get_config(argument: str | None = None) -> ConfigDict:
    """The grid that the argument asks for; see `configs/argument.py` for its grammar."""
    offer = Offer(
        backbones=BACKBONES,
        datasets=tuple(name for name, card in CARDS.items() if card.task == "retrieval" and name not in EMBEDDED),
        protocols=("retrieval",),
        default_backbones=DEFAULT_BACKBONES,
    )
    return config("retrieval", argument, offer, PROTOCOLS)


SETS = ("cub_retrieval", "inat_retrieval", "objectnet", "instre_s1")
MRR = {
    "vit_b16_dino": (0.723171, 0.213434, 0.291968, 0.911730),
    "vit_s16_dino": (0.785770, 0.209997, 0.270710, 0.904100),
    "vit_b16_mocov3": (0.567767, 0.132534, 0.200454, 0.844310),
    "vit_s16_mocov3": (0.565110, 0.121707, 0.177654, 0.817880),
    "vit_l16_mae": (0.237556, 0.036066, 0.052821, 0.555352),
    "vit_b16_mae": (0.143100, 0.010584, 0.035467, 0.339574),
}

EXPECTED = tuple(
    Expected(
        name=f"{dataset}_bob2023_{backbone}",
        benchmark="retrieval",
        argument=f"{backbone},dataset={dataset}@bob2023",
        metric="mrr",
        value=value,
        tolerance=0.02,
        source="hsouri/bob-retrieval, notebook: MRR, 33 models x 8 sets",
    )
    for backbone, row in MRR.items()
    for dataset, value in zip(SETS, row, strict=True)
)
