"""How fast a backbone runs, beside timm in PyTorch on the same machine in the same run.

    python benchmarks/backbone_throughput.py                                  # small defaults, also for CPU
    python benchmarks/backbone_throughput.py --models vit_b16_clip resnet50_in1k --batch 256 --steps 30

Forward is feature extraction; train is forward, backward and an SGD step. JAX computes in bfloat16 on accelerators
and in float32 on CPU, and PyTorch in the same dtype (autocast), on the same kind of device. Weights are random:
speed does not depend on them.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from bob_jax.backbones import zoo

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from torch_reference import import_timm

RATE = 1e-3
TIMM_NAMES = {
    "vit_s16_dino": "vit_small_patch16_224.dino",
    "vit_b16_clip": "vit_base_patch16_clip_224.laion2b",
    "resnet18_in1k": "resnet18.a1_in1k",
    "resnet50_in1k": "resnet50.a1_in1k",
}


def median_seconds(run: Callable[[], Any], wait: Callable[[Any], Any], steps: int) -> float:
    """Median time of a call after two warm-up calls; `wait` blocks until its work is done."""
    times = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        wait(run())
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def jax_seconds(name: str, images: np.ndarray, steps: int) -> tuple[float, float]:
    """Seconds of a forward pass and of a training step."""
    module = zoo.build(name)
    parts: Any = nnx.split(module, nnx.Param, nnx.BatchStat)
    graphdef, params, stats = parts
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    batch = jnp.asarray(images)

    @jax.jit
    def forward(params: Any, batch: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params, stats)(batch).pooled

    @functools.partial(jax.jit, donate_argnums=0)
    def train(params: Any, batch: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.mean(jnp.square(nnx.merge(graphdef, params, stats)(batch, rngs=nnx.Rngs(0)).pooled))

        return jax.tree.map(lambda p, g: p - RATE * g, params, jax.grad(loss)(params))

    first = median_seconds(lambda: forward(params, batch), jax.block_until_ready, steps)
    state = [params]

    def step() -> Any:
        state[0] = train(state[0], batch)
        return state[0]

    return first, median_seconds(step, jax.block_until_ready, steps)


def torch_seconds(name: str, images: np.ndarray, steps: int, compiled: bool) -> tuple[float, float]:
    """The same in PyTorch, eager or through `torch.compile`."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = import_timm().create_model(TIMM_NAMES[name], pretrained=False, num_classes=0).to(device)
    batch = torch.tensor(images).permute(0, 3, 1, 2).to(device)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    call = torch.compile(model) if compiled else model
    autocast = functools.partial(torch.autocast, device, dtype=torch.bfloat16, enabled=device == "cuda")

    def wait(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward() -> Any:
        with torch.inference_mode(), autocast():
            return call(batch)

    def train() -> None:
        optimizer.zero_grad()
        with autocast():
            loss = call(batch).square().mean()
        loss.backward()
        optimizer.step()

    model.eval()
    first = median_seconds(forward, wait, steps)
    model.train()
    return first, median_seconds(train, wait, steps)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet18_in1k", "vit_s16_dino"], choices=sorted(TIMM_NAMES))
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--steps", type=int, default=5, help="timed steps; the median counts")
    parser.add_argument("--compile", action="store_true", help="time torch.compile too (it compiles for minutes)")
    arguments = parser.parse_args()
    shape = (arguments.batch, arguments.size, arguments.size, 3)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    device = jax.devices()[0].device_kind
    table = Table("model", "pass", "bob_jax img/s", title=f"{device}, batch {arguments.batch}, {arguments.size} px")
    rivals = {"timm": False} | ({"timm, compiled": True} if arguments.compile else {})
    for rival in rivals:
        table.add_column(f"{rival} img/s", justify="right")
        table.add_column("ratio", justify="right")
    for name in arguments.models:
        ours = jax_seconds(name, images, arguments.steps)
        theirs = {rival: torch_seconds(name, images, arguments.steps, flag) for rival, flag in rivals.items()}
        for i, title in enumerate(("forward", "train")):
            cells = [f"{arguments.batch / ours[i]:.1f}"]
            for seconds in theirs.values():
                cells += [f"{arguments.batch / seconds[i]:.1f}", f"{seconds[i] / ours[i]:.2f}"]
            table.add_row(name, title, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
