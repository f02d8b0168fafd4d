"""From a config to its cells: one backbone x one data set x one protocol x one seed each.

A protocol is paired with the data sets that ask its kind of question. One that judges a head (`needs_head`) is paired
with the heads of the config as well: each such cell has a source, the cell that trains the head, which stands before
it.

A config may stand for several benchmarks: then it has `parts`, each the grid of one of them, and what concerns the
whole run stands beside them. A cell is the same cell, with the same id, whether its benchmark runs alone or as a part.
A file that `only` names makes the grid a part of itself: the cells of a plan that fits a budget.
"""

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bob_jax.backbones import zoo
from bob_jax.data import catalog
from bob_jax.errors import BobError, unknown_name
from bob_jax.protocols.adversarial import Adversarial
from bob_jax.protocols.augmented_probe import AugmentedProbe
from bob_jax.protocols.base import Protocol
from bob_jax.protocols.detection import Detection, Diffusion2023, Hierarchical2023, Plain2023
from bob_jax.protocols.finetune import Finetune
from bob_jax.protocols.knn import KNN
from bob_jax.protocols.linear_probe import LinearProbe
from bob_jax.protocols.ood import OutOfDistribution
from bob_jax.protocols.published_head import PublishedHead
from bob_jax.protocols.retrieval import Retrieval
from bob_jax.protocols.transferability import Transferability
from bob_jax.protocols.zero_shot import ZeroShot
from bob_jax.results.files import located, write_whole
from bob_jax.results.record import cell_id

PROTOCOLS: dict[str, type[Protocol]] = {
    kind.name: kind
    for kind in (
        *(PublishedHead, ZeroShot, KNN, LinearProbe, AugmentedProbe, Finetune),
        *(OutOfDistribution, Retrieval, Adversarial, Transferability),
        *(Detection, Hierarchical2023, Plain2023, Diffusion2023),
    )
}

GRID = ("benchmark", "backbones", "datasets", "seeds", "protocols", "heads")
RUN = ("data", "mesh", "results", "keep_weights", "only")
NAMES = ("benchmark", "backbone", "dataset", "protocol", "seed")  # what tells the cells of one config apart
SECTIONS = {"data": ("root", "limit", "num_workers", "skip_corrupt"), "mesh": ("fsdp",)}


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
        source: the cell that leaves the head this one judges; None where the protocol makes its own.
    """

    benchmark: str
    backbone: str
    dataset: str
    protocol: Protocol
    seed: int
    limit: int | None
    skip_corrupt: bool
    source: "Cell | None" = None

    @property
    def protocol_name(self) -> str:
        """The protocol, and the head it judges: "knn", "ood_linear_probe"."""
        return f"{self.protocol.name}_{self.source.protocol.name}" if self.source else self.protocol.name

    @property
    def names(self) -> dict[str, Any]:
        """What tells it from the other cells of its config."""
        values = (self.benchmark, self.backbone, self.dataset, self.protocol_name, self.seed)
        return dict(zip(NAMES, values, strict=True))

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """All of the protocol's, and those of the head it judges under `head.`."""
        own = dataclasses.asdict(self.protocol)
        heads = self.source.hyperparameters if self.source else {}
        return own | {f"head.{name}": value for name, value in heads.items()}

    def identity(self, dataset_version: str, source_id: str | None = None) -> dict[str, Any]:
        """Everything that decides the result; where the data lie and how fast they are read does not."""
        return {
            "benchmark": self.benchmark,
            "backbone": self.backbone,
            "card": dataclasses.asdict(zoo.card(self.backbone)),
            "dataset": self.dataset,
            "dataset_version": dataset_version,
            "protocol": self.protocol_name,
            "hyper_parameters": dataclasses.asdict(self.protocol),
            "seed": self.seed,
            "limit": self.limit,
            "skip_corrupt": self.skip_corrupt,
        } | ({} if source_id is None else {"source": source_id})

    def id(self, dataset_version: str, source_id: str | None = None) -> str:
        """Name of the cell's record: readable, with a hash of its identity."""
        return cell_id(self.identity(dataset_version, source_id))

    def __str__(self) -> str:
        return f"{self.backbone} x {self.dataset} x {self.protocol_name} (seed {self.seed})"


def cells(config: Mapping[str, Any]) -> list[Cell]:
    """All cells of a config; those of one backbone and data set stand together, so that they share its features.

    Raises:
        BobError: a key nothing reads, an unknown backbone or protocol, a hyper-parameter of the wrong type, a data set
            that no protocol of the config can judge, or nothing that the protocols can judge at all; a file `only` that
            cannot be read, or names a cell that is not there. Single backbones that a protocol cannot judge are left
            out.
    """
    several = "parts" in config
    _check("config", config, ("benchmark", "parts", *RUN) if several else (*GRID, *RUN))
    for section, keys in SECTIONS.items():
        _check(f"config.{section}", config[section], keys)
    if (config["data"]["limit"] or 0) < 0:
        raise BobError(f"config.data.limit is {config['data']['limit']}: give images of each split, or 0 for all")
    found: dict[Cell, None] = {}  # a set in order: several cells may ask for the same source
    left_out: list[str] = []
    for name, part in config["parts"].items() if several else (("", config),):
        if several:
            _check(f"config.parts.{name}", part, GRID)
        more, without = _of_one(part, config["data"])
        found |= dict.fromkeys(more)
        left_out += without
    if not found:
        raise BobError(f"the config {config['benchmark']} stands for no cell: {'; '.join(dict.fromkeys(left_out))}")
    place = {backbone: i for i, backbone in enumerate(dict.fromkeys(cell.backbone for cell in found))}
    everything = sorted(found, key=lambda cell: place[cell.backbone])
    return _only(everything, Path(config["only"])) if config.get("only") else everything


def write_only(cells: Iterable[Cell], config: str, path: Path) -> None:
    """Writes the file that makes a run with `--config.only=FILE` do these cells alone.

    Args:
        cells: of a grid.
        config: what the grid is of, for people.
        path: of the file.

    Raises:
        BobError: it cannot be written.
    """
    text = json.dumps({"config": config, "cells": [cell.names for cell in cells]}, indent=1)
    write_whole(path, f"{text}\n".encode())


def _only(cells: Sequence[Cell], path: Path) -> list[Cell]:
    """Those that a file names, in their order."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        wanted = {tuple(one[name] for name in NAMES) for one in told["cells"]}
    except OSError as error:
        raise BobError(f"config.only: cannot read '{path}': {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BobError(
            f"config.only: '{path}' names no cells: write it with `bob plan CONFIG --budget --out`"
        ) from error
    if not wanted:
        raise BobError(f"config.only: '{path}' names no cells: write it with `bob plan CONFIG --budget --out`")
    known = {tuple(cell.names.values()): cell for cell in cells}
    for names in wanted:
        if names not in known:
            shown = " x ".join(map(str, names))
            raise BobError(
                f"config.only: '{path}' names {shown}, which is no cell of this config: it was written for another"
            )
    return [cell for names, cell in known.items() if names in wanted]


def folder(config: Mapping[str, Any], benchmark: str) -> Path:
    """Where the records of a benchmark go: with parts, a folder for each, the one it has when it runs alone."""
    results = located(config["results"])
    return results / benchmark if "parts" in config else results


def twins(cell: Cell, config: Mapping[str, Any]) -> list[Cell]:
    """The same cell under the other benchmarks of a gauntlet: a record of one of them answers for this one.

    So the head that `ood` judges is not trained again where `classification` has trained it. None for a cell that
    judges a head: with the head at hand it costs little, and no two benchmarks judge the same one.
    """
    if cell.source is not None:
        return []
    return [dataclasses.replace(cell, benchmark=name) for name in config.get("parts", ()) if name != cell.benchmark]


def sources(cells: Iterable[Cell], config: Mapping[str, Any]) -> frozenset[Cell]:
    """The cells whose heads others judge, and their twins: whichever runs first leaves its weights."""
    found = {cell.source for cell in cells if cell.source}
    return frozenset(found.union(*(twins(cell, config) for cell in found)))


def keeps_weights(cell: Cell, config: Mapping[str, Any], sources: Collection[Cell]) -> bool:
    """Whether the weights that a cell trains stay beside its record; they do for `sources`: others judge these."""
    asked = cell.protocol.makes_head and (config["keep_weights"] or cell in sources)
    return bool(cell.protocol.keeps_weights or asked)


def _check(where: str, section: Mapping[str, Any], keys: Collection[str]) -> None:
    for key in section:
        if key not in keys:
            raise unknown_name(f"key in {where}", key, keys)


def _of_one(config: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[list[Cell], list[str]]:
    """The cells of one benchmark, and why backbones were left out."""
    protocols, heads = _protocols(config["protocols"]), _protocols(config["heads"])
    for maker in heads:
        if not maker.makes_head:
            raise BobError(f"heads.{maker.name}: this protocol leaves no head to judge; name one that trains a head")
    for name in config["backbones"]:
        zoo.card(name)
    if not protocols or not config["backbones"] or not config["datasets"]:
        raise BobError(
            f"the config {config['benchmark']} stands for no cell: name a backbone, a dataset and a protocol"
        )
    pairs = [(dataset, pair) for dataset in config["datasets"] for pair in _pairs(dataset, protocols, heads)]
    found: list[Cell] = []
    left_out: list[str] = []
    for backbone in config["backbones"]:
        for dataset, (protocol, head) in pairs:
            if why := (head or protocol).unfit(zoo.card(backbone), catalog.source_of(dataset) if head else dataset):
                left_out.append(f"{(head or protocol).name}: {why}")
                continue
            for seed in config["seeds"]:
                common = (seed, data["limit"] or None, data["skip_corrupt"])
                source = None
                if head is not None:
                    source = Cell(config["benchmark"], backbone, catalog.source_of(dataset), head, *common)
                    found.append(source)
                found.append(Cell(config["benchmark"], backbone, dataset, protocol, *common, source))
    return found, left_out


def _protocols(sections: Mapping[str, Any]) -> list[Protocol]:
    """The protocols of a section of the config, cheapest first."""
    for name in sections:
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS)
    return [PROTOCOLS[name].from_config(sections[name]) for name in PROTOCOLS if name in sections]


def _pairs(
    dataset: str, protocols: Sequence[Protocol], heads: Sequence[Protocol]
) -> list[tuple[Protocol, Protocol | None]]:
    """What judges a data set: each protocol that can, with each head where it needs one."""
    task = catalog.task(dataset)
    found: list[tuple[Protocol, Protocol | None]] = []
    for protocol in protocols:
        if task in protocol.tasks:
            found += [(protocol, head) for head in heads] if protocol.needs_head else [(protocol, None)]
    if not found:
        able = sorted(kind.name for kind in PROTOCOLS.values() if task in kind.tasks)
        raise BobError(
            f"data set {dataset} asks for {task}, which no protocol of this run judges: take {' or '.join(able)}"
        )
    return found
