"""A config by what `main.py --config=` takes: a file, then `:` and its argument."""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from bob_jax.errors import BobError


def read(text: str) -> ConfigDict:
    """The config that `FILE.py` or `FILE.py:ARGUMENT` stands for.

    Raises:
        BobError: no such file, one without `get_config`, or an argument that the config does not take.
    """
    name, _, argument = text.partition(":")
    path = Path(name)
    if not path.is_file():
        raise BobError(f"no config file '{name}': give one of configs/, e.g. configs/gauntlet.py:digits")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec) if spec and spec.loader else None
    if module is None or spec is None or spec.loader is None:
        raise BobError(f"'{name}' is no Python file: give one of configs/, e.g. configs/gauntlet.py:digits")
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise BobError(f"'{name}' has no get_config: give one of configs/ that has, e.g. configs/gauntlet.py:digits")
    config: ConfigDict = module.get_config(argument or None)
    return config
