"""How much a backbone has seen: the number of distinct images in the data that a card names."""

import re

# As the publishers count them. The ImageNets lie inside each other, so only the largest that is named counts.
IMAGENETS = {
    "ImageNet-22k": 14_197_122,
    "ImageNet-21k": 14_197_122,
    "ImageNet-12k": 12_129_687,
    "ImageNet-1k": 1_281_167,
}
SETS = {
    "CC12M": 12_400_000,
    "DataComp-1B": 1_400_000_000,
    "DFN-2B": 2_000_000_000,
    "DISC 2021": 1_000_000,
    "Instagram-3.6B": 3_600_000_000,
    "JFT-300M": 300_000_000,
    "LAION-2B": 2_320_000_000,
    "LAION-5B": 5_850_000_000,
    "LAION-Aesthetic": 900_000_000,
    "LVD-142M": 142_000_000,
    "LVD-1689M": 1_689_000_000,
    "Merged-2B": 2_000_000_000,
    "Merged-38M": 38_000_000,
    "SA-1B": 11_100_000,
    "WebLI": 10_000_000_000,
    "YFCC15M": 15_000_000,
}
SUBSETS = {"LAION-Aesthetic": "LAION-2B"}  # a filtered part of a set that is named too adds nothing
UNCOUNTED = ("MiDaS", "COYO")  # sets whose publishers give no single number
CHARACTERS = re.compile(r"([\d,]+) printed characters")
PAIRS = re.compile(r"([\d.]+) ([MB]) (?:image-text )?pairs")  # where the text itself says how many


def images(data: str) -> int | None:
    """Distinct images in a card's `data`, rounded as published; None where nobody has counted, or for no data at all.

    Args:
        data: e.g. "ImageNet-21k, then ImageNet-1k", "LAION-2B", "OpenAI, 400 M pairs".
    """
    if any(name in data for name in UNCOUNTED):
        return None
    total = max((size for name, size in IMAGENETS.items() if name in data), default=0)
    total += sum(
        size for name, size in SETS.items() if name in data and not (name in SUBSETS and SUBSETS[name] in data)
    )
    for number, unit in PAIRS.findall(data):
        total += round(float(number) * {"M": 1e6, "B": 1e9}[unit])
    for number in CHARACTERS.findall(data):
        total += int(number.replace(",", ""))
    return total or None


def rounded(count: int | None) -> str | None:
    """The number as it is spoken: 14.2 M, 2.3 B."""
    if count is None:
        return None
    return f"{count / 1e9:.3g} B" if count >= 1e9 else f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count:,}"
