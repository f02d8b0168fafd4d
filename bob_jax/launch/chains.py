"""Which cells belong on one machine, one after the other: those that share features, and heads before their judges."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

from bob_jax.data import catalog
from bob_jax.grid import Cell
from bob_jax.launch.estimate import asked


def chains(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells in as many chains as do not need each other, each in the order of the grid.

    In one chain are all cells that look with the same frozen backbone at the same images, whose features the first one
    leaves in the cache of its machine, all that judge the head of one of them, and all that ask the same under another
    benchmark. A cell that trains its backbone shares no features: without a judge it is a chain of its own.
    """
    leader: dict[Hashable, Hashable] = {}

    def find(one: Hashable) -> Hashable:
        while leader.setdefault(one, one) != one:
            one = leader[one]
        return one

    for cell in cells:
        tied: list[Hashable] = [asked(cell.source)] if cell.source else []
        head = cell.source.protocol if cell.source else cell.protocol
        if not head.trains_backbone:
            tied.append((cell.backbone, _images(cell.dataset)))
        for other in tied:
            leader[find(other)] = find(asked(cell))
    found = defaultdict(list)
    for cell in cells:
        found[find(asked(cell))].append(cell)
    return list(found.values())


def _images(dataset: str) -> str:
    """What tells the images of a data set from others: low-data variants and several questions may have the same."""
    if dataset.startswith(tuple(catalog.OWN)):
        return dataset
    card = catalog.card(dataset)
    return card.folder or card.name
