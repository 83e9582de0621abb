"""Figures, one a function, without pyplot: none needs a display or leaves state behind.

Colours are from Okabe and Ito's palette, told apart by colour-blind readers and, by lightness, in black and white.
"""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from timetok.atomic import replacing
from timetok.codecs import ClockCodec
from timetok.errors import ArgumentError, raised_as
from timetok.timegrid import Span

Rows: TypeAlias = Sequence[Mapping[str, Any]]
_ANSWER, _TRUTH, _MUTED = "#0072B2", "#E69F00", "#666666"
_WIDTH, _DPI = 6.4, 200  # in inches and dots an inch; matplotlib's own letters are then legible on a phone
_NUM_SLOTS, _MAX_ROWS = 8, 12


def timeline(
    frames: Any, spans: Sequence[Span], *, question: str, answer: str | None = None, truth: Sequence[Span] | None = None
) -> Figure:
    """Draw where in a video an answer lies: frames, the spans below them, and the question above.

    The video, ``timetok.video.Frames``, is cut into equal slots; over each stands the frame nearest to its middle,
    framed in colour when its true time is inside a span. Spans are labelled in seconds, and from two minutes on as
    clock times; over 12 are not. ``answer`` is what the model said, ``truth`` the true spans, a second row unless None.
    """
    data, times, duration = frames.data.numpy(), frames.times_seconds.numpy(), frames.duration_seconds
    title = textwrap.fill(question, 54, max_lines=4, placeholder=" …")
    remark = textwrap.fill(answer or "", 64, max_lines=4, placeholder=" …")
    figure = Figure(dpi=_DPI, facecolor="white")
    figure.set_layout_engine("constrained", rect=(0.01, 0, 0.98, 1), h_pad=0.07)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, weight="bold", parse_math=False)
    num_slots = min(_NUM_SLOTS, len(data))
    grid = figure.add_gridspec(2, num_slots)
    for slot in range(num_slots):
        nearest = int(np.abs(times - (slot + 0.5) * duration / num_slots).argmin())
        inside = any(span.start <= times[nearest] <= span.end for span in spans)
        picture = figure.add_subplot(grid[0, slot], xticks=[], yticks=[])
        picture.imshow(data[nearest].transpose(1, 2, 0), interpolation="antialiased")
        picture.spines[:].set(visible=inside, color=_ANSWER, linewidth=3)
    axes = figure.add_subplot(grid[1, :], xlim=(0, duration), frame_on=False)
    axes.set_title(remark, loc="left", fontsize=10, color=_MUTED, parse_math=False)
    rows = {"answer": (spans, _ANSWER)} | ({} if truth is None else {"truth": (truth, _TRUTH)})
    top, middles = 0, []
    for group, color in rows.values():  # a row for each span, its label above its bar
        num_rows = len(group) if 1 <= len(group) <= _MAX_ROWS else 1
        if not group:
            axes.text(duration / 2, top + 0.5, "no span found", color=_MUTED, ha="center", va="center")
        for i, span in enumerate(sorted(group)):
            start, end = (min(max(second, 0), duration) for second in span)
            width = max(end - start, duration / 250)  # a moment is seen too
            left, row = min(start, duration - width), top + i % num_rows
            axes.barh(row + 0.7, width, 0.4, left, color=color, edgecolor="black", linewidth=0.8)
            if num_rows == len(group):  # a label reaches from its bar towards the middle, where it has room
                third = min(int(3 * (left + width / 2) / duration), 2)
                ends = sorted({span.start, span.end})
                label = " – ".join(f"{end:.{2 if duration < 10 else 1}f}" for end in ends) + " s"
                if duration >= 120:
                    label = " – ".join(_clock(end, duration) for end in ends) + f"  ({label})"
                axes.text(left + width * third / 2, row + 0.4, label, ha=("left", "center", "right")[third])
        middles.append(top + num_rows / 2)
        top += num_rows
        axes.axhline(top, color=_MUTED, linewidth=0.8, clip_on=False)
    axes.set(ylim=(top, 0), yticks=middles, yticklabels=rows)
    axes.tick_params(axis="y", length=0)
    unit, length = "seconds", f"{duration:.4g} s"
    if duration >= 120:
        unit, length = "minutes:seconds" if duration < 3600 else "hours:minutes:seconds", _clock(duration, duration)
        paces = (15, 30, 60, 120, 300, 600, 900, 1800, 3600 * np.ceil(duration / 28800))
        pace = next(pace for pace in paces if duration / pace <= 8)
        ticks = pace * np.arange(duration // pace + 1)
        axes.set_xticks(ticks, [_clock(tick, duration) for tick in ticks])
    axes.set_xlabel(f"time in {unit}; the video lasts {length}", color=_MUTED)
    heights = [min(0.85 * _WIDTH / num_slots * data.shape[2] / data.shape[3], 1.1), 0.4 * top]  # inches
    grid.set_height_ratios(heights)
    figure.set_size_inches(_WIDTH, sum(heights) + 0.19 * len(title.splitlines() + remark.splitlines()) + 0.9)
    return figure


def curves(x: ArrayLike, lines: Mapping[str, ArrayLike], *, xlabel: str, ylabel: str, log: bool = False) -> Figure:
    """Draw lines ``[n]`` over ``x`` ``[n]``, by name in a legend; NaN leaves a gap. ValueError: lengths differ."""
    figure = Figure((_WIDTH, 4.0), _DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, xscale="log" if log else "linear")
    axes.set_ylabel(ylabel, parse_math=False)
    axes.set_prop_cycle(color=[_ANSWER, _TRUTH, "#D55E00", "#009E73", "#CC79A7", "#56B4E9"])
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    for name, values in lines.items():
        axes.plot(x, values, linewidth=1.8, marker="o" if np.size(x) < 20 else None, markersize=4, label=name)
    axes.legend(frameon=False)
    return figure


def quantisation(plan: Any) -> Figure:
    """Draw what the spans of a data set can reach at best with T marks, of a `timetok.recipes.records.Plan`."""
    columns = list(plan.ceilings.values())
    recalls = {f"R@{key:g}": [column.recall[key] for column in columns] for key in columns[0].recall}
    shares = {"mIoU": [column.miou for column in columns], **recalls, "wanted": [plan.wanted] * len(columns)}
    return curves([*plan.ceilings], shares, xlabel="time tokens T", ylabel="share at best", log=True)


def training(steps: ArrayLike, losses: ArrayLike) -> Figure:
    """Draw losses ``[n]`` over the numbers ``[n]`` of the steps at which they were measured."""
    return curves(steps, {"loss": losses}, xlabel="step", ylabel="training loss")


def layout(plan: Any, num_frames: int, grid: tuple[int, int]) -> Figure:
    """Draw which patches each token of a `timetok.pooling.PoolingPlan` is made of: frames side by side, a row a path.

    A token's colour, from dark to light, and its number, where there is room, are its place in the sequence. Of those
    that share patches the last is seen, of learned separators nothing. ArgumentError as in ``plan.tokens``.
    """
    tokens, (height, width), names = plan.tokens(num_frames, grid), grid, [path.name for path in plan.paths]
    lefts, every = range(0, num_frames * (width + 1), width + 1), -(-num_frames // 20)  # frames are one patch apart
    side = min(0.9 * _WIDTH / lefts.stop, 4 / height)  # of a patch, in inches
    figure = Figure((_WIDTH, 0.8 + (height * side + 0.3) * len(names)), _DPI, facecolor="white", layout="constrained")
    figure.suptitle(f"{num_frames} frames of {height} × {width} patches, {len(tokens)} tokens", fontsize=9)
    for axes, name in zip(figure.subplots(len(names), squeeze=False).flat, names, strict=True):
        own = [(place, token) for place, token in enumerate(tokens) if token.path == name and token.rows]
        cells = [(place, *token.rows, *token.columns, lefts[frame]) for place, token in own for frame in token.frames]
        places = np.full((height, lefts.stop), np.nan)
        for place, top, bottom, first, stop, left in cells:
            places[top:bottom, left + first : left + stop] = place
        axes.imshow(places, cmap="cividis", vmin=0, vmax=len(tokens) - 1)
        axes.set_ylabel(name, parse_math=False)
        axes.set_xticks([left + width / 2 - 0.5 for left in lefts[::every]], range(0, num_frames, every), fontsize=7)
        axes.set(yticks=[], frame_on=False)
        for left in lefts:
            axes.add_patch(Rectangle((left - 0.5, -0.5), width, height, fill=False, edgecolor="#BBBBBB", linewidth=0.5))
        for place, top, bottom, first, stop, left in cells:
            x, y, room = left + (first + stop - 1) / 2, (top + bottom - 1) / 2, side * min(stop - first, bottom - top)
            if room > 0.1 and places[int(y), int(x)] == place:
                corner, color = (left + first - 0.5, top - 0.5), "k" if place > 0.6 * len(tokens) else "w"
                axes.add_patch(Rectangle(corner, stop - first, bottom - top, fill=False, edgecolor="w"))
                axes.text(x, y, place, ha="center", va="center", fontsize=min(7, 25 * room), color=color)
    figure.supxlabel("frame", fontsize=7)
    return figure


def ious(rows: Rows) -> Figure:
    """Draw how many answers have which IoU; ``rows`` are those of an evaluation's ``samples.csv``, text or numbers."""
    counts, ends = np.histogram(_columns(rows, "mIoU"), 20, (0, 1))
    figure = curves(ends[1:] - 0.025, {"answers": counts}, xlabel="IoU", ylabel="answers")
    figure.axes[0].bar(ends[1:] - 0.025, counts, 0.05, color=_ANSWER, alpha=0.2)
    return figure


def errors(rows: Rows, by: Literal["seconds", "place"] = "seconds") -> Figure:
    """Draw errors by the length of the video or by the place in it, of `ious`' rows: ten groups of equal size."""
    x, missed = _columns(rows, by, "error")
    groups = [each for each in np.array_split(np.argsort(x, kind="stable"), 10) if len(each)]
    low, median, high = np.reshape([np.quantile(missed[each], (0.25, 0.5, 0.75)) for each in groups], (-1, 3)).T
    lines = {"median": median, "a quarter is below": low, "a quarter is above": high}
    label = {"seconds": "length of the video in seconds", "place": "place in the video"}[by]
    return curves([x[each].mean() for each in groups], lines, xlabel=label, ylabel="error in seconds")


def calibration(rows: Rows) -> Figure:
    """Draw how often a boundary is on the right mark against its probability, of `ious`' rows, in ten bins."""
    likely, right = np.hstack([_columns(rows, f"{side}_probability", f"{side}_right") for side in ("start", "end")])
    bins = [np.minimum((likely * 10).astype(int), 9) == k for k in range(10)]
    x, share = np.reshape([(likely[some].mean(), right[some].mean()) for some in bins if some.any()], (-1, 2)).T
    lines = {"measured": share, "calibrated": x}
    return curves(x, lines, xlabel="probability of a boundary", ylabel="share that is right")


def _columns(rows: Rows, *names: str) -> NDArray[np.float64]:
    """``[c n]``, of the rows that have all of them."""
    with raised_as(ArgumentError, f"rows: expected columns {names}", KeyError):
        values = [[float("nan" if row[name] == "" else row[name]) for name in names] for row in rows]
    return np.array([each for each in values if not np.isnan(each).any()]).reshape(-1, len(names)).T


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure in the format its suffix names; an existing file is replaced, never left half written."""
    with replacing(path := check_path(path)) as partial:
        figure.savefig(partial, format=path.suffix.lower().removeprefix("."))
    return path


def check_path(path: str | os.PathLike[str]) -> Path:
    """Refuse, by an ArgumentError and before there is a figure, a suffix that is no format, or a missing folder."""
    path = Path(path)
    known = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known or path.is_dir() or not path.parent.is_dir():
        expected = f"a file in an existing folder that ends in one of {', '.join(known)}"
        raise ArgumentError(f"path must be {expected}, got {str(path)!r}; for instance timeline.png")
    return path


def _clock(seconds: float, duration_seconds: float) -> str:
    return ClockCodec(hours=duration_seconds >= 3600).format(seconds).removeprefix("0")
