"""How `bob` prints: JSON for programs, tables and facts for people."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bob_jax.results.schema import plain


def print_json(value: Any) -> None:
    """Dataclasses, mappings and sequences as JSON."""
    print(json.dumps(plain(value, ""), indent=2, ensure_ascii=False))


def print_facts(facts: Mapping[str, Any], indent: str = "") -> None:
    """One fact a line, those inside others indented."""
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{name}:")
            print_facts(value, indent + "  ")
        else:
            print(f"{indent}{name}: {_words(value)}")


def print_table(columns: Iterable[str], rows: Iterable[Iterable[Any]], *, whole: bool = False) -> None:
    """A table with these column names.

    Args:
        columns: their names.
        rows: a value for each column.
        whole: on a terminal that is too narrow nothing is folded or cut: columns that have no room come in another
            table, behind the first column.
    """
    titles, cells = [column.replace("_", " ") for column in columns], [list(map(_words, row)) for row in rows]
    shown = [0]
    for i in range(1, len(titles)):
        if whole and len(shown) > 1 and not _fits(_table(titles, cells, [*shown, i])):
            draw(_table(titles, cells, shown))
            shown = [0]
        shown.append(i)
    draw(_table(titles, cells, shown))


def _table(titles: Sequence[str], cells: Sequence[Sequence[str]], shown: Sequence[int]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(*(titles[i] for i in shown), box=box.SIMPLE_HEAD, pad_edge=False)
    for row in cells:
        table.add_row(*(row[i] for i in shown))
    return table


def _fits(renderable: Any) -> bool:
    from rich.console import Console

    console = Console(markup=False)
    return not console.is_terminal or console.measure(renderable, options=_unlimited(console)).maximum <= console.width


def _unlimited(console: Any) -> Any:
    return console.options.update(width=10_000)


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(map(_words, value))
    if isinstance(value, dict) and value:
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    return "-" if value is None or value in ("", {}) else str(value)


def draw(renderable: Any) -> None:
    """Prints what rich can draw; into a pipe or file as wide as it is, never cut to a terminal that is not there."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, console.measure(renderable, options=_unlimited(console)).maximum)
    console.print(renderable)
