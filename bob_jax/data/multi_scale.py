"""Short side 800, long side at most 1333, on four canvases: pictures of the 2023 benchmark's hierarchical backbones.

There the sides of a batch were those of its largest picture; here they are 800 x 1088 (4:3 and what is nearer to a
square) or 800 x 1344, lying or upright, by the aspect of the file's picture alone, so that four programs serve all. The
picture stands at the top left, the rest is padding.

Training is mmdetection's multi-scale training with crops (DETR's, arXiv 2005.12872, as Swin and ConvNeXt use it). The
benchmark's other single scale, the longer side 512 and flips alone, is `Jitter(512, scale=(1, 1))` and `Fit(512)`.
"""

import dataclasses
import math

import numpy as np

from bob_jax.data.coco import Scene
from bob_jax.data.detection_transforms import Framed, SceneTransform, Slots, View, framed

MULTIPLE = 32  # of the sides of canvases: the coarsest stride of a feature pyramid's backbone

# As fractions of the short side's 800 pixels.
LONGEST = 1333 / 800
ASPECT = 1.36  # the longer side of the nearly square canvases
SHORT = tuple(side / 800 for side in range(480, 801, 32))
SHORT_BEFORE_CROP = (400 / 800, 500 / 800, 600 / 800)
CROP = (384 / 800, 600 / 800)  # range of each side

CROPPED = 0.5  # how often


@dataclasses.dataclass(frozen=True)
class SingleScale(SceneTransform):
    """The whole picture as large as it may be, for evaluation. Nothing is random.

    Attributes:
        size: the short side, a multiple of 32 pixels; all other sides keep their proportion to it.
        slots: of objects.
    """

    size: int = 800
    slots: Slots = dataclasses.field(default_factory=Slots)

    @property
    def canvases(self) -> tuple[tuple[int, int], ...]:
        """Nearly square and long, lying; the same upright."""
        long = [MULTIPLE * math.ceil(round(self.size * aspect / MULTIPLE, 6)) for aspect in (ASPECT, LONGEST)]
        return (self.size, long[0]), (self.size, long[1]), (long[0], self.size), (long[1], self.size)

    def canvas(self, height: int, width: int) -> int:
        """The smallest on which the picture fits as `SingleScale` shows it; a square lies."""
        resized = _times((height, width), _factor((height, width), self.size, self.size * LONGEST))
        return (height > width) * 2 + (max(resized) > self.canvases[0][1])

    def __call__(self, scene: Scene, rng: np.random.Generator | None = None) -> Framed:
        """The whole picture."""
        height, width = scene["image"].shape[:2]
        resized = _times((height, width), _factor((height, width), self.size, self.size * LONGEST))
        canvas = self.canvases[self.canvas(height, width)]
        return framed(scene, View((height, width), resized, (0, 0), resized, False), canvas, self.slots)


@dataclasses.dataclass(frozen=True)
class MultiScale(SingleScale):
    """The picture, or a part of it, at one of eleven scales, for training.

    Mirrored half of the time. Then, half of the time each, (a) the short side becomes 480, 512, ... or 800, the longer
    at most 1333; or (b) the short side becomes 400, 500 or 600, of which a part with sides from 384 to 600 is cut, and
    then as (a). A part may hold no object. Of the two resizings of (b) one is made.

    A part need not lie as its picture does, and may be longer: what would not fit on the picture's canvas is scaled
    down until it does.
    """

    def __call__(self, scene: Scene, rng: np.random.Generator | None = None) -> Framed:
        """All randomness comes from `rng`."""
        assert rng is not None
        height, width = scene["image"].shape[:2]
        canvas = self.canvases[self.canvas(height, width)]
        flip = bool(rng.random() < 0.5)
        whole: tuple[float, float] = (height, width)
        part = whole
        longest = self.size * LONGEST
        if rng.random() < CROPPED:
            factor = _factor(whole, self.size * SHORT_BEFORE_CROP[rng.integers(len(SHORT_BEFORE_CROP))], longest)
            whole = height * factor, width * factor
            least, most = (self.size * side for side in CROP)
            part = (
                rng.uniform(min(whole[0], least), min(whole[0], most)),
                rng.uniform(min(whole[1], least), min(whole[1], most)),
            )
        factor = _factor(part, self.size * SHORT[rng.integers(len(SHORT))], longest)
        factor = min(factor, canvas[0] / part[0], canvas[1] / part[1])
        resized, extent = _times(whole, factor), _times(part, factor)
        top, left = (int(rng.integers(all_of - seen + 1)) for all_of, seen in zip(resized, extent, strict=True))
        return framed(scene, View((height, width), resized, (top, left), extent, flip), canvas, self.slots)


def _factor(sides: tuple[float, float], short: float, longest: float) -> float:
    """By which both sides are multiplied: the shorter becomes `short`, unless the longer would exceed `longest`."""
    return min(short / min(sides), longest / max(sides))


def _times(sides: tuple[float, float], factor: float) -> tuple[int, int]:
    """Both sides times a factor, to whole pixels, at least one."""
    return max(1, round(sides[0] * factor)), max(1, round(sides[1] * factor))
