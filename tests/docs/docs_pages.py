"""Pages of the documentation, cut into what a reader would type.

A fenced block says by its first line what it is: `sh`, `python`, `python FILE` (the text of a file), `json`, `yaml`; a
block without a language is something printed. An HTML comment before it may say how a test shall treat it, see
`docs_ways.py`.
"""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from running import ROOT

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(
    r"^(?:<!-- test: (?P<mark>[^\n]+) -->\n)?```(?P<language>\S*)(?: (?P<file>\S+))?\n(?P<text>.*?)^```$", re.M | re.S
)


class PageError(AssertionError):
    """A page says something that does not hold; the words tell where."""


@dataclasses.dataclass(frozen=True)
class Block:
    """What stands between two fences.

    Attributes:
        page: name of the file.
        line: of the first fence, from 1.
        language: as written.
        file: that the text is of; empty for none.
        mark: what the comment before it says; empty for none.
        text: between the fences.
    """

    page: str
    line: int
    language: str
    file: str
    mark: str
    text: str


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of a block.

    Attributes:
        where: page and line.
        words: as a shell would split them.
        variables: set before it, `NAME=value`.
        output: file after `>`; empty for none.
    """

    where: str
    words: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]
    output: str

    def __str__(self) -> str:
        return f"{self.where}: {shlex.join(self.words)}"


def blocks(text: str, page: str) -> list[Block]:
    """All fenced blocks of a page.

    Raises:
        PageError: a fence that is not closed, or stands in a list.
    """
    found = [
        Block(
            page,
            text.count("\n", 0, match.start("language")) + 1,
            *(match[part] or "" for part in ("language", "file", "mark", "text")),
        )
        for match in FENCE.finditer(text)
    ]
    if text.count("```") != 2 * len(found):
        raise PageError(f"{page}: a fence is not closed, or is indented")
    return found


def prose(text: str) -> str:
    """A page without its fenced blocks, which leave empty lines."""
    return FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)


def commands(block: Block) -> Iterator[Command]:
    """The commands of a shell block, in order.

    Raises:
        PageError: shell syntax that is not known here.
    """
    joined = re.sub(r"\\\n", "  ", block.text)  # a command of several lines counts as being on the first
    for number, line in enumerate(joined.splitlines(), block.line + 1):
        where = f"{block.page}:{number}"
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError as error:
            raise PageError(f"{where}: {error}: {line}") from error
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield _command(where, words[:end])
            words = words[end + 1 :]


def _command(where: str, words: list[str]) -> Command:
    variables = []
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        variables.append((name, value))
    if words:
        words[0] = re.sub(r"^(\.venv/bin/)?(python|pip)3?$", r"\2", words[0])
    output = ""
    if len(words) > 2 and words[-2] == ">":
        *words, _, output = words
    if not words or any(re.fullmatch(r"[();<>|&]+", word) for word in words):
        raise PageError(f"{where}: more than words, `&&` and `> FILE`: {shlex.join(words)}")
    return Command(where, tuple(words), tuple(variables), output)


def heading_anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    lines = re.findall(r"^#+ (.+)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def page_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
