"""What is done to a batch on the device: normalisation, flips, erasing, mixing. Pure functions of arrays and a key.

Formulas and defaults are timm's; mixing is "batch" mode: one decision and one strength for the whole batch, and image i
is mixed with image B - 1 - i.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

ERASED_AREA = (0.02, 1 / 3)  # of the image
ERASED_ASPECT = (0.3, 1 / 0.3)
TRIES = 10


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Pixels to what the weights expect: (x / 255 - mean) / std.

    Args:
        images: [B, H, W, 3] uint8.
        mean: per channel, of pixels in [0, 1].
        std: likewise.

    Returns:
        [B, H, W, 3] float32.
    """
    means, stds = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - means[None, None, None]) / stds[None, None, None]


def augment(
    images: jax.Array,
    key: jax.Array,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    horizontal_flip: bool,
    random_erasing: float,
) -> jax.Array:
    """A training view of raw images: flipped, normalised, erased.

    Args:
        images: [B, H, W, 3] uint8.
        key: randomness.
        mean: of the card's preprocessing.
        std: likewise.
        horizontal_flip: whether half of the images are mirrored.
        random_erasing: probability that a rectangle of an image becomes noise.

    Returns:
        [B, H, W, 3] float32.
    """
    flip_key, erase_key = jax.random.split(key)
    if horizontal_flip:
        images = flip(images, flip_key)
    normalized = normalize(images, mean, std)
    return erase(normalized, erase_key, random_erasing) if random_erasing else normalized


def flip(images: jax.Array, key: jax.Array) -> jax.Array:
    """Each of the images [B, H, W, 3] mirrored left to right with probability 1/2."""
    flipped = jax.random.bernoulli(key, 0.5, images.shape[:1])
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def erase(images: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Random erasing (Zhong et al., arXiv 1708.04896) with normal noise per pixel.

    Args:
        images: [B, H, W, 3] float, normalised.
        key: randomness.
        probability: that an image is erased.

    Returns:
        The images, a rectangle of some of them replaced: 2 % to a third of the image, of aspect 0.3 to 3.3.
        An image for which ten random rectangles are too large stays as it is.
    """
    batch, height, width, _ = images.shape
    place_key, noise_key = jax.random.split(key)
    # One draw for all decisions: each call of the generator costs seconds of compilation on CPU.
    draws = jax.random.uniform(place_key, (2 * TRIES + 3, batch))
    area = _between(draws[:TRIES], *ERASED_AREA) * height * width
    aspect = jnp.exp(_between(draws[TRIES : 2 * TRIES], *map(math.log, ERASED_ASPECT)))
    which, vertical, horizontal = draws[2 * TRIES :]
    heights, widths = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits, axis=0)[None]
    h, w = (jnp.take_along_axis(sides, first, axis=0)[0] for sides in (heights, widths))
    top, left = jnp.floor(vertical * (height - h + 1)), jnp.floor(horizontal * (width - w + 1))
    chosen = (which < probability) & fits.any(axis=0)
    inside = jax.vmap(functools.partial(_inside, height, width))(top, top + h, left, left + w)
    noise = jax.random.normal(noise_key, images.shape, images.dtype)
    return jnp.where((inside & chosen[:, None, None])[..., None], noise, images)


def mix(
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    classes: int,
    mixup: float,
    cutmix: float,
    label_smoothing: float,
    probability: float = 1.0,
    switch: float = 0.5,
) -> tuple[jax.Array, jax.Array]:
    """mixup (arXiv 1710.09412) or CutMix (arXiv 1905.04899), and the soft targets that go with it.

    Args:
        images: [B, H, W, 3] float.
        labels: [B] int class indices; or [B, C] of 0 and 1, where an image has several.
        key: randomness.
        classes: C.
        mixup: alpha of its Beta distribution; 0 switches it off.
        cutmix: likewise.
        label_smoothing: share of the target that is spread over all classes; of several labels, over yes and no.
        probability: that the batch is mixed at all.
        switch: that it is CutMix, where both are on.

    Returns:
        Images [B, H, W, 3] and targets [B, C] float32, rows of sum 1 where an image has one class.
    """
    if labels.ndim == 1:
        targets = jax.nn.one_hot(labels, classes) * (1 - label_smoothing) + label_smoothing / classes
    else:
        targets = labels * (1 - label_smoothing) + label_smoothing / 2
    if not mixup and not cutmix:
        return images, targets
    choice_key, share_key = jax.random.split(key)
    height, width = images.shape[1:3]
    active, which, y, x = jax.random.uniform(choice_key, (4,))
    cut = which < (switch if mixup and cutmix else float(cutmix > 0))
    alpha = jnp.where(cut, cutmix, mixup)
    share = jnp.where(active < probability, jax.random.beta(share_key, alpha, alpha), 1.0)
    top, bottom, left, right = cutmix_box(share, jnp.int32(y * height), jnp.int32(x * width), height, width)
    partner, inside = images[::-1], _inside(height, width, top, bottom, left, right)
    cut_images = jnp.where(inside[None, :, :, None], partner, images)
    mixed = jnp.where(cut, cut_images, images * share + partner * (1 - share))
    kept = jnp.where(cut, 1 - (bottom - top) * (right - left) / (height * width), share)
    return mixed, targets * kept + targets[::-1] * (1 - kept)


def cutmix_box(
    share: jax.Array, y: jax.Array, x: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The rectangle that CutMix replaces: sides sqrt(1 - share) of the image's, around (y, x), clipped at the border.

    The share that is really kept is then 1 - area / (height * width), larger where the box was clipped.

    Returns:
        top, bottom, left, right in pixels; bottom and right are outside.
    """
    ratio = jnp.sqrt(1 - share)
    cut_height, cut_width = jnp.int32(height * ratio), jnp.int32(width * ratio)
    top, left = y - cut_height // 2, x - cut_width // 2
    bottom, right = y + (cut_height + 1) // 2, x + (cut_width + 1) // 2
    return jnp.clip(top, 0, height), jnp.clip(bottom, 0, height), jnp.clip(left, 0, width), jnp.clip(right, 0, width)


def _inside(height: int, width: int, top: jax.Array, bottom: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    """[H, W] bool, true in the rectangle."""
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None]
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def _between(draws: jax.Array, low: float, high: float) -> jax.Array:
    return low + (high - low) * draws
