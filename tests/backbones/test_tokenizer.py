"""Tokens of CLIP against OpenCLIP's own splitter, with OpenAI's vocabulary; of SigLIP against transformers'."""

import sys

import numpy as np
import pytest
import tiny_clip
from open_clip import tokenizer as open_clip_tokenizer
from tokenizers import SentencePieceUnigramTokenizer, Tokenizer, processors

from bob_jax.backbones import tokenizer
from bob_jax.backbones.card import TextCard, WeightSource
from bob_jax.backbones.tokenizer import canonical, tokenize
from bob_jax.errors import BobError
from bob_jax.protocols.prompts import imagenet_names

LONG = "a photo of " + "very " * 90 + "long stories"


def card(kind: str, path, vocabulary: int, context: int, padding: int) -> TextCard:
    source = WeightSource(url=f"file://{path}")
    arguments = {"kind": kind, "vocabulary": vocabulary, "context": context}
    return TextCard("tiny.text", arguments, source, source, padding, "mit")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "tokenizer.json"
    tiny_clip.tokenizer().backend_tokenizer.save(str(path))
    return card("clip", path, 49408, 77, 0)


def test_clip_texts_equal_open_clip(clip):
    names = [*imagenet_names().values()]
    texts = [f"itap of the  {name}." for name in names] + ["Été, l'Équipe", "it's 'd 1234!?", "", LONG]
    expected = open_clip_tokenizer.tokenize(texts).numpy()
    found = tokenize(texts, clip)
    assert found.dtype == np.int32 and found.shape == (len(texts), 77)
    np.testing.assert_array_equal(found, expected)
    assert found[-1, -1] == found.max() == 49407  # cut off, and still with its end


def test_clip_texts_are_as_long_as_the_longest(clip):
    texts = ["a cat.", "a photo of a cat."]
    found = tokenize(texts, clip)
    np.testing.assert_array_equal(found, open_clip_tokenizer.tokenize(texts).numpy()[:, : found.shape[1]])
    assert found.shape[1] == 8 and found[0, -1] == 0


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A vocabulary of single pieces as SigLIP's: padding, end, unknown first."""
    made = SentencePieceUnigramTokenizer()
    words = [f"{name} in the photo" for name in imagenet_names().values()]
    made.train_from_iterator(
        words, vocab_size=500, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    path = tmp_path_factory.mktemp("siglip") / "tokenizer.json"
    made.save(str(path))
    return card("siglip", path, 500, 16, 1)


def test_siglip_texts_equal_transformers(siglip):
    import transformers

    path = siglip.tokenizer.url.removeprefix("file://")
    reference = transformers.PreTrainedTokenizerFast(tokenizer_file=path, pad_token="</s>", eos_token="</s>")
    texts = ["A photo of a Great_White Shark!", "the  goldfish, in (the) photo", "", LONG]
    cleaned = [open_clip_tokenizer.canonicalize_text(text) for text in texts]
    expected = reference(cleaned, padding="max_length", truncation=True, max_length=16).input_ids
    np.testing.assert_array_equal(tokenize(texts, siglip), expected)


@pytest.mark.parametrize("text", ["A_b-c  D!", "  ", "Saint-Émilion (1982)", "don't\tstop"])
def test_canonical_text_equals_open_clip(text):
    assert canonical(text) == open_clip_tokenizer.canonicalize_text(text)


def test_a_tokenizer_of_another_checkpoint(clip):
    small = card("clip", clip.tokenizer.url.removeprefix("file://"), 1000, 77, 0)
    with pytest.raises(BobError, match=r"gives token 49407 where tiny.text knows 1000 tokens"):
        tokenize(["a cat"], small)


def test_a_tokenizer_that_does_not_end_a_text(siglip, tmp_path):
    bare = Tokenizer.from_file(siglip.tokenizer.url.removeprefix("file://"))
    bare.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    bare.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BobError, match=r"does not end a text with token 1, as tiny.text has learned it"):
        tokenize(["the goldfish"], card("siglip", tmp_path / "tokenizer.json", 500, 16, 1))


def test_without_the_library(clip, monkeypatch):
    tokenizer._splitter.cache_clear()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BobError, match=r"needs the package tokenizers: pip install 'bob_jax\[text\]'"):
        tokenize(["a cat"], clip)
