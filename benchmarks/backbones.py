"""How fast each family runs, beside its original implementation in PyTorch, on the same machine in the same run.

    python benchmarks/backbones.py                                     # the smallest card of each family, also for CPU
    python benchmarks/backbones.py --models vit_b16_clip resnet50_in1k --batch 256 --steps 30 --train

Forward is feature extraction at the card's input size, descriptor and maps; train is forward, backward and an SGD step.
JAX computes in bfloat16 on accelerators and in float32 on CPU, and PyTorch in the same dtype (autocast), on the same
kind of device. Weights are random: speed does not depend on them.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bob_jax.backbones import zoo
from bob_jax.terminal import print_table
from converters import references

RATE = 1e-3


def smallest_of_each() -> list[str]:
    """The card with the fewest parameters of each architecture that has published weights and a reference."""
    cards = [
        card
        for card in zoo.CARDS.values()
        if card.source and not card.source.shipped and card.architecture in references.REFERENCES
    ]
    families = dict.fromkeys(card.architecture for card in cards)
    return [
        min((card for card in cards if card.architecture == family), key=lambda card: card.parameters).name
        for family in families
    ]


def median_seconds(run: Callable[[], Any], wait: Callable[[Any], Any], steps: int) -> float:
    """Median time of a call after two warm-up calls; `wait` blocks until its work is done."""
    times = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        wait(run())
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def jax_seconds(name: str, images: np.ndarray, steps: int, *, train: bool) -> list[float]:
    """Seconds of a forward pass, and of a training step where asked for."""
    module = zoo.build(name)
    parts: Any = nnx.split(module, nnx.Param, nnx.BatchStat)
    graphdef, params, stats = parts
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    batch = jnp.asarray(images)

    @jax.jit
    def forward(params: Any, batch: jax.Array) -> Any:
        return nnx.merge(graphdef, params, stats)(batch)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(params: Any, batch: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.mean(jnp.square(nnx.merge(graphdef, params, stats)(batch, rngs=nnx.Rngs(0)).pooled))

        return jax.tree.map(lambda p, g: p - RATE * g, params, jax.grad(loss)(params))

    seconds = [median_seconds(lambda: forward(params, batch), jax.block_until_ready, steps)]
    if train:
        state = [params]

        def run() -> Any:
            state[0] = step(state[0], batch)
            return state[0]

        seconds.append(median_seconds(run, jax.block_until_ready, steps))
    return seconds


def torch_seconds(name: str, images: np.ndarray, steps: int, *, train: bool, compiled: bool) -> list[float]:
    """The same in PyTorch, eager or through `torch.compile`."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    reference = references.build(zoo.card(name))
    model = reference.module.to(device)
    run = torch.compile(reference.run) if compiled else reference.run
    batch = torch.tensor(images).permute(0, 3, 1, 2).to(device)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    autocast = functools.partial(torch.autocast, device, dtype=torch.bfloat16, enabled=device == "cuda")

    def wait(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward() -> Any:
        with torch.inference_mode(), autocast():
            return run(batch)

    def step() -> None:
        optimizer.zero_grad()
        with autocast():
            loss = run(batch)[0].square().mean()
        loss.backward()
        optimizer.step()

    seconds = [median_seconds(forward, wait, steps)]
    if train:
        model.train()
        seconds.append(median_seconds(step, wait, steps))
    return seconds


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=smallest_of_each(), help="cards with weights")
    parser.add_argument("--batch", type=int, default=4, help="images a step")
    parser.add_argument("--steps", type=int, default=3, help="timed steps; the median counts")
    parser.add_argument("--train", action="store_true", help="time a training step too")
    parser.add_argument("--compile", action="store_true", help="time torch.compile too (it compiles for minutes)")
    arguments = parser.parse_args()
    rivals = {"eager": False} | ({"compiled": True} if arguments.compile else {})
    columns = ["model", "pixels", "pass", "bob_jax img/s"]
    columns += [column for rival in rivals for column in (f"torch {rival} img/s", "ratio")]
    rows = []
    for name in arguments.models:
        side = zoo.card(name).preprocessing.input_size
        images = np.random.default_rng(0).standard_normal((arguments.batch, side, side, 3), np.float32)
        ours = jax_seconds(name, images, arguments.steps, train=arguments.train)
        theirs = [
            torch_seconds(name, images, arguments.steps, train=arguments.train, compiled=compiled)
            for compiled in rivals.values()
        ]
        for index, seconds in enumerate(ours):
            cells = [f"{arguments.batch / seconds:.1f}"]
            for rival in theirs:
                cells += [f"{arguments.batch / rival[index]:.1f}", f"{rival[index] / seconds:.2f}"]
            rows.append([name, side, ("forward", "train")[index], *cells])
            print(*rows[-1], file=sys.stderr)  # at once: the whole table takes a while
    print(f"{jax.devices()[0].device_kind}, batch {arguments.batch}, ratio above 1: bob_jax is faster")
    print_table(columns, rows)


if __name__ == "__main__":
    main()
