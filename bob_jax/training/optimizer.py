"""The optimizers of the protocols: AdamW with layer-wise decay, LARS, and one optimizer per head of a grid.

Every number may be a traced array, so that `grid` can train many settings at once. Parameters are named by dotted path.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bob_jax.errors import BobError, unknown_name

Schedule = Callable[[jax.Array], jax.Array]


def schedule(
    base: float, total_steps: int, warmup_steps: int = 0, warmup_from: float = 0.0, final: float = 0.0
) -> Schedule:
    """Linear warm-up, then half a cosine, both per step: the schedule of MAE's `util/lr_sched.py`.

    The first step uses `warmup_from`, step `warmup_steps` uses `base`, and step `total_steps`, which is never made,
    would use `final`.

    Args:
        base: the highest rate.
        total_steps: steps of the whole run, warm-up included.
        warmup_steps: steps of warm-up, fewer than `total_steps`.
        warmup_from: rate of the first step of the warm-up.
        final: rate at the end.
    """
    if not 0 <= warmup_steps < total_steps:
        raise BobError(f"warmup_steps={warmup_steps} must be at least 0 and less than total_steps={total_steps}")

    def rate(count: jax.Array) -> jax.Array:
        warmup = warmup_from + (base - warmup_from) * count / max(warmup_steps, 1)
        progress = jnp.clip((count - warmup_steps) / (total_steps - warmup_steps), 0, 1)
        cosine = final + (base - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        return jnp.where(count < warmup_steps, warmup, cosine)

    return rate


def step_schedule(base: float, falls: Sequence[int], warmup_steps: int = 0, factor: float = 0.1) -> Schedule:
    """Linear warm-up from 0, then a constant rate that falls by a factor at some steps, as detectors are often trained.

    Args:
        base: the highest rate.
        falls: steps from which the rate is `factor` times what it was before.
        warmup_steps: steps of warm-up.
        factor: of each fall.
    """

    def rate(count: jax.Array) -> jax.Array:
        fallen = sum((count >= step).astype(jnp.float32) for step in falls)
        return base * jnp.minimum(count / max(warmup_steps, 1), 1) * factor**fallen

    return rate


def dotted_path(path: tuple[Any, ...]) -> str:
    """The name of a leaf: `("blocks", 0, "kernel")` as JAX writes it -> `blocks.0.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def dotted_paths(tree: Any) -> list[str]:
    """The names of all leaves of nested dicts, in the tree's order."""
    return [dotted_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def decay_mask(no_decay: Collection[str] = ()) -> Callable[[Any], Any]:
    """Which parameters decay: all but the 1-D ones (biases, norms) and the named ones.

    Args:
        no_decay: dotted paths, e.g. of position embeddings and class tokens.

    Returns:
        params -> the same tree of bools. It raises BobError for a name that is no parameter.
    """

    def mask(params: Any) -> Any:
        paths = dotted_paths(params)
        for name in no_decay:
            if name not in paths:
                raise unknown_name("parameter without weight decay", name, paths)
        return jax.tree_util.tree_map_with_path(
            lambda path, p: p.ndim > 1 and dotted_path(path) not in no_decay, params
        )

    return mask


def layer_multipliers(
    paths: Iterable[str], layer_of: Callable[[str], int], num_layers: int, decay: float
) -> dict[str, float]:
    """Learning-rate multipliers of layer-wise decay: decay ** (num_layers - layer), as BEiT and timm have it.

    Args:
        paths: dotted paths of all parameters.
        layer_of: layer of a parameter: 0 for the stem, up to `num_layers` for the head; KeyError where it knows none.
        num_layers: the layer of the head, whose multiplier is 1.
        decay: in (0, 1]; 1 is no decay.

    Returns:
        path -> multiplier.

    Raises:
        BobError: a parameter has no layer, or one out of range; or a decay below 1 finds all parameters in the head,
            where it would act on nothing.
    """
    multipliers = {}
    for path in paths:
        try:
            layer = layer_of(path)
        except KeyError:
            raise BobError(
                f"layer decay {decay}: no layer is known for parameter '{path}': use layer decay 1"
            ) from None
        if not 0 <= layer <= num_layers:
            raise BobError(f"layer decay {decay}: parameter '{path}' is in layer {layer}, outside 0 to {num_layers}")
        multipliers[path] = decay ** (num_layers - layer)
    if decay != 1 and all(value == 1 for value in multipliers.values()):
        raise BobError(f"layer decay {decay} acts on nothing: all {len(multipliers)} parameters are in the head")
    return multipliers


def scale_by_path(multipliers: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies each parameter's update by its own number. BobError where names and parameters differ."""

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        paths = dotted_paths(updates)
        if wrong := sorted(set(paths) ^ set(multipliers)):
            raise BobError(f"update multipliers and parameters do not name the same things: {', '.join(wrong)}")
        return jax.tree_util.tree_map_with_path(lambda path, u: u * multipliers[dotted_path(path)], updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def adamw(
    learning_rate: float | Schedule,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    mask: Callable[[Any], Any] | None = None,
    layer_scales: Mapping[str, float] | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """`torch.optim.AdamW` after `clip_grad_norm_`, with timm's `lr_scale` per parameter.

    Args:
        learning_rate: a number, or a function of the step.
        weight_decay: decoupled; multiplied with the learning rate of the step.
        betas: decay of the first and second moments.
        eps: added to the square root of the second moment.
        mask: params -> tree of bools: which of them decay; by default `decay_mask()`.
        layer_scales: dotted path -> factor on the whole update, weight decay included; None for no factors.
        clip_norm: the largest global norm of the gradient; None for no clipping.
    """
    return optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(*betas, eps=eps),
        optax.add_decayed_weights(weight_decay, mask or decay_mask()),
        optax.identity() if layer_scales is None else scale_by_path(layer_scales),
        optax.scale_by_learning_rate(learning_rate),
    )


def lars(
    learning_rate: float | Schedule, momentum: float = 0.9, trust: float = 0.001, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """LARS as MAE and Battle of the Backbones probe with it (MAE's `util/lars.py`).

    Parameters of more than one dimension: weight decay is added to the gradient, which is then rescaled to
    trust * |parameter| / |gradient| of its length. 1-D parameters: plain momentum. The learning rate is applied after
    the momentum, whereas `optax.lars` applies it before: with a schedule the two differ.
    """
    many_dims = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    return optax.chain(
        optax.add_decayed_weights(weight_decay, many_dims),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust), many_dims),
        optax.trace(momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def grid(make_tx: Callable[[Any], optax.GradientTransformation], values: Any) -> optax.GradientTransformation:
    """One optimizer per head, all stepped at once: head i is trained by `make_tx(values[i])` as if it were alone.

    Norms, and so clipping and LARS' trust ratios, are per head.

    Args:
        make_tx: from one setting to its optimizer. It sees scalars, traced: no Python `if` on them.
        values: [G] array of settings, or a dict of such arrays.

    Returns:
        An optimizer for parameters whose every leaf is `[G, ...]`.
    """
    values = jax.tree.map(jnp.asarray, values)

    def init(params: Any) -> Any:
        return jax.vmap(lambda value, p: make_tx(value).init(p))(values, params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.vmap(lambda value, u, s, p: make_tx(value).update(u, s, p))(values, updates, state, params)

    return optax.GradientTransformation(init, update)
