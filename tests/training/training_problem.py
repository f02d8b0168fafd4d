"""A small problem for the tests of the training room: a net with every kind of state, and data from the step alone.

Also a program, for what needs a process of its own: `python training_problem.py '{"folder": ..., "steps": ...}'` trains
and writes all parameters, the loss of every step and the cost beside the checkpoints.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    import jax

    OPTIONS = json.loads(sys.argv[1])
    jax.config.update("jax_num_cpu_devices", OPTIONS["devices"])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_compilation_cache_dir", OPTIONS["cache"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bob_jax.training import mesh as meshes
from bob_jax.training import optimizer
from bob_jax.training.checkpoint import Checkpointing
from bob_jax.training.loop import fit
from bob_jax.training.step import Aux

CLASSES, FEATURES, WIDTH = 5, 16, 64
BATCH = 32


class Net(nnx.Module):
    """[B, 16] -> [B, 5]. Widths of 64 make the kernels large enough to be sharded."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Linear(FEATURES, WIDTH, use_bias=False, rngs=rngs)  # BatchNorm would cancel it
        self.norm = nnx.BatchNorm(WIDTH, momentum=0.9, use_fast_variance=False, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        x = self.norm(self.stem(x), use_running_average=key is None)
        for index, block in enumerate(self.blocks):
            y = jax.nn.gelu(block(x))
            if key is not None:  # dropout
                y *= jax.random.bernoulli(jax.random.fold_in(key, index), 0.8, y.shape)
            x = x + y
        return self.head(x)


def new_state(seed: int = 0) -> tuple[dict, dict]:
    """Parameters and batch statistics as plain dicts."""
    _, params, stats = nnx.split(Net(nnx.Rngs(seed)), nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


GRAPHDEF = nnx.graphdef(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))


def loss_fn(params, frozen, stats, batch, key):
    """Masked cross-entropy of inputs scaled by the frozen tree."""
    net = nnx.merge(GRAPHDEF, params, stats)
    logits = net(batch["x"] * frozen["scale"], key)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    hits = (logits.argmax(-1) == batch["y"]) * batch["mask"]
    aux = Aux(batch["mask"].sum(), nnx.to_pure_dict(nnx.state(net, nnx.BatchStat)), {"accuracy": hits.sum()})
    return (losses * batch["mask"]).sum(), aux


FROZEN = {"scale": np.float32(1.5)}


def make_batch(step: int, size: int = BATCH) -> dict[str, np.ndarray]:
    """The batch of one step; the last two rows are padding."""
    rng = np.random.default_rng(step)
    x = rng.standard_normal((size, FEATURES)).astype(np.float32)
    y = (x[:, :CLASSES] + 0.1 * rng.standard_normal((size, CLASSES))).argmax(-1).astype(np.int32)
    return {"x": x, "y": y, "mask": (np.arange(size) < size - 2).astype(np.float32)}


def batches(start: int):
    """This process's rows of the batches from a step on."""
    step, part = start, BATCH // jax.process_count()
    while True:
        rows = slice(jax.process_index() * part, (jax.process_index() + 1) * part)
        yield {name: value[rows] for name, value in make_batch(step).items()}
        step += 1


def make_tx(total_steps: int) -> optax.GradientTransformation:
    """AdamW with everything on that holds state."""
    rate = optimizer.schedule(3e-3, total_steps, warmup_steps=2)
    return optimizer.adamw(rate, weight_decay=0.05, clip_norm=1.0)


def train(total_steps: int, mesh: jax.sharding.Mesh, **options):
    """`fit` on this problem; what is not given has the value that most tests want."""
    params, stats = new_state()
    given = {"tx": make_tx(total_steps), "batches": batches, "key": jax.random.key(7), "stats": stats} | options
    given = {"loss_fn": loss_fn, "frozen": FROZEN, "log_every": 1} | given
    return fit(given.pop("params", params), total_steps=total_steps, mesh=mesh, **given)


def flat(tree) -> dict[str, np.ndarray]:
    """Dotted path -> array on the host."""
    return {
        optimizer.dotted_path(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }


def _troubled_batches(start: int):
    """`batches`, and at one step what OPTIONS ask for: a signal to this process, or no room for files."""
    for step, batch in enumerate(batches(start), start):
        if step == OPTIONS.get("trouble_at") and jax.process_index() == OPTIONS.get("trouble_in", 0):
            if "signal" in OPTIONS:
                os.kill(os.getpid(), getattr(signal, OPTIONS["signal"]))
            else:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, 2**15))
        yield batch


def main() -> None:
    meshes.initialize_distributed()
    folder = Path(OPTIONS["folder"])
    checkpointing = Checkpointing(folder / "checkpoints", every=OPTIONS["every"], identity={"problem": "tiny"})
    reports: list[dict] = []
    result = train(
        OPTIONS["steps"],
        meshes.make_mesh(OPTIONS.get("fsdp", 1)),
        batches=_troubled_batches,
        accumulate=OPTIONS.get("accumulate", 1),
        ema_decay=OPTIONS.get("ema_decay"),
        checkpointing=checkpointing,
        on_log=reports.append,
        journal=folder / "journal.jsonl",
    )
    state = {"params": result.state.params, "stats": result.state.stats, "ema": result.state.ema}
    state = jax.jit(lambda tree: tree, out_shardings=meshes.replicated(result.state.step.sharding.mesh))(state)
    if jax.process_index() == 0:
        np.savez(folder / "result.npz", **flat(state))
        (folder / "result.json").write_text(json.dumps({"reports": reports, "steps": result.cost.steps}))


if __name__ == "__main__":
    main()
