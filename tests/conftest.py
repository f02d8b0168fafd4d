"""Strict mode for every test: 8 fake CPU devices, rank promotion raises, warnings are errors (setup.cfg)."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from bob_jax.launch import memory

if jax.config.jax_platforms == "cpu":
    jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "float32")

# In the background of a shell Ctrl-C is ignored, and would be by the programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOM = 3 << 30  # bytes that a process may grow by before it forgets compiled programs
_after_clearing = 0


@pytest.fixture(autouse=True)
def forget_old_programs() -> Iterator[None]:
    """Thousands of tests compile thousands of programs, and JAX keeps all of them: 10 GB a process in the end."""
    global _after_clearing
    yield
    if _resident() > _after_clearing + ROOM:
        memory.forget_programs()
        _after_clearing = _resident()


def _resident() -> int:
    """Bytes in memory; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
