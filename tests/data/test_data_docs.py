"""The tables of the data sets in the documentation are what the cards say: `python tests/data/test_data_docs.py`."""

import math
import re
from pathlib import Path

import pytest

from bob_jax.data import catalog
from bob_jax.data.cards.card import DatasetCard, Official

DOCS = Path(__file__).parents[2] / "docs"
HEAD = (
    "| name | data | classes | train / validation / test | ranked by | to fetch | how |\n|---|---|---|---|---|---|---|"
)
RANKED = {
    "accuracy": "accuracy",
    "mean_per_class_accuracy": "mean per class",
    "mean_auc": "mean AUC",
    "mask_ap": "mask AP",
    "box_ap": "box AP",
}
HOW = {"embedded": "comes along", "automatic": "automatic", "manual": "**by hand**"}


TABLES = {"datasets": ("classification", "multilabel"), "detection_data": ("detection",)}


def table(page: str) -> str:
    """The catalogue's sets to train on, as a page of docs has them; held-out splits are in italics."""
    cards = (card for card in catalog.CARDS.values() if card.task in TABLES[page])
    return "\n".join([HEAD, *map(row, cards)])


def row(card: DatasetCard) -> str:
    counts = f"{card.classes:,}", sizes(card)
    cells = f"`{card.name}`", card.title, *counts, RANKED[card.metric], card.download or "-", HOW[card.access]
    return f"| {' | '.join(cells)} |"


def sizes(card: DatasetCard) -> str:
    given = dict(card.sizes)
    if isinstance(card.source, Official):  # whole patients or objects are held out: how many images, the data decide
        rest = f" / {given['test']:,}" if "test" in given else ""
        rest += f" / {given['shifted']:,} shifted" if "shifted" in given else ""
        held = "" if "test" in given else " and *test*"
        return f"{given.get('all', given.get('train')):,} with *validation*{held}{rest}"
    italic = {split for split in ("validation", "test") if split not in given}
    if "all" in given:
        whole = given.pop("all")
        given["test"] = math.ceil(round(card.test_fraction * whole, 6))
        given["validation"] = math.ceil(round(card.validation_fraction * whole, 6))
        given["train"] = whole - given["test"] - given["validation"]
    elif card.validation_fraction:
        given["validation"] = math.ceil(card.validation_fraction * given["train"])
        given["train"] -= given["validation"]
    shown = (f"{given[split]:,}" for split in ("train", "validation", "test"))
    return " / ".join(
        f"*{count}*" if split in italic else count
        for split, count in zip(("train", "validation", "test"), shown, strict=True)
    )


@pytest.mark.parametrize("page", TABLES)
def test_the_table_is_what_the_cards_say(page):
    text = (DOCS / f"{page}.md").read_text()
    assert table(page) in text, f"docs/{page}.md: the table of the catalogue should read\n{table(page)}"


@pytest.mark.parametrize("page", ["shifts", "retrieval_data"])
def test_the_other_pages_name_every_set(page):
    task = {"shifts": "shift", "retrieval_data": "retrieval"}[page]
    text = (DOCS / f"{page}.md").read_text()
    for name, card in catalog.CARDS.items():
        if card.task == task:
            written = re.sub("domainnet_.*_to_.*", "domainnet_A_to_B", name)
            stem, _, ending = written.rpartition("_")
            assert written in text or (stem in text and f"`_{ending}`" in text), f"docs/{page}.md does not name {name}"


def test_every_variant_is_explained():
    text = "".join((DOCS / f"{page}.md").read_text() for page in ("datasets", "shifts", "retrieval_data"))
    for name, card in catalog.CARDS.items():
        for variant in card.variants:
            assert f"@{variant}" in text, f"no page explains {name}@{variant}"


if __name__ == "__main__":
    for name in TABLES:
        print(f"docs/{name}.md\n{table(name)}\n")
