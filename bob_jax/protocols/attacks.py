"""White-box attacks: the perturbation of an image, within a ball around it, that a classifier gets wrong.

The classifier is any function of pixels; its gradient is followed. All images of a batch go at once, each by itself:
what is found for an image depends on its pixels, its label and its key, not on its batch. Every attack returns images
within the ball (up to the rounding of one addition) and within [0, 1], as arrays of the pixels' own dtype.

*FGSM* (Goodfellow et al. 2015, arXiv 1412.6572) is one step to the surface of the ball along the sign of the gradient
(in L2 along the gradient). *PGD* (Madry et al. 2018, arXiv 1706.06083) is many smaller ones, each projected back.
*APGD* (Croce and Hein 2020, arXiv 2003.01690, algorithm 1) adds momentum, halves the step of an image whose loss stops
rising and sends it back to its best point, so that no step size has to be chosen. Where the paper and the code that its
numbers come from differ, the code counts: checkpoints are whole steps, and a step is also halved when exactly three
quarters of the steps since the last checkpoint raised the loss.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Norm = Literal["linf", "l2"]
Logits = Callable[[jax.Array], jax.Array]  # pixels [B, H, W, 3] in [0, 1] -> [B, C]
Loss = Callable[[jax.Array], jax.Array]  # [B, C] -> [B], larger is better for the attacker

MOMENTUM = 0.25  # share of the last move in the next one
RISING = 0.75  # share of steps that must raise the loss for the step size to stay
FIRST_CHECK, CHECK_SHRINKS, LAST_CHECK = 0.22, 0.03, 0.06  # steps between checkpoints, as shares of all steps
TINY = 1e-12


class Ball(NamedTuple):
    """Where the attacker may go.

    Attributes:
        pixels: [B, H, W, 3] float in [0, 1], the clean images.
        norm: of the perturbation: its name, or, so that one program serves both, a traced bool: whether it is L2.
        radius: largest norm, in units of pixels in [0, 1]; it may be traced.
    """

    pixels: jax.Array
    norm: Norm | jax.Array
    radius: float | jax.Array

    def by_norm(self, linf: Callable[..., Any], l2: Callable[..., Any], *operands: Any) -> Any:
        """One of two functions of the operands."""
        if isinstance(self.norm, str):
            return (l2 if self.norm == "l2" else linf)(*operands)
        return jax.lax.cond(self.norm, l2, linf, *operands)

    def project(self, pixels: jax.Array) -> jax.Array:
        """Into the ball, then into [0, 1], which lies towards the centre and cannot lead out of the ball again."""
        change = self.by_norm(
            lambda change: jnp.clip(change, -self.radius, self.radius),
            lambda change: change * jnp.minimum(1, self.radius / jnp.maximum(length(change), TINY)),
            pixels - self.pixels,
        )
        return jnp.clip(self.pixels + change, 0, 1)

    def start(self, keys: jax.Array) -> jax.Array:
        """A random point on the surface of each image's ball, cut to [0, 1]; keys [B]."""
        shape, dtype = self.pixels.shape[1:], self.pixels.dtype

        def linf(keys: jax.Array) -> jax.Array:
            noise = jax.vmap(lambda key: jax.random.uniform(key, shape, dtype, -1, 1))(keys)
            return noise / (jnp.abs(noise).max(axis=(1, 2, 3), keepdims=True) + TINY)

        def l2(keys: jax.Array) -> jax.Array:
            noise = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
            return noise / (length(noise) + TINY)

        return jnp.clip(self.pixels + self.radius * self.by_norm(linf, l2, keys), 0, 1)

    def steepest(self, gradient: jax.Array) -> jax.Array:
        """The direction of norm 1 that raises the loss most; zero where the gradient is."""
        return self.by_norm(jnp.sign, lambda gradient: gradient / jnp.maximum(length(gradient), TINY), gradient)


class Found(NamedTuple):
    """What an attack found.

    Attributes:
        pixels: [B, H, W, 3], perturbed; misclassified where `fooled`.
        fooled: [B] bool.
    """

    pixels: jax.Array
    fooled: jax.Array


def length(images: jax.Array) -> jax.Array:
    """Euclidean norm of each image: [B, H, W, 3] -> [B, 1, 1, 1]."""
    return jnp.sqrt(jnp.sum(images**2, axis=(1, 2, 3), keepdims=True))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log p(label) in nats: [B, C], [B] -> [B]."""
    return jax.nn.logsumexp(logits, axis=-1) - _pick(logits, labels)


def targeted_dlr(logits: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
    """Difference of logits ratio towards a class (arXiv 2003.01690, section 4.2); positive where the target wins.

    (z_target - z_label) / (z_1 - (z_3 + z_4) / 2), z_1 >= z_2 >= ... the sorted logits: the scale of the logits, which
    can make the gradient of the cross-entropy vanish, cancels. With three classes the denominator is z_1 - z_3; with
    two nothing is left that could serve as a scale, and it is 1.

    Args:
        logits: [B, C], C >= 2.
        labels: [B] int.
        targets: [B] int.

    Returns:
        [B].
    """
    gap = _pick(logits, targets) - _pick(logits, labels)
    classes = logits.shape[-1]
    if classes == 2:
        return gap
    largest = jax.lax.top_k(logits, min(classes, 4))[0]
    return gap / (largest[:, 0] - (largest[:, 2] + largest[:, -1]) / 2 + TINY)


def fgsm(logits: Logits, ball: Ball, labels: jax.Array) -> Found:
    """One step to the surface of the ball.

    Args:
        logits: the classifier.
        ball: around the clean images.
        labels: [B] int, the right classes.
    """
    gradient = _ascend(logits, lambda z: cross_entropy(z, labels), labels, ball.pixels)[2]
    pixels = ball.project(ball.pixels + ball.radius * ball.steepest(gradient))
    return Found(pixels, _misses(logits(pixels), labels))


def pgd(
    logits: Logits,
    ball: Ball,
    labels: jax.Array,
    keys: jax.Array | None,
    *,
    steps: int,
    step_size: float,
    restarts: int = 1,
) -> Found:
    """Projected ascent of the cross-entropy; what counts is where it ends.

    Args:
        logits: the classifier.
        ball: around the clean images.
        labels: [B] int, the right classes.
        keys: [B] randomness of the starts; None starts at the clean images.
        steps: from each start.
        step_size: as a share of the radius.
        restarts: starts; an image once fooled stays so.
    """

    def step(_: int, pixels: jax.Array) -> jax.Array:
        gradient = _ascend(logits, lambda z: cross_entropy(z, labels), labels, pixels)[2]
        return ball.project(pixels + step_size * ball.radius * ball.steepest(gradient))

    def run(restart: jax.Array) -> Found:
        start = ball.pixels if keys is None else ball.start(_fold(keys, restart))
        pixels = jax.lax.fori_loop(0, steps, step, start)
        return Found(pixels, _misses(logits(pixels), labels))

    return _repeat(run, restarts, ball)


def apgd(logits: Logits, ball: Ball, labels: jax.Array, keys: jax.Array, *, steps: int, restarts: int = 1) -> Found:
    """APGD on the cross-entropy.

    Args:
        logits: the classifier.
        ball: around the clean images.
        labels: [B] int, the right classes.
        keys: [B] randomness of the starts.
        steps: from each start.
        restarts: starts; an image once fooled stays so.
    """

    def run(restart: jax.Array) -> Found:
        return climb(logits, lambda z: cross_entropy(z, labels), ball, labels, ball.start(_fold(keys, restart)), steps)

    return _repeat(run, restarts, ball)


def apgd_targeted(logits: Logits, ball: Ball, labels: jax.Array, keys: jax.Array, *, steps: int, targets: int) -> Found:
    """APGD on the targeted DLR loss, once towards each of the classes that come next for the clean image.

    Args:
        logits: the classifier, of two classes or more.
        ball: around the clean images.
        labels: [B] int, the right classes.
        keys: [B] randomness of the starts.
        steps: towards each class.
        targets: classes to try, most likely first; at most all but the right one are.
    """
    clean = logits(ball.pixels)
    targets = min(targets, clean.shape[-1] - 1)
    others = jnp.where(jax.nn.one_hot(labels, clean.shape[-1], dtype=bool), -jnp.inf, clean)
    order = jax.lax.top_k(others, targets)[1]

    def run(rank: jax.Array) -> Found:
        target = order[:, rank]
        start = ball.start(_fold(keys, rank))
        return climb(logits, lambda z: targeted_dlr(z, labels, target), ball, labels, start, steps)

    return _repeat(run, targets, ball)


class _Climb(NamedTuple):
    """Where each image's ascent stands; scalars per image are [B]."""

    pixels: jax.Array
    previous: jax.Array  # the point before
    found: Found  # the last misclassified point; without one the best
    best: jax.Array  # the point of the highest loss, that loss and its gradient
    best_loss: jax.Array
    best_gradient: jax.Array
    loss: jax.Array  # at the point before
    step: jax.Array  # step size
    rises: jax.Array  # steps since the last checkpoint that raised the loss
    halved: jax.Array  # whether the step size was halved at the last checkpoint
    best_then: jax.Array  # highest loss at the last checkpoint


def climb(logits: Logits, loss: Loss, ball: Ball, labels: jax.Array, start: jax.Array, steps: int) -> Found:
    """Algorithm 1 of arXiv 2003.01690 from one start; every point on the way counts.

    Args:
        logits: the classifier.
        loss: to raise.
        ball: around the clean images.
        labels: [B] int, the right classes.
        start: [B, H, W, 3], within the ball.
        steps: to go; the classifier sees steps + 1 points.
    """
    windows = jnp.asarray(_windows(steps), start.dtype)
    none = jnp.full(len(start), -jnp.inf, start.dtype)

    def body(i: jax.Array, now: _Climb) -> _Climb:
        value, fooled, gradient = _ascend(logits, loss, labels, now.pixels)
        found = Found(_where(fooled, now.pixels, now.found.pixels), now.found.fooled | fooled)
        better = value > now.best_loss
        now = now._replace(
            found=found._replace(pixels=_where(better & ~found.fooled, now.pixels, found.pixels)),
            best=_where(better, now.pixels, now.best),
            best_loss=jnp.where(better, value, now.best_loss),
            best_gradient=_where(better, gradient, now.best_gradient),
            rises=now.rises + ((value > now.loss) & (i > 0)),
            loss=value,
        )
        now, gradient = _checkpoint(now, gradient, windows[i])
        return _move(now, ball, gradient, jnp.where(i == 0, 0, MOMENTUM).astype(start.dtype))

    begin = _Climb(
        pixels=start,
        previous=start,
        found=Found(start, jnp.zeros(len(start), bool)),
        best=start,
        best_loss=none,
        best_gradient=jnp.zeros_like(start),
        loss=none,
        step=jnp.full(len(start), 2 * ball.radius, start.dtype),
        rises=jnp.zeros(len(start), int),
        halved=jnp.ones(len(start), bool),  # nothing has stood still yet at the first checkpoint
        best_then=none,
    )
    return jax.lax.fori_loop(0, steps + 1, body, begin).found


def _windows(steps: int) -> np.ndarray:
    """[steps + 1]: at a checkpoint, the steps since the one before; 0 elsewhere."""
    window, due = max(int(FIRST_CHECK * steps), 1), 0
    shrinks, last = max(int(CHECK_SHRINKS * steps), 1), max(int(LAST_CHECK * steps), 1)
    windows = np.zeros(steps + 1, int)
    while (due := due + window) <= steps:
        windows[due] = window
        window = max(window - shrinks, last)
    return windows


def _checkpoint(now: _Climb, gradient: jax.Array, window: jax.Array) -> tuple[_Climb, jax.Array]:
    """Halves the step of images whose loss rose too seldom or not at all, and sends them back to their best point.

    Args:
        now: after a step.
        gradient: at its point.
        window: steps since the last checkpoint; 0 where this is none.
    """
    check = window > 0
    stuck = ~now.halved & (now.best_loss <= now.best_then)
    halve = check & ((now.rises <= RISING * window) | stuck)
    now = now._replace(
        pixels=_where(halve, now.best, now.pixels),
        step=jnp.where(halve, now.step / 2, now.step),
        rises=jnp.where(check, 0, now.rises),
        halved=jnp.where(check, halve, now.halved),
        best_then=jnp.where(check, now.best_loss, now.best_then),
    )
    return now, _where(halve, now.best_gradient, gradient)


def _move(now: _Climb, ball: Ball, gradient: jax.Array, momentum: jax.Array) -> _Climb:
    """A step along the gradient, drawn out along the one before."""
    ahead = ball.project(now.pixels + now.step[:, None, None, None] * ball.steepest(gradient))
    drawn = now.pixels + (1 - momentum) * (ahead - now.pixels) + momentum * (now.pixels - now.previous)
    return now._replace(pixels=ball.project(drawn), previous=now.pixels)


def _ascend(logits: Logits, loss: Loss, labels: jax.Array, pixels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Loss [B], whether each image is misclassified [B], and the loss's gradient [B, H, W, 3]."""

    def total(pixels: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        scores = logits(pixels)
        values = loss(scores)
        return values.sum(), (values, _misses(scores, labels))

    gradient, (values, fooled) = jax.grad(total, has_aux=True)(pixels)
    return values, fooled, gradient


def _repeat(run: Callable[[jax.Array], Found], number: int, ball: Ball) -> Found:
    """The attack from several starts; of an image once fooled the first find is kept, of others the last point."""

    def again(i: jax.Array, found: Found) -> Found:
        new = run(i)
        return Found(_where(found.fooled, found.pixels, new.pixels), found.fooled | new.fooled)

    return jax.lax.fori_loop(0, number, again, Found(ball.pixels, jnp.zeros(len(ball.pixels), bool)))


def _fold(keys: jax.Array, number: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def _pick(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """The logit of one class each: [B, C], [B] -> [B]."""
    return jnp.take_along_axis(logits, classes[:, None], axis=-1)[:, 0]


def _misses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return logits.argmax(axis=-1) != labels


def _where(chosen: jax.Array, images: jax.Array, others: jax.Array) -> jax.Array:
    """Image by image."""
    return jnp.where(chosen[:, None, None, None], images, others)
