"""Retrieval: instances, landmarks, products, species; what to find, in whose official format."""

from bob_jax.data.cards.card import DatasetCard

CARDS: tuple[DatasetCard, ...] = ()
