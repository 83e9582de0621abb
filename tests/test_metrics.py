import json
import random
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from oracles import iou_by_counting, lita_rtl
from timetok.codecs import ClockCodec, IndexCodec, SecondsCodec, format_span
from timetok.errors import ArgumentError, DataError, TimeRangeError
from timetok.metrics import Prediction, Reference, codec_ceiling, evaluate, iou
from timetok.timegrid import Span, TimeGrid

whole_spans = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted).map(tuple)


@given(whole_spans, whole_spans)
def test_iou_is_the_share_of_cells(a, b):
    assert iou(Span(*a), Span(*b)) == iou(Span(*b), Span(*a)) == iou_by_counting(a, b)


@given(st.floats(0, 1e4), st.floats(1e-3, 1e4))
def test_iou_with_itself_is_one(start, length):
    assert iou(Span(start, start + length), Span(start, start + length)) == 1.0


def test_iou_of_moments_is_zero():
    assert iou(Span(3, 3), Span(3, 3)) == 0.0
    assert iou(Span(0, 1), Span(1, 2)) == 0.0


@given(st.lists(whole_spans, min_size=1, max_size=6))
def test_iou_of_arrays_is_that_of_their_spans(rows):
    pairs = np.array(rows, dtype=np.float64)
    assert iou(pairs[:, None], pairs).tolist() == [[iou_by_counting(a, b) for b in rows] for a in rows]


def one(seconds, span=(2, 6), duration=8.0, protocol="lita-rtl"):
    return evaluate([Prediction("q", seconds)], [Reference("q", "v", Span(*span), duration)], protocol)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((2, 6), 1.0),
        ((6, 2), 1.0),  # sorted
        ((2, 6, 0, 1), 1.0),  # only the first two
        ((-3, 6), 4 / 6),  # clamped to [0, 6]
        ((4, 99), 2 / 6),  # clamped to [4, 8]
        ((), 4 / 8),  # the whole video
        ((3,), 4 / 8),
        ((3, 3), 0.0),
    ],
)
def test_lita_rtl_reads_two_moments(seconds, expected):
    assert one(seconds).miou == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(("seconds", "parsed"), [((), False), ((3,), False), ((2, 6), True)])
def test_strict_gives_nothing_for_nothing(seconds, parsed):
    report = one(seconds, protocol="lita-rtl-strict")
    assert (report.miou, report.parse_rate, report.per_sample[0].parsed) == (float(parsed), float(parsed), parsed)


def test_half_counts_as_precise():
    assert one((0, 8)).miou == 0.5 and one((0, 8)).p_at_05 == 1.0


def test_videos_weigh_the_same():
    references = [Reference(i, "long" if i < 3 else "short", Span(0, 4), 8.0) for i in range(4)]
    predictions = [Prediction(i, (0, 4) if i < 3 else (4, 8)) for i in reversed(range(4))]
    report = evaluate(predictions, references)
    assert (report.miou, report.p_at_05) == (0.5, 0.5)  # not 3/4: one video is right, one is wrong
    assert (report.num_samples, report.num_videos, report.parse_rate) == (4, 2, 1.0)
    assert [sample.question_id for sample in report.per_sample] == [0, 1, 2, 3]


def test_against_the_slow_version():
    draw = random.Random(0)
    rows = []
    for _ in range(200):
        duration = draw.uniform(5, 100)
        seconds = [draw.uniform(-5, duration + 5) for _ in range(draw.randrange(4))]
        reference = sorted((draw.uniform(0, duration), draw.uniform(0, duration)))
        rows.append((f"v{draw.randrange(40)}", seconds, tuple(reference), duration))
    references = [Reference(i, video, Span(*span), duration) for i, (video, _, span, duration) in enumerate(rows)]
    report = evaluate([Prediction(i, row[1]) for i, row in enumerate(rows)], references)
    assert (report.miou, report.p_at_05) == pytest.approx(lita_rtl(rows), rel=1e-12)


def test_tasks_are_kept_apart():
    references = [Reference("a", "v", Span(0, 4), 8.0), Reference("b", "v", Span(0, 4), 8.0, task="event_loc")]
    report = evaluate([Prediction("a", (0, 4)), Prediction("b", ())], references, "lita-rtl-strict")
    assert report.by_task["rtl"].miou == 1.0 and report.by_task["rtl"].num_samples == 1
    assert report.by_task["event_loc"].miou == 0.0 and report.by_task["event_loc"].parse_rate == 0.0
    assert report.miou == 0.5


def test_report_for_people_and_files():
    references = [Reference("a", "v", Span(0, 4), 8.0), Reference("b", "v", Span(0, 4), 8.0, task="event_loc")]
    report = evaluate([Prediction("a", (0, 4)), Prediction("b", (0, 2))], references)
    header, total, *tasks = str(report).splitlines()
    assert header.split() == ["lita-rtl", "mIoU", "P@0.5", "parsed", "samples", "videos"]
    assert total.split() == ["all", "0.750", "1.000", "1.000", "2", "1"]
    assert [line.split()[0] for line in tasks] == ["event_loc", "rtl"]
    assert len({len(line) for line in str(report).splitlines()}) == 1
    read = json.loads(json.dumps(asdict(report)))
    assert read["protocol"] == "lita-rtl" and read["by_task"]["rtl"]["miou"] == 1.0
    assert read["per_sample"][1] == {"question_id": "b", "iou": 0.5, "parsed": True}


def test_ids_must_match():
    references = [Reference(i, "v", Span(0, 4), 8.0) for i in ("a", "b", "b")]
    with pytest.raises(DataError) as caught:
        evaluate([Prediction("c", ()), Prediction("d", ()), Prediction("d", ())], references)
    assert str(caught.value).endswith("'a' has 0 and 1, 'b' has 0 and 2, 'c' has 1 and 0, 'd' has 2 and 0")
    with pytest.raises(DataError, match="references is empty"):
        evaluate([], [])


def test_bad_arguments():
    with pytest.raises(ArgumentError, match=r"protocol must be one of \['lita-rtl', 'lita-rtl-strict'\], got 'rtl'"):
        one((1, 2), protocol="rtl")
    with pytest.raises(TimeRangeError, match="seconds of prediction 'q' must be finite"):
        Prediction("q", (float("nan"), 1))
    for duration in (0.0, -1.0, float("inf")):
        with pytest.raises(TimeRangeError, match="duration_seconds of reference 'q'"):
            Reference("q", "v", Span(0, 1), duration)


def events(length, duration, count=200_001):
    starts = np.linspace(0, duration - length, count)
    return np.stack([starts, starts + length], 1)


def test_ten_seconds_in_ten_minutes():
    spans = events(10.0, 600.0)
    hundred = codec_ceiling(IndexCodec(TimeGrid(100)), spans, 600.0)
    assert hundred.recall[0.7] == pytest.approx(0.643, abs=0.01) and hundred.recall[0.9] == 0
    thousand = codec_ceiling(IndexCodec(TimeGrid(1000)), spans, 600.0)
    assert thousand.recall[0.7] == thousand.recall[0.9] == 1


def test_half_a_minute_in_an_hour():
    found = codec_ceiling(IndexCodec(TimeGrid(100)), events(30.0, 3600.0), 3600.0)
    assert found.miou == pytest.approx(0.523, abs=0.01)
    assert found.recall[0.7] == pytest.approx(0.324, abs=0.01)
    assert found.zero_length == pytest.approx(1 - 30 / (3600 / 99), abs=0.002)  # both ends nearest to one mark


CODECS = [
    IndexCodec(TimeGrid(30)),
    IndexCodec(TimeGrid(30, marks="starts", rounding="floor")),
    SecondsCodec(0),
    ClockCodec(),
]


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=min(settings.default.max_examples, 600))  # slow ones, where thorough asks for 12 000
@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(50, 90)), min_size=1, max_size=8))
def test_it_is_the_mean_of_what_each_span_reaches(codec, rows):
    spans, durations = [Span(*sorted(row[:2])) for row in rows], [row[2] for row in rows]
    read = [Span(*codec.parse(format_span(codec, s, d), d)) for s, d in zip(spans, durations, strict=True)]
    reached = [iou(a, b) for a, b in zip(read, spans, strict=True)]
    found = codec_ceiling(codec, spans, durations, thresholds=(0.5,))
    assert found.miou == pytest.approx(np.mean(reached), abs=1e-9)
    assert found.recall == {0.5: np.mean([value >= 0.5 for value in reached])}
    assert found.zero_length == np.mean([span.start == span.end for span in read])
    assert found.num_spans == len(spans)


def test_more_tokens_never_hurt_much():
    spans = events(7.0, 100.0, 501)
    scores = [codec_ceiling(IndexCodec(TimeGrid(size)), spans, 100.0).miou for size in (10, 100, 1000, 10_000)]
    assert scores == sorted(scores) and scores[-1] > 0.998


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="spans is empty"):
        codec_ceiling(SecondsCodec(), [], 10.0)
    with pytest.raises(ArgumentError, match="durations must be one number or 2 of them"):
        codec_ceiling(SecondsCodec(), [(0, 1), (1, 2)], [10.0, 10.0, 10.0])
    with pytest.raises(TimeRangeError, match="duration must be a positive number"):
        codec_ceiling(IndexCodec(), [(0, 1)], 0.0)
