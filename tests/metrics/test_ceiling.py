import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from timetok.codecs import ClockCodec, IndexCodec, SecondsCodec, format_span
from timetok.errors import ArgumentError, TimeRangeError
from timetok.metrics import codec_ceiling, iou
from timetok.timegrid import Span, TimeGrid


def events(length, duration, count=50_001):
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
