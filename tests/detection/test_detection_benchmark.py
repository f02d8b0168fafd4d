"""benchmarks/detection.py on a detector that is small enough: every part is found, and its count is what it must be."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bob_jax.detection import roi_align
from configs.digits import PROTOCOLS

SIZE, CLASSES = 64, 80
SMALL = PROTOCOLS["detection"] | {"rois": 64, "positive_share": 0.5}


@pytest.fixture(scope="module")
def benchmark():
    folder = Path(__file__).parents[2] / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        spec = importlib.util.spec_from_file_location("detection_benchmark", folder / "detection.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        patch.setattr(roi_align, "CHUNK", roi_align.CHUNK)  # the count changes it, in a process of its own
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def counted(benchmark):
    case = benchmark.Case("resnet10_nano_random", SIZE, batch=2, steps=0, heads=True)
    return benchmark.run(case, SMALL)


def test_steps_and_parts_are_counted(counted):
    gflops = {name: forward.gflops for name, forward, _ in counted["parts"]}
    assert min(gflops.values()) > 0 and len(gflops) == 14
    # What runs in a step is at most the step: forward alone in use, two more passes in training.
    used = ("backbone", "neck", "RPN", "proposals, use", "detections, use")
    trained = [both.gflops for name, _, both in counted["parts"] if name in ("backbone", "neck", "RPN")]
    assert sum(gflops[name] for name in used) < counted["steps"]["use"].gflops
    assert sum(trained) < counted["steps"]["training"].gflops


def test_the_count_of_a_picture_is_that_of_its_matrix_products(counted):
    width, rois, positive, hidden = (SMALL["width"], 64, 32, SMALL["box_hidden"])
    by_hand = {
        "box head, 1 of 3": rois * (49 * width * hidden + hidden**2 + hidden * (CLASSES + 5)),
        # One 3x3 convolution, the deconvolution (a 2x2 of every cell), and the class's own weights.
        "mask head, 1 of 1": positive * (14**2 * 9 * width**2 + 28**2 * width**2 + 28**2 * width),
    }
    for name, forward, both in counted["parts"]:
        if name in by_hand:
            # Less the zeros around 14 x 14 cells (9 %), and biases, norms and ReLUs on top.
            assert 0.88 < forward.gflops * 1e9 / (2 * by_hand[name]) < 1.05, name
            assert 2.8 < both.gflops / forward.gflops < 3.1, name


def test_only_what_learns_has_a_gradient(counted):
    without = {name for name, _, both in counted["parts"] if both.gflops is None}
    assert without == {"proposals, training", "proposals, use", "draw of a stage", "detections, use"}


def test_a_count_does_not_leave_a_loop_uncounted(counted, benchmark):
    gflops = {name: forward.gflops for name, forward, _ in counted["parts"]}
    levels = [SIZE // stride for stride in (4, 8, 16, 32)]
    # All boxes on each level, since maps are small: rows first, then columns.
    by_hand = sum(64 * 7 * SMALL["width"] * side * (side + 7) for side in levels)
    assert 1 < gflops["RoIAlign 7, matmul"] * 1e9 / (2 * by_hand) < 1.6  # and the weights of the interpolation


def test_what_runs_is_timed(benchmark):
    case = benchmark.Case("nothing", SIZE, batch=2, steps=1)
    figures, result = benchmark.measure(jax.jit(jnp.sin), [jnp.ones((250, 1000))], case)
    np.testing.assert_allclose(result[0, 0], np.sin(1), rtol=1e-6)
    assert figures.seconds > 0 and figures.megabytes == pytest.approx(2, rel=0.01)


def test_a_part_is_differentiated_in_what_learns_alone(benchmark):
    part = SimpleNamespace(run=lambda x, y: x * y, learns=1)
    (gradient,) = benchmark.with_backward(part)(jnp.array(3.0), jnp.array(2.0))
    assert gradient == 2 * 3 * 2**2
