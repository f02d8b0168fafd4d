"""The answer in pictures: scores with intervals, costs, the learning curve, and the images themselves."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from bob_jax.data.base import Source
from bob_jax.data.decode import CorruptImage
from bob_jax.pick.answer import Confused, Labelled, Unlabelled
from bob_jax.pick.copies import Pair
from bob_jax.pick.curve import Curve
from bob_jax.pick.labelled import Row
from bob_jax.results.files import write_whole
from bob_jax.results.plot import COLOURS, INK, MUTED, REST, SHADE, STYLE, save

PLAIN = {**STYLE, "text.parse_math": False}  # in the name of a class or file a dollar is a dollar
SHOWN = 24  # images in a picture
COLUMNS = 8
PAIRS = 8
OF_EACH = 8  # images of a cluster
LEAST_SPAN = 8.0  # of the axis of costs, so that nearly equal ones are seen to be so


def draw(answer: Labelled | Unlabelled, source: Source, folder: Path) -> list[Path]:
    """All pictures of an answer.

    Args:
        answer: what was found.
        source: the images that the answer's places are of.
        folder: where the pictures go.

    Returns:
        The files.

    Raises:
        BobError: they cannot be written.
    """
    files = []
    if isinstance(answer, Labelled):
        files += _overview(answer, folder / "pick")
        if answer.confused:
            files.append(_confused(answer, source, folder / "confused.png"))
    else:
        files.append(_clusters(answer, source, folder / "clusters.png"))
    if answer.pairs:
        files.append(_copies(answer.pairs, source, folder / "copies.png"))
    return files


def _overview(answer: Labelled, prefix: Path) -> list[Path]:
    rows = answer.choice.rows
    high = max(2.6, 0.26 * len(rows) + 1.2)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, high), layout="constrained")
        scores, cost, learning = figure.subplots(1, 3, width_ratios=(1.5, 0.8, 1))
        _scores(scores, answer)
        _cost(cost, answer)
        _learning(learning, answer.curve)
        figure.supxlabel(
            "line: 95 % interval, what choosing the best adds taken off; shaded: cannot be told apart from the best",
            fontsize=8,
            color=MUTED,
        )
        return save(figure, prefix)


def _colour(row: Row, answer: Labelled) -> str:
    if row.backbone == answer.choice.chosen:
        return COLOURS[1]
    return COLOURS[0] if row.backbone in answer.choice.tied else REST


def _scores(axes: Axes, answer: Labelled) -> None:
    rows = answer.choice.rows
    _rows(axes, answer)
    for i, row in enumerate(rows):
        for share, offset, marker in ((row.probe, -0.12, "o"), (row.knn, 0.18, "D")):
            colour = _colour(row, answer) if marker == "o" else MUTED
            axes.plot([100 * share.low, 100 * share.high], [i + offset] * 2, color=colour, linewidth=1.5)
            axes.plot(100 * share.value, i + offset, marker, color=colour, markersize=4.5 if marker == "o" else 3)
    fewest = {row.images for row in rows}
    labels = [row.backbone + (f" ({row.images:,} images)" if len(fewest) > 1 else "") for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.grid(axis="x", color="#dddddd", linewidth=0.5)
    axes.axvline(100 * answer.majority, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_title("linear probe (dot) and k-NN (diamond)")
    axes.set_xlabel("accuracy out of fold (%), dotted: guessing")


def _cost(axes: Axes, answer: Labelled) -> None:
    """GFLOPs in the rows of the scores, so that names need no room here."""
    rows = answer.choice.rows
    drawn = [(i, row, row.gflops) for i, row in enumerate(rows) if row.gflops]
    for i, row, gflops in drawn:
        axes.plot(gflops, i, "o", color=_colour(row, answer), markersize=4.5)
    _rows(axes, answer)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    if drawn:
        axes.set_xscale("log")
        costs = [gflops for _, _, gflops in drawn]
        middle, wide = math.sqrt(min(costs) * max(costs)), max(max(costs) / min(costs), LEAST_SPAN)
        axes.set_xlim(middle / math.sqrt(wide) / 1.25, middle * math.sqrt(wide) * 1.25)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide > 30 else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_title("cost")
    axes.set_xlabel("GFLOPs an image")


def _rows(axes: Axes, answer: Labelled) -> None:
    """A row for each backbone, those that cannot be told apart from the best shaded."""
    rows = answer.choice.rows
    for i, row in enumerate(rows):
        if row.backbone in answer.choice.tied:
            axes.axhspan(i - 0.5, i + 0.5, color=SHADE, linewidth=0, zorder=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def _learning(axes: Axes, curve: Curve | None) -> None:
    axes.set_title("what more images would bring")
    axes.set_xlabel("images learned from")
    if curve is None:
        axes.text(0.5, 0.5, "no time was left", ha="center", transform=axes.transAxes, color=MUTED)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    x = [point.images for point in curve.points]
    shares = [point.accuracy for point in curve.points]
    low, high = [100 * s.low for s in shares], [100 * s.high for s in shares]
    axes.fill_between(x, low, high, color=COLOURS[1], alpha=0.2)
    if len(x) == 1:  # an area of no width is not seen
        axes.plot(x * 2, low + high, color=COLOURS[1], linewidth=1.4)
    axes.plot(x, [100 * s.value for s in shares], "o-", color=COLOURS[1], markersize=3.5, linewidth=1.4, label="seen")
    if curve.guesses:
        last = curve.points[-1]
        beyond = [last.images, *(guess.images for guess in curve.guesses)]
        ends = [(last.accuracy.low, last.accuracy.high), *((guess.low, guess.high) for guess in curve.guesses)]
        values = [last.accuracy.value, *(guess.value for guess in curve.guesses)]
        lower, upper = zip(*ends, strict=True)
        axes.fill_between(beyond, 100 * np.array(lower), 100 * np.array(upper), color=MUTED, alpha=0.18)
        axes.plot(beyond, [100 * v for v in values], "--", color=MUTED, linewidth=1.2, label="guessed")
    if curve.foretold is not None:
        told = curve.foretold
        axes.errorbar(
            told.images,
            100 * told.value,
            [[100 * (told.value - told.low)], [100 * (told.high - told.value)]],
            fmt="x",
            color=COLOURS[0],
            linewidth=1,
            markersize=5,
            label="foretold from the smaller sizes",
        )
    axes.set_xscale("log")
    ticks = [x[0], x[-1], *([curve.guesses[-1].images] if curve.guesses else [])]
    axes.set_xticks(sorted(set(ticks)), [f"{tick:,}" for tick in sorted(set(ticks))])
    axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_ylabel("accuracy (%)")
    axes.legend(frameon=False, fontsize=7, loc="lower right")


def _confused(answer: Labelled, source: Source, file: Path) -> Path:
    shown: Sequence[Confused] = answer.confused[:SHOWN]
    words = [f"{_short(one.truth)}\ntaken for {_short(one.taken_for)}\n{100 * one.probability:.0f} %" for one in shown]
    if not answer.wrong:
        words = [f"{_short(one.truth)}\n{100 * one.probability:.0f} %" for one in shown]
    title = (
        f"{answer.choice.chosen}: {'all' if len(shown) == answer.wrong else f'the surest {len(shown)} of'} "
        f"{answer.wrong} mistakes, out of fold"
        if answer.wrong
        else f"{answer.choice.chosen} mistakes no image; the {len(shown)} it is least sure of"
    )
    return _grid(source, [one.place for one in shown], words, title, file, min(COLUMNS, len(shown)))


def _copies(pairs: Sequence[Pair], source: Source, file: Path) -> Path:
    places, words = [], []
    for pair in pairs[:PAIRS]:
        for name, place in zip((pair.first, pair.second), pair.places, strict=True):
            places.append(place)
            words.append(_short(name.rsplit("/", 1)[-1]) + ("\nother label" if pair.labels_differ else ""))
    title = f"pairs of images that are nearly the same: {len(pairs)}"
    return _grid(source, places, words, title, file, min(COLUMNS, len(places)))


def _clusters(answer: Unlabelled, source: Source, file: Path) -> Path:
    look = answer.look
    places, words = [], []
    for number in np.unique(look.clusters.label):
        members = np.flatnonzero(look.clusters.label == number)
        nearest = members[np.argsort(-look.clusters.closeness[members], kind="stable")][:OF_EACH]
        places += look.places[nearest].tolist() + [-1] * (OF_EACH - len(nearest))
        words += [f"group {number + 1}: {len(members)}"] + [""] * (OF_EACH - 1)
    title = f"groups of {look.chosen}'s features, the images nearest to the middle of each"
    return _grid(source, places, words, title, file, OF_EACH)


def _grid(source: Source, places: Sequence[int], words: Sequence[str], title: str, file: Path, columns: int) -> Path:
    """Pictures with a word each, row by row; a place of -1 stays empty."""
    rows = math.ceil(len(places) / columns)
    lines = max(text.count("\n") + 1 for text in words)
    with mpl.rc_context(PLAIN), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a box is seen, and needs no words
        figure = Figure(figsize=(max(1.25 * columns, 5), rows * (1.2 + 0.16 * lines) + 0.5), layout="constrained")
        figure.suptitle(title, fontsize=9.5, fontweight="bold", color=INK)
        for i, axes in enumerate(np.ravel(figure.subplots(rows, columns, squeeze=False))):
            axes.axis("off")
            if i < len(places) and places[i] >= 0:
                axes.imshow(_pixels(source, places[i]), interpolation="nearest")
                axes.set_title(words[i], fontsize=7, fontweight="normal", loc="center")
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=110)
    write_whole(file, content.getvalue())
    return file


def _pixels(source: Source, place: int) -> np.ndarray:
    """The image, made small where it is large; grey where it is gone meanwhile."""
    try:
        image = source[place]["image"]
    except CorruptImage:
        return np.full((8, 8, 3), 128, np.uint8)
    step = max(1, min(image.shape[:2]) // 160)
    return image[::step, ::step]


def _short(text: str) -> str:
    text = text.encode(errors="replace").decode()  # a file's name need not be Unicode
    return text if len(text) <= 18 else text[:16] + "..."
