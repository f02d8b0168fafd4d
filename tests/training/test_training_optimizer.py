"""Optimizers against torch: the same parameters and gradients for ten steps, and the numbers of the recipes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn

from bob_jax.errors import BobError
from bob_jax.training import optimizer

STEPS, WARMUP = 10, 3


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """The shape of a ViT: stem and position in layer 0, blocks 1 to 3, head in layer 4."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.position = nn.Parameter(0.02 * torch.randn(1, 5, 8))
        self.blocks = nn.ModuleList([Block(8) for _ in range(3)])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def layer_of(name: str) -> int:
    if name.startswith("blocks."):
        return 1 + int(name.split(".")[1])
    return {"stem": 0, "position": 0, "head": 4}[name.split(".")[0]]


def nested(model: nn.Module) -> dict:
    """torch's dotted names as nested dicts: the names of `dotted_path` are torch's again."""
    tree: dict = {}
    for name, value in model.named_parameters():
        *folders, leaf = name.split(".")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = jnp.asarray(value.detach().numpy().copy())
    return tree


def values(tree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {optimizer.dotted_path(path): np.asarray(leaf) for path, leaf in leaves}


def steps_of_torch(model: nn.Module):
    """Sets the gradients of `STEPS` steps one after another and yields them as a tree, before the caller's update."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x, y = torch.randn(16, 5, 6, generator=generator), torch.randint(3, (16,), generator=generator)
        model.zero_grad()
        (20 * nn.functional.cross_entropy(model(x), y)).backward()  # 20: so that the clipping acts
        grads = nested(model)
        leaves = dict(model.named_parameters())
        yield jax.tree_util.tree_map_with_path(
            lambda path, _, leaves=leaves: jnp.asarray(leaves[optimizer.dotted_path(path)].grad.numpy().copy()), grads
        )


def torch_rate(step: int, base: float, warmup_from: float, final: float) -> float:
    """The learning rate of torch's own schedulers."""
    if step == 0:
        return warmup_from  # LinearLR cannot start at zero, and LARS sees the difference between 0 and 1e-12
    group = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    warmup = torch.optim.lr_scheduler.LinearLR(group, max(warmup_from / base, 1e-12), 1.0, WARMUP)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(group, STEPS - WARMUP, eta_min=final)
    scheduler = torch.optim.lr_scheduler.SequentialLR(group, [warmup, cosine], [WARMUP])
    for _ in range(step):
        group.step()
        scheduler.step()
    return scheduler.get_last_lr()[0]


@pytest.mark.parametrize(("warmup_from", "final"), [(0.0, 0.0), (1e-4, 1e-6)])
def test_schedule_is_torchs(warmup_from, final):
    rate = optimizer.schedule(1e-3, STEPS, WARMUP, warmup_from, final)
    for step in range(STEPS):
        expected = torch_rate(step, 1e-3, warmup_from, final)
        np.testing.assert_allclose(rate(step), expected, rtol=2e-6, atol=1e-12, err_msg=f"step {step}")


def test_schedule_by_hand():
    rate = optimizer.schedule(1.0, total_steps=8, warmup_steps=4, warmup_from=0.2, final=0.1)
    np.testing.assert_allclose([rate(0), rate(2), rate(4), rate(6), rate(8)], [0.2, 0.6, 1.0, 0.55, 0.1], rtol=1e-6)
    assert float(optimizer.schedule(1.0, 10)(0)) == 1
    with pytest.raises(BobError, match="warmup_steps=10 must be"):
        optimizer.schedule(1.0, 10, 10)


def test_adamw_with_layer_decay_cosine_and_clipping_is_torchs():
    torch.manual_seed(0)
    model = Transformer()
    params = nested(model)
    multipliers = optimizer.layer_multipliers(optimizer.dotted_paths(params), layer_of, 4, 0.75)
    rate = optimizer.schedule(1e-2, STEPS, WARMUP, 1e-3, 1e-4)
    mask = optimizer.decay_mask(["position"])
    tx = optimizer.adamw(rate, 0.05, (0.9, 0.99), 1e-8, mask, multipliers, clip_norm=1.0)

    groups = [
        {
            "params": [parameter],
            "lr_scale": 0.75 ** (4 - layer_of(name)),
            "weight_decay": 0.0 if parameter.ndim == 1 or name == "position" else 0.05,
        }
        for name, parameter in model.named_parameters()
    ]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99), eps=1e-8)

    state, update, clipped = tx.init(params), jax.jit(tx.update), 0
    for step, grads in enumerate(steps_of_torch(model)):
        for group in reference.param_groups:
            group["lr"] = torch_rate(step, 1e-2, 1e-3, 1e-4) * group["lr_scale"]
        clipped += nn.utils.clip_grad_norm_(model.parameters(), 1.0) > 1
        reference.step()
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert clipped >= 5
    for name, expected in values(nested(model)).items():
        np.testing.assert_allclose(values(params)[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


class TorchLars(torch.optim.Optimizer):
    """MAE's `util/lars.py` line by line."""

    def __init__(self, params, lr, weight_decay=0.0, momentum=0.9, trust_coefficient=0.001):
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust_coefficient}
        )

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                dp = p.grad
                if p.ndim > 1:
                    dp = dp.add(p, alpha=group["weight_decay"])
                    param_norm, update_norm = torch.norm(p), torch.norm(dp)
                    one = torch.ones_like(param_norm)
                    ratio = torch.where(update_norm > 0, group["trust"] * param_norm / update_norm, one)
                    dp = dp.mul(torch.where(param_norm > 0.0, ratio, one))
                momentum = self.state[p].setdefault("mu", torch.zeros_like(p))
                momentum.mul_(group["momentum"]).add_(dp)
                p.add_(momentum, alpha=-group["lr"])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_is_maes(weight_decay):
    torch.manual_seed(0)
    model = Transformer()
    nn.init.zeros_(model.head.weight)  # a parameter of norm zero is not rescaled
    params = nested(model)
    tx = optimizer.lars(optimizer.schedule(0.8, STEPS, WARMUP), weight_decay=weight_decay)
    reference = TorchLars(model.parameters(), 0.8, weight_decay)
    state, update = tx.init(params), jax.jit(tx.update)
    for step, grads in enumerate(steps_of_torch(model)):
        reference.param_groups[0]["lr"] = torch_rate(step, 0.8, 0.0, 0.0)
        reference.step()
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    for name, expected in values(nested(model)).items():
        np.testing.assert_allclose(values(params)[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_heads_of_a_grid_train_as_if_they_were_alone(name):
    settings = {"rate": np.float32([0.01, 0.1, 1.0]), "decay": np.float32([0.0, 0.1, 0.0])}

    def make_tx(value):
        rate = optimizer.schedule(value["rate"], STEPS, WARMUP)
        if name == "lars":
            return optimizer.lars(rate, weight_decay=value["decay"])
        return optimizer.adamw(rate, value["decay"], clip_norm=1.0)

    draw = lambda seed: {  # noqa: E731
        "kernel": np.random.default_rng(seed).standard_normal((3, 6, 4)).astype(np.float32),
        "bias": np.random.default_rng(seed + 100).standard_normal((3, 4)).astype(np.float32),
    }
    tx, params = optimizer.grid(make_tx, settings), draw(0)
    state, update = tx.init(params), jax.jit(tx.update)
    alone = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(3)]
    alone_tx = [make_tx({"rate": float(settings["rate"][i]), "decay": float(settings["decay"][i])}) for i in range(3)]
    alone_state = [tx.init(p) for tx, p in zip(alone_tx, alone, strict=True)]
    for step in range(1, STEPS):
        updates, state = update(draw(step), state, params)
        params = optax.apply_updates(params, updates)
        for i in range(3):
            grads = jax.tree.map(lambda leaf, i=i: leaf[i], draw(step))
            updates, alone_state[i] = alone_tx[i].update(grads, alone_state[i], alone[i])
            alone[i] = optax.apply_updates(alone[i], updates)
    for i in range(3):
        for leaf in ("kernel", "bias"):
            np.testing.assert_allclose(params[leaf][i], alone[i][leaf], rtol=1e-5, atol=1e-6)  # values up to 3


def test_layer_decay_scales_updates_and_their_weight_decay():
    params = {"stem": jnp.ones((2, 2)), "head": jnp.ones((2, 2))}
    multipliers = optimizer.layer_multipliers(["stem", "head"], lambda path: {"stem": 0, "head": 2}[path], 2, 0.5)
    assert multipliers == {"stem": 0.25, "head": 1.0}
    tx = optimizer.adamw(0.1, weight_decay=0.3, layer_scales=multipliers)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    # Adam's first step is 1; weight decay adds 0.3; both times the rate and the multiplier.
    np.testing.assert_allclose(updates["head"], -0.13, rtol=1e-5)
    np.testing.assert_allclose(updates["stem"], -0.13 / 4, rtol=1e-5)


def test_layer_decay_that_cannot_act_is_an_error():
    with pytest.raises(BobError, match=r"0\.75 acts on nothing: all 2 parameters are in the head"):
        optimizer.layer_multipliers(["a", "b"], lambda path: 5, 5, 0.75)
    with pytest.raises(BobError, match="no layer is known for parameter 'b'"):
        optimizer.layer_multipliers(["a", "b"], {"a": 0}.__getitem__, 5, 0.75)
    with pytest.raises(BobError, match="'a' is in layer 6, outside 0 to 5"):
        optimizer.layer_multipliers(["a"], lambda path: 6, 5, 0.75)
    assert optimizer.layer_multipliers(["a", "b"], lambda path: 5, 5, 1.0) == {"a": 1.0, "b": 1.0}
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    tx = optimizer.adamw(0.1, layer_scales={"a": 0.5, "c": 1.0})
    with pytest.raises(BobError, match="do not name the same things: b, c"):
        tx.update(params, tx.init(params), params)


def test_what_decays():
    params = {"blocks": {0: {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}, "position": jnp.ones((1, 2, 2))}
    assert optimizer.dotted_paths(params) == ["blocks.0.bias", "blocks.0.kernel", "position"]
    assert optimizer.decay_mask(["position"])(params) == {
        "blocks": {0: {"kernel": True, "bias": False}},
        "position": False,
    }
    with pytest.raises(BobError, match="unknown parameter without weight decay 'positions': did you mean position"):
        optimizer.decay_mask(["positions"])(params)


def test_clipping_is_by_the_global_norm():
    params = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(3)}
    clip = optimizer.adamw(1.0, betas=(0.0, 0.0), eps=1.0, clip_norm=2.0)
    grads = {"a": jnp.full((2, 2), 3.0), "b": jnp.full(3, 4.0)}
    norm = math.sqrt(4 * 9 + 3 * 16)
    updates, _ = clip.update(grads, clip.init(params), params)
    clipped = 3 * 2 / norm
    np.testing.assert_allclose(updates["a"], -clipped / (clipped + 1), rtol=1e-5)
