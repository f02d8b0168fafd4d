"""Retrieval of handwritten digits: the embedded set, always there."""

from bob_jax.data import digits
from bob_jax.data.retrieval.found import Found
from bob_jax.data.retrieval.rules import same_label


def handwritten() -> Found:
    """The test images of `digits` look for the training images of the same digit; validation is for whitening."""
    found = digits.load()
    query, gallery = found.splits["test"], found.splits["train"]
    notes = {
        split: f"{found.split_notes[of]}: {of} of digits"
        for split, of in (("query", "test"), ("gallery", "train"), ("whitening", "validation"))
    }
    return Found(
        query, gallery, same_label(query.labels, gallery.labels), notes, found.classes, found.splits["validation"]
    )
