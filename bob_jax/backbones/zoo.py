"""The zoo: every backbone by name, built from its card, with its weights."""

import functools
import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bob_jax.backbones import own, parameters
from bob_jax.backbones.aimv2 import AIMv2
from bob_jax.backbones.base import Backbone
from bob_jax.backbones.beit import Beit
from bob_jax.backbones.bridge import Bridge
from bob_jax.backbones.card import Card, TextCard
from bob_jax.backbones.cards import any_timm
from bob_jax.backbones.cards.aimv2 import AIMV2_CARDS
from bob_jax.backbones.cards.beit import BEIT_CARDS
from bob_jax.backbones.cards.bridge import BRIDGE_CARDS
from bob_jax.backbones.cards.convnext import CONVNEXT_CARDS
from bob_jax.backbones.cards.eva import EVA_CARDS
from bob_jax.backbones.cards.generative import GENERATIVE_CARDS
from bob_jax.backbones.cards.glyphs import GLYPHS_CARDS
from bob_jax.backbones.cards.hiera import HIERA_CARDS
from bob_jax.backbones.cards.resnet import RESNET_CARDS
from bob_jax.backbones.cards.sam import SAM_CARDS
from bob_jax.backbones.cards.swin import SWIN_CARDS
from bob_jax.backbones.cards.text import with_text
from bob_jax.backbones.cards.twins import RANDOM_CARDS
from bob_jax.backbones.cards.vit import VIT_CARDS
from bob_jax.backbones.clip_resnet import CLIPResNet
from bob_jax.backbones.convnext import ConvNeXt
from bob_jax.backbones.eva import Eva
from bob_jax.backbones.hiera import Hiera
from bob_jax.backbones.resnet import ResNet
from bob_jax.backbones.sam_vit import SamViT
from bob_jax.backbones.sscd import SSCD
from bob_jax.backbones.stable_diffusion import StableDiffusionEncoder
from bob_jax.backbones.swin_v2 import SwinV2
from bob_jax.backbones.text import TextTower
from bob_jax.backbones.vit import ViT
from bob_jax.errors import BobError, unknown_name

ARCHITECTURES: dict[str, Callable[..., Backbone]] = {
    "vit": ViT,
    "resnet": ResNet,
    "sscd": SSCD,
    "clip_resnet": CLIPResNet,
    "convnext": ConvNeXt,
    "swin_v2": SwinV2,
    "hiera": Hiera,
    "eva": Eva,
    "beit": Beit,
    "aimv2": AIMv2,
    "sam_vit": SamViT,
    "stable_diffusion": StableDiffusionEncoder,
    # Not written here: timm's, and the user's own in PyTorch and in Flax.
    "timm": Bridge,
    "torch": Bridge,
    "nnx": own.build,
}
CARDS: dict[str, Card] = {
    one.name: with_text(one)
    for one in (
        *VIT_CARDS,
        *RESNET_CARDS,
        *CONVNEXT_CARDS,
        *SWIN_CARDS,
        *HIERA_CARDS,
        *SAM_CARDS,
        *EVA_CARDS,
        *BEIT_CARDS,
        *AIMV2_CARDS,
        *GENERATIVE_CARDS,
        *GLYPHS_CARDS,
        *BRIDGE_CARDS,
        *RANDOM_CARDS,
    )
}
PLAIN = ("vit", "eva", "beit", "aimv2")  # architectures of one stride that attend over the whole map unless told
OWN = ("torch", "nnx")  # architectures whose fresh weights are whatever the user's function gives
INITIALISATION_VERSION = 1  # raise it when the same seed gives other random weights


class Loaded(NamedTuple):
    """A backbone with its weights.

    Attributes:
        module: ready for evaluation.
        weights_sha256: digest that identifies the weights: of all parameters by name, or, for a random twin, of what
            they follow from (architecture, arguments, seed).
    """

    module: Backbone
    weights_sha256: str


def card(name: str) -> Card:
    """The card of a backbone: one of the zoo's, one that the user added, or `timm:MODEL.TAG` for any model of timm's.

    Raises:
        BobError: no backbone has this name; the message names the nearest.
    """
    if name in CARDS:
        return CARDS[name]
    if name.startswith(any_timm.TIMM):
        return any_timm.card_of(name)
    added = own.cards()
    if name not in added:
        raise unknown_name("backbone", name, [*CARDS, *added])
    return added[name]


def is_brought(name: str) -> bool:
    """Whether the name is no card's of the zoo, but the user's own or a model of timm's."""
    return name.startswith(any_timm.TIMM) or name in own.cards()


def names(*, architecture: str | None = None, method: str | None = None) -> list[str]:
    """The names of all backbones, or of those with this architecture or pretraining method, in the zoo's order."""
    return [
        one.name for one in CARDS.values() if architecture in (None, one.architecture) and method in (None, one.method)
    ]


def build(
    name: str, *, dtype: DTypeLike | None = None, drop_path: float = 0.0, window: int = 0, seed: int = 0
) -> Backbone:
    """A backbone with fresh weights, whatever its card says of pretraining.

    Args:
        name: key in `CARDS`.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU. Parameters are float32.
        drop_path: stochastic depth rate, used in training only.
        window: side in tokens of the windows that most blocks of a plain ViT attend in; 0: global attention. Other
            architectures have no use for it.
        seed: of the initialisation.

    Raises:
        BobError: unknown name.
    """
    make = functools.partial(_make, card(name), dtype=dtype, drop_path=drop_path, window=window)
    # Initialised as one program: layer by layer every shape would be a compilation of its own, and none worth caching.
    weights = jax.jit(lambda: nnx.to_pure_dict(nnx.state(make(rngs=nnx.Rngs(seed)))))()
    return nnx.merge(nnx.graphdef(skeleton(name, dtype=dtype, drop_path=drop_path, window=window)), weights)


def skeleton(name: str, *, dtype: DTypeLike | None = None, drop_path: float = 0.0, window: int = 0) -> Backbone:
    """`build` without memory or computation: the parameters are `jax.ShapeDtypeStruct`."""
    make = functools.partial(_make, card(name), dtype=dtype, drop_path=drop_path, window=window)
    return nnx.eval_shape(lambda: make(rngs=OneKey(jax.random.key(0))))


def text_skeleton(known: TextCard, *, dtype: DTypeLike | None = None) -> TextTower:
    """The text side of a vision-language checkpoint, without memory or computation as `skeleton`."""
    make: Callable[..., TextTower] = TextTower
    return nnx.eval_shape(lambda: make(**known.arguments, dtype=dtype, rngs=OneKey(jax.random.key(0))))


class OneKey(NamedTuple):
    """Stands in for `nnx.Rngs` where only shapes matter: every stream gives the same key.

    `nnx.Rngs` counts in a traced array, and each `count += 1` has JAX search all that was traced before for the text of
    an error nobody sees (flax 0.12.8, jax 0.10.2): n keys cost n squared, most of the time of a large skeleton.
    """

    key: jax.Array

    def __getattr__(self, stream: str) -> Callable[[], jax.Array]:
        return lambda: self.key


def _make(known: Card, *, dtype: DTypeLike | None, drop_path: float, window: int, rngs: nnx.Rngs | OneKey) -> Backbone:
    # By name: SamViT and SwinV2 have a `window` too, but theirs is part of the function that was trained.
    arguments = {**known.arguments, "window": window} if known.architecture in PLAIN else known.arguments
    return ARCHITECTURES[known.architecture](**arguments, dtype=dtype, drop_path=drop_path, rngs=rngs)


def load(
    name: str,
    *,
    dtype: DTypeLike | None = None,
    drop_path: float = 0.0,
    window: int = 0,
    seed: int = 0,
    place: Callable[[np.ndarray | jax.Array], jax.Array] = jnp.asarray,
) -> Loaded:
    """A backbone with its pretrained weights, fetched and converted at the first call; a random twin from its seed.

    Args:
        name: key in `CARDS`.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU. Parameters are float32.
        drop_path: stochastic depth rate, used in training only.
        window: as in `build`; the weights are the same.
        seed: of a random twin's initialisation; without meaning for pretrained weights.
        place: puts each array where it belongs as soon as it is read, split over devices for instance; on the default
            device unless told. The host never holds the whole model.

    Raises:
        BobError: unknown name, or weights that can be neither fetched nor converted.
    """
    known = card(name)
    if known.source is None:
        fresh = build(name, dtype=dtype, drop_path=drop_path, window=window, seed=seed)
        digest = _fresh_digest(known, fresh, seed)
        placed = {path: place(leaf) for path, leaf in parameters.flatten(fresh).items()}
        parameters.assign(fresh, placed, where=name)
        return Loaded(fresh, digest)
    from converters import cache  # lazily: a random twin needs no converter

    placed, receipt = cache.load(known, place)
    module = skeleton(name, dtype=dtype, drop_path=drop_path, window=window)
    parameters.assign(module, placed, where=str(cache.path_of(known)))
    return Loaded(module, receipt.weights_sha256)


class LoadedText(NamedTuple):
    """The text side of a vision-language backbone with its weights.

    Attributes:
        tower: ready to embed tokens.
        weights_sha256: digest of all its parameters by name.
    """

    tower: TextTower
    weights_sha256: str


def text_card(name: str) -> TextCard:
    """What is known of the text side of a backbone.

    Raises:
        BobError: unknown name, or a backbone that never learned from texts.
    """
    found = card(name).text
    if found is None:
        raise BobError(
            f"{name} has no text tower, so no class can be told by its name: choose a vision-language backbone, e.g. "
            "vit_b16_clip"
        )
    return found


def load_text(name: str, *, dtype: DTypeLike | None = None) -> LoadedText:
    """The text side of a vision-language backbone, fetched and converted at the first call.

    Args:
        name: key in `CARDS`.
        dtype: of the computation; None is bfloat16 on accelerators and float32 on CPU. Parameters are float32.

    Raises:
        BobError: as `text_card`, or weights that can be neither fetched nor converted.
    """
    from converters import cache

    known = text_card(name)
    arrays, receipt = cache.load(known)
    tower = text_skeleton(known, dtype=dtype)
    parameters.assign(tower, arrays, where=str(cache.path_of(known)))
    return LoadedText(tower, receipt.weights_sha256)


def load_classifier(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [D, C] and bias [C] of the classifier that was published with a backbone.

    Raises:
        BobError: unknown name, or a backbone without one.
    """
    from converters import heads

    return heads.read(card(name))


def weights_sha256(name: str, *, seed: int = 0) -> str:
    """The `Loaded.weights_sha256` of a backbone, from the receipt alone where its weights are converted already.

    Raises:
        BobError: as `load`.
    """
    known = card(name)
    if known.source is None:
        return _fresh_digest(known, build(name, seed=seed) if known.architecture in OWN else None, seed)
    from converters import cache

    receipt = cache.read_receipt(known) or cache.load(known)[1]
    return receipt.weights_sha256


def _fresh_digest(known: Card, fresh: Backbone | None, seed: int) -> str:
    """Of a user's own function the values themselves, since it may load weights; else what they follow from."""
    if fresh is not None and known.architecture in OWN:
        from converters import cache

        return cache.digest({name: np.asarray(leaf) for name, leaf in parameters.flatten(fresh).items()})
    origin = [INITIALISATION_VERSION, known.architecture, dict(known.arguments), seed]
    if known.architecture == "timm":  # PyTorch draws them as timm says
        origin += [version("timm"), version("torch")]
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
