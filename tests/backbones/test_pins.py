"""Pins of the cards: what can be said of them without the hub. A pin copied wrong would refuse the right weights."""

import re
from collections import Counter
from pathlib import Path

import pytest

from bob_jax.backbones import zoo
from bob_jax.backbones.card import WeightSource
from bob_jax.backbones.cards import pins

FOOTGUNS = Path(__file__).parents[2] / "docs" / "footguns.md"


def sources_of(name: str) -> list[WeightSource]:
    """All that a card may fetch."""
    card = zoo.card(name)
    text = (card.text.source, card.text.tokenizer) if card.text else ()
    return [source for source in (card.source, card.classifier_source, *text) if source]


SOURCES = list(dict.fromkeys(source for name in zoo.CARDS for source in sources_of(name)))


def test_revisions_are_main_or_a_whole_commit_and_digests_are_whole():
    for source in SOURCES:
        assert re.fullmatch("main|[0-9a-f]{40}", source.revision), source
        assert source.revision == "main" or source.hub, source
        assert source.sha256 is None or re.fullmatch("[0-9a-f]{64}", source.sha256), source
        assert not (source.parts and source.sha256), source  # one digest cannot be that of several files


def test_digits_in_a_published_name_are_those_of_the_digest():
    """torchvision and timm end a file's name with the first 8 digits of its sha256."""
    for source in SOURCES:
        named = re.search(r"-([0-9a-f]{8})\.[a-z.]+$", source.url or "")
        if named and source.sha256:
            assert source.sha256.startswith(named[1]), source


def test_every_pin_is_of_a_file_that_a_card_reads():
    assert {*pins.PINS} <= {(source.hub, pins.PARTS if source.parts else source.file) for source in SOURCES}


@pytest.mark.parametrize("where", pins.PINS, ids="/".join)
def test_a_pin_reaches_its_cards(where):
    pin, (hub, file) = pins.PINS[where], where
    found = [s for s in SOURCES if (s.hub, pins.PARTS if s.parts else s.file) == (hub, file)]
    assert {(source.revision, source.sha256) for source in found} == {(pin.commit or "main", pin.sha256)}
    assert pin.commit or pin.sha256
    assert (pin.commit_records > 0) == (pin.commit is not None)
    assert (pin.sha256_records > 0) == (pin.sha256 is not None)


def test_no_commit_and_no_digest_stands_at_two_repositories():
    """A row copied from another; a tokenizer may be the same file in several repositories."""
    commits = Counter(commit for commit, _ in {(pin.commit, hub) for (hub, _), pin in pins.PINS.items()} if commit)
    digests = Counter(pin.sha256 for (_, file), pin in pins.PINS.items() if pin.sha256 and file != pins.TOKENIZER)
    assert set(commits.values()) == set(digests.values()) == {1}


def test_files_of_one_repository_are_of_one_commit():
    for hub in {hub for hub, _ in pins.PINS}:
        assert len({pin.commit for (other, _), pin in pins.PINS.items() if other == hub}) == 1, hub


def test_what_has_no_record_is_of_main():
    assert pins.on_hub("timm/nobody.knows") == WeightSource(hub="timm/nobody.knows")


def test_the_documentation_counts_right():
    on_hub = [card.source for card in zoo.CARDS.values() if card.source and card.source.hub]
    commits = sum(source.revision != "main" for source in on_hub)
    digests = sum(source.sha256 is not None for source in on_hub)
    either = sum(source.revision != "main" or source.sha256 is not None for source in on_hub)
    told = f"{either} of the {len(on_hub)} cards on the hub are pinned ({commits} by commit, {digests} by sha256)"
    assert told in FOOTGUNS.read_text()
