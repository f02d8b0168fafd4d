"""What a run tells: metrics as JSON lines in a file, and a progress bar, or plain lines where no terminal is."""

import datetime
import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax

from bob_jax.errors import BobError


class Journal:
    """A file of JSON lines, one per report, written by process 0 alone; a resumed run has no line twice."""

    def __init__(self, path: Path | None, start_step: int) -> None:
        """Opens the file to append, without the lines after `start_step` that an interrupted run left.

        Raises:
            BobError: the file cannot be written to.
        """
        self._path = path if jax.process_index() == 0 else None
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
            part = self._path.with_name(self._path.name + ".part")
            part.write_text("".join(line for line in lines if _step_of(line) <= start_step))
            part.replace(self._path)
        except OSError as error:
            raise BobError(
                f"metrics cannot be written to {self._path} ({error.strerror}): choose another file"
            ) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one line. A line is written at once and whole."""
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(dict(row)) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the process was killed while it wrote this line
        return float("inf")


HIDDEN = ("step", "steps_per_second")  # said in other words


@functools.cache
def console() -> Any:
    """The one console of all that is live: what stands on the same one stands below each other."""
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False, highlight=False)  # a folder may be called [b]


class Progress:
    """How far a run is: a bar with rate and time left on a terminal, else a line per report; process 0 alone."""

    def __init__(self, description: str, start_step: int, total_steps: int) -> None:
        self._description, self._total = description, total_steps
        self._start = start_step
        self._bar: Any = None
        self._shown = jax.process_index() == 0

    def __enter__(self) -> Self:
        if self._shown and sys.stderr.isatty():
            from rich import progress

            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[rate]} {task.fields[metrics]}"),
                progress.TimeRemainingColumn(),
            )
            self._bar = progress.Progress(*columns, console=console())
            self._bar.start()
            self._task = self._bar.add_task(
                self._description, total=self._total, completed=self._start, rate="", metrics=""
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int) -> None:
        """Moves the bar to the steps finished so far."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def report(self, row: Mapping[str, Any]) -> None:
        """Shows the metrics of a report, but those with a slash in their names, and the time left at its rate."""
        if not self._shown:
            return
        step, rate = row["step"], row["steps_per_second"]
        metrics = " ".join(f"{name} {row[name]:.4g}" for name in row if name not in HIDDEN and "/" not in name)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, rate=f"{rate:.3g} steps/s", metrics=metrics)
            return
        left = datetime.timedelta(seconds=round((self._total - step) / rate))
        print(f"{self._description} {step}/{self._total}, {rate:.3g} steps/s, {left} left: {metrics}", file=sys.stderr)
