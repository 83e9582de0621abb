"""What the figures show, read back from their artists and from the files they become."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from timetok.codecs import IndexCodec
from timetok.errors import ArgumentError
from timetok.metrics import codec_ceiling
from timetok.plots import calibration, curves, errors, ious, layout, quantisation, save, timeline, training
from timetok.pooling import PRESETS, PoolingPlan
from timetok.pooling.plan import Path as PoolingPath
from timetok.recipes.records import Plan
from timetok.timegrid import Span, TimeGrid
from timetok.video import Frames

T, DURATION = 40, 20.0
DATA = np.broadcast_to(np.arange(T, dtype=np.uint8)[:, None, None, None], (T, 3, 18, 32))  # frame i is grey level i
TIMES = np.arange(T) * DURATION / T


def filmed(data: np.ndarray, times: np.ndarray, duration: float) -> Frames:
    return Frames(torch.from_numpy(data.copy()), torch.from_numpy(times), duration)


FRAMES = filmed(DATA, TIMES, DURATION)
LOSS = curves([1], {"loss": [2]}, xlabel="step", ylabel="loss")


def strip(figure: Figure) -> list[Axes]:
    """The frames, from left to right."""
    return figure.axes[:-1]


def artists(figure: Figure) -> list[Text]:
    """Every piece of text a reader sees, laid out; matplotlib keeps labels of ticks beyond the axis, unseen."""
    figure.draw_without_rendering()
    axes = figure.axes[-1]
    start, end = axes.get_xlim()
    unseen = [tick.label1 for tick in axes.xaxis.get_major_ticks() if not start <= tick.get_loc() <= end]
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in unseen]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in artists(figure)]


def bars(figure: Figure) -> list[tuple[float, float]]:
    """Start and end of each bar below the strip, as drawn."""
    rectangles = [patch for patch in figure.axes[-1].patches if isinstance(patch, Rectangle)]
    return [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in rectangles]


def tick_labels(figure: Figure) -> list[str]:
    seen = artists(figure)
    return [label.get_text() for label in figure.axes[-1].get_xticklabels() if label in seen]


def framed(axes: Axes) -> bool:
    """Whether a frame of the video has a thick coloured border."""
    return all(spine.get_visible() and spine.get_linewidth() >= 3 for spine in axes.spines.values())


def overlaps(figure: Figure) -> bool:
    """Whether two texts cover one another, one covers a frame or a bar, or one leaves the figure."""
    boxes = [text.get_window_extent() for text in artists(figure)]
    pictures = [axes.images[0].get_window_extent() for axes in strip(figure)]
    pictures += [bar.get_window_extent() for bar in figure.axes[-1].patches]
    page = figure.bbox
    inside = all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)
    covered = any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i] + pictures)
    return not inside or covered


def test_timeline_shows_spans_truth_and_question() -> None:
    figure = timeline(FRAMES, [Span(5, 7.25)], question="When?", answer="Then.", truth=[Span(4, 8)])
    assert {"When?", "Then.", "5.0 – 7.2 s", "4.0 – 8.0 s", "answer", "truth"} <= set(texts(figure))
    assert bars(figure) == [(5, 7.25), (4, 8)]
    assert not overlaps(figure)


def test_without_truth_there_is_no_second_row() -> None:
    figure = timeline(FRAMES, [Span(5, 7)], question="When?")
    assert "truth" not in texts(figure)


def test_strip_frames_stand_over_their_times() -> None:
    figure = timeline(FRAMES, [Span(6, 9)], question="When?")
    figure.draw_without_rendering()
    assert figure.axes[-1].get_xlim() == (0, DURATION)
    to_seconds = figure.axes[-1].transData.inverted()
    middles = [(k + 0.5) * DURATION / 8 for k in range(8)]
    for axes, middle in zip(strip(figure), middles, strict=True):
        (image,) = axes.images
        box = image.get_window_extent()
        (left, _), (right, _) = to_seconds.transform(box.get_points())
        off = DURATION / 50  # a sixth of a slot
        assert (left + right) / 2 == pytest.approx(middle, abs=off)
        shown = TIMES[int(np.asarray(image.get_array()).flat[0])]
        assert abs(shown - middle) <= DURATION / T / 2  # no frame is nearer
        assert framed(axes) == (6 <= shown <= 9)
    assert [framed(axes) for axes in strip(figure)].count(True) == 2


def test_no_span() -> None:
    figure = timeline(FRAMES, [], question="When?", truth=[Span(1, 2)])
    assert "no span found" in texts(figure)
    assert bars(figure) == [(1, 2)]


def test_spans_reaching_past_the_video_are_cut_in_the_picture_but_not_in_words() -> None:
    figure = timeline(FRAMES, [Span(18, 23)], question="When?")
    assert bars(figure) == [(18, 20)]
    assert "18.0 – 23.0 s" in texts(figure)


@pytest.mark.parametrize("moment", [0.0, 3.0, DURATION])
def test_a_moment_is_visible(moment: float) -> None:
    figure = timeline(FRAMES, [Span(moment, moment)], question="When?")
    ((start, end),) = bars(figure)
    assert end > start
    assert start >= 0
    assert end <= DURATION
    assert f"{moment:.1f} s" in texts(figure)


def test_labels_of_close_spans_do_not_cover_each_other() -> None:
    spans = [Span(i * 0.7, i * 0.7 + 1) for i in range(9)] + [Span(0, 0), Span(20, 20), Span(0, 20)]
    figure = timeline(FRAMES, spans, question="When?", answer="Often.", truth=spans[:3])
    assert len(bars(figure)) == 15
    assert len([text for text in texts(figure) if text.endswith(" s")]) == 16  # with the duration
    assert not overlaps(figure)


def test_spans_without_number_do_not_grow_the_figure_without_end() -> None:
    few = timeline(FRAMES, [Span(1, 19)] * 12, question="When?")
    many = timeline(FRAMES, [Span(1, 19)] * 500, question="When?")
    assert many.get_figheight() < few.get_figheight()
    assert len(bars(many)) == 500
    assert not overlaps(many)


@pytest.mark.parametrize("length", [0, 1, 1000, 7200])
def test_the_longest_labels_have_room_wherever_a_span_stands(length: float) -> None:
    spans = [Span(start, min(start + length, 7200)) for start in np.linspace(0, 7199, 12).tolist()]
    figure = timeline(filmed(DATA, np.linspace(0, 7200, T), 7200.0), spans, question="When?", truth=spans)
    assert not overlaps(figure)


@pytest.mark.parametrize(
    ("duration", "span", "label", "ticks"),
    [
        (2.5, Span(1, 2), "1.00 – 2.00 s", {"0.5", "1.0"}),
        (119.0, Span(60, 90), "60.0 – 90.0 s", {"20", "40"}),
        (120.0, Span(60, 90), "1:00 – 1:30  (60.0 – 90.0 s)", {"0:15", "1:45"}),
        (1500.0, Span(61, 61), "1:01  (61.0 s)", {"5:00", "20:00"}),
        (7200.0, Span(0, 3725), "0:00:00 – 1:02:05  (0.0 – 3725.0 s)", {"0:15:00", "2:00:00"}),
        (90000.0, Span(0, 3600), "0:00:00 – 1:00:00  (0.0 – 3600.0 s)", {"4:00:00", "24:00:00"}),
    ],
)
def test_the_axis_suits_the_duration(duration: float, span: Span, label: str, ticks: set[str]) -> None:
    figure = timeline(filmed(DATA, np.linspace(0, duration, T), duration), [span], question="When?")
    assert label in texts(figure)
    assert ticks <= set(tick_labels(figure))
    assert len(tick_labels(figure)) <= 10
    assert not overlaps(figure)


def test_a_long_question_is_wrapped_and_stays_plain_text() -> None:
    question = "When does the price fall below $5 and then_rise ^ above $10 or \\frac? " * 20
    figure = timeline(FRAMES, [Span(1, 2)], question=question, answer=question)
    title = figure.get_suptitle()
    assert title.count("\n") == 3
    assert title.endswith(" …")
    assert question.startswith(title.split("\n")[0])
    assert not overlaps(figure)


@pytest.mark.parametrize("num_frames", [1, 2, 8])
@pytest.mark.parametrize("shape", [(18, 32), (64, 16), (10, 200)])
def test_any_number_and_shape_of_frames(num_frames: int, shape: tuple[int, int]) -> None:
    data = np.zeros((num_frames, 3, *shape), np.uint8)
    figure = timeline(filmed(data, np.zeros(num_frames), 3.0), [Span(0, 1)], question="When?")
    figure.draw_without_rendering()
    assert len(strip(figure)) == num_frames
    for axes in strip(figure):  # undistorted and whole
        (image,) = axes.images
        box = image.get_window_extent()
        assert box.height / box.width == pytest.approx(shape[0] / shape[1], rel=0.06)
        assert (box.width, box.height) == pytest.approx((axes.bbox.width, axes.bbox.height), abs=2)
    assert not overlaps(figure)


def test_curve_shows_the_values() -> None:
    figure = curves([0, 10, 20], {"loss": [3.0, 2.0, 1.234]}, xlabel="step", ylabel="loss in $")
    (line,) = figure.axes[0].lines
    assert np.array_equal(line.get_xydata(), [[0, 3], [10, 2], [20, 1.234]])
    assert figure.axes[0].get_ylabel() == "loss in $"
    assert {"loss", "step"} <= set(texts(figure))


def test_curves_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same first dimension.*\(2,\) and \(1,\)"):
        curves([1, 2], {"loss": [1]}, xlabel="step", ylabel="loss")


def test_several_curves_are_named_in_a_legend() -> None:
    figure = curves([10, 100], {"mIoU": [0.2, 0.9], "R@0.7": [0.1, 1.0]}, xlabel="T", ylabel="share", log=True)
    assert {"mIoU", "R@0.7"} <= set(texts(figure))
    assert figure.axes[0].get_xscale() == "log"


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".pdf", ".svg"])
def test_save_writes_the_format_of_the_suffix_and_leaves_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    assert save(LOSS, str(path)) == path
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    assert path.read_bytes().startswith(starts[suffix.lower()])
    assert list(tmp_path.iterdir()) == [path]


def test_a_saved_timeline_is_legible_on_a_phone(tmp_path: Path) -> None:
    path = save(timeline(FRAMES, [Span(1, 2)], question="When?"), tmp_path / "a.png")
    height, width, _ = imread(io.BytesIO(path.read_bytes())).shape
    assert width == 1280
    assert height < width


@pytest.mark.parametrize("name", ["a", "a.mp4", "a.", "missing/a.png"])
def test_save_refuses_what_it_cannot_write(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"^path must"):
        save(LOSS, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Figure, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save(LOSS, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_pyplot_is_not_loaded() -> None:
    check = "import sys, timetok.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


SAMPLES = [
    {"mIoU": k / 9, "seconds": 10.0 + k, "place": k / 10, "error": 9.0 - k, "start_probability": 0.05 + k / 10}
    | {"start_right": int(k > 4), "end_probability": "", "end_right": ""}
    for k in range(10)
]
SAMPLES += [{**SAMPLES[0], "mIoU": "", "error": float("nan")}]  # an answer without a window


@pytest.mark.parametrize("kind", [lambda value: value, str])
def test_figures_of_an_evaluation_show_what_its_rows_say(kind: Any) -> None:
    rows = [{name: kind(value) for name, value in row.items()} for row in SAMPLES]
    assert [bar.get_height() for bar in ious(rows).axes[0].patches].count(1) == 10
    for by, at in (("seconds", [10.0 + k for k in range(10)]), ("place", [k / 10 for k in range(10)])):
        line, *quarters = errors(rows, by).axes[0].lines
        assert (
            len(quarters) == 2
            and line.get_xdata() == pytest.approx(at)
            and line.get_ydata() == pytest.approx([9.0 - k for k in range(10)])
        )
    reached, diagonal = calibration(rows).axes[0].lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == list(reached.get_xdata())
    assert list(reached.get_xdata()) == pytest.approx([0.05 + k / 10 for k in range(10)])
    assert list(reached.get_ydata()) == pytest.approx([0] * 5 + [1] * 5)


def test_an_evaluation_of_nothing_readable_is_drawn(tmp_path: Path) -> None:
    row = dict.fromkeys(("error", "start_probability", "start_right", "end_probability", "end_right"), "")
    rows = [{"mIoU": 0.0, "seconds": 3.0, "place": 0.5, **row}]
    for k, figure in enumerate((ious(rows), errors(rows), errors(rows, "place"), calibration(rows))):
        assert save(figure, tmp_path / f"{k}.png").stat().st_size > 1000


def test_rows_of_something_else_are_refused() -> None:
    for draw in (ious, errors, calibration, lambda rows: errors(rows, "length")):
        with pytest.raises(ArgumentError, match="rows: expected columns"):
            draw([{"mine": 1}])


LAYOUTS: dict[str, tuple[int, tuple[int, int]]] = {
    "lita": (10, (4, 4)),
    "llava-video": (11, (4, 4)),
    "tsp": (16, (2, 2)),
    "lita-spatial-pool": (7, (6, 4)),
    "lita-spatial": (3, (2, 3)),
}


def drawn(figure: Figure) -> list[np.ndarray]:
    """The place in the sequence at each patch, a picture for each path."""
    return [np.ma.filled(axes.images[0].get_array().astype(float), np.nan) for axes in figure.axes]


@pytest.mark.parametrize("preset", LAYOUTS)
def test_a_patch_is_drawn_in_the_colour_of_its_token(preset: str) -> None:
    num_frames, (height, width) = LAYOUTS[preset]
    plan = PRESETS[preset]
    tokens = plan.tokens(num_frames, (height, width))
    figure = layout(plan, num_frames, (height, width))
    assert [axes.get_ylabel() for axes in figure.axes] == [path.name for path in plan.paths]
    seen = set()
    for path, places in zip(plan.paths, drawn(figure), strict=True):
        for (y, x), place in np.ndenumerate(places):
            frame, column = divmod(x, width + 1)
            if np.isnan(place):
                assert column == width or frame not in path.frame_indices(num_frames)
                continue
            token = tokens[int(place)]
            assert token.path == path.name and frame in token.frames
            assert token.rows is not None and token.rows[0] <= y < token.rows[1]
            assert token.columns is not None and token.columns[0] <= column < token.columns[1]
            seen.add(int(place))
    assert seen == {place for place, token in enumerate(tokens) if not token.separator}  # none hides behind another
    numbers = {int(text.get_text()) for axes in figure.axes for text in axes.texts}
    assert numbers == seen


def test_where_tokens_share_patches_the_last_is_seen_and_numbered() -> None:
    figure = layout(PRESETS["lita"], 2, (4, 4))  # four slow frames of two
    texts, seen = figure.axes[1].texts, {int(place) for place in np.unique(drawn(figure)[1]) if place > 0}
    assert {int(text.get_text()) for text in texts} == seen
    assert len({text.get_position() for text in texts}) == len(texts) == 8


@pytest.mark.parametrize("preset", ["lita", "tsp", "slowfast-llava-7b"])
def test_a_layout_of_published_size_is_seen_though_not_numbered(preset: str) -> None:
    figure = layout(PRESETS[preset], 100, (24, 24))
    assert not any(axes.texts for axes in figure.axes)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [str(k) for k in range(0, 100, 5)]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    for axes, places in zip(figure.axes, drawn(figure), strict=True):
        (left, bottom), (right, top) = axes.images[0].get_window_extent().get_points().round().astype(int)
        part = pixels[len(pixels) - top : len(pixels) - bottom, left:right]
        colourful = float((np.ptp(part, axis=-1) > 8).mean())
        assert colourful > 0.5 * float((~np.isnan(places)).mean())


def test_a_layout_of_few_tall_frames_stays_a_page() -> None:
    assert layout(PRESETS["lita"], 1, (64, 4)).get_figheight() < 10


def test_a_path_may_have_any_name() -> None:
    layout(PoolingPlan((PoolingPath(name="$\\bad$"),)), 2, (2, 2)).draw_without_rendering()


def test_a_layout_refuses_what_its_plan_refuses() -> None:
    with pytest.raises(ArgumentError, match="grid"):
        layout(PRESETS["lita"], 4, (1, 1))


def test_a_data_set_is_drawn_as_its_plan_says() -> None:
    spans, durations = [Span(1, 3), Span(4, 4.5)], [20.0, 20.0]
    found = Plan({size: codec_ceiling(IndexCodec(TimeGrid(size)), spans, durations) for size in (10, 100)}, 0.5, 0.9)
    axes = quantisation(found).axes[0]
    assert axes.get_xscale() == "log"
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.get_lines()}
    assert lines["mIoU"].tolist() == [each.miou for each in found.ceilings.values()]
    assert lines["R@0.5"].tolist() == [each.recall[0.5] for each in found.ceilings.values()]
    assert set(lines["wanted"]) == {0.9}


def test_losses_are_drawn_over_their_steps() -> None:
    (line,) = training([10, 20], [2.0, 1.5]).axes[0].get_lines()
    assert np.asarray(line.get_xydata()).tolist() == [[10, 2.0], [20, 1.5]]
