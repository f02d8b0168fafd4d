"""The ranking as a picture, PNG and SVG: each backbone's figure with its interval and the ranks it may have."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bob_jax.metrics.bootstrap import Estimate
from bob_jax.results.plot import COLOURS, INK, MUTED, ROW_INCHES, SHADE, STYLE, save
from bob_jax.results.ranking.standings import SMALLER_IS_BETTER, Ranking
from bob_jax.results.ranking.table import NAMES, show


def standings(ranking: Ranking, prefix: str | Path) -> list[Path]:
    """A dot with its interval per backbone, best on top; a panel for the figure that ranks, and one for each task.

    Args:
        ranking: of at least two backbones.
        prefix: path of the picture without its ending.

    Returns:
        The files: `<prefix>.png` and `<prefix>.svg`.

    Raises:
        BobError: they cannot be written.
    """
    tasks = ranking.tasks if len(ranking.tasks) > 1 else ()
    with mpl.rc_context(STYLE):
        height = len(ranking.standings) * ROW_INCHES + 1.2
        figure = Figure(figsize=(5.8 + 2.2 * len(tasks), height), layout="constrained")
        grid = figure.add_gridspec(1, 1 + len(tasks), width_ratios=[1.5] + [1.0] * len(tasks))
        first = figure.add_subplot(grid[0, 0])
        _draw(first, ranking, [one.figures[ranking.by] for one in ranking.standings])
        _write_ranks(first, ranking)
        first.set_yticks(range(len(ranking.standings)), [one.backbone for one in ranking.standings])
        direction = ", lower is better" if ranking.by in SMALLER_IS_BETTER else ""
        first.set_xlabel(NAMES[ranking.by].removesuffix(" %") + direction)
        first.set_title("all" if tasks else ranking.tasks[0])
        for t, task in enumerate(tasks, start=1):
            axes = figure.add_subplot(grid[0, t], sharey=first)
            _draw(axes, ranking, [one.tasks.get(task) for one in ranking.standings])
            axes.tick_params(axis="y", labelleft=False)
            axes.set_xlabel("mean z")
            axes.set_title(task)
        figure.supxlabel(
            "line: 95 % bootstrap interval over images, seeds and data sets; shaded: may be first",
            fontsize=8,
            color=MUTED,
        )
        return save(figure, prefix)


def _draw(axes: Axes, ranking: Ranking, estimates: Sequence[Estimate | None]) -> None:
    for i, (one, estimate) in enumerate(zip(ranking.standings, estimates, strict=True)):
        if one.best == 1:
            axes.axhspan(i - 0.5, i + 0.5, color=SHADE, linewidth=0, zorder=0)
        if estimate is None:
            continue
        colour = COLOURS[0] if one.best == 1 else MUTED
        axes.plot([estimate.low, estimate.high], [i, i], color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot(estimate.value, i, "o", color=colour, markersize=4.5)
    axes.set_ylim(len(ranking.standings) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.06)
    axes.grid(axis="x", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def _write_ranks(axes: Axes, ranking: Ranking) -> None:
    for i, one in enumerate(ranking.standings):
        main = one.figures[ranking.by]
        axes.annotate(
            f"rank {one.range}   {show(ranking.by, main.value)}",
            (1, i),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=8,
            color=INK if one.best == 1 else MUTED,
        )
