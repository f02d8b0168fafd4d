"""`python -m converters list | convert NAME | verify NAME | export NAME | detector NAME`: weights fetched, verified,
given back; and those of public detectors.
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from bob_jax.backbones import zoo
from bob_jax.backbones.card import Card, TextCard
from bob_jax.errors import BobError
from bob_jax.terminal import print_table
from converters import cache, receipt
from converters.tables import TABLES

TEXT = ".text"  # behind the name of a backbone: its text tower


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise BobError(f"{message}; see `{self.prog} --help`")


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Args:
        argv: arguments; those of the process by default.

    Returns:
        Exit code: 0, 1 when parity is not reached, 2 for a mistake that one line on stderr explains.
    """
    try:
        arguments = _parser().parse_args(argv)
        code: int = arguments.run(arguments)
        return code
    except BobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m converters", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("list", help="all backbones with weights, and which are converted").set_defaults(run=_list)
    for name, run, summary in (
        ("convert", _convert, "fetch and convert, also where the cache has it already"),
        (
            "verify",
            _verify,
            "convert, then compare with the original stage by stage (needs torch, and timm or diffusers)",
        ),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("name", help="backbone, e.g. vit_b16_clip, or its text tower, vit_b16_clip.text")
        command.add_argument("--from", dest="file", type=Path, metavar="FILE", help="its checkpoint on this machine")
        command.add_argument("--table", help=f"key layout of FILE where it is not the card's: {', '.join(TABLES)}")
        command.set_defaults(run=run)
    summary = "write weights of ours for the original implementation, as its state dict"
    command = commands.add_parser("export", help=summary, description=summary)
    command.add_argument("name", help="backbone, e.g. vit_b16_clip")
    command.add_argument("--to", type=Path, metavar="FILE", required=True, help="what is written: .safetensors or .pth")
    command.add_argument(
        "--weights", type=Path, metavar="FILE", help="fine-tuned .safetensors by dotted path; else the published ones"
    )
    command.set_defaults(run=_export)
    summary = "convert a public detector: torchvision's Mask R-CNN or mmdetection's Cascade Mask R-CNN"
    command = commands.add_parser("detector", help=summary, description=summary)
    command.add_argument("name", help="maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2 or cascade_mask_rcnn_r50_fpn")
    command.add_argument("--weights", type=Path, metavar="FILE", required=True, help="as its publisher gives them")
    command.add_argument("--out", type=Path, metavar="FILE", required=True, help="what is written: .safetensors")
    command.set_defaults(run=_detector)
    return parser


def _card(name: str) -> Card | TextCard:
    """The card of a backbone, or that of the text tower of one."""
    return zoo.text_card(name.removesuffix(TEXT)) if name.endswith(TEXT) else zoo.card(name)


def _original(arguments: argparse.Namespace) -> cache.Original:
    if arguments.table and not arguments.file:
        raise BobError("--table says how FILE is laid out: give --from FILE too")
    return cache.original_of(_card(arguments.name), arguments.file, arguments.table)


def _list(arguments: argparse.Namespace) -> int:
    columns = ("name", "method", "data", "licence", "converted", "parity")
    rows = []
    for card in zoo.CARDS.values():
        for part in (card, card.text):  # a backbone, and the text tower of one
            if part is not None and part.source is not None:
                known = cache.read_receipt(part)
                parity = f"{known.largest_error:.1e}" if known and known.parity else ""
                rows.append([part.name, card.method, card.data, part.licence, known.date[:10] if known else "", parity])
    print_table(columns, rows)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    card = _card(arguments.name)
    _, written = cache.convert(card, _original(arguments))
    print(f"{cache.path_of(card)}: converted from {written.source}, weights sha256 {written.weights_sha256}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from converters import parity, text_parity

    card, original = _card(arguments.name), _original(arguments)
    found = text_parity.verify(card, original) if isinstance(card, TextCard) else parity.verify(card, original)
    print_table(receipt.COLUMNS, receipt.rows(found.parity))
    return 0 if all(stage.float32 <= receipt.TOLERANCE for stage in found.parity) else 1


def _export(arguments: argparse.Namespace) -> int:
    from converters.export import export

    export(zoo.card(arguments.name), arguments.to, arguments.weights)
    print(f"{arguments.to}: written")
    return 0


def _detector(arguments: argparse.Namespace) -> int:
    from converters import detectors

    detectors.save(arguments.name, arguments.weights, arguments.out)
    print(f"{arguments.out}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
