"""The config of a command line, as `main.py` and `bob plan` take it: a file, its argument, overrides of its keys."""

import contextlib
import importlib.util
import shlex
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from bob_jax.errors import BobError


def read(text: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config that `FILE.py` or `FILE.py:ARGUMENT` stands for.

    Args:
        text: as `main.py --config=` takes it.
        overrides: of its keys, as `main.py` takes them: "--config.data.limit=100".

    Raises:
        BobError: no such file, one without `get_config` or that fails, an argument that the config does not take, a key
            that it does not have, or a value of another type.
    """
    name, _, argument = text.partition(":")
    path = Path(name)
    if not path.is_file():
        raise BobError(f"no config file '{name}': give one of configs/, e.g. configs/gauntlet.py:digits")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec) if spec and spec.loader else None
    if module is None or spec is None or spec.loader is None:
        raise BobError(f"'{name}' is no Python file: give one of configs/, e.g. configs/gauntlet.py:digits")
    words, values = ["bob", *overrides], flags.FlagValues()
    with mistakes():
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise BobError(
                f"'{name}' has no get_config: give one of configs/ that has, e.g. configs/gauntlet.py:digits"
            )
        config: ConfigDict = module.get_config(argument or None)
        config_flags.DEFINE_config_dict("config", config, flag_values=values, lock_config=True, sys_argv=words)
        values(words)
    return config


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Whatever absl and the config file say of a mistake as one line that names it."""
    try:
        yield
    except flags.Error as error:
        raise BobError(str(error)) from error
    except (AttributeError, KeyError) as error:  # a --config.key that the config, with this argument, does not have
        told = error.args[0]
        while isinstance(told, Exception):
            told = told.args[0]
        raise BobError("unknown config key " + str(told).replace("\n", ": ")) from error
    except OSError as error:
        raise BobError(
            f"cannot read the config file: {error.strerror or str(error).splitlines()[-1].strip()}"
        ) from error
    except BobError:
        raise
    except SyntaxError as error:  # it is a program, of the user maybe
        raise BobError(f"the config file fails at {error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise BobError(f"the config file fails at {last.filename}:{last.lineno}: {told}") from error


def adjust(config: ConfigDict, results: str | None, limit: int | None) -> None:
    """Sets what `--results` and `--limit` ask for."""
    if results:
        config.results = results
    if limit:
        config.data.limit = limit


def command(text: str, overrides: Sequence[str], *options: str) -> str:
    """The command that runs a config."""
    return shlex.join(["python", "main.py", f"--config={text}", *overrides, *options])
