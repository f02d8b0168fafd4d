"""The time there is, and what a step will take of it: counted before, corrected by what steps did take."""

import os
import statistics
import time

import jax

from bob_jax.launch import devices
from bob_jax.pick.candidates import Candidate

# Taken until something is measured: seconds to load and compile a backbone, to read and prepare an image on one core,
# to judge features, and bytes a second from the hub.
START, READ, JUDGE, NETWORK = 5.0, 2e-3, 4.0, 20e6
PROBE = 25 * 60 * 6e-9  # GFLOPs by image, dimension and class: 25 trainings of about 60 steps, each forward and back
RESERVE = 0.2  # of the budget, for what comes after the race: learning curve, copies, pictures


class Budget:
    """A clock that runs from the start, and estimates that learn."""

    def __init__(self, seconds: float, kind: str | None = None):
        """
        Args:
            seconds: there are, in all.
            kind: of the device; this machine's when None.
        """
        self.total = seconds
        self.stopped = False
        self.started = time.monotonic()
        kind = kind or devices.here()
        each = devices.speed(kind) or devices.UTILISATION * 100_000  # an accelerator nobody has listed
        self._speed = each * (1 if kind == devices.CPU else jax.device_count())  # GFLOPs a second, of all devices
        self._read = READ / max(1, min(8, os.cpu_count() or 1))
        self._factor: list[float] = []  # what steps took, by what was expected of them

    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def stop(self) -> None:
        """The user has had enough: no time is left for another step."""
        self.stopped = True

    def left(self) -> float:
        """Seconds of the race that are left; 0 or less when they are over."""
        return 0.0 if self.stopped else self.total * (1 - RESERVE) - self.spent()

    def left_in_all(self) -> float:
        """Seconds left with what was kept for the end."""
        return 0.0 if self.stopped else self.total - self.spent()

    def extraction(self, one: Candidate, images: int) -> float:
        """Seconds to read images and take them through a backbone that is loaded."""
        return images * (one.cost / self._speed + self._read)

    def step(self, one: Candidate, new: int, fresh: bool, judged: int = 0, classes: int = 0) -> float:
        """Seconds until a backbone is judged on more images.

        Args:
            one: the backbone.
            new: images that it has not seen yet.
            fresh: whether it must be loaded first.
            judged: images that heads are trained on.
            classes: that they tell apart.
        """
        start = START + one.download / NETWORK if fresh else 0.0
        heads = PROBE * judged * one.card.feature_dim * classes / self._speed
        return (start + self.extraction(one, new) + JUDGE + heads) * self.factor

    @property
    def factor(self) -> float:
        """By which estimates were too short so far; between a fifth and 20."""
        return min(20.0, max(0.2, statistics.median(self._factor))) if self._factor else 1.0

    def learn(self, expected: float, took: float) -> None:
        """Takes note of a step: what was expected, with the factor of then, and what it took."""
        self._factor.append(took / expected * self.factor)
