"""Shifted test sets, and the sources that were not there yet."""

from bob_jax.data.cards.card import DatasetCard

CARDS: tuple[DatasetCard, ...] = ()
