"""Every image through a frozen backbone once, and never again: the descriptors of a split and their cache on disk.

The key of the cache is everything that decides the features: the weights, the source's content, the preprocessing,
the descriptor and the compute dtype. So a second protocol on the same backbone and data runs no backbone.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from bob_jax.backbones.base import Features
from bob_jax.cache import cache_dir
from bob_jax.data.base import Source
from bob_jax.data.on_device import normalize
from bob_jax.data.transforms import Eval
from bob_jax.errors import BobError
from bob_jax.protocols.base import Competitor, Context, Cost
from bob_jax.protocols.inference import Rows, infer
from bob_jax.training import mesh as meshes

Color = tuple[float, float, float]
Descriptor = Callable[[Features], jax.Array]

FORMAT = 2  # part of the key: raise it when extraction changes what it computes


@dataclasses.dataclass(frozen=True)
class Pooled:
    """The descriptor that the checkpoint's authors define."""

    def __call__(self, features: Features) -> jax.Array:
        """[B, D]."""
        return features.pooled


def extract(
    competitor: Competitor,
    source: Source,
    title: str,
    context: Context,
    batch_size: int,
    *,
    descriptor: Descriptor = Pooled(),  # frozen, and the same for all
    input_size: int | None = None,
) -> Rows:
    """The descriptors [N, D] of all images of a source, from the cache where they are known.

    Args:
        competitor: the backbone; it runs in evaluation mode and is not changed.
        source: the images.
        title: what the progress bar calls them.
        context: mesh and workers.
        batch_size: images on all devices together; changes the speed, not the result.
        descriptor: what is made of the backbone's features: a frozen dataclass, whose repr is part of the cache's key.
        input_size: side of the input in pixels; the card's when None.

    Raises:
        CorruptImage: an image cannot be decoded and `context.skip_corrupt` is not set.
        BobError: a descriptor is not finite, and nothing is kept; or the cache cannot be written.
    """
    card = competitor.card
    path = cache_dir("features") / f"{_key(competitor, source, context, descriptor, input_size)}.npz"
    known = _read(path, source)
    if _all_agree(known is not None) and known is not None:
        return known
    graphdef, state = nnx.split(competitor.module)
    state = meshes.place(nnx.to_pure_dict(state), context.mesh)
    apply = _apply(graphdef, descriptor, card.preprocessing.mean, card.preprocessing.std, context.mesh)
    transform = Eval(card.preprocessing, input_size)
    rows = infer(apply, state, source, transform, context, batch_size, f"{card.name}: features of {title}")
    if bad := int(np.sum(~np.isfinite(rows.values).all(axis=1))):
        raise BobError(
            f"{card.name}: features of {bad} of {len(rows.values)} images of {title} are NaN or infinite: its weights "
            f"are damaged, or overflow in {jnp.dtype(competitor.module.dtype)}"
        )
    _write(path, rows)
    return rows


def _all_agree(known: bool) -> bool:
    """Whether all hosts have them: each may have a cache of its own, and none can run the backbone by itself."""
    return known if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(known)).all())


def working_memory(competitor: Competitor, mesh: jax.sharding.Mesh, batch_size: int) -> int | None:
    """Bytes on each device while a batch goes through: weights, images and what lies between, by the compiler's count.

    Where features were just extracted in batches of this size nothing is compiled anew.

    Args:
        competitor: the backbone.
        mesh: devices.
        batch_size: images on all devices together.

    Returns:
        None where the platform does not count.
    """
    preprocessing = competitor.card.preprocessing
    graphdef, state = nnx.split(competitor.module)
    state = meshes.place(nnx.to_pure_dict(state), mesh)
    apply = _apply(graphdef, Pooled(), preprocessing.mean, preprocessing.std, mesh)
    side = preprocessing.input_size
    blank = np.zeros((meshes.round_up(batch_size, mesh), side, side, 3), np.uint8)
    with jax.set_mesh(mesh):
        images = meshes.put_batch({"image": blank}, mesh)["image"]
        counted = apply.lower(state, images).compile().memory_analysis()  # type: ignore[attr-defined]
    if counted is None:
        return None
    return int(counted.argument_size_in_bytes + counted.output_size_in_bytes + counted.temp_size_in_bytes)


@functools.lru_cache(maxsize=4)
def _apply(
    graphdef: nnx.GraphDef, descriptor: Descriptor, mean: Color, std: Color, mesh: jax.sharding.Mesh
) -> Callable[[dict, jax.Array], jax.Array]:
    """One jitted function a backbone, so that its splits share one compilation."""

    @functools.partial(jax.jit, out_shardings=meshes.batch_sharding(mesh))
    def apply(state: dict, images: jax.Array) -> jax.Array:
        return descriptor(nnx.merge(graphdef, state)(normalize(images, mean, std))).astype(jnp.float32)

    return apply


def _key(
    competitor: Competitor, source: Source, context: Context, descriptor: Descriptor, input_size: int | None
) -> str:
    parts = {
        "format": FORMAT,
        "weights": competitor.weights_sha256,
        "source": source.fingerprint,
        "preprocessing": dataclasses.asdict(competitor.card.preprocessing),
        "architecture": [competitor.card.architecture, dict(competitor.card.arguments)],
        "dtype": str(jnp.dtype(competitor.module.dtype)),
        "skip_corrupt": context.skip_corrupt,
        "descriptor": repr(descriptor),
        "input_size": input_size,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _write(path: Path, rows: Rows) -> None:
    partial = path.with_name(f".{path.name}.{jax.process_index()}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(
                file,
                values=rows.values,
                index=rows.index,
                skipped=np.array(rows.skipped, dtype=np.str_),
                cost=np.array(json.dumps(dataclasses.asdict(rows.cost))),
            )
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise BobError(f"cannot write {path} ({reason}): free space, or set BOB_CACHE to another disk") from error
    finally:
        with contextlib.suppress(OSError):  # its folder may not be there
            partial.unlink()


def _read(path: Path, source: Source) -> Rows | None:
    """The cached features, or None: a damaged file counts as absent and is made anew."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            values, index, skipped = stored["values"], stored["index"], stored["skipped"]
            cost = Cost(**json.loads(str(stored["cost"])))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Rows(values, source.labels[index], index, tuple(map(str, skipped)), cost)
