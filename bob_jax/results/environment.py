"""Where a cell ran: the commit and the versions that a repeat would need."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

from bob_jax.results.record import Environment

PACKAGES = (
    *("bob_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"),
    *("numpy", "scipy", "scikit-learn", "pillow", "safetensors", "torch", "torchax"),
)


def collect(*, device_kind: str, device_count: int, process_count: int) -> Environment:
    """The environment of this process.

    Args:
        device_kind: as JAX names it, e.g. "TPU v4".
        device_count: over all processes.
        process_count: hosts.
    """
    return Environment(
        git_commit=_git_commit(Path(__file__).parent),
        versions=_versions(),
        python=platform.python_version(),
        platform=platform.platform(),
        device_kind=device_kind,
        device_count=device_count,
        process_count=process_count,
    )


def _versions() -> dict[str, str]:
    """Versions of those packages that are installed."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _git_commit(folder: Path) -> str | None:
    """The commit of the checkout that holds this package.

    None when git is missing, or when the package lies in somebody else's checkout without being part of it, as in a
    virtual environment: that commit would say nothing about this code.
    """
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
