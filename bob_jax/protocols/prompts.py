"""What an image of each class is called: class names and the sentences they are put into, for zero-shot classification.

`prompts.json` has those that OpenAI published with CLIP (github.com/openai/CLIP, MIT), by data set; `names` are the
classes that are called otherwise than in the data. For a data set that is not there every class is called by its own
name, in one sentence.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bob_jax.errors import BobError

FILE = Path(__file__).with_name("prompts.json")
IMAGENET = Path(__file__).parents[1] / "data" / "imagenet.json"
TEMPLATE = "a photo of a {}."
# What stands before the name: "001.Black_footed_Albatross" of CUB, "/a/abbey" of SUN397, and the number, kingdom,
# phylum, class, order and family in the folders of iNaturalist 2021.
NUMBERING = re.compile(r"^(?:\d+\.|/\w/|\d{5}_(?:[^_]+_){5})")
WORDNET = re.compile(r"^(n\d{8})(?:-(.*))?$")  # a class of ImageNet, or of Stanford Dogs with its name behind


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Classes in words.

    Attributes:
        names: [C] of the classes, in label order.
        templates: [T] sentences with a gap `{}` for the name.
        source: where the sentences come from.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    source: str

    def texts(self) -> list[str]:
        """[C * T] sentences, those of one class together."""
        return [template.replace("{}", name) for name in self.names for template in self.templates]


def prompts_of(dataset: str, classes: tuple[str, ...]) -> Prompts:
    """The sentences for the classes of a data set.

    Args:
        dataset: its name.
        classes: their names in the data, in label order.

    Raises:
        BobError: it has no class names, or a class is called by a mere number.
    """
    if not classes:
        raise BobError(f"data set {dataset} names no classes, so there is nothing to compare its images with")
    imagenet = classes == tuple(imagenet_names())  # whole, a part of its images, or a folder of yours
    known = _known().get("imagenet" if imagenet else dataset.partition("@")[0], {})
    called = known.get("names", {})
    names = tuple(called.get(one) or plain(one) for one in classes)
    for own, name in zip(classes, names, strict=True):
        if own not in called and not any(letter.isalpha() for letter in name):
            raise BobError(
                f"class '{own}' of data set {dataset} has a number where zero-shot classification needs a name: "
                f"prepare the data with its class names, or add them to {FILE}"
            )
    source = known.get("source", "class names as in the data, one sentence")
    return Prompts(names, tuple(known.get("templates", (TEMPLATE,))), source)


def plain(name: str) -> str:
    """A class name as words: ImageNet's name for a WordNet id, no numbering, blanks for underscores and slashes."""
    if found := WORDNET.match(name):
        if found[1] in imagenet_names():
            return imagenet_names()[found[1]]
        name = found[2] or name
    return " ".join(re.split(r"[_/\s]+", NUMBERING.sub("", name))).strip()


@functools.cache
def imagenet_names() -> Mapping[str, str]:
    """The classes of ImageNet-1k: WordNet id -> name, in label order."""
    names: dict[str, str] = json.loads(IMAGENET.read_text(encoding="utf-8"))["names"]
    return names


@functools.cache
def _known() -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return known
