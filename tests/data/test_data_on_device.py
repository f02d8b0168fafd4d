"""The device transforms: formulas by hand and against timm, distributions by statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_pictures import picture
from scipy import stats
from torch_reference import import_timm

from bob_jax.backbones.card import CLIP_MEAN, CLIP_STD
from bob_jax.data import on_device

KEY = jax.random.key(0)


def batch(count: int, side: int = 16) -> jax.Array:
    return jnp.asarray(np.stack([picture(seed, side, side) for seed in range(count)]))


def test_normalize_equals_torchvision():
    import_timm()
    import torch
    from torchvision.transforms import Normalize, ToTensor

    images = batch(3)
    expected = torch.stack([Normalize(CLIP_MEAN, CLIP_STD)(ToTensor()(np.array(image))) for image in images])
    result = on_device.normalize(images, CLIP_MEAN, CLIP_STD)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=1e-6)


def test_flip_mirrors_half_of_the_images():
    images = jnp.broadcast_to(batch(1), (1000, 16, 16, 3))
    flipped = np.asarray(jax.jit(on_device.flip)(images, KEY))
    mirrored = (flipped == np.asarray(images)[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped == np.asarray(images)).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert abs(mirrored.mean() - 0.5) < 4 * np.sqrt(0.25 / 1000)


def erased_boxes(images: np.ndarray) -> np.ndarray:
    """Height and width [N, 2] of the non-zero rectangle of each image that has one; it must be a rectangle."""
    boxes = []
    for image in images:
        rows, columns = np.flatnonzero(image.any(axis=(1, 2))), np.flatnonzero(image.any(axis=(0, 2)))
        if len(rows):
            inside = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert inside.all(), "not a filled rectangle"
            boxes.append(inside.shape[:2])
    return np.array(boxes)


def test_erasing_has_timms_distribution():
    import_timm()
    import random

    import torch
    from timm.data.random_erasing import RandomErasing

    side, count = 32, 3000
    random.seed(0)
    torch.manual_seed(0)
    reference = RandomErasing(0.25, mode="pixel", device="cpu")(torch.zeros(count, 3, side, side))
    theirs = erased_boxes(reference.permute(0, 2, 3, 1).numpy())
    result = np.asarray(jax.jit(on_device.erase, static_argnums=2)(jnp.zeros((count, side, side, 3)), KEY, 0.25))
    ours = erased_boxes(result)
    assert abs(len(ours) / count - 0.25) < 4 * np.sqrt(0.25 * 0.75 / count)
    for measure in (lambda box: box[:, 0] * box[:, 1], lambda box: box[:, 0] / box[:, 1], lambda box: box[:, 0]):
        assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > 0.001
    noise = result[result != 0]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01


def test_erased_places_are_spread_evenly():
    result = np.asarray(jax.jit(on_device.erase, static_argnums=2)(jnp.zeros((2000, 16, 16, 3)), KEY, 1.0))
    often = (result[..., 0] != 0).mean(axis=0)
    # Shares of 2000 draws: a difference of two has a deviation of at most 0.016, and the largest of 256 is wanted.
    np.testing.assert_allclose(often, often[::-1], atol=0.06)
    np.testing.assert_allclose(often, often[:, ::-1], atol=0.06)
    assert often[0, 0] > 0  # the border can be erased, top left
    assert often[-1, -1] > 0  # and bottom right


def test_augment_is_flip_normalize_erase():
    images = batch(4)
    plain = on_device.augment(images, KEY, mean=CLIP_MEAN, std=CLIP_STD, horizontal_flip=False, random_erasing=0.0)
    np.testing.assert_array_equal(plain, on_device.normalize(images, CLIP_MEAN, CLIP_STD))
    both = on_device.augment(images, KEY, mean=CLIP_MEAN, std=CLIP_STD, horizontal_flip=True, random_erasing=1.0)
    flip_key, erase_key = jax.random.split(KEY)
    expected = on_device.erase(
        on_device.normalize(on_device.flip(images, flip_key), CLIP_MEAN, CLIP_STD), erase_key, 1.0
    )
    np.testing.assert_array_equal(both, expected)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.5, 0.93, 1.0])
def test_cutmix_box_equals_timm(share, monkeypatch):
    import_timm()
    import timm.data.mixup as reference

    for y, x in [(0, 0), (5, 31), (23, 39), (12, 20)]:
        places = iter([y, x])
        monkeypatch.setattr(reference.np.random, "randint", lambda *_, places=places, **__: next(places))
        (top, bottom, left, right), kept = reference.cutmix_bbox_and_lam((3, 24, 40), share)
        box = on_device.cutmix_box(jnp.float32(share), jnp.int32(y), jnp.int32(x), 24, 40)
        assert tuple(map(int, box)) == (top, bottom, left, right)
        area = (box[1] - box[0]) * (box[3] - box[2])
        assert float(1 - area / (24 * 40)) == pytest.approx(kept, abs=1e-6)


def mixed(key: jax.Array, **options) -> tuple[np.ndarray, np.ndarray, float]:
    """Images 1 + row number, so that a pixel tells where it came from; and the share kept by the targets."""
    images = jnp.broadcast_to(jnp.arange(1.0, 5.0)[:, None, None, None], (4, 16, 16, 3))
    options = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.0, **options}
    result, targets = on_device.mix(images, jnp.arange(4), key, classes=5, **options)
    return np.asarray(result), np.asarray(targets), float(targets[0, 0])


def test_mixup_blends_images_and_targets_by_the_same_share():
    for seed in range(5):
        images, targets, share = mixed(jax.random.key(seed), cutmix=0.0)
        expected = np.arange(1.0, 5.0) * share + np.arange(4.0, 0.0, -1) * (1 - share)
        np.testing.assert_allclose(images[:, 3, 7, 1], expected, rtol=1e-5)
        assert np.ptp(images, axis=(1, 2, 3)).max() == 0
        eye = np.eye(5)[:4]
        np.testing.assert_allclose(targets, eye * share + eye[::-1] * (1 - share), rtol=1e-5)


def test_cutmix_targets_are_the_pixels_that_are_left():
    clipped = 0
    for seed in range(20):
        images, targets, share = mixed(jax.random.key(seed), mixup=0.0)
        own = images[0, ..., 0] == 1
        assert set(np.unique(images[0])) <= {1.0, 4.0}
        assert share == pytest.approx(own.mean(), abs=1e-6)
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
        clipped += (~own)[[0, -1]].any() or (~own)[:, [0, -1]].any()
    assert clipped > 5  # the correction of the share was needed


def test_mixing_equals_timm_on_the_same_draws(monkeypatch):
    """The whole of timm's Mixup, given the share, the box and the choice that our side drew."""
    import_timm()
    import timm.data.mixup as reference
    import torch

    images = np.random.default_rng(0).normal(size=(6, 12, 12, 3)).astype(np.float32)
    labels = np.array([0, 3, 1, 2, 4, 4])
    kinds = set()
    for seed in range(12):
        result, targets = on_device.mix(
            jnp.asarray(images),
            jnp.asarray(labels),
            jax.random.key(seed),
            classes=5,
            mixup=0.8,
            cutmix=1.0,
            label_smoothing=0.1,
        )
        choice_key, share_key = jax.random.split(jax.random.key(seed))
        _, which, y, x = jax.random.uniform(choice_key, (4,))
        cut = bool(which < 0.5)
        alpha = 1.0 if cut else 0.8
        share = float(jax.random.beta(share_key, alpha, alpha))
        places = iter([int(12 * y), int(12 * x)])
        theirs = reference.Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=5)
        monkeypatch.setattr(theirs, "_params_per_batch", lambda share=share, cut=cut: (share, cut))
        monkeypatch.setattr(reference.np.random, "randint", lambda *_, places=places, **__: next(places))
        expected, soft = theirs(torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(labels))
        np.testing.assert_allclose(result, expected.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(targets, soft.numpy(), rtol=1e-5, atol=1e-6)
        kinds.add(cut)
    assert kinds == {True, False}


def test_shares_have_timms_distribution():
    import_timm()
    from timm.data.mixup import Mixup, cutmix_bbox_and_lam

    keys = jax.random.split(KEY, 1000)

    def share(key, mixup, cutmix, probability):
        images = jnp.zeros((2, 32, 32, 3))
        options = {"label_smoothing": 0.0, "probability": probability}
        return on_device.mix(images, jnp.arange(2), key, classes=2, mixup=mixup, cutmix=cutmix, **options)[1][0, 0]

    np.random.seed(0)
    for mixup, cutmix, probability in [(0.2, 0.0, 0.6), (0.8, 1.0, 1.0)]:
        draw = functools.partial(share, mixup=mixup, cutmix=cutmix, probability=probability)
        ours = np.asarray(jax.jit(jax.vmap(draw))(keys))
        theirs = Mixup(mixup, cutmix, prob=probability, num_classes=2, label_smoothing=0)
        expected = []
        for _ in range(1000):
            drawn, cut = theirs._params_per_batch()
            if cut and drawn < 1:
                drawn = cutmix_bbox_and_lam((3, 32, 32), drawn)[1]
            expected.append(drawn)
        assert stats.ks_2samp(ours, expected).pvalue > 0.001, (mixup, cutmix, probability)


def test_no_mixing_gives_smoothed_targets():
    images, targets, _ = mixed(KEY, mixup=0.0, cutmix=0.0, label_smoothing=0.1)
    np.testing.assert_array_equal(images[:, 0, 0, 0], [1, 2, 3, 4])
    np.testing.assert_allclose(targets, np.where(np.eye(5)[:4] == 1, 0.92, 0.02), rtol=1e-6)


def test_everything_is_traced_once_and_follows_the_key():
    @jax.jit
    def view(images, labels, key):
        one, two = jax.random.split(key)
        images = on_device.augment(images, one, mean=CLIP_MEAN, std=CLIP_STD, horizontal_flip=True, random_erasing=0.25)
        return on_device.mix(images, labels, two, classes=3, mixup=0.8, cutmix=1.0, label_smoothing=0.1)

    images, labels = batch(8), jnp.arange(8) % 3
    first, again, other = (view(images, labels, jax.random.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert view._cache_size() == 1
