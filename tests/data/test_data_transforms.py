"""The host transforms against timm's and torchvision's, bit for bit."""

import numpy as np
import pytest
from data_pictures import picture
from PIL import Image
from torch_reference import import_timm

from bob_jax.backbones.card import CLIP_MEAN, Preprocessing
from bob_jax.data.randaugment import OPERATIONS, RandAugment
from bob_jax.data.transforms import Eval, Train, random_crop

FILL = (124, 116, 104)
INCREASING = {"Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness"}


class Draws:
    """Stands for `random` and `numpy.random` inside timm, and draws from the generator that our side draws from."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.random = self
        self.array = np.array

    def __call__(self) -> float:  # random.random()
        return self.rng.random()

    def uniform(self, low: float, high: float) -> float:
        return self.rng.uniform(low, high)

    def gauss(self, mean: float, deviation: float) -> float:
        return self.rng.normal(mean, deviation)

    def randint(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def choice(self, options, size=None, replace=True, p=None):
        drawn = self.rng.integers(len(options), size=size)
        return options[drawn] if size is None else [options[index] for index in drawn]


@pytest.fixture
def timm_draws(monkeypatch):
    """Seeds timm's transforms: call it with a seed before each use."""
    import_timm()
    import timm.data.auto_augment as auto_augment
    import timm.data.transforms as transforms

    def seed(value) -> None:
        draws = Draws(np.random.default_rng(value))
        monkeypatch.setattr(auto_augment, "random", draws)
        monkeypatch.setattr(auto_augment, "np", draws)
        monkeypatch.setattr(transforms, "random", draws)

    return seed


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("input_size", "crop_pct"),
    [(224, 0.875), (224, 0.9), (224, 0.95), (224, 0.965), (256, 0.9), (384, 1.0), (288, 1.0), (32, 0.875), (37, 0.8)],
)
def test_eval_equals_timm(input_size, crop_pct, interpolation, crop_mode):
    create_transform = import_timm().data.create_transform
    reference = create_transform(
        input_size, crop_pct=crop_pct, interpolation=interpolation, crop_mode=crop_mode, normalize=False
    )
    ours = Eval(Preprocessing(input_size, crop_pct, interpolation, crop_mode))
    for seed, (height, width) in enumerate(
        [(300, 500), (511, 333), (8, 8), (256, 256), (233, 701), (97, 98), (500, 20)]
    ):
        image = picture(seed, height, width)
        expected = reference(Image.fromarray(image)).permute(1, 2, 0).numpy()
        result = ours(image)
        assert result.dtype == np.uint8 and result.shape == (ours.size, ours.size, 3)
        np.testing.assert_array_equal(result, expected, err_msg=f"{height} x {width}")


def test_eval_equals_torchvision():
    import_timm()
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    reference = Compose([Resize(256, InterpolationMode.BICUBIC), CenterCrop(224)])
    for seed, (height, width) in enumerate([(375, 500), (640, 427), (225, 1000)]):
        image = picture(seed, height, width)
        np.testing.assert_array_equal(Eval(Preprocessing())(image), np.asarray(reference(Image.fromarray(image))))


def test_eval_at_another_size_keeps_the_crop_fraction():
    image = picture(0, 200, 300)
    assert Eval(Preprocessing(224, 0.9), 96).size == 96
    np.testing.assert_array_equal(Eval(Preprocessing(224, 0.9), 96)(image), Eval(Preprocessing(96, 0.9))(image))


@pytest.mark.parametrize("magnitude", [0, 3, 5.5, 9, 9.99])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_equals_timm(name, magnitude, timm_draws):
    import timm.data.auto_augment as reference

    theirs = {"TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel"}.get(name, name)
    theirs += "Increasing" if name in INCREASING else ""
    operation = reference.AugmentOp(theirs, prob=1, magnitude=magnitude, hparams={"img_mean": FILL})
    image = Image.fromarray(picture(1, 45, 60))
    for seed in range(6):  # both signs, both interpolations
        timm_draws(seed)
        expected = operation(image)
        result = OPERATIONS[name](image, magnitude / 10, np.random.default_rng(seed), FILL)
        np.testing.assert_array_equal(np.asarray(result), np.asarray(expected))


def test_posterize_never_asks_pillow_for_no_bits():
    image = picture(0)
    result = OPERATIONS["Posterize"](Image.fromarray(image), 1.0, np.random.default_rng(0), FILL)
    np.testing.assert_array_equal(np.asarray(result), image & 0x80)


def test_operations_are_those_of_timm():
    import_timm()
    from timm.data.auto_augment import _RAND_INCREASING_TRANSFORMS as REFERENCE

    assert [name.removesuffix("Increasing").removesuffix("Rel") for name in REFERENCE] == list(OPERATIONS)


def test_randaugment_equals_timm(timm_draws):
    import timm.data.auto_augment as reference

    theirs = reference.rand_augment_transform("rand-m9-mstd0.5-inc1", {"img_mean": FILL})
    image = Image.fromarray(picture(2, 48, 48))
    changed = 0
    for seed in range(60):
        timm_draws(seed)
        expected = np.asarray(theirs(image))
        result = np.asarray(RandAugment(9, FILL)(image, np.random.default_rng(seed)))
        np.testing.assert_array_equal(result, expected)
        changed += not np.array_equal(result, np.asarray(image))
    assert 30 < changed < 58  # nothing is done with probability 1/4


@pytest.mark.parametrize("randaugment", [0, 9])
def test_train_equals_timm(randaugment, timm_draws):
    policy = f"rand-m{randaugment}-mstd0.5-inc1" if randaugment else None
    reference = import_timm().data.create_transform(
        64,
        is_training=True,
        hflip=0,
        color_jitter=None,
        auto_augment=policy,
        interpolation="random",
        mean=CLIP_MEAN,
        normalize=False,
    )
    ours = Train(Preprocessing(64, mean=CLIP_MEAN), randaugment=randaugment)
    for seed, size in enumerate([(100, 140), (8, 8), (300, 40), (40, 300), (64, 64)] * 4):
        image = picture(seed, *size)
        timm_draws(seed)
        expected = reference(Image.fromarray(image)).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(ours(image, np.random.default_rng(seed)), expected)


def test_crop_falls_back_to_the_centre():
    # A strip of aspect 10: no box of the whole area has an aspect of at most 4/3.
    assert random_crop(10, 100, (1, 1), (3 / 4, 4 / 3), np.random.default_rng(0)) == (0, 43, 10, 13)
    assert random_crop(100, 10, (1, 1), (3 / 4, 4 / 3), np.random.default_rng(0)) == (43, 0, 13, 10)


def test_crop_covers_the_area_it_is_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([random_crop(400, 400, (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(2000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (top + height <= 400).all() and (left + width <= 400).all()
    area = height * width / 400**2
    assert 0.079 < area.min() < 0.1 and area.max() > 0.9
    assert (width / height).min() > 0.74 and (width / height).max() < 1.35


def test_train_depends_on_the_generator_alone():
    image = picture(0, 60, 80)
    train = Train(Preprocessing(32), scale=(0.3, 1.0), randaugment=9)
    views = [train(image, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(views[0], views[1])
    assert (views[0] != views[2]).any()
