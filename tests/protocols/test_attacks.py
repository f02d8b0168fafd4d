"""Attacks against foolbox's on the same weights, against the published algorithm image by image, and known optima."""

import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bob_jax.protocols import attacks
from bob_jax.protocols.attacks import Ball

with warnings.catch_warnings():  # foolbox 3.3.4 imports from where SciPy used to keep its filters
    warnings.filterwarnings("ignore", message="Please import `gaussian_filter`", category=DeprecationWarning)
    import foolbox

B, SIDE, CLASSES = 12, 8, 6
NORMS = ("linf", "l2")
RADII = {"linf": 0.03, "l2": 0.3}  # fool some of the images


@pytest.fixture(scope="module", autouse=True)
def float64():
    """Both sides in float64: a sign that rounding decides would send two equal attacks different ways."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def twin():
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(512, CLASSES))
    return torch.nn.Sequential(*layers).double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def logits(twin):
    """The twin's function of pixels [B, H, W, 3]."""
    kernel, bias, weight, offset = (parameter.numpy() for parameter in twin.parameters())

    def apply(pixels):
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(pixels, kernel.transpose(2, 3, 1, 0), (1, 1), "SAME", dimension_numbers=layout)
        x = jnp.tanh(x + bias[None, None, None]).transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        return x @ weight.T + offset[None]

    return apply


@pytest.fixture(scope="module")
def pixels():
    """Black and white areas too, where the box cuts the ball."""
    return np.clip(np.random.default_rng(1).uniform(-0.3, 1.3, (B, SIDE, SIDE, 3)), 0, 1)


@pytest.fixture(scope="module")
def labels(logits, pixels):
    return np.asarray(logits(pixels)).argmax(1)


def keys(count=B):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(count))


def to_torch(images):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(images), -1, 1)))


def from_torch(images):
    return np.moveaxis(images.detach().numpy(), 1, -1)


@functools.cache
def attack(name, logits, norm):
    """Each attack with few steps: pixels, labels, radius -> found."""
    chosen = {
        "fgsm": lambda ball, labels, _: attacks.fgsm(logits, ball, labels),
        "pgd": functools.partial(attacks.pgd, logits, steps=40, step_size=0.25, restarts=2),
        "apgd": functools.partial(attacks.apgd, logits, steps=20, restarts=2),
        "apgd_targeted": functools.partial(attacks.apgd_targeted, logits, steps=20, targets=3),
    }[name]
    return jax.jit(lambda pixels, labels, radius: chosen(Ball(pixels, norm, radius), labels, keys(len(labels))))


ATTACKS = ("fgsm", "pgd", "apgd", "apgd_targeted")
FOOLBOX = {
    ("linf", "fgsm"): lambda: foolbox.attacks.LinfFastGradientAttack(),
    ("l2", "fgsm"): lambda: foolbox.attacks.L2FastGradientAttack(),
    ("linf", "pgd"): lambda: foolbox.attacks.LinfProjectedGradientDescentAttack(
        rel_stepsize=0.15, steps=15, random_start=False
    ),
    ("l2", "pgd"): lambda: foolbox.attacks.L2ProjectedGradientDescentAttack(
        rel_stepsize=0.15, steps=15, random_start=False
    ),
}


@pytest.mark.parametrize(("norm", "name"), FOOLBOX)
def test_without_a_random_start_pixels_equal_foolbox(norm, name, twin, logits, pixels, labels):
    ball = Ball(jnp.asarray(pixels), norm, RADII[norm])
    if name == "fgsm":
        found = attacks.fgsm(logits, ball, labels)
    else:
        found = attacks.pgd(logits, ball, labels, None, steps=15, step_size=0.15)
    model = foolbox.PyTorchModel(twin, bounds=(0, 1), device="cpu")
    _, reference, success = FOOLBOX[norm, name]()(
        model, to_torch(pixels), torch.from_numpy(labels), epsilons=RADII[norm]
    )
    np.testing.assert_allclose(found.pixels, from_torch(reference), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(found.fooled, success.numpy())
    assert 0 < found.fooled.sum() < B


def published_apgd(twin, loss, clean, label, start, norm, radius, steps):
    """Algorithm 1 of arXiv 2003.01690 for one image, with all points and losses kept, in the paper's letters."""

    def f(x):
        x = x.clone().requires_grad_()
        scores = twin(x[None])
        value = loss(scores[0])
        (gradient,) = torch.autograd.grad(value, x)
        return value.item(), gradient, scores.argmax().item() != label

    def project(x):
        delta = x - clean
        if norm == "linf":
            delta = delta.clamp(-radius, radius)
        elif delta.norm() > radius:
            delta = delta * radius / delta.norm()
        return (clean + delta).clamp(0, 1)

    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    w = [math.ceil(round(share * steps, 9)) for share in p]
    eta, x, wrong = 2 * radius, [start], []
    value, gradient, missed = f(start)
    losses, best, wrong = [value], (value, start, gradient), [start] if missed else []
    halved, best_then = [True], [value]
    previous = None
    for k in range(steps):
        direction = gradient.sign() if norm == "linf" else gradient / gradient.norm()
        z = project(x[k] + eta * direction)
        step = z if k == 0 else project(x[k] + 0.75 * (z - x[k]) + 0.25 * (x[k] - previous))
        previous = x[k]
        value, gradient, missed = f(step)
        x.append(step)
        losses.append(value)
        if missed:
            wrong.append(step)
        if value > best[0]:
            best = (value, step, gradient)
        if k + 1 in w[1:]:
            window = k + 1 - w[w.index(k + 1) - 1]
            rose = sum(losses[i + 1] > losses[i] for i in range(k + 1 - window, k + 1))
            halve = rose <= 0.75 * window or (not halved[-1] and best_then[-1] == best[0])
            halved.append(halve)
            best_then.append(best[0])
            if halve:
                eta, x[k + 1], gradient = eta / 2, best[1], best[2]
    return (wrong[-1] if wrong else best[1]), bool(wrong)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["cross_entropy", "targeted_dlr"])
def test_apgd_equals_the_published_algorithm(norm, kind, twin, logits, pixels, labels):
    ball = Ball(jnp.asarray(pixels), norm, RADII[norm] / 1.5)
    start = ball.start(keys())
    targets = (labels + 2) % CLASSES
    losses = {
        "cross_entropy": lambda z: attacks.cross_entropy(z, labels),
        "targeted_dlr": lambda z: attacks.targeted_dlr(z, labels, targets),
    }
    found = jax.jit(lambda start: attacks.climb(logits, losses[kind], ball, labels, start, 100))(start)

    def one(label, target):
        def dlr(z):
            ordered = z.sort(descending=True).values
            return (z[target] - z[label]) / (ordered[0] - (ordered[2] + ordered[3]) / 2 + 1e-12)

        return dlr if kind == "targeted_dlr" else lambda z: z.logsumexp(0) - z[label]

    for i, (clean, begin) in enumerate(zip(to_torch(pixels), to_torch(start), strict=True)):
        expected, fooled = published_apgd(
            twin, one(labels[i], targets[i]), clean, labels[i], begin, norm, ball.radius, 100
        )
        assert found.fooled[i] == fooled
        np.testing.assert_allclose(found.pixels[i], from_torch(expected[None])[0], rtol=0, atol=1e-5)
    assert kind == "targeted_dlr" or 0 < found.fooled.sum() < B


def linear(classes):
    weights = np.random.default_rng(5).normal(size=(SIDE * SIDE * 3, classes))

    def logits(pixels):
        return pixels.reshape(len(pixels), -1) @ weights

    return weights, logits


def test_fgsm_is_the_formula():
    weights, logits = linear(4)
    pixels = np.random.default_rng(6).uniform(size=(B, SIDE, SIDE, 3))
    labels = np.arange(B) % 4
    scores = np.asarray(logits(pixels))
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    gradient = ((p - np.eye(4)[labels]) @ weights.T).reshape(pixels.shape)
    found = attacks.fgsm(logits, Ball(jnp.asarray(pixels), "linf", 0.1), labels)
    np.testing.assert_allclose(found.pixels, np.clip(pixels + 0.1 * np.sign(gradient), 0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_a_linear_classifier_falls_at_its_distance(norm, name, classes):
    """The nearest misclassified point is (z_y - z_j) / |w_y - w_j| away, in the dual norm, for the nearest class j."""
    weights, logits = linear(classes)
    pixels = np.random.default_rng(7).uniform(0.3, 0.7, (B, SIDE, SIDE, 3))  # the box is far
    scores = np.asarray(logits(pixels))
    labels = scores.argmax(1)
    apart = weights[:, labels, None] - weights[:, None, :]  # [D, B, C]
    dual = np.abs(apart).sum(0) if norm == "linf" else np.sqrt((apart**2).sum(0))
    other = np.arange(classes)[None] != labels[:, None]
    distance = np.min(
        (scores[np.arange(B), labels][:, None] - scores) / np.where(dual > 0, dual, 1), 1, initial=9, where=other
    )

    def fooled(share):
        # A radius is that of a whole batch: image by image.
        each = (attack(name, logits, norm)(pixels[i : i + 1], labels[i : i + 1], share * distance[i]) for i in range(4))
        return [bool(found.fooled[0]) for found in each]

    assert not any(fooled(0.999))
    # The gradient of the cross-entropy points to a mixture of classes where there are several.
    if classes == 2 or name == "apgd_targeted":
        assert all(fooled(1.001))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_within_ball_and_box_and_misclassified_where_said(norm, name, logits, pixels, labels):
    found = attack(name, logits, norm)(pixels, labels, RADII[norm])
    change = np.asarray(found.pixels) - pixels
    assert found.pixels.min() >= 0 and found.pixels.max() <= 1
    size = np.abs(change).max((1, 2, 3)) if norm == "linf" else np.sqrt((change**2).sum((1, 2, 3)))
    assert (size <= RADII[norm] * (1 + 1e-12)).all() and (size > 0).all()
    wrong = np.asarray(logits(found.pixels)).argmax(1) != labels
    np.testing.assert_array_equal(found.fooled, wrong)
    assert wrong.any()


@pytest.mark.parametrize("norm", NORMS)
def test_loss_and_success_rise_with_the_budget(norm, logits, pixels, labels):
    fooled, losses = [], []
    for share in (0.05, 0.3, 0.6, 1.0, 2.0):
        radius = share * RADII[norm]
        found = {name: attack(name, logits, norm)(pixels, labels, radius) for name in ATTACKS}
        fooled.append(np.any([one.fooled for one in found.values()], axis=0).sum())
        losses.append([attacks.cross_entropy(logits(one.pixels), labels).mean() for one in found.values()])
    assert (np.diff(losses, axis=0) > 0).all()
    assert (np.diff(fooled) >= 0).all() and fooled[0] < fooled[2] < fooled[-1]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_does_not_see_its_batch(norm, name, logits, pixels, labels):
    whole = attack(name, logits, norm)(pixels, labels, RADII[norm])
    part = attack(name, logits, norm)(pixels[:5], labels[:5], RADII[norm])
    np.testing.assert_allclose(whole.pixels[:5], part.pixels, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(whole.fooled[:5], part.fooled)


def test_one_program_serves_both_norms(logits, pixels, labels):
    traced = jax.jit(
        lambda is_l2, radius: attacks.pgd(
            logits, Ball(jnp.asarray(pixels), is_l2, radius), labels, keys(), steps=40, step_size=0.25, restarts=2
        )
    )
    for norm, radius in RADII.items():
        named = attack("pgd", logits, norm)(pixels, labels, radius)
        np.testing.assert_allclose(traced(norm == "l2", radius).pixels, named.pixels, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_on_the_surface_and_differ(norm):
    ball = Ball(jnp.full((B, SIDE, SIDE, 3), 0.5), norm, 0.1)
    change = np.asarray(ball.start(keys())) - 0.5
    size = np.abs(change).max((1, 2, 3)) if norm == "linf" else np.sqrt((change**2).sum((1, 2, 3)))
    np.testing.assert_allclose(size, 0.1, rtol=1e-9)
    assert len(np.unique(change[:, 0, 0, 0])) == B


def test_difference_of_logits_ratio():
    z = jnp.array([[3.0, 1.0, 0.5, -1.0, -2.0]])
    assert float(attacks.targeted_dlr(z, jnp.array([0]), jnp.array([3]))[0]) == pytest.approx(-4 / (3 - (0.5 - 1) / 2))
    scaled = attacks.targeted_dlr(100 * z, jnp.array([0]), jnp.array([3]))
    assert float(scaled[0]) == pytest.approx(-4 / 3.25)
    three, two = z[:, :3], z[:, :2]
    assert float(attacks.targeted_dlr(three, jnp.array([0]), jnp.array([1]))[0]) == pytest.approx(-2 / (3 - 0.5))
    assert float(attacks.targeted_dlr(two, jnp.array([0]), jnp.array([1]))[0]) == -2.0


def test_an_image_without_gradient_stays_finite():
    def flat(pixels):
        return jnp.zeros((len(pixels), 3)) + 0 * pixels.sum()

    for name in ATTACKS:
        found = attack(name, flat, "l2")(np.full((2, SIDE, SIDE, 3), 0.5), np.zeros(2, int), 0.1)
        assert np.isfinite(found.pixels).all() and not found.fooled.any()
