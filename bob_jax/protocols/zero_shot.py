"""Zero-shot classification: a vision-language backbone is told the classes by their names (arXiv 2103.00020, 3.1).

Each class is the mean of the unit embeddings of its sentences, made one unit long again; an image belongs to the class
it has the largest cosine with. Nothing is trained and nothing is chosen; validation images only calibrate.
"""

import dataclasses
import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bob_jax.backbones import zoo
from bob_jax.backbones.card import Card
from bob_jax.backbones.tokenizer import tokenize
from bob_jax.backbones.zoo import LoadedText
from bob_jax.cache import cache_dir
from bob_jax.data import catalog
from bob_jax.data.base import Dataset
from bob_jax.errors import BobError
from bob_jax.protocols.base import Competitor, Context, Protocol, Result
from bob_jax.protocols.descriptors import unit
from bob_jax.protocols.head import Head
from bob_jax.protocols.prompts import Prompts, prompts_of
from bob_jax.protocols.published_head import judge_as_it_is
from bob_jax.training.reporting import Progress

LENGTHS = 8  # texts are cut to multiples of it, so that there are few programs to compile
FORMAT = 1  # part of the cache's key: raise it when the embeddings change


@dataclasses.dataclass(frozen=True)
class ZeroShot(Protocol):
    """Classes by their names.

    Attributes:
        batch_size: images, and texts, through a tower at a time.
    """

    name: ClassVar[str] = "zero_shot"
    makes_head: ClassVar[bool] = True
    batch_size: int

    def unfit(self, card: Card, dataset: str) -> str | None:
        """A backbone without a text tower, and data known for having no class names."""
        if card.text is None:
            return f"{card.name} has no text tower"
        source = None if dataset.startswith(catalog.FOLDER) else catalog.card(dataset).source
        if classes := getattr(source, "classes", None):  # most are known only when the data are loaded
            try:
                prompts_of(dataset, classes)
            except BobError as error:
                return str(error)
        return None

    def run(self, competitor: Competitor, dataset: Dataset, context: Context) -> Result:
        """Compares the test images with the names of the classes."""
        prompts = prompts_of(dataset.name, dataset.classes)
        head, digest = head_of(competitor.card, prompts, self.batch_size)
        result = judge_as_it_is(head, competitor, dataset, context, self.batch_size)
        facts = {
            "prompts": prompts.source,
            "templates": len(prompts.templates),
            "example": prompts.texts()[0],
            "text_weights_sha256": digest,
        }
        return dataclasses.replace(result, notes={**result.notes, **facts})


def head_of(card: Card, prompts: Prompts, batch_size: int) -> tuple[Head, str]:
    """The classifier that the names make, and the digest of the text tower's weights.

    Raises:
        BobError: the backbone has no text tower, or what it needs cannot be fetched.
    """
    loaded = zoo.load_text(card.name)
    tower, dim = loaded.tower, loaded.tower.joint_dim
    kernel = jnp.exp(tower.logit_scale[...]) * class_embeddings(card, loaded, prompts, batch_size).T
    bias = jnp.zeros(len(prompts.names)) + (0.0 if tower.logit_bias is None else tower.logit_bias[...])
    projection, offset = np.eye(dim, dtype=np.float32), None
    if tower.image_proj is not None:
        projection = np.asarray(tower.image_proj.kernel[...])
        offset = None if tower.image_proj.bias is None else np.asarray(tower.image_proj.bias[...])
    return Head(np.asarray(kernel), np.asarray(bias), projection=projection, offset=offset), loaded.weights_sha256


def class_embeddings(card: Card, loaded: LoadedText, prompts: Prompts, batch_size: int) -> np.ndarray:
    """[C, E] float32 of length 1, from the cache where they are known.

    Args:
        card: of the backbone.
        loaded: its text side.
        prompts: C classes in T sentences.
        batch_size: texts at a time.
    """
    texts, known = prompts.texts(), zoo.text_card(card.name)
    identity = [FORMAT, loaded.weights_sha256, str(jnp.dtype(loaded.tower.dtype)), dataclasses.asdict(known), texts]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_dir("features") / f"classes-{key}.npy"
    found = _read(path, (len(prompts.names), loaded.tower.joint_dim))
    if found is not None:
        return found
    embedded = _embed(loaded, tokenize(texts, known), batch_size, f"{card.name}: {len(texts)} texts")
    sentences = unit(embedded).reshape(len(prompts.names), len(prompts.templates), -1)
    classes = unit(sentences.mean(axis=1))
    if jax.process_index() == 0:
        _write(path, classes)
    return classes


def _embed(loaded: LoadedText, tokens: np.ndarray, batch_size: int, title: str) -> np.ndarray:
    """[N, E] float32 of [N, L] tokens.

    Short texts go together, and those of CLIP are cut off behind their end: most sentences are of a dozen tokens, and
    a causal tower says the same of them in a sixth of its context.
    """
    graph, state = nnx.split(loaded.tower)
    apply = jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))
    ends = tokens.argmax(axis=1) + 1 if loaded.tower.kind == "clip" else np.full(len(tokens), tokens.shape[1])
    order = np.argsort(ends, kind="stable")
    size = min(batch_size, len(tokens))
    embedded = np.empty((len(tokens), loaded.tower.joint_dim), np.float32)
    with Progress(title, 0, -(-len(tokens) // size)) as progress:
        for step, start in enumerate(range(0, len(tokens), size), 1):
            rows = order[start : start + size]
            length = min(-(-ends[rows[-1]] // LENGTHS) * LENGTHS, tokens.shape[1])
            batch = np.pad(tokens[rows, :length], ((0, size - len(rows)), (0, 0)))
            embedded[rows] = np.asarray(apply(state, batch))[: len(rows)]
            progress.advance(step)
    return embedded


def _write(path: Path, classes: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            np.save(file, classes)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The cached embeddings, or None: a damaged file counts as absent and is made anew."""
    try:
        classes: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return classes if classes.shape == shape else None
