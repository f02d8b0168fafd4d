"""How long the cells that are left will take: what is expected of them, held against the cells that are done."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping

from bob_jax.grid import Cell


@dataclasses.dataclass
class TimeLeft:
    """Device seconds of cells, the better known the more of them are done.

    Attributes:
        expected: before they ran.
        took: those that are done.
    """

    expected: dict[Cell, float] = dataclasses.field(default_factory=dict)
    took: dict[Cell, float] = dataclasses.field(default_factory=dict)

    def seconds(self, waiting: Iterable[Cell], running: Mapping[Cell, float], devices: int) -> float | None:
        """Seconds until all is done; None as long as nothing is known of any cell.

        Args:
            waiting: cells that have not begun.
            running: device seconds that each running cell has had.
            devices: that work at the same time.
        """
        took = dict(self.took)  # which another thread may add to
        both = [cell for cell in took if cell in self.expected]
        promised = sum(self.expected[cell] for cell in both)
        factor = sum(took[cell] for cell in both) / promised if promised else 1.0
        by_protocol = defaultdict(list)
        for cell, seconds in took.items():
            by_protocol[cell.protocol_name].append(seconds)
        everything = list(took.values()) or [factor * seconds for seconds in self.expected.values()]
        if not everything:
            return None

        def of(cell: Cell) -> float:
            if cell in self.expected:
                return factor * self.expected[cell]
            like = by_protocol.get(cell.protocol_name, everything)
            return sum(like) / len(like)

        left = sum(of(cell) for cell in waiting)
        left += sum(max(0.0, of(cell) - had) for cell, had in running.items())
        return left / max(1, devices)
