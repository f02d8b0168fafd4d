"""`bob pick` and `bob predict`: which backbone for these images, and the classifier that came of it."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bob_jax.cli.command import add
from bob_jax.errors import BobError
from bob_jax.terminal import print_json, print_table


def add_all(commands: Any) -> None:
    """Adds the commands."""
    words = "which backbone for your images, how sure, at what cost: from a folder to an answer (docs/pick.md)"
    command = add(commands, "pick", _pick, words)
    command.add_argument(
        "folder",
        nargs="?",
        type=Path,
        metavar="FOLDER",
        help="images in class folders, or without classes, or a CSV with path,label (handwritten digits)",
    )
    command.add_argument("--budget", default="10m", metavar="TIME", help="how long it may take: 90s, 10m, 1h (10m)")
    command.add_argument("--backbones", metavar="A,B,C", help="only these (all whose weights can be had)")
    command.add_argument("--licence", metavar="A,B", help="only weights under one of these licences")
    command.add_argument("--commercial", action="store_true", help="only weights that may be used commercially")
    command.add_argument("--max-parameters", type=float, metavar="M", help="only up to this many million parameters")
    command.add_argument("--out", type=Path, metavar="FOLDER", help="where the pictures go (pick/NAME)")
    command.add_argument("--save", type=Path, metavar="FILE", help="write the chosen backbone's probe, for bob predict")
    command.add_argument("--json", action="store_true", help="print JSON, nothing rounded")
    command = add(commands, "predict", _predict, "what images are, by a classifier that `bob pick --save` wrote")
    command.add_argument("file", type=Path, metavar="FILE", help="of the classifier")
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files, or folders of them")
    command.add_argument("--json", action="store_true", help="print JSON with the probabilities of all classes")


def _pick(arguments: argparse.Namespace) -> int:
    import jax

    from bob_jax.cache import cache_dir
    from bob_jax.launch import durations
    from bob_jax.pick import budget, candidates, drawing, images, run, table

    clock = budget.Budget(durations.parse(arguments.budget))
    jax.config.update("jax_compilation_cache_dir", str(cache_dir("compiled")))
    found, left_out = candidates.candidates(
        _listed(arguments.backbones),
        licences=_listed(arguments.licence),
        commercial=arguments.commercial,
        max_parameters=arguments.max_parameters,
    )
    given = images.read(arguments.folder) if arguments.folder else images.embedded()
    if arguments.save and not given.labelled:
        raise BobError(f"--save {arguments.save}: {given.name} has no two classes, so there is nothing to save")
    folder = _place_of_pictures(arguments.out, Path(given.name))
    for file in (folder / "pick.png", *([arguments.save] if arguments.save else [])):
        _can_be_written(file)
    known = (*given.warnings, *left_out)
    for line in known:
        _say(f"note: {line}")
    with _stopping(clock.stop):
        done = run.pick(given, found, left_out, clock, _say)
    for line in done.answer.setting.warnings:
        if line not in known:
            _say(f"note: {line}")
    if not arguments.json:
        for columns, rows in table.tables(done.answer):
            print_table(columns, rows, whole=True)
        for line in done.answer.sentences():
            print(line, flush=True)
    drawn: list[Path] = []
    undrawn = None  # what was found is told whatever becomes of the pictures
    try:
        drawn = drawing.draw(done.answer, done.shown, folder)
    except BobError as error:
        undrawn = error
    if arguments.json:
        print_json({**done.answer.plain(), "pictures": [str(file) for file in drawn]})
    for file in drawn:
        _say(f"drew {file}")
    stopped = done.answer.setting.stopped
    if arguments.save:
        if done.classifier is None:
            _say(f"{arguments.save} is not written: it was stopped before the probe was trained")
        else:
            done.classifier.save(arguments.save)
            _say(f"wrote {arguments.save}: bob predict {arguments.save} IMAGE...")
    if undrawn is not None:
        raise undrawn
    return 130 if stopped else 0


def _place_of_pictures(out: Path | None, given: Path) -> Path:
    """Where they go.

    Raises:
        BobError: among the images, where the next run would take them for a class.
    """
    name = given.name if given.is_dir() else given.stem
    folder = out or Path("pick") / (name or "images")
    if given.is_dir() and folder.resolve().is_relative_to(given):
        raise BobError(
            f"{folder} is among the images, the next run would take the pictures for a class: give --out FOLDER"
        )
    return folder


def _can_be_written(file: Path) -> None:
    """Raises BobError where a file cannot be made: before the work and not after it. Nothing is written."""
    above = next(folder for folder in file.absolute().parents if folder.exists())
    reason = None
    if file.is_dir():
        reason = "a folder is there"
    elif not above.is_dir():
        reason = f"{above} is no folder"
    elif not os.access(above, os.W_OK | os.X_OK):
        reason = f"{above} is read-only"
    if reason:
        raise BobError(f"cannot write {file}: {reason}; give another place")


@contextlib.contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Inside the block Ctrl-C asks to stop after the running step, and a second one stops at once.

    An exception in the midst of a compilation has been seen to take the process with it, and what is known would be
    lost.
    """

    def ask(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        _say("stopping after this step, with what is known by then; Ctrl-C again stops at once")
        stop()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _listed(text: str | None) -> list[str]:
    return [name for name in (part.strip() for part in (text or "").split(",")) if name]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _predict(arguments: argparse.Namespace) -> int:
    from bob_jax.data.decode import ADVICE, CorruptImage
    from bob_jax.data.folder import images_below
    from bob_jax.pick.classifier import Classifier

    classifier = Classifier.load(arguments.file)
    files, lost = [], []
    for given in arguments.images:
        if given.is_dir():
            found = [given / path for path, _ in images_below(given, ".")]
            lost += [] if found else [f"no image in {given}"]
            files += found
        elif given.exists():
            files.append(given)
        else:
            lost.append(f"no file {given}")
    unread: list[CorruptImage] = []
    guesses = classifier.predict(files, unread)
    lost += [str(error).removesuffix(ADVICE) for error in unread]
    if arguments.json:
        print_json(guesses)
    elif guesses:
        print_table(("image", "class", "probability"), [(g.image, g.label, f"{g.probability:.3f}") for g in guesses])
    for line in lost:
        _say(f"error: {line}")
    return 2 if lost else 0
