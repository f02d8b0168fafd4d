"""How a block of the documentation is tried. There are few ways, and every block goes one of them.

`sh`, unmarked: each command is tried as far as it goes at once and without a network. `python main.py` gets
`--dry_run`, so that the config, every name in it and every flag are read; commands of `bob` that read records, cards or
configs run, of others arguments and names are read; `pip install` must name extras that there are, `make` targets that
there are. What stands in EXCLUDED is not tried.
`<!-- test: run -->` before it: all of it runs, in order, in the folder of the page. `<!-- test: run --limit=60 -->`
adds options to main.py.
`python`, unmarked: runs. `<!-- test: names -->`: its imports run, and all that it takes from them must be there and
take the arguments that it is given.
`python FILE`: the file is written into the folder of the page, for the commands that follow.
`json`, `yaml`: can be read.
"""

import ast
import builtins
import configparser
import dataclasses
import functools
import importlib
import inspect
import json
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from absl import flags
from docs_pages import Block, Command, PageError, commands
from running import ROOT

from bob_jax import cli
from bob_jax.backbones import own, zoo
from bob_jax.data import catalog
from bob_jax.errors import BobError
from bob_jax.launch import config_file
from configs import expected
from converters import __main__ as converters

# First words of commands that no test runs, and why.
EXCLUDED = {
    "python -m venv": "CI makes one for the whole suite (Makefile)",
    ". .venv/bin/activate": "a test runs in its environment",
    "cd bob_jax": "the folder of the page stands for the checkout",
    "ray start": "would leave a cluster behind; tests/launch has one of its own",
    "git clone": "needs the network",
    "gcloud": "needs a project and a TPU; what stands behind --command is tried",
}
LAUNCHERS = ("srun",)  # what only starts a command elsewhere, or several times: the command is tried
# Commands of `bob` that only read what is there; of others only the arguments are read.
READERS = ("results", "rank", "report", "plan", "backbones")
FINDERS = ("results merge", "results diff", "data check")  # exit with 1 where they find something


def follow(block: Block, home: Path) -> None:
    """Tries one block in the folder of its page, which is the working directory.

    Raises:
        PageError: it does not do what a reader would expect.
    """
    way, *more = block.mark.split() or [""]
    where = f"{block.page}:{block.line}"
    match block.language, way:
        case "sh", "" | "run":
            for command in commands(block):
                _try(command, more if way else None)
        case "python", "" if block.file:
            (home / block.file).write_text(block.text, encoding="utf-8")
        case "python", "":
            run_python(block.text, where)
        case "python", "names":
            check_names(block.text, where)
        case "json", "":
            json.loads(block.text)
        case "yaml", "":
            yaml.safe_load(block.text)
        case "", "":
            if re.search(r"^\s*(bob|python|pip|make|git|gcloud|srun|ray) ", block.text, re.M):
                raise PageError(f"{where}: commands in a block without a language: write ```sh")
        case _:
            raise PageError(f"{where}: nobody says how to try a block '{block.language}' with the mark '{block.mark}'")


def _try(command: Command, more: Sequence[str] | None) -> None:
    """One command; in earnest, with more options for main.py, unless `more` is None."""
    for word in command.words:
        if word.startswith("--command="):
            inner = Block(command.where, 0, "sh", "", "", word.removeprefix("--command="))
            for one in commands(inner):
                _try(dataclasses.replace(one, where=command.where), None)
    if any(f"{shlex.join(command.words)} ".startswith(f"{start} ") for start in EXCLUDED):
        return
    if command.words[0] in LAUNCHERS:
        start = next(i for i, word in enumerate(command.words) if i and not word.startswith("-"))
        command = dataclasses.replace(command, words=command.words[start:])
    try:
        match command.words:
            case "python", "main.py", *words:
                code = run_main([*words, *(["--dry_run"] if more is None else more)])
            case "python", "-m", "converters", *words:
                code = _converters(words)
            case "python", "-m", "bob_jax.scenic", *words:
                code = _scenic(words)
            case "python", "-c", text:
                code = run_python(text, command.where)
            case "bob", *words:
                code = _bob(words, command, in_earnest=more is not None)
            case "pip", "install", *words:
                code = _pip(words)
            case "make", *targets:
                code = _make(targets)
            case _:
                raise PageError(f"{command}: tests/docs/docs_ways.py has no way to try it")
    except BobError as error:
        raise PageError(f"{command}: {error}") from error
    except SystemExit as error:
        raise PageError(f"{command}: its options are wrong, see above") from error
    if code:
        raise PageError(f"{command}: exit code {code}, see above")


def run_main(words: Sequence[str]) -> int:
    """main.py in this process, as if it were the first time."""
    import main  # reads its default config at once, from the working directory

    known = flags.FLAGS
    for name in [name for name in known if name.startswith("config.")]:
        delattr(known, name)  # overrides of another config
    known.unparse_flags()
    before, sys.argv = sys.argv, ["main.py", *words]
    try:
        main.parse(sys.argv)
        return main.main([])
    finally:
        sys.argv = before


def _bob(words: list[str], command: Command, *, in_earnest: bool) -> int:
    arguments = cli.parse(words)
    two = " ".join(words[:2])
    reads = words[0] in READERS and two not in ("backbones add", "backbones remove")
    if in_earnest or reads or two in ("data", "data list"):
        if not command.output:
            code = cli.main(words)
        else:
            with Path(command.output).open("w") as out, redirect_stdout(out):
                code = cli.main(words)
        return 0 if code == 1 and two in FINDERS else code
    match words[:2]:
        case "data", "check":
            catalog.task(arguments.name)
            if arguments.backbone:
                zoo.card(arguments.backbone)
        case "data", "prepare":
            catalog.card(arguments.name)
        case "reproduce", *_ if arguments.name:
            expected.row(arguments.name)
        case "pick", *_ if arguments.backbones:
            for name in arguments.backbones.split(","):
                zoo.card(name)
        case "backbones", "add":
            remember(arguments.name)
    return 0


def remember(name: str) -> None:
    """What `bob backbones add` leaves: the name is known from now on; the card is another's."""
    card = dataclasses.replace(zoo.card("vit_nano8_random"), name=name)
    own.file().parent.mkdir(parents=True, exist_ok=True)
    own.file().write_text(json.dumps({name: dataclasses.asdict(card)}))


def _converters(words: list[str]) -> int:
    arguments = converters._parser().parse_args(words)
    if words[0] in ("convert", "verify", "export"):
        converters._card(arguments.name)
    return 0


def _scenic(words: list[str]) -> int:
    """The config is read and its keys looked up; tests/scenic_project runs it where Scenic is there."""
    given = dict(word.removeprefix("--").partition("=")[::2] for word in words)
    config = config_file.read(f"{ROOT}/{given.pop('config')}")
    for option in given.keys() - {"workdir"}:
        try:
            functools.reduce(lambda part, name: part[name], option.removeprefix("config.").split("."), config)
        except KeyError as error:
            raise BobError(f"unknown option --{option}") from error
    return 0


def _pip(words: list[str]) -> int:
    """Extras of bob_jax must be there; nothing else is installed by hand."""
    read = configparser.ConfigParser()
    read.read(ROOT / "setup.cfg")
    known = read["options.extras_require"]
    for word in words:
        named = re.fullmatch(r"(?:bob_jax|\.)(?:\[([\w,]+)\])?", word)
        if word == "-e":
            continue
        if named is None:
            raise BobError(f"'{word}' is not bob_jax: an extra of setup.cfg should bring it")
        if unknown := set((named[1] or "").split(",")) - {*known, ""}:
            raise BobError(f"setup.cfg has no extra {', '.join(sorted(unknown))}")
    return 0


def _make(targets: list[str]) -> int:
    text = (ROOT / "Makefile").read_text()
    for target in targets:
        if not re.search(rf"^{re.escape(target)}:", text, re.M):
            raise BobError(f"the Makefile has no target {target}")
    return 0


def run_python(text: str, where: str) -> int:
    """A block of Python, in the working directory."""
    try:
        exec(compile(text, where, "exec"), {"__name__": "__main__"})
    except Exception as error:
        raise PageError(f"{where}: {type(error).__name__}: {error}") from error
    return 0


def check_names(text: str, where: str) -> None:
    """Imports run; attributes of what they bring are there, calls of it fit its signature, no name is undefined.

    Raises:
        PageError: something is not so.
    """
    tree = ast.parse(text, where)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    found: dict[str, Any] = {}
    try:
        exec(compile(ast.Module(imports, []), where, "exec"), found)
    except (ImportError, AttributeError) as error:
        raise PageError(f"{where}: {error}") from error
    defined = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    defined |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not (node.id in found or node.id in defined or hasattr(builtins, node.id)):
            raise PageError(f"{where}: the name {node.id} is not defined")
        if isinstance(node, ast.Attribute):
            _resolve(node, found, where)
        if isinstance(node, ast.Call):
            called = _resolve(node.func, found, where)
            if called is not None:
                _check_call(node, called, where)


def _resolve(node: ast.expr, found: dict[str, Any], where: str) -> Any:
    """What a dotted name stands for; None where it is not something imported."""
    if isinstance(node, ast.Name):
        return found.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, found, where)
        if owner is None:
            return None
        if not hasattr(owner, node.attr):
            raise PageError(f"{where}: {ast.unparse(node)}: there is no {node.attr}")
        return getattr(owner, node.attr)
    return None


def _check_call(node: ast.Call, called: Any, where: str) -> None:
    if any(isinstance(argument, ast.Starred) for argument in node.args):
        return
    try:
        signature = inspect.signature(called)
    except ValueError:  # written in C: it does not say
        return
    try:
        signature.bind(*node.args, **{keyword.arg: None for keyword in node.keywords if keyword.arg})
    except TypeError as error:
        raise PageError(f"{where}: {ast.unparse(node)}: {error}") from error


def forget_modules(home: Path) -> None:
    """Modules that a page wrote and imported are not those of the next page."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(home)):
            del sys.modules[name]
    importlib.invalidate_caches()
