"""What a reference is: the original implementation of a backbone, and how it lies beside ours stage by stage."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

Stages = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Reference:
    """The original implementation of a card.

    Attributes:
        module: a `torch.nn.Module` in evaluation mode.
        run: images [B, 3, H, W] -> descriptor [B, D] and maps [B, C, h, w], finest first.
        stages: pairs (ours, theirs) of dotted paths whose outputs are the same, in the order of computation.
        layout: of the four-dimensional outputs at their stages; tokens [B, N, C] are our maps [B, h, w, C] row by row.
        table: key layout of the module's state dict, a name in `tables.TABLES`.
        fill: puts original weights (`cache.Original`) into the module, by the original's own loading code.
        sizes: sides of the images to compare on, the receipt's first; None for the card's and a larger one.
        library: that the implementation comes from, for the receipt.
    """

    module: Any
    run: Callable[[Any], tuple[Any, list[Any]]]
    stages: Stages
    layout: Literal["NCHW", "NHWC"]
    table: str
    fill: Callable[[Any, Any], None]
    sizes: tuple[int, ...] | None = None
    library: str = "timm"
