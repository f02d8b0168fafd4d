"""The receipt: where converted weights come from, and how near they are to the original implementation.

It stands as JSON in the header of the converted file, so weights and receipt are never apart.
"""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, Self

TOLERANCE = 1e-5  # of a float32 error, for every stage
COLUMNS = ("input", "stage", "float32", f"limit {TOLERANCE:.0e}", "bfloat16", "original's bfloat16", "bfloat16 both")


@dataclasses.dataclass(frozen=True)
class StageError:
    """How far one stage of the network is from the original, as largest difference over largest value of the original.

    Attributes:
        input_size: side of the images in pixels.
        stage: submodule whose output it is, "pooled", or "map STRIDE".
        float32: ours against theirs, both in float32: the figure that must be small.
        bfloat16: ours in bfloat16 against theirs in float32; None where it was not measured.
        bfloat16_original: theirs in bfloat16 against theirs in float32, what `bfloat16` is to be measured by.
        bfloat16_between: ours against theirs, both in bfloat16.
    """

    input_size: int
    stage: str
    float32: float
    bfloat16: float | None = None
    bfloat16_original: float | None = None
    bfloat16_between: float | None = None


@dataclasses.dataclass(frozen=True)
class Receipt:
    """Where converted weights come from.

    Attributes:
        backbone: name in the zoo.
        card: digest of what decides the conversion: architecture, arguments, table and source.
        source: address of the original weights, or `file:NAME` of a file that the user gave.
        commit: what the hub's revision resolved to.
        source_sha256: digest of the original file; of several, `sources.digest_of_parts`.
        weights_sha256: digest of the converted parameters (names, shapes, values), the same on every machine.
        converter: `cache.CONVERTER_VERSION`.
        licence: of the weights.
        libraries: versions of what took part.
        date: of the conversion, ISO 8601, UTC.
        verified: date of the comparison with the original implementation; None before `python -m converters verify`.
        parity: what that comparison found, stage by stage; empty before it.
        parts: digest of each original file by its name, where there are several.
    """

    backbone: str
    card: str
    source: str
    commit: str | None
    source_sha256: str
    weights_sha256: str
    converter: int
    licence: str
    libraries: dict[str, str]
    date: str
    verified: str | None = None
    parity: tuple[StageError, ...] = ()
    parts: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """For the header of a safetensors file."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The receipt that `to_json` wrote.

        Raises:
            ValueError, TypeError: it is damaged, or of another version.
        """
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields | {"parity": tuple(StageError(**stage) for stage in fields["parity"])})

    @property
    def largest_error(self) -> float | None:
        """The largest float32 error of all stages, the one that `TOLERANCE` limits; None before verification."""
        return max((stage.float32 for stage in self.parity), default=None)


def rows(parity: Iterable[StageError]) -> list[list[str]]:
    """The stages as rows of a table under `COLUMNS`."""
    return [
        [
            str(stage.input_size),
            stage.stage,
            f"{stage.float32:.1e}",
            "ok" if stage.float32 <= TOLERANCE else "TOO LARGE",
            *(
                "" if figure is None else f"{figure:.1e}"
                for figure in (stage.bfloat16, stage.bfloat16_original, stage.bfloat16_between)
            ),
        ]
        for stage in parity
    ]
