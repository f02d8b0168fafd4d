"""Times as people write and read them."""

import re

from bob_jax.errors import BobError

UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
PART = r"(\d+(?:\.\d*)?|\.\d+) ?(min|[smhd])"


def parse(text: str) -> float:
    """Seconds of a budget: "600s", "90min", "1h30m", "1.5d".

    Raises:
        BobError: it is no time, or none at all.
    """
    seconds = 0.0
    if re.fullmatch(f"(?:{PART} ?)+", text.strip()):
        seconds = sum(float(number) * UNITS[unit] for number, unit in re.findall(PART, text))
    if not seconds > 0:
        raise BobError(f"--budget '{text}' is no time: write 10m, 1h30m or 2d")
    return seconds


def words(seconds: float) -> str:
    """About how long, in the unit that a person would choose: "40 s", "12 min", "3.5 h", "10,439 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:,.0f} h"
