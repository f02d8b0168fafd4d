"""How `bob` prints: JSON for programs, tables and facts for people."""

import json
from collections.abc import Iterable, Mapping
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


def print_table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A table with these column names."""
    from rich import box
    from rich.table import Table

    table = Table(*(column.replace("_", " ") for column in columns), box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*map(_words, row))
    draw(table)


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
        unlimited = console.options.update(width=10_000)
        console.width = max(console.width, console.measure(renderable, options=unlimited).maximum)
    console.print(renderable)
