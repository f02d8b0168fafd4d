"""A trained classifier as its attacker sees it: class scores of pixels, in float32, over images of a split."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bob_jax.backbones import zoo
from bob_jax.data.loader import Loader
from bob_jax.data.subset import Subset
from bob_jax.data.transforms import Eval
from bob_jax.errors import BobError
from bob_jax.protocols.attacks import Ball, Found, Logits, Norm
from bob_jax.protocols.base import Context, Trained
from bob_jax.training import mesh as meshes

Attack = Callable[[Logits, Ball, jax.Array, jax.Array], Found]  # classifier, ball, labels [B], keys [B]


class Victim:
    """A classifier and the images that it is attacked on, which lie whole on every host.

    Attributes:
        name: of the backbone.
        labels: [N] int32.
        ids: [N] str.
        skipped: ids of images that cannot be decoded, which are in neither.
        seconds: in which the devices worked for it so far.
    """

    def __init__(self, trained: Trained, images: Subset, context: Context, batch_size: int):
        """
        Args:
            trained: the classifier; its weights are read only.
            images: what it is attacked on.
            context: mesh, workers and seed.
            batch_size: images on all devices together; changes the speed, not the result.

        Raises:
            BobError: no image can be decoded.
            CorruptImage: one cannot, and `context.skip_corrupt` is not set.
        """
        card = trained.competitor.card
        self.name, self.seconds = card.name, 0.0
        self._context = context
        # The parameters are float32 in any case; what is computed in is a matter of the description alone.
        self._graphdef, _ = nnx.split(zoo.skeleton(card.name, dtype=jnp.float32))
        state = nnx.to_pure_dict(nnx.state(trained.competitor.module))
        self._state = meshes.place((state, trained.head), context.mesh)
        self._preprocessing = card.preprocessing
        self._read(images, batch_size)

    def _read(self, source: Subset, batch_size: int) -> None:
        """The inputs of all images, as uint8."""
        loader = Loader(
            source,
            Eval(self._preprocessing),
            batch_size=min(batch_size, len(source)),
            shuffle=False,
            epochs=1,
            num_workers=self._context.num_workers,
            skip_corrupt=self._context.skip_corrupt,
        )
        kept = [(batch["image"][batch["mask"]], batch["index"][batch["mask"]]) for batch in loader.batches()]
        self._images, rows = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        if not len(rows):
            raise BobError(
                f"{self.name}: none of the {len(source)} images to attack can be decoded: prepare them again"
            )
        self._index = source.indices[rows].astype(np.int32)
        self.labels, self.ids = source.labels[rows], np.array([source.ids[row] for row in rows])
        self.skipped = tuple(loader.skipped)
        self._batch_size = meshes.round_up(min(batch_size, len(rows)), self._context.mesh)

    def logits(self) -> np.ndarray:
        """Class scores [N, C] float32 of the images as they are."""
        everything = np.arange(len(self.labels))
        return self._over_rows(lambda classify, pixels, *_: classify(pixels))(everything)

    def attacker(self, attack: Attack, number: int) -> Callable[[np.ndarray, Norm, float], np.ndarray]:
        """An attack as a function of images, norm and budget; it is compiled once for all of them.

        Args:
            attack: what to run.
            number: attacks of different numbers draw different random numbers. An image's follow from the seed, this
                number and its position in the split.

        Returns:
            (positions [n] of the images, norm, radius) -> [n] bool, whether each is fooled.
        """

        def run(
            classify: Logits,
            pixels: jax.Array,
            labels: jax.Array,
            index: jax.Array,
            is_l2: jax.Array,
            radius: jax.Array,
        ) -> jax.Array:
            key = jax.random.fold_in(jax.random.key(self._context.seed), number)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
            return attack(classify, Ball(pixels, is_l2, radius), labels, keys).fooled

        over = self._over_rows(run)
        return lambda rows, norm, radius: over(rows, np.bool_(norm == "l2"), np.float32(radius))

    def _over_rows(self, function: Callable[..., jax.Array]) -> Callable[..., np.ndarray]:
        """A function (classifier, pixels, labels, index, *numbers) -> [B, ...] of a batch, over any images."""
        mean, std = (
            np.array(color, np.float32)[None, None, None]
            for color in (self._preprocessing.mean, self._preprocessing.std)
        )
        mesh = self._context.mesh
        program: Any = None

        def of_batch(
            state: Any, images: jax.Array, labels: jax.Array, index: jax.Array, *numbers: jax.Array
        ) -> jax.Array:
            def classify(pixels: jax.Array) -> jax.Array:
                features = nnx.merge(self._graphdef, state[0])((pixels - mean) / std).pooled
                return state[1].logits(features.astype(jnp.float32))

            return function(classify, images.astype(jnp.float32) / 255, labels, index, *numbers)

        def over(rows: np.ndarray, *numbers: np.generic) -> np.ndarray:
            nonlocal program
            found = []
            for start in range(0, len(rows), self._batch_size):
                chosen = rows[start : start + self._batch_size]
                filled = np.resize(chosen, self._batch_size)  # a batch that is not full repeats its images
                batch = meshes.split_rows((self._images[filled], self.labels[filled], self._index[filled]), mesh)
                with jax.set_mesh(mesh), jax.default_matmul_precision("float32"):
                    if program is None:  # compilation is not part of the cost
                        jitted = jax.jit(of_batch, out_shardings=meshes.batch_sharding(mesh))
                        program = jitted.lower(self._state, *batch, *numbers).compile()
                    begun = time.perf_counter()
                    found.append(meshes.to_host(program(self._state, *batch, *numbers))[: len(chosen)])
                    self.seconds += time.perf_counter() - begun
            return np.concatenate(found) if found else np.zeros(0, bool)

        return over
