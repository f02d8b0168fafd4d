"""What a run shows: one live table on a terminal, plain lines in a pipe or a file; and the count of what is done."""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from bob_jax.grid import Cell
from bob_jax.launch import durations
from bob_jax.launch.settle import ATTEMPTS, Outcome
from bob_jax.launch.time_left import TimeLeft
from bob_jax.results.record import Estimate
from bob_jax.training.reporting import console


@dataclasses.dataclass
class Place:
    """Where cells run.

    Attributes:
        devices: their number.
        kind: of device, as JAX names it.
        cell: that runs there; None for none.
        since: when it began, on the monotonic clock.
    """

    devices: int
    kind: str
    cell: Cell | None = None
    since: float = 0.0


class Board:
    """Keeps the score of a run and shows it.

    A context manager: the live table stands, with the progress bars of training below it, until it is left.

    Args:
        cells: in the order of the grid.
        results: where their records go.
        shown: whether this process speaks.
    """

    def __init__(self, cells: Sequence[Cell], results: str, shown: bool = True):
        self._number = {cell: number for number, cell in enumerate(cells, 1)}
        self._results, self._shown = results, shown
        self._places: dict[str, Place] = {}
        self._settled: dict[Cell, Outcome] = {}
        self._time = TimeLeft()
        self._live: Any = None

    def __enter__(self) -> Self:
        if self._shown and sys.stdout.isatty() and sys.stderr.isatty():
            from rich.live import Live

            self._live = Live(console=console(), get_renderable=self.table, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """A line on standard output, above the table where there is one."""
        if self._shown:
            print(line, flush=True)

    def warn(self, line: str) -> None:
        """A line on standard error."""
        if self._shown:
            print(line, file=sys.stderr, flush=True)

    def expect(self, estimates: Mapping[Cell, Estimate]) -> None:
        """What cells are expected to take; of two kinds of device the first one counts."""
        self._time.expected = {cell: one.seconds for cell, one in estimates.items()} | self._time.expected

    def join(self, place: str, devices: int, kind: str) -> None:
        """A machine is ready."""
        self._places[place] = Place(devices, kind)

    def leave(self, place: str) -> None:
        """A machine is gone, or has to start anew."""
        self._places.pop(place, None)

    def start(self, cell: Cell, place: str) -> None:
        """A cell is being judged."""
        self._places[place].cell, self._places[place].since = cell, time.monotonic()
        where = f" on {place}" if len(self._places) > 1 else ""
        self.say(f"{self._position(cell)}{where} ({self.status()})")

    def again(self, cell: Cell, outcome: Outcome, attempt: int, pause: float) -> None:
        """An attempt has failed, and there will be another."""
        self._vacate(cell)
        line = f"{cell}: attempt {attempt} of {ATTEMPTS} failed, the next one in {pause:.0f} s: {outcome.line}"
        self.warn(line)

    def settle(self, cell: Cell, outcome: Outcome) -> None:
        """A cell has a record, or has failed for good."""
        place = self._vacate(cell)
        if place is not None and outcome.status == "judged":
            self._time.took[cell] = place.devices * (time.monotonic() - place.since)
        self._settled[cell] = outcome
        if outcome.status == "failed":
            self.warn(f"error: {cell}: {outcome.line}")
        else:
            self.say(f"{self._position(cell)}: {outcome.line}")

    def finish(self) -> int:
        """The last lines, and the exit code: 0 if every cell has a record, else 1."""
        failed = [cell for cell in self._number if cell not in self._settled or self._failed(cell)]
        self.say(f"{len(self._number) - len(failed)} of {len(self._number)} cells have a record in {self._results}")
        for cell in failed:
            self.say(f"failed: {cell}")
        self.say(f"the table: bob results {self._results}")
        return 1 if failed else 0

    def status(self) -> str:
        """The score in a line; the live table asks for it from a thread of its own, so it works on copies."""
        settled, places = dict(self._settled), list(self._places.values())
        failed = sum(outcome.status == "failed" for outcome in settled.values())
        busy = [place for place in places if place.cell is not None]
        devices = sum(place.devices for place in places)
        words = [
            f"{len(settled) - failed} done",
            f"{len(busy)} running",
            f"{failed} failed",
            f"{sum(place.devices for place in busy)} of {devices} devices busy",
        ]
        had = {place.cell: place.devices * (time.monotonic() - place.since) for place in busy if place.cell}
        waiting = [cell for cell in self._number if cell not in settled and cell not in had]
        left = self._time.seconds(waiting, had, devices)
        return ", ".join(words if left is None else [*words, f"about {durations.words(left)} left"])

    def table(self) -> Any:
        """The live table: a row for each machine, the score below."""
        from rich import box
        from rich.console import Group
        from rich.table import Table

        table = Table("machine", "devices", "busy", "cell", "for", box=box.SIMPLE_HEAD, pad_edge=False)
        for name, place in list(self._places.items()):
            cell, since = place.cell, place.since
            busy = place.devices if cell else 0
            row = (f"{self._position(cell)}", durations.words(time.monotonic() - since)) if cell else ("-", "")
            table.add_row(name, f"{place.devices} x {place.kind}", f"{busy} of {place.devices}", *row)
        return Group(table, f"{len(self._number)} cells: {self.status()}")

    def _position(self, cell: Cell) -> str:
        return f"[{self._number[cell]}/{len(self._number)}] {cell}"

    def _failed(self, cell: Cell) -> bool:
        return self._settled[cell].status == "failed"

    def _vacate(self, cell: Cell) -> Place | None:
        """The machine of a cell becomes free; as it was."""
        for place in self._places.values():
            if place.cell == cell:
                before = dataclasses.replace(place)
                place.cell = None
                return before
        return None
