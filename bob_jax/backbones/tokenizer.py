"""From texts to the tokens of a vision-language checkpoint, by its own `tokenizer.json`."""

import functools
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from bob_jax.backbones.card import TextCard, WeightSource
from bob_jax.errors import BobError

SIGLIP_END = 1  # in both vocabularies; CLIP's is its last token
PUNCTUATION = str.maketrans("", "", string.punctuation)


def tokenize(texts: Sequence[str], card: TextCard) -> np.ndarray:
    """The tokens of texts, start and end tokens included where the tokenizer has them.

    CLIP's texts are filled up to the longest one and SigLIP's to the whole context, which their towers see all of. A
    text that is too long loses its last words, never its end token.

    Returns:
        [B, N] int32.

    Raises:
        BobError: the tokenizer cannot be fetched or read, does not fit the tower, or its library is not installed.
    """
    siglip, context = card.arguments["kind"] == "siglip", card.arguments["context"]
    splitter = _splitter(card.tokenizer)
    splitter.no_padding()
    splitter.enable_truncation(max_length=context)
    texts = [canonical(text) for text in texts] if siglip else list(texts)
    encoded = [encoding.ids for encoding in splitter.encode_batch(texts)]
    tokens = np.full((len(encoded), context if siglip else max(map(len, encoded))), card.padding, np.int32)
    for row, ids in zip(tokens, encoded, strict=True):
        row[: len(ids)] = ids
    if tokens.max() >= card.arguments["vocabulary"]:
        raise BobError(
            f"{card.tokenizer.hub}/{card.tokenizer.file} gives token {tokens.max()} where {card.name} knows "
            f"{card.arguments['vocabulary']} tokens: it is another checkpoint's"
        )
    end = SIGLIP_END if siglip else card.arguments["vocabulary"] - 1
    if any(ids[-1:] != [end] for ids in encoded):
        raise BobError(
            f"{card.tokenizer.hub}/{card.tokenizer.file} does not end a text with token {end}, as {card.name} has "
            "learned it: it is another checkpoint's"
        )
    return tokens


def canonical(text: str) -> str:
    """Lower case, without punctuation, single blanks: how SigLIP's texts are written (big_vision's `canonicalize`)."""
    return " ".join(text.replace("_", " ").translate(PUNCTUATION).lower().split())


@functools.lru_cache(maxsize=1)
def _splitter(source: WeightSource) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise BobError("splitting texts needs the package tokenizers: pip install 'bob_jax[text]'") from error
    from converters import sources

    path = sources.fetch(source).path
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise BobError(f"{path} is damaged or no tokenizer ({error}): delete it and fetch it again") from error
