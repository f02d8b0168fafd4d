"""Where what is fetched or computed once is kept: `$BOB_CACHE`, else `~/.cache/bob_jax`."""

import os
from pathlib import Path


def cache_dir(kind: str) -> Path:
    """The folder for one kind of cached thing: "weights", "data" or "features". It may not exist yet."""
    root = os.environ.get("BOB_CACHE") or Path.home() / ".cache" / "bob_jax"
    return Path(root).expanduser() / kind
