"""The `bob` command: what came out, who competes, on which data. Runs themselves are started by `main.py`."""

import argparse
import dataclasses
import functools
import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bob_jax import __version__
from bob_jax.cli import pick, plan, results
from bob_jax.cli.command import add
from bob_jax.errors import BobError, unknown_name
from bob_jax.terminal import print_facts, print_json, print_table

# Commands of two words. A folder with such a name is written `./merge`.
TWO_WORDS = (
    *(("backbones", action) for action in ("add", "remove")),
    *(("results", action) for action in results.ACTIONS),
)

# Each command imports what it needs when it runs, so that `bob --help` answers at once.


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Args:
        argv: arguments; those of the process by default.

    Returns:
        Exit code: 0, 1 when a check found problems, 2 for a mistake that one line on stderr explains, 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be Unicode, nor terminals UTF-8
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments of a command; overrides of a config's keys, which only `plan` takes, as `overrides`.

    Raises:
        SystemExit: they are wrong.
    """
    words = _joined(argv)
    overrides = [word for word in words if word.startswith("--config.")] if words[:1] == ["plan"] else []
    arguments = _parser().parse_args([word for word in words if word not in overrides])
    arguments.overrides = overrides
    return arguments


def _joined(words: list[str]) -> list[str]:
    """`backbones add` as one word, since `backbones` takes a name in the same place; likewise those of `results`."""
    return [" ".join(words[:2]), *words[2:]] if tuple(words[:2]) in TWO_WORDS else words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bob", description="Battle of the Backbones in JAX.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"bob_jax {__version__}")
    parser.set_defaults(run=lambda _: print(parser.format_help(), end="") or 0)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    results.add_all(commands)
    pick.add_all(commands)
    plan.add_all(commands)
    _add_backbones(commands)
    _add_own_backbones(commands)
    _add_data(commands)
    _add_reproduce(commands)
    _add_detect(commands)
    return parser


def _add_backbones(commands: Any) -> None:
    command = add(commands, "backbones", _backbones, "the zoo: all cards, or one of them whole")
    command.add_argument("name", nargs="?", help="show this card")
    command.add_argument("--method", help="only this pretraining method")
    command.add_argument("--architecture", help="only this architecture")
    command.add_argument("--licence", help="only weights under this licence")
    command.add_argument("--max-parameters", type=float, metavar="M", help="only up to this many million parameters")
    command.add_argument("--commercial", action="store_true", help="only weights that may be used commercially")
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_own_backbones(commands: Any) -> None:
    words = "try a backbone of your own and make its name known to every benchmark (docs/bring_your_own.md)"
    command = add(commands, "backbones add", _backbones_add, words)
    command.add_argument("target", help="FILE.py:FUNCTION, or timm:MODEL.TAG")
    command.add_argument("--name", help="of the backbone (that of the file, or of the model)")
    command.add_argument("--weights", type=Path, metavar="FILE", help="its checkpoint: .safetensors, .npz or PyTorch's")
    command.add_argument("--licence", help="of the weights")
    how = command.add_argument_group(
        "how its images are prepared (224 pixels, crop 0.875, bicubic, ImageNet's mean/std)"
    )
    how.add_argument("--input-size", type=int, metavar="PIXELS", help="side of the square input")
    how.add_argument("--crop-pct", type=float, metavar="SHARE", help="of the resized short side that is kept")
    how.add_argument("--crop-mode", choices=("center", "squash"))
    how.add_argument("--interpolation", choices=("bicubic", "bilinear"))
    how.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="of pixels in [0, 1]")
    how.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"))
    command = add(commands, "backbones remove", _backbones_remove, "forget a backbone of your own; your files stay")
    command.add_argument("name", help="as `bob backbones add` named it")


def _add_data(commands: Any) -> None:
    command = add(commands, "data", _data_list, "the data sets: what there is, fetch one, check one")
    command.set_defaults(root=None, json=False)
    actions = command.add_subparsers(title="actions", metavar="ACTION")
    listing = add(actions, "list", _data_list, "all data sets, and which of them are there (also without an action)")
    prepare = add(actions, "prepare", _data_prepare, "fetch a data set and make it ready to load")
    check = add(actions, "check", _data_check, "read a data set as a run would; exit code 1 on problems")
    prepare.add_argument("name", help="in the catalogue")
    check.add_argument("name", help="in the catalogue, or folder:PATH, retrieval:PATH, coco:PATH")
    for action in (listing, prepare, check):
        action.add_argument("--root", type=Path, help="where data sets are kept ($BOB_CACHE/data)")
    for action in (listing, check):
        action.add_argument("--json", action="store_true", help="print JSON")
    check.add_argument("--sample", type=int, metavar="N", help="decode only N images of each split")
    check.add_argument(
        "--backbone", help="also look for test images whose features nearly agree with a training image's"
    )
    words = "smallest cosine of what counts as the same (0.95; SSCD's authors advise 0.75 for resnet50_sscd_disc)"
    check.add_argument("--similarity", type=float, metavar="COSINE", help=words)


def _add_reproduce(commands: Any) -> None:
    words = "published figures: all of them, or run one and say whether it matches (exit code 1 where it does not)"
    command = add(commands, "reproduce", _reproduce, words)
    command.add_argument("name", nargs="?", help="the row to run; without it all rows are listed")
    command.add_argument("--results", help="folder of the records (results/reproduce/BENCHMARK)")
    command.add_argument("--root", help="where data sets are kept ($BOB_CACHE/data)")


def _add_detect(commands: Any) -> None:
    command = add(commands, "detect", _detect, "draw what a trained detector finds in a picture: boxes and masks")
    command.add_argument("image", type=Path, help="file of the picture")
    command.add_argument("--run", dest="folder", default="results", help="folder of the run (results)")
    command.add_argument("--cell", help="the cell whose detector is taken (the one with the highest score)")
    command.add_argument("--threshold", type=float, default=0.5, metavar="SCORE", help="least score (0.5)")
    command.add_argument("--out", type=Path, metavar="FILE", help="file of the drawing (IMAGE.detections.png)")
    command.add_argument("--json", action="store_true", help="print JSON, masks as run-length codes")


def _detect(arguments: argparse.Namespace) -> int:
    from bob_jax.launch.detect import detect

    image: Path = arguments.image
    out = arguments.out or image.with_name(f"{image.stem}.detections.png")
    seen = detect(image, arguments.folder, cell=arguments.cell, threshold=arguments.threshold, out=out)
    if arguments.json:
        print_json({"cell": seen.cell, "drawn": str(seen.drawn), "objects": seen.objects})
        return 0
    rows = [(one["class"], f"{one['score']:.2f}", *(f"{edge:.1f}" for edge in one["box"])) for one in seen.objects]
    print_table(("class", "score", "left", "top", "right", "bottom"), rows)
    print(f"drew {seen.drawn}, by {seen.cell}", file=sys.stderr)
    return 0


def _backbones(arguments: argparse.Namespace) -> int:
    from bob_jax.backbones import flops, own, pretraining, zoo

    if arguments.name:
        return _backbone(arguments.name, arguments.json)
    cards = everyone = [*zoo.CARDS.values(), *own.cards().values()]
    for field in ("method", "architecture", "licence"):
        wanted = getattr(arguments, field)
        if wanted is not None:
            if wanted not in (known := {getattr(card, field) for card in everyone}):
                raise unknown_name(field, wanted, known)
            cards = [card for card in cards if getattr(card, field) == wanted]
    if arguments.max_parameters is not None:
        cards = [card for card in cards if card.parameters <= arguments.max_parameters]
    if arguments.commercial:
        cards = [card for card in cards if card.commercial]
    if arguments.json:
        print_json([_known_of(card) for card in cards])
        return 0
    columns = ("name", "architecture", "method", "data", "parameters", "feature_dim", "licence", "commercial")
    rows = (
        [
            *(getattr(card, column) for column in columns),
            flops.known().get(card.name),
            pretraining.rounded(pretraining.images(card.data)),
        ]
        for card in cards
    )
    print_table((*columns, "gflops", "pretraining_images"), rows)
    return 0


def _known_of(card: Any) -> dict[str, Any]:
    """A card with what follows from it."""
    from bob_jax.backbones import flops, pretraining

    derived = {"gflops": flops.known().get(card.name), "pretraining_images": pretraining.images(card.data)}
    return dataclasses.asdict(card) | derived


def _backbone(name: str, as_json: bool) -> int:
    """One card whole, with the receipt of its weights where they are converted."""
    from bob_jax.backbones import zoo
    from converters import cache, receipt

    card = zoo.card(name)
    known = cache.read_receipt(card)
    facts = _known_of(card)
    if as_json:
        print_json(facts | {"receipt": known and dataclasses.asdict(known)})
        return 0
    print_facts(facts)
    if known is None:
        if card.source is not None:
            print(f"receipt: none yet, `python -m converters verify {name}` fetches, converts and verifies the weights")
        return 0
    written = dataclasses.asdict(known)
    del written["parity"]  # a table of its own
    print_facts({"receipt": written})
    if known.parity:
        print_table(receipt.COLUMNS, receipt.rows(known.parity))
    return 0


def _backbones_add(arguments: argparse.Namespace) -> int:
    from bob_jax.backbones import bring

    fields = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
    given = {field: getattr(arguments, field) for field in fields if getattr(arguments, field) is not None}
    card, found = bring.add(
        arguments.target,
        name=arguments.name,
        weights=arguments.weights,
        preprocessing={field: tuple(value) if isinstance(value, list) else value for field, value in given.items()},
        licence=arguments.licence,
    )
    print(f"{card.name} keeps the contract and is known to every benchmark now:")
    print_facts(dataclasses.asdict(found) | {"preprocessing": dataclasses.asdict(card.preprocessing)}, "  ")
    return 0


def _backbones_remove(arguments: argparse.Namespace) -> int:
    from bob_jax.backbones import bring

    bring.remove(arguments.name)
    print(f"{arguments.name} is forgotten")
    return 0


def _data_list(arguments: argparse.Namespace) -> int:
    from bob_jax.data import prepare

    found = prepare.available(arguments.root)
    if arguments.json:
        lines = [dict(vars(one.card), ready=one.ready, place=one.place and str(one.place)) for one in found]
        for line in lines:
            del line["source"]  # how it is read: functions, no data
            line["variants"] = list(line["variants"])
        print_json(lines)
        return 0
    columns = ("name", "task", "classes", "sizes", "metric", "licence", "access", "download", "ready", "place")
    lines = [
        vars(one.card)
        | {"access": one.card.access, "sizes": _sizes(one.card.sizes), "download": one.card.download}
        | {"ready": one.ready, "place": one.place}
        for one in found
    ]
    print_table(columns, ([line[column] for column in columns] for line in lines))
    return 0


def _sizes(splits: Mapping[str, int]) -> Mapping[str, int] | str:
    """Images of each split; of conditions, which are many and of one size, only how many there are."""
    return splits if len(splits) < 5 else f"{len(splits)} conditions of {max(splits.values())}"


def _data_prepare(arguments: argparse.Namespace) -> int:
    from bob_jax.data import prepare

    place = prepare.prepare(arguments.name, arguments.root)
    print(f"{arguments.name} is ready" + (f" in {place}" if place else ""))
    return 0


def _data_check(arguments: argparse.Namespace) -> int:
    from bob_jax.data import prepare

    if arguments.similarity is not None and (arguments.backbone is None or not 0 < arguments.similarity <= 1):
        raise BobError("--similarity is a cosine above 0, up to 1, of features: give it together with --backbone")
    report = prepare.check(arguments.name, arguments.root, arguments.sample)
    nearest = _nearest(arguments) if arguments.backbone else None
    code = 1 if report.problems else 0
    if arguments.json:
        print_json(vars(report) | {"nearest": nearest and [twin._asdict() for twin in nearest]})
        return code
    columns = ("images", "expected", "smallest_class", "largest_class", "decoded")
    print_table(
        ("split", *columns),
        ([name, *(getattr(split, column) for column in columns)] for name, split in report.splits.items()),
    )
    for problem in report.problems:
        print(problem)
    if nearest is not None:
        first = f", first {nearest[0].test} as {nearest[0].train} ({nearest[0].similarity:.3f})" if nearest else ""
        print(f"{len(nearest)} test images have features that nearly agree with a training image's{first}")
    print(f"{report.name}: {len(report.problems)} problems" if report.problems else f"{report.name} is whole")
    return code


def _nearest(arguments: argparse.Namespace) -> list[Any]:
    """The test images that a backbone takes for training images; what is found is kept for the runs that follow."""
    from bob_jax.backbones import zoo
    from bob_jax.data import catalog
    from bob_jax.protocols import duplicates
    from bob_jax.protocols.base import Competitor
    from bob_jax.training import mesh as meshes

    card, mesh = zoo.card(arguments.backbone), meshes.make_mesh()
    loaded = zoo.load(card.name, place=functools.partial(meshes.place, mesh=mesh))
    competitor = Competitor(card, loaded.module, loaded.weights_sha256)
    dataset = catalog.load(arguments.name, root=arguments.root)
    return duplicates.find(competitor, dataset, mesh, arguments.similarity or duplicates.SIMILARITY)


def _reproduce(arguments: argparse.Namespace) -> int:
    from configs import expected

    if arguments.name is None:
        rows = expected.rows().values()
        shown = ([row.name, row.metric, f"{row.value:.4f}", f"{row.tolerance:g}", row.source] for row in rows)
        print_table(("row", "metric", "expected", "tolerance", "source"), shown)
        return 0
    from bob_jax.launch import reproduce

    row = expected.row(arguments.name)
    config = row.config()
    if arguments.results:
        config.results = arguments.results
    if arguments.root:
        config.data.root = arguments.root
    verdict = reproduce.judge(config, row.metric, row.value, row.tolerance)
    interval = f"[{verdict.obtained.low:.4f}, {verdict.obtained.high:.4f}]"
    print_table(
        ("row", "metric", "expected", "obtained", "interval", "difference", "tolerance", "verdict"),
        [
            (
                row.name,
                row.metric,
                f"{row.value:.4f}",
                f"{verdict.obtained.value:.4f}",
                interval,
                f"{verdict.obtained.value - row.value:+.4f}",
                f"{row.tolerance:g}",
                "matches" if verdict.matches else "differs",
            )
        ],
    )
    print(f"expected by {row.source}")
    return 0 if verdict.matches else 1
