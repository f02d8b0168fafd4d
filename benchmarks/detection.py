"""How fast a detector learns and looks, whole and part by part, in how much memory; where it can, beside torchvision's.

    python benchmarks/detection.py                                                    # R50, ConvNeXt-T, ViT-B at 1024
    python benchmarks/detection.py --backbones resnet50_in1k --size 256 --batch 1     # what a CPU can do
    python benchmarks/detection.py --count                                            # FLOPs, without running anything

The detector is the recipe `detection` of configs/detection.py, on one device. Weights and pictures are random; the box
heads take every proposal for an object of the first class, so that the last suppression is given 1,000 boxes and masks
are made of 100. Each detector runs in a process of its own. Peak memory of a step is the device's own count, and where
it keeps none (CPU) that of the compiled program: arguments, results and what lies between.

torchvision's Mask R-CNN has one stage and no norms; its row is compared with the same design in JAX, run beside it. It
needs a torch that computes on the same kind of device, and the torchvision whose compiled operators fit that torch.
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from detection_parts import CERTAIN, parts, with_backward

from bob_jax.backbones import zoo
from bob_jax.data.base import Dataset
from bob_jax.detection import roi_align
from bob_jax.detection.objects import Objects
from bob_jax.protocols.base import Competitor, Context
from bob_jax.protocols.detection import Detection
from bob_jax.protocols.detection_training import Trainer
from bob_jax.protocols.detector import Detector
from bob_jax.terminal import print_table
from bob_jax.training.state import create_state
from bob_jax.training.step import make_train_step
from configs.detection import PROTOCOLS
from converters.detectors import MASK_RCNN

BACKBONES = ("resnet50_in1k", "convnext_t_in1k", "vit_b16_mae")
RIVAL, RIVALLED = "torchvision", "resnet50_in1k"
CLASSES = 80
OBJECTS = 8  # of a picture; COCO has 7.3
RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
    """What a process measures.

    Attributes:
        name: of the backbone, or "torchvision".
        size: side of the pictures in pixels.
        batch: pictures a step.
        steps: timed calls, of which the median counts; 0 counts FLOPs and runs nothing.
        heads: whether parts behind the neck are measured too; they are the same behind every backbone.
        one_stage: the design of torchvision's detector.
        platform: of the rival: JAX's name.
    """

    name: str
    size: int
    batch: int
    steps: int
    heads: bool = False
    one_stage: bool = False
    platform: str = ""


class Figures(NamedTuple):
    """Of a function: operations of a picture in 10^9, seconds of a call, megabytes; None where not measured."""

    gflops: float | None = None
    seconds: float | None = None
    megabytes: float | None = None


def measure(run: Any, arguments: Sequence[Any], case: Case) -> tuple[Figures, Any]:
    """Figures of a jitted function that does not donate, and what it gives; shapes alone where nothing runs."""
    lowered = run.lower(*arguments)
    if not case.steps:
        return Figures(_gflops(lowered, case.batch)), jax.eval_shape(run, *arguments)
    program = lowered.compile()
    result = program(*arguments)
    seconds = median_seconds(lambda: jax.block_until_ready(program(*arguments)), case.steps)
    return Figures(seconds=seconds, megabytes=_megabytes(program)), result


def median_seconds(call: Callable[[], Any], steps: int) -> float:
    """Median time of a call after a warm-up; it must return when its work is done."""
    times = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _gflops(lowered: Any, batch: int) -> float | None:
    """Of a picture; None where the platform does not count."""
    analysis = lowered.cost_analysis()
    return analysis["flops"] / batch / 1e9 if analysis else None


def _megabytes(program: Any) -> float | None:
    """What a compiled program needs at once: arguments, results not in an argument's place, what lies between."""
    sizes = program.memory_analysis()
    if sizes is None:
        return None
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return (sizes.argument_size_in_bytes + results + sizes.temp_size_in_bytes) / 1e6


def _peak(device: jax.Device) -> float | None:
    """Most megabytes in use on the device so far; None where it does not count."""
    counted = device.memory_stats()
    return counted["peak_bytes_in_use"] / 1e6 if counted else None


def make_batch(case: Case, protocol: Detection, seed: int) -> dict[str, np.ndarray]:
    """A batch as the loader makes it, of noise."""
    rng = np.random.default_rng(seed)
    leading = (case.batch, protocol.slots)
    corner = rng.uniform(0, 0.7 * case.size, (*leading, 2))
    sides = rng.uniform(0.03 * case.size, 0.3 * case.size, (*leading, 2))
    return {
        "image": rng.integers(0, 256, (case.batch, case.size, case.size, 3), np.uint8),
        "extent": np.full((case.batch, 2), case.size, np.int32),
        "boxes": np.concatenate([corner, corner + sides], axis=-1).astype(np.float32),
        "classes": rng.integers(0, CLASSES, leading, np.int32),
        "valid": np.broadcast_to(np.arange(protocol.slots) < OBJECTS, leading),
        "masks": rng.integers(0, 2, (*leading, protocol.mask_side, protocol.mask_side), np.uint8),
        "overflow": np.zeros(case.batch, np.int32),
        "mask": np.ones(case.batch, bool),
        "index": np.arange(case.batch),
    }


def run(case: Case, hyperparameters: Mapping[str, Any] = PROTOCOLS["detection"]) -> dict[str, Any]:
    """Figures of a detector's steps and parts: {"steps": {name: Figures}, "parts": [(name, forward, both)], ...}."""
    if not case.steps:
        roi_align.CHUNK = 1 << 20  # the count takes a loop's body once: without chunks there is no loop
    device = jax.devices()[0]
    changed = {"size": case.size, "batch_size": case.batch} | (dataclasses.asdict(MASK_RCNN) if case.one_stage else {})
    protocol = Detection.from_config({**hyperparameters, **changed})
    card = zoo.card(case.name)
    module = zoo.build(case.name, drop_path=protocol.drop_path_rate(), window=protocol.attention_window())
    axes = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=axes, devices=[device])
    dataset = Dataset("noise", "1", tuple(map(str, range(CLASSES))), {}, {}, "mask_ap", "none")
    trainer = Trainer(protocol, Competitor(card, module, "0" * 64), dataset, Context(mesh, Path()))
    detector = trainer.detector
    for head in detector.heads.box_heads:
        head.cls_score.bias[...] = head.cls_score.bias[...].at[0].set(CERTAIN)
    batch = {name: jnp.asarray(array) for name, array in make_batch(case, protocol, 0).items()}
    with jax.set_mesh(mesh):
        steps = {"use": _use(detector, mesh, batch, case, device), "training": _training(trainer, batch, case, device)}
    print(case.name, steps, file=sys.stderr)
    return {
        "steps": steps,
        "parts": [] if case.one_stage else _parts(detector, batch, case),
        "platform": device.platform,
        "on": f"{device.device_kind}, jax {version('jax')}, flax {version('flax')}",
        "dtype": jnp.dtype(module.dtype).name,
    }


def _use(detector: Detector, mesh: jax.sharding.Mesh, batch: Any, case: Case, device: jax.Device) -> Figures:
    arguments = (detector.weights, batch["image"], batch["extent"])
    figures, found = measure(detector.prediction(mesh), arguments, case)
    if case.steps and not np.asarray(found.valid).any():
        raise SystemExit("benchmark: nothing was found, so that masks were made of nothing")
    return figures._replace(megabytes=_peak(device) or figures.megabytes)


def _training(trainer: Trainer, batch: Any, case: Case, device: jax.Device) -> Figures:
    tx = trainer._optimizer(RATE, 1000)
    weights = trainer.detector.weights  # those that were changed
    state = create_state(weights["params"], weights["stats"], jax.random.key(0), tx, trainer.context.mesh)
    step = make_train_step(trainer._loss(), tx, jax.tree.map(lambda leaf: leaf.sharding, state))
    lowered = step.lower(state, {}, batch)
    if not case.steps:
        return Figures(_gflops(lowered, case.batch))
    program, held = lowered.compile(), [state]
    # One program serves every batch: a compiled one is not compiled again, it would refuse another shape.
    others = make_batch(case, trainer.protocol, 1)

    def call() -> None:
        held[0], sums = program(held[0], {}, batch)
        jax.block_until_ready((held[0], sums))

    seconds = median_seconds(call, case.steps)
    _, sums = program(held[0], {}, {name: jnp.asarray(array) for name, array in others.items()})
    if not np.isfinite(sums["loss"]):
        raise SystemExit("benchmark: the loss is not finite")
    return Figures(seconds=seconds, megabytes=_peak(device) or _megabytes(program))


def _parts(detector: Detector, batch: Any, case: Case) -> list[tuple[str, Figures, Figures]]:
    images = jnp.asarray(batch["image"], jnp.float32) / 128 - 1
    maps = jax.eval_shape(lambda x: detector.competitor.module(x).maps, images)
    found, values = parts(detector, maps)
    values |= {
        "images": images,
        "extents": batch["extent"],
        "objects": Objects(batch["boxes"], batch["classes"], batch["valid"], batch["masks"]),
        "keys": jax.random.split(jax.random.key(0), case.batch),
    }
    rows = []
    for part in found if case.heads else found[:2]:
        arguments = [values[name] for name in part.needs]
        forward, values[part.gives] = measure(jax.jit(part.run), arguments, case)
        both = measure(jax.jit(with_backward(part)), arguments, case)[0] if part.learns else Figures()
        rows.append((part.name, forward, both))
        print(case.name, *rows[-1], file=sys.stderr)  # at once: the whole takes a while
    return rows


def run_torchvision(case: Case) -> dict[str, Any]:
    """The same steps of torchvision's Mask R-CNN R50: {"steps": ..., "on": ...}; or {"why": ...} there are none."""
    try:
        import torch
        import torchvision
        from torchvision.models.detection import MaskRCNN
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.models.resnet import Bottleneck
    except (ImportError, RuntimeError) as error:
        return {"why": f"{error}; it needs a torch and a torchvision that belong together"}
    if case.platform not in ("cpu", "gpu"):
        return {"why": f"PyTorch does not run on JAX's platform {case.platform}"}
    if case.platform == "gpu" and not torch.cuda.is_available():
        return {"why": "this torch has no CUDA"}
    on_gpu = case.platform == "gpu"
    device = "cuda" if on_gpu else "cpu"
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5)  # batch norms frozen
    for block in backbone.modules():
        if isinstance(block, Bottleneck):
            block.bn3.weight.zero_()  # as ours start: the norms do not normalise yet
    model = MaskRCNN(backbone, CLASSES + 1, min_size=case.size, max_size=case.size)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[1] = CERTAIN
    model.transform.postprocess = lambda found, *_: found  # ours pastes masks on the host, beside the device's work
    model.to(device)
    protocol = Detection.from_config(PROTOCOLS["detection"])
    batch = make_batch(case, protocol, 0)
    images = [torch.tensor(image).permute(2, 0, 1).to(device).float() / 255 for image in batch["image"]]
    targets = [
        {
            "boxes": torch.tensor(batch["boxes"][row, :OBJECTS], device=device),
            "labels": torch.tensor(batch["classes"][row, :OBJECTS] + 1, device=device).long(),
            "masks": torch.ones(OBJECTS, case.size, case.size, dtype=torch.uint8, device=device),
        }
        for row in range(case.batch)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    autocast = functools.partial(torch.autocast, device, dtype=torch.bfloat16, enabled=on_gpu)

    def look() -> None:
        with torch.inference_mode(), autocast():
            model(images)

    def learn() -> None:
        optimizer.zero_grad()
        with autocast():
            loss = sum(model(images, targets).values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    steps = {}
    for name, call, training in (("use", look, False), ("training", learn, True)):
        model.train(training)

        def timed(call: Callable[[], None] = call) -> None:
            call()
            if on_gpu:
                torch.cuda.synchronize()

        seconds = median_seconds(timed, case.steps)
        steps[name] = Figures(None, seconds, torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None)
    return {"steps": steps, "on": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}


def apart(case: Case) -> dict[str, Any]:
    """What `run` finds in a process of its own; {"why": ...} where it ended before it had found anything."""
    # FLOPs are counted where they are the same for everybody: in float32, and without a device.
    environment = os.environ | ({} if case.steps else {"JAX_PLATFORMS": "cpu"})
    command = [sys.executable, __file__, "--case", json.dumps(dataclasses.asdict(case))]
    done = subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:  # most often out of memory: the others are not lost with it
        return {"why": f"its process ended with {done.returncode}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _words(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _ms(seconds: float | None) -> str:
    return _words(None if seconds is None else 1000 * seconds, 1)


def print_counts(found: Mapping[str, Any]) -> None:
    """GFLOPs of a picture, one column for each backbone; of what learns also with its gradient."""
    rows: dict[str, dict[str, str]] = {}
    for name, seen in found.items():
        for part, (forward, *_), (both, *_) in seen["parts"]:
            rows.setdefault(part, {})[name] = f"{_words(forward, 1)} / {_words(both, 1)}"
        for step, (gflops, *_) in seen["steps"].items():
            rows.setdefault(f"step of {step}", {})[name] = _words(gflops, 1)
    print_table(("GFLOPs, with gradient", *found), [[part, *map(row.get, found)] for part, row in rows.items()])


def print_times(found: Mapping[str, Any], batch: int) -> None:
    """Seconds and megabytes of steps and parts."""
    rows = [
        [name, step, _ms(seconds), _words(batch / seconds, 2), _words(megabytes)]
        for name, seen in found.items()
        for step, (_, seconds, megabytes) in seen["steps"].items()
    ]
    print_table(("detector", "step", "ms", "images/s", "peak MB"), rows)
    rows = [
        [name, part, _ms(forward[1]), _ms(both[1]), _words(forward[2]), _words(both[2])]
        for name, seen in found.items()
        for part, forward, both in seen["parts"]
    ]
    print_table(("detector", "part", "ms", "ms with gradient", "MB", "MB with gradient"), rows)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, help="names in the zoo")
    parser.add_argument("--size", type=int, default=1024, help="side of the pictures in pixels")
    parser.add_argument("--batch", type=int, default=4, help="pictures a step")
    parser.add_argument("--steps", type=int, default=5, help="timed calls; the median counts")
    parser.add_argument("--count", action="store_true", help="count FLOPs instead, of one picture")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # the measured process itself
    arguments = parser.parse_args()
    if arguments.case:
        case = Case(**json.loads(arguments.case))
        return print(json.dumps((run_torchvision if case.name == RIVAL else run)(case)))
    batch, steps = (1, 0) if arguments.count else (arguments.batch, arguments.steps)
    names = arguments.backbones
    found = {name: apart(Case(name, arguments.size, batch, steps, heads=name == names[0])) for name in names}
    for name in names:
        if "why" in found[name]:
            print(f"not measured: {name}: {found.pop(name)['why']}")
    if not found:
        return None
    first = next(iter(found.values()))
    if arguments.count:
        print(f"{arguments.size} x {arguments.size}, {first['on']}")
        return print_counts(found)
    print(f"{first['on']}, {first['dtype']}; {arguments.size} x {arguments.size}, batch {batch}")
    rival = apart(Case(RIVAL, arguments.size, batch, steps, platform=first["platform"]))
    ours = {} if "why" in rival else apart(Case(RIVALLED, arguments.size, batch, steps, one_stage=True))
    if "why" in rival | ours:
        print(f"not compared with torchvision: {(rival | ours)['why']}")
        return print_times(found, batch)
    print_times(found | {f"{RIVALLED}, one stage": ours, f"{RIVAL} R50": rival | {"parts": []}}, batch)
    for step in ("use", "training"):
        ratio = rival["steps"][step][1] / ours["steps"][step][1]
        print(f"{step}, one stage: {ratio:.2f} times as fast as Mask R-CNN R50 of {rival['on']}")
    return None


if __name__ == "__main__":
    main()
