"""Figures, one a function: spans over the frames of a video, a curve, and what time tokens allow.

No figure touches pyplot, so none needs a display or leaves state behind. Colours are from Okabe and Ito's palette,
told apart by colour-blind readers and, by their lightness and their labels, in black and white.
"""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from numpy.typing import ArrayLike, NDArray

from timetok.atomic import replacing
from timetok.errors import ArgumentError
from timetok.timegrid import Span

_ANSWER, _TRUTH, _INK, _MUTED = "#0072B2", "#E69F00", "#222222", "#666666"
_DPI = 160

# The timeline's layout, in inches.
_WIDTH, _LEFT, _RIGHT, _MARGIN, _GAP = 8.0, 0.85, 0.4, 0.25, 0.12
_INNER = _WIDTH - _LEFT - _RIGHT
_LANE, _BAR, _AXIS = 0.42, 0.15, 0.62
_NUM_SLOTS, _SLOT_HEIGHT = 8, 1.3
_TITLE_POINTS, _POINTS = 14.0, 11.0
_LINE_HEIGHT, _LETTER_WIDTH, _BOLD_WIDTH = 1.35, 0.54, 0.64  # of the font size, on average
_MAX_LANES = 12


def timeline(
    frames_data: ArrayLike,
    times_seconds: ArrayLike,
    duration_seconds: float,
    spans: Sequence[Span],
    *,
    question: str,
    answer: str | None = None,
    truth: Sequence[Span] | None = None,
) -> Figure:
    """Draw where in a video an answer lies: frames, the spans below them, and the question above.

    The video is cut into equal slots; over each stands the frame nearest to its middle, framed in colour when its
    true time is inside a span. Spans are labelled in seconds, and from two minutes on as clock times too;
    spans too many to be told apart are drawn without labels. The figure is 8 inches wide.

    Args:
        frames_data: RGB frames, uint8 ``[t 3 h w]``, at least one.
        times_seconds: Their true times ``[t]``, never decreasing.
        duration_seconds: Length of the video, positive; the axis runs from 0 to it. Else ArgumentError is raised.
        spans: The predicted spans; none is drawn as "no span found".
        question: The title, wrapped; dollar signs stay dollar signs.
        answer: What the model said, below the title.
        truth: The true spans, a second row; None leaves the row out.

    Example::

        frames = read_frames("clip.mp4")
        figure = timeline(frames.data, frames.times_seconds, frames.duration_seconds, [Span(3, 5)], question="When?")
        save(figure, "timeline.png")
    """
    data, times = np.asarray(frames_data), np.asarray(times_seconds, dtype=np.float64)
    if data.dtype != np.uint8 or data.ndim != 4 or data.shape[1] != 3 or 0 in data.shape:
        raise ArgumentError(f"frames_data must be uint8 [t 3 h w], none of them 0, got {data.dtype} {list(data.shape)}")
    if times.shape != data.shape[:1] or not bool((np.diff(times) >= 0).all()):
        raise ArgumentError(f"times_seconds must be [{len(data)}] and never decrease, got {times.tolist()}")
    if not 0 < duration_seconds < float("inf"):
        raise ArgumentError(f"duration_seconds must be positive and finite, got {duration_seconds!r}")
    rows = [("answer", _ANSWER, _lanes(spans, duration_seconds))]
    if truth is not None:
        rows.append(("truth", _TRUTH, _lanes(truth, duration_seconds)))
    title, title_height = _wrapped(question, _TITLE_POINTS, _BOLD_WIDTH)
    remark, remark_height = _wrapped(answer or "", _POINTS, _LETTER_WIDTH)
    slot_width = _INNER / min(_NUM_SLOTS, len(data))
    strip_height = min(slot_width * data.shape[2] / data.shape[3], _SLOT_HEIGHT)
    rows_height = _LANE * sum(len(lanes) for _, _, lanes in rows) + 0.08 * len(rows)
    top = 0.12 + title_height + remark_height + _GAP
    height = top + strip_height + _GAP + rows_height + _AXIS

    figure = Figure((_WIDTH, height), _DPI, facecolor="white")
    style: dict[str, Any] = {"x": _MARGIN / _WIDTH, "va": "top", "linespacing": 1.2, "parse_math": False}
    figure.text(y=1 - 0.1 / height, s=title, fontsize=_TITLE_POINTS, weight="bold", color=_INK, **style)
    figure.text(y=1 - (0.1 + title_height) / height, s=remark, fontsize=_POINTS, color=_MUTED, **style)
    strip, axes = figure.subplots(2, sharex=True, height_ratios=[strip_height, rows_height])
    edges = {"left": _LEFT / _WIDTH, "right": 1 - _RIGHT / _WIDTH, "top": 1 - top / height, "bottom": _AXIS / height}
    figure.subplots_adjust(**edges, hspace=2 * _GAP / (strip_height + rows_height))  # of their mean height
    axes.set(xlim=(0, duration_seconds), yticks=[])
    half = min(strip_height * data.shape[3] / data.shape[2], slot_width) / 2 * 0.95 * duration_seconds / _INNER
    _draw_strip(strip, data, times, spans, half)
    _draw_rows(axes, rows)
    _mark_time(axes, duration_seconds)
    return figure


def curve(steps: ArrayLike, values: ArrayLike, *, ylabel: str) -> Figure:
    """Draw values ``[n]`` over training steps ``[n]``, for instance a loss; the last is written at its end.

    NaN leaves a gap. ``ylabel`` names the values, with their unit where they have one. Raises ArgumentError where the
    two are not one-dimensional, empty, or of different length.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) == 0:
        raise ArgumentError(f"steps and values must be [n] with n >= 1, got {list(x.shape)} and {list(y.shape)}")
    figure, axes = _chart("step", ylabel)
    axes.plot(x, y, color=_ANSWER, linewidth=1.8, marker="o" if len(x) == 1 else None)
    axes.annotate(f"{y[-1]:.3g}", (x[-1], y[-1]), (6, 0), textcoords="offset points", va="center", color=_ANSWER)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def ceilings(sizes: Sequence[int], shares: Mapping[str, Sequence[float]], *, target: float | None = None) -> Figure:
    """Draw what each number of time tokens ``[n]`` allows: score, such as ``"R@0.7"`` → shares in [0, 1], ``[n]``.

    ``target`` draws a line at the score wanted.
    """
    figure, axes = _chart("time tokens T", "best share that can be reached")
    for name, values in shares.items():
        axes.plot(sizes, values, linewidth=1.8, marker="o", markersize=4, label=name)
    if target is not None:
        axes.axhline(target, color=_TRUTH, linewidth=1.2, linestyle="--", label=f"wanted: {target:g}")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.03)
    axes.legend(frameon=False, fontsize=_POINTS)
    return figure


def _chart(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure((6.4, 4.0), _DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel, fontsize=_POINTS)
    axes.set_ylabel(ylabel, fontsize=_POINTS, parse_math=False)
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure in the format its suffix names; an existing file is replaced, never left half written."""
    path = check_path(path)
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix.lower().removeprefix("."))
    return path


def check_path(path: str | os.PathLike[str]) -> Path:
    """Refuse, by an ArgumentError and before there is a figure, a suffix that is no format, or a missing folder."""
    path = Path(path)
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise ArgumentError(f"path must end in one of {', '.join(known)}, got {str(path)!r}; for instance timeline.png")
    if path.is_dir() or not path.parent.is_dir():
        raise ArgumentError(f"path must be a file in an existing folder, got {str(path)!r}; create the folder first")
    return path


def _wrapped(text: str, points: float, letter_width: float) -> tuple[str, float]:
    """A text in lines that fit, and their height in inches."""
    columns = int((_WIDTH - 2 * _MARGIN) * 72 / (points * letter_width))
    lines = textwrap.wrap(text, columns, max_lines=4, placeholder=" …")
    return "\n".join(lines), len(lines) * points * _LINE_HEIGHT / 72


def _label(span: Span, duration_seconds: float) -> str:
    decimals = 2 if duration_seconds < 10 else 1
    ends = (span.start, span.end) if span.start < span.end else (span.start,)
    seconds = " – ".join(f"{end:.{decimals}f}" for end in ends) + " s"
    clock = " – ".join(_clock(end, duration_seconds) for end in ends)
    return seconds if duration_seconds < 120 else f"{clock}  ({seconds})"


def _clock(seconds: float, duration_seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, of_the_hour = divmod(minutes, 60)
    return f"{minutes}:{rest:02d}" if duration_seconds < 3600 else f"{hours}:{of_the_hour:02d}:{rest:02d}"


# A span's label, where the middle of the label stands, and the span itself; all horizontal places in seconds.
_Placed = tuple[str, float, Span]


def _lanes(spans: Sequence[Span], duration_seconds: float) -> list[list[_Placed]]:
    """Spread spans over as few lanes as keep bars and labels apart; the first lane that has room takes a span.

    Spans that would fill more than twelve lanes share one, without labels.
    """
    seconds_per_inch = duration_seconds / _INNER
    lanes: list[list[_Placed]] = []
    ends: list[float] = []
    for span in sorted(spans):
        label = _label(span, duration_seconds)
        half = len(label) * _POINTS * _LETTER_WIDTH / 72 / 2 * seconds_per_inch
        middle = max(half, min((span.start + span.end) / 2, duration_seconds - half))
        free = next((i for i, end in enumerate(ends) if end <= min(middle - half, span.start)), len(lanes))
        if free == len(lanes):
            lanes.append([])
            ends.append(0.0)
        lanes[free].append((label, middle, span))
        ends[free] = max(middle + half, span.end)
    if len(lanes) > _MAX_LANES:
        return [[("", 0.0, span) for span in sorted(spans)]]
    return lanes or [[]]


def _draw_strip(
    axes: Axes, data: NDArray[np.uint8], times: NDArray[np.float64], spans: Sequence[Span], half: float
) -> None:
    """Frames over the middles of their slots; ``half`` of one's width in seconds."""
    limits, num_slots = axes.get_xlim(), min(_NUM_SLOTS, len(data))
    for middle in (np.arange(num_slots) + 0.5) * limits[1] / num_slots:
        nearest = int(np.abs(times - middle).argmin())
        extent = (middle - half, middle + half, 0.0, 1.0)
        axes.imshow(data[nearest].transpose(1, 2, 0), extent=extent, aspect="auto", interpolation="antialiased")
        if any(span.start <= times[nearest] <= span.end for span in spans):
            frame = Rectangle((middle - half, 0), 2 * half, 1, fill=False, color=_ANSWER, linewidth=4, clip_on=False)
            axes.add_patch(frame)
    axes.set(xlim=limits, ylim=(0, 1))
    axes.axis("off")


def _draw_rows(axes: Axes, rows: list[tuple[str, str, list[list[_Placed]]]]) -> None:
    duration, top = axes.get_xlim()[1], sum(len(lanes) for _, _, lanes in rows)
    axes.set_ylim(0, top)
    centre: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": _POINTS}
    for name, color, lanes in rows:
        axes.text(-0.012 * duration, top - len(lanes) / 2, name, color=_INK, **centre | {"ha": "right"})
        for lane in lanes:
            top -= 1
            if not lane:
                axes.text(duration / 2, top + 0.5, "no span found", style="italic", color=_MUTED, **centre)
            for label, middle, span in lane:
                start, end = (min(max(second, 0), duration) for second in span)
                width = max(end - start, duration / 250)  # a moment is seen too
                place = (min(start, duration - width), top + 0.1)
                axes.add_patch(Rectangle(place, width, _BAR / _LANE, facecolor=color, edgecolor=_INK, lw=0.8))
                axes.text(middle, top + 0.72, label, color=_INK, **centre)
        axes.axhline(top, color="#DDDDDD", linewidth=0.8)


def _mark_time(axes: Axes, duration_seconds: float) -> None:
    axes.tick_params(axis="x", labelsize=_POINTS, colors=_INK)
    axes.spines[["top", "left", "right"]].set_visible(False)
    unit, length = "seconds", f"{duration_seconds:.4g} s"
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    if duration_seconds >= 120:
        unit = "minutes:seconds" if duration_seconds < 3600 else "hours:minutes:seconds"
        length = _clock(duration_seconds, duration_seconds)
        paces = [15, 30, 60, 120, 300, 600, 900, 1800]
        pace = next((pace for pace in paces if duration_seconds / pace <= 8), 3600 * -(-duration_seconds // 28800))
        axes.xaxis.set_major_locator(MultipleLocator(pace))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: _clock(second, duration_seconds)))
    axes.set_xlabel(f"time in {unit}; the video lasts {length}", fontsize=_POINTS, color=_MUTED)
