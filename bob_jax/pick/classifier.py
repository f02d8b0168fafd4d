"""The chosen backbone with its probe as a classifier that is ready: one safetensors file, its facts as JSON inside.

    from bob_jax.pick.classifier import Classifier

    classifier = Classifier.load("flowers.safetensors")
    for guess in classifier.predict(["new/1.jpg", "new/2.jpg"]):
        print(guess.label, guess.probability)

The file holds the probe alone, and the name and the digest of the backbone's weights: these are found in the zoo, and a
backbone that has changed since is an error. No pickle is read or written.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bob_jax.backbones import zoo
from bob_jax.data.decode import CorruptImage, decode_image
from bob_jax.data.on_device import normalize
from bob_jax.data.transforms import Eval
from bob_jax.errors import BobError
from bob_jax.protocols.base import Competitor
from bob_jax.protocols.head import Head, predict
from bob_jax.results.files import write_whole
from bob_jax.training import mesh as meshes

FORMAT = "bob_jax classifier 1"
BATCH = 32  # images at a time, the last batch filled up: one shape, one program, and no image's answer hangs on others


@dataclasses.dataclass(frozen=True)
class Guess:
    """What an image is taken for.

    Attributes:
        image: its file, or its number.
        label: the most probable class.
        probability: of it.
        probabilities: of all classes.
    """

    image: str
    label: str
    probability: float
    probabilities: Mapping[str, float]


class Classifier:
    """A frozen backbone and a linear head."""

    def __init__(
        self, competitor: Competitor, head: Head, classes: Sequence[str], temperature: float, facts: Mapping[str, Any]
    ):
        """
        Args:
            competitor: the backbone.
            head: from its features to the classes.
            classes: names, in the order of the head's scores.
            temperature: that the scores are divided by, so that probabilities are true.
            facts: what else is known: score, images, licence; plain data.
        """
        self.competitor, self.head, self.classes = competitor, head, tuple(classes)
        self.temperature, self.facts = temperature, dict(facts)

    def save(self, file: str | Path) -> None:
        """Writes the file, whole or not at all.

        Raises:
            BobError: it cannot be written.
        """
        metadata = {
            "format": FORMAT,
            "backbone": self.competitor.card.name,
            "weights_sha256": self.competitor.weights_sha256,
            "classes": json.dumps(self.classes),
            "temperature": repr(self.temperature),
            "facts": json.dumps(self.facts),
        }
        write_whole(Path(file), save(self.head.named(), metadata))

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """The classifier in a file.

        Raises:
            BobError: no such file, another kind of file, or a backbone that is not there or has other weights now.
        """
        path = Path(file)
        if not path.is_file():
            raise BobError(f"no classifier at {path}: `bob pick FOLDER --save {path.name}` makes one")
        try:
            with safe_open(path, "np") as stored:
                metadata = stored.metadata() or {}
                arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # no mapping
            if metadata.get("format") != FORMAT:
                raise KeyError("format")
            classes, facts = json.loads(metadata["classes"]), json.loads(metadata["facts"])
            name, digest, temperature = metadata["backbone"], metadata["weights_sha256"], float(metadata["temperature"])
            head = Head.from_named(arrays)
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise BobError(f"{path} is no classifier of `bob pick --save`, or is damaged: make it anew") from error
        loaded = zoo.load(name)
        if loaded.weights_sha256 != digest:
            raise BobError(f"{path} was made with other weights of {name} than are here now: make it anew")
        return cls(Competitor(zoo.card(name), loaded.module, digest), head, classes, temperature, facts)

    def predict(
        self, images: Sequence[str | Path | np.ndarray], unread: list[CorruptImage] | None = None
    ) -> list[Guess]:
        """What each image is taken for.

        Args:
            images: files, or pixels [H, W, 3] uint8.
            unread: takes the errors of those that cannot be decoded, which are then left out.

        Raises:
            CorruptImage: a file that is no whole image, where `unread` is None.
        """
        transform = Eval(self.competitor.card.preprocessing)
        guesses = []
        for start in range(0, len(images), BATCH):
            names, inputs = [], []
            for i, one in enumerate(images[start : start + BATCH], start):
                try:
                    inputs.append(transform(_pixels(one)))
                except CorruptImage as error:
                    if unread is None:
                        raise
                    unread.append(error)
                else:
                    names.append(f"image {i}" if isinstance(one, np.ndarray) else str(one))
            guesses += [self._guess(*each) for each in zip(names, self._probabilities(inputs), strict=True)]
        return guesses

    def probabilities(self, images: Sequence[str | Path | np.ndarray]) -> np.ndarray:
        """[N, C] float64; rows sum to 1. As `predict`."""
        rows = [list(guess.probabilities.values()) for guess in self.predict(images)]
        return np.array(rows, np.float64).reshape(len(images), len(self.classes))

    def _probabilities(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """[N, C] of at most `BATCH` images that are prepared."""
        if not inputs:
            return np.zeros((0, len(self.classes)))
        filled = np.zeros((BATCH, *inputs[0].shape), np.uint8)
        filled[: len(inputs)] = inputs
        logits = predict(self.head, np.asarray(self._features(filled)))[: len(inputs)].astype(np.float64)
        odds = np.exp((logits - logits.max(axis=1, keepdims=True)) / self.temperature)
        return odds / odds.sum(axis=1, keepdims=True)

    def _guess(self, name: str, row: np.ndarray) -> Guess:
        shares = dict(zip(self.classes, row.tolist(), strict=True))
        return Guess(name, self.classes[row.argmax()], float(row.max()), shares)

    @functools.cached_property
    def _features(self) -> Any:
        from flax import nnx

        graphdef, state = nnx.split(self.competitor.module)
        preprocessing = self.competitor.card.preprocessing
        mesh = meshes.make_mesh()
        held = meshes.place(nnx.to_pure_dict(state), mesh)

        @jax.jit
        def apply(state: dict, images: jax.Array) -> jax.Array:
            pixels = normalize(images, preprocessing.mean, preprocessing.std)
            return nnx.merge(graphdef, state)(pixels).pooled.astype(np.float32)

        return functools.partial(apply, held)


def _pixels(image: str | Path | np.ndarray) -> np.ndarray:
    return image if isinstance(image, np.ndarray) else decode_image(Path(image), str(image))
