"""The page: template, style and programs from this package, the chart library, and the content, in one HTML file.

Charts are Vega-Lite's, drawn in the reader's browser from the records that the file carries. Its programs (Vega,
Vega-Lite, Vega-Embed; BSD 3-Clause) come out of the package vl-convert-python and are written into the file. A content
security policy in the file forbids every connection: what it shows is what it holds.
"""

import functools
import html
import json
from importlib import resources
from typing import Any

from bob_jax import __version__
from bob_jax.errors import BobError

STYLE = "style.css"
PROGRAMS = ("dom.js", "table.js", "charts.js", "leaderboard.js", "overview.js", "views.js", "main.js")  # in this order
LICENCE = (
    "Vega, Vega-Lite, Vega-Embed, Vega-Tooltip: Copyright (c) University of Washington Interactive Data Lab and "
    "contributors. BSD 3-Clause License, https://github.com/vega"
)


def page(content: dict[str, Any]) -> str:
    """The HTML file.

    Args:
        content: of `content.content`.

    Raises:
        BobError: the chart library is not installed.
    """
    parts = {
        "title": html.escape(content["title"]),
        "version": html.escape(__version__),
        "style": _text(STYLE),
        "library": f"/* {LICENCE} */\n{_library()}",
        "data": _harmless(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))),
        "programs": "\n".join(_text(name) for name in PROGRAMS),
    }
    # One pass over the template: what is put in is not looked through again.
    pieces = _text("page.html").split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        filled += [parts[name], rest]
    return "".join(filled)


def _text(name: str) -> str:
    return resources.files("bob_jax.results.report").joinpath("page", name).read_text(encoding="utf-8")


def _harmless(text: str) -> str:
    """JSON that cannot end the element it stands in."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one program that defines `vegaEmbed`.

    Raises:
        BobError: vl-convert-python is not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise BobError("a report needs vl-convert-python for its charts: pip install 'bob_jax[report]'") from error
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # In a function of its own: its short names are not those of the page. "</script" would end the element.
    return f"(() => {{{bundle}\n}})();".replace("</script", "<\\/script").replace("<!--", "<\\!--")
