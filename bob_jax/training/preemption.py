"""Stopping on request: SIGTERM (a preempted machine, a time limit) or Ctrl-C ends a run between two steps."""

import signal
import threading
from types import FrameType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bob_jax.training.mesh import batch_sharding, replicated

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(SystemExit):
    """The run was asked to stop and has saved its state. Exits with 128 + signal: 143 for SIGTERM, 130 for Ctrl-C.

    Attributes:
        step: the step that was saved, where the next start goes on; None without checkpoints.
    """

    def __init__(self, signal_number: int, step: int | None) -> None:
        super().__init__(128 + signal_number)
        self.step = step


class StopRequests:
    """Turns SIGTERM and the first Ctrl-C into a request that the loop asks for; the second Ctrl-C interrupts at once.

    A context manager; outside the main thread it lets signals be. With several processes any one's signal stops all of
    them after the same step: each step's requests are joined on the devices beside the training, and read one step
    later, when the result is there anyway.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._received = 0
        self._previous: dict[signal.Signals, Any] = {}
        self._in_flight: jax.Array | None = None
        self._max = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            # None: set by other than Python code, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def pending(self) -> int:
        """The signal that asks to stop after this step, the same on every process; 0 for none. Call once per step."""
        if jax.process_count() == 1:
            return self._received
        known, mesh = self._in_flight, self._mesh
        local = np.full(mesh.local_mesh.size, self._received, np.int32)
        self._in_flight = self._max(jax.make_array_from_process_local_data(batch_sharding(mesh), local))
        return 0 if known is None else int(known)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        if number == signal.SIGINT:  # schedulers repeat SIGTERM and have SIGKILL; a person has only Ctrl-C
            signal.signal(signal.SIGINT, signal.default_int_handler)
