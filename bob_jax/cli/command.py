"""How a command is added to the command line."""

import argparse
from collections.abc import Callable
from typing import Any


def add(commands: Any, name: str, run: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
    """A command of this name among `commands`, which `run` carries out; `words` are its help."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
    command.set_defaults(run=run)
    return command
