"""What a device can do and what it draws: published figures, for estimates of what nobody has measured yet."""

import dataclasses

import jax

from bob_jax.data.loader import cpus
from bob_jax.errors import BobError

# Share of the published peak that forward passes and training steps are taken to reach. An assumption, not a
# measurement: well-fed vision transformers reach 0.3 to 0.5, convolutions and small batches less.
UTILISATION = 0.3

# GFLOPs a second of one CPU core that XLA's float32 programs did reach: of 2 cores of an AMD EPYC, docs/performance.md
# has 98 for a ViT-S/16 and 182 for a ViT-B/16.
CPU_CORE = 60.0


@dataclasses.dataclass(frozen=True)
class Device:
    """An accelerator as its maker describes it.

    Attributes:
        kind: as JAX names it (`jax.devices()[0].device_kind`).
        peak: TFLOPs a second in bfloat16, dense; where only "with sparsity" is published, half of that.
        watts: the most that the whole board or chip draws; None where it is not published.
        source: of both.
    """

    kind: str
    peak: float
    watts: float | None
    source: str


DEVICES = (
    Device("NVIDIA L4", 121, 72, "NVIDIA L4 Tensor Core GPU datasheet: 242 with sparsity"),
    Device("NVIDIA L40S", 362, 350, "NVIDIA L40S datasheet: 362.05"),
    Device("NVIDIA GeForce RTX 4090", 165, 450, "NVIDIA Ada GPU architecture whitepaper, appendix A: 165.2, FP32 sums"),
    Device("NVIDIA A100-SXM4-40GB", 312, 400, "NVIDIA A100 Tensor Core GPU datasheet"),
    Device("NVIDIA A100-SXM4-80GB", 312, 400, "NVIDIA A100 Tensor Core GPU datasheet"),
    Device("NVIDIA A100 80GB PCIe", 312, 300, "NVIDIA A100 Tensor Core GPU datasheet"),
    Device("NVIDIA H100 PCIe", 756, 350, "NVIDIA H100 Tensor Core GPU datasheet (2022): 1,513 with sparsity"),
    Device("NVIDIA H100 80GB HBM3", 989, 700, "NVIDIA H100 Tensor Core GPU datasheet, SXM: 1,979 with sparsity"),
    Device("NVIDIA H200", 989, 700, "NVIDIA H200 Tensor Core GPU datasheet, SXM: 1,979 with sparsity"),
    Device("NVIDIA B200", 2250, 1000, "NVIDIA Blackwell architecture technical brief, HGX B200: 4,500 with sparsity"),
    # A device of a v3 is a core: half a chip. Of later ones it is a chip.
    Device("TPU v3", 61.5, None, "Cloud TPU documentation, TPU v3: 123 a chip"),
    Device("TPU v4", 275, 192, "Cloud TPU documentation, TPU v4; power: arXiv 2304.01433, the most measured"),
    Device("TPU v5 lite", 197, None, "Cloud TPU documentation, TPU v5e"),
    Device("TPU v5", 459, None, "Cloud TPU documentation, TPU v5p"),
    Device("TPU v6 lite", 918, None, "Cloud TPU documentation, TPU v6e"),
)
CPU = "cpu"

# What a product in full float32 costs a matrix unit of bfloat16: each factor is split into three parts, and of the nine
# products of parts six are made (XLA's `Precision.HIGHEST` on a TPU). A GPU's float32 units are slower still, 15 times
# on an H100 (its datasheet: 67 TFLOPs a second).
FLOAT32 = 6.0


def named(text: str) -> str:
    """The kind of device that a name means: JAX's own, or a part of it that fits one kind alone ("h200", "v4").

    Raises:
        BobError: it fits none of the table, or several.
    """
    kinds = (CPU, *(device.kind for device in DEVICES))
    exact = [kind for kind in kinds if kind.lower() == text.lower()]
    fitting = exact or [kind for kind in kinds if text.lower() in kind.lower()]
    if len(fitting) == 1:
        return fitting[0]
    word = "several devices" if fitting else "no device"
    raise BobError(f"--device '{text}' fits {word}: name one of {', '.join(fitting or kinds)}")


def here() -> str:
    """The kind of this machine's devices.

    Raises:
        BobError: JAX cannot have them: a run holds the TPU, say.
    """
    try:
        kind: str = jax.devices()[0].device_kind
    except RuntimeError as error:
        told = " ".join(str(error).split())
        raise BobError(f"no device can be had here, so name one (bob plan --device h200): {told}") from error
    return kind


def speed(kind: str) -> float | None:
    """GFLOPs a second that a device is taken to reach; None for one that is not in the table."""
    if kind == CPU:
        return CPU_CORE * cpus()
    return next((UTILISATION * device.peak * 1000 for device in DEVICES if device.kind == kind), None)


def float32_cost(kind: str) -> float:
    """How much longer a product in full float32 takes than one that `speed` speaks of; a processor has no other."""
    return 1.0 if kind == CPU else FLOAT32


def power(kind: str) -> float | None:
    """Watts under load; None where they are not known, as of a processor that only says it is a CPU."""
    return next((device.watts for device in DEVICES if device.kind == kind), None)
