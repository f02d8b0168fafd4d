"""The one exception a user is meant to read: what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable


class BobError(Exception):
    """A mistake or a failure that the user can act on.

    The message is one line. The command line prints it after `error:` without a traceback and exits with 2.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BobError:
    """The error for a name nobody knows: names the nearest known ones, or lists them all when none is near.

    Args:
        kind: what the name should have been, e.g. "backbone".
        name: what was given.
        known: the names that would have been right.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return BobError(f"unknown {kind} '{name}': {hint}")
