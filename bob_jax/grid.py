"""From a config to its cells: one backbone x one data set x one protocol x one seed each."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bob_jax.backbones import zoo
from bob_jax.errors import BobError, unknown_name
from bob_jax.protocols.augmented_probe import AugmentedProbe
from bob_jax.protocols.base import Protocol
from bob_jax.protocols.finetune import Finetune
from bob_jax.protocols.knn import KNN
from bob_jax.protocols.linear_probe import LinearProbe
from bob_jax.results.record import cell_id

PROTOCOLS: dict[str, type[Protocol]] = {kind.name: kind for kind in (KNN, LinearProbe, AugmentedProbe, Finetune)}

SECTIONS = {
    "": ("benchmark", "backbones", "datasets", "seeds", "protocols", "data", "mesh", "results", "keep_weights"),
    "data": ("root", "limit", "num_workers", "skip_corrupt"),
    "mesh": ("fsdp",),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """The unit of work, of resume and of result.

    Attributes:
        benchmark: name of the config file it came from.
        backbone: name in the zoo.
        dataset: name in the catalogue, or `folder:PATH`.
        protocol: with all its hyper-parameters.
        seed: of everything random.
        limit: examples per split, None for all.
        skip_corrupt: undecodable images are masked instead of failing the cell.
    """

    benchmark: str
    backbone: str
    dataset: str
    protocol: Protocol
    seed: int
    limit: int | None
    skip_corrupt: bool

    def identity(self, dataset_version: str) -> dict[str, Any]:
        """Everything that decides the result; where the data lie and how fast they are read does not."""
        return {
            "benchmark": self.benchmark,
            "backbone": self.backbone,
            "card": dataclasses.asdict(zoo.card(self.backbone)),
            "dataset": self.dataset,
            "dataset_version": dataset_version,
            "protocol": self.protocol.name,
            "hyper_parameters": dataclasses.asdict(self.protocol),
            "seed": self.seed,
            "limit": self.limit,
            "skip_corrupt": self.skip_corrupt,
        }

    def id(self, dataset_version: str) -> str:
        """Name of the cell's record: readable, with a hash of its identity."""
        return cell_id(self.identity(dataset_version))

    def __str__(self) -> str:
        return f"{self.backbone} x {self.dataset} x {self.protocol.name} (seed {self.seed})"


def cells(config: Mapping[str, Any]) -> list[Cell]:
    """All cells of a config; those of one backbone and data set stand together, so that they share its features.

    Raises:
        BobError: a key nothing reads, an unknown backbone or protocol, a hyper-parameter of the wrong type.
    """
    for section, keys in SECTIONS.items():
        for key in config[section] if section else config:
            if key not in keys:
                raise unknown_name(f"key in config{'.' if section else ''}{section}", key, keys)
    for name in config["protocols"]:
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS)
    sections = {name: config["protocols"][name] for name in PROTOCOLS if name in config["protocols"]}  # cheapest first
    protocols = [PROTOCOLS[name].from_config(section) for name, section in sections.items()]
    for name in config["backbones"]:
        zoo.card(name)
    if not protocols or not config["backbones"] or not config["datasets"]:
        raise BobError(
            f"the config {config['benchmark']} stands for no cell: name a backbone, a dataset and a protocol"
        )
    return [
        Cell(
            config["benchmark"],
            backbone,
            dataset,
            protocol,
            seed,
            config["data"]["limit"] or None,
            config["data"]["skip_corrupt"],
        )
        for backbone in config["backbones"]
        for dataset in config["datasets"]
        for seed in config["seeds"]
        for protocol in protocols
    ]
