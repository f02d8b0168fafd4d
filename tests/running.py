"""Commands as a user starts them: in a process of their own, with a cache of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def environment(cache: Path, **more: str) -> dict[str, str]:
    """The environment of a user whose cache is here and who reaches no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "BOB_", "TFDS_", "JAX_"))}
    return kept | {"BOB_CACHE": str(cache), "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"} | more


def start_main(*arguments: str, env: dict[str, str]) -> subprocess.Popen[str]:
    """The same in the background."""
    command = [sys.executable, "main.py", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_main(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`python main.py ...` from the repository root."""
    command = [sys.executable, "main.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1000)
