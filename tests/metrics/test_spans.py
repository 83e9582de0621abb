import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import oracles
from timetok.codecs import ClockCodec, IndexCodec, SecondsCodec, format_span
from timetok.errors import ArgumentError, TimeRangeError
from timetok.metrics import (
    AP_LEVELS,
    average_precision,
    codec_ceiling,
    detection,
    hit_at_1,
    hull_iou,
    iou,
    matched_iou,
    union_iou,
)
from timetok.timegrid import Span, TimeGrid

whole_spans = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted).map(tuple)
lists = st.lists(whole_spans, max_size=4)
levels = [float(level) for level in oracles.AP_LEVELS]


@given(whole_spans, whole_spans)
def test_iou_is_the_share_of_cells(a, b):
    assert iou(Span(*a), Span(*b)) == iou(Span(*b), Span(*a)) == oracles.iou_by_counting(a, b)


@given(st.floats(0, 1e4), st.floats(1e-3, 1e4))
def test_iou_with_itself_is_one(start, length):
    assert iou(Span(start, start + length), Span(start, start + length)) == 1.0


def test_iou_of_whole_numbers():
    assert iou(np.array([0, 2]), np.array([1, 4])) == 0.25
    assert iou(np.array([[0, 2]]), np.array([1, 4])).tolist() == [0.25]


def test_iou_of_moments_is_zero():
    assert iou(Span(3, 3), Span(3, 3)) == 0.0
    assert iou(Span(0, 1), Span(1, 2)) == 0.0


@given(st.lists(whole_spans, min_size=1, max_size=6))
def test_iou_of_arrays_is_that_of_their_spans(rows):
    pairs = np.array(rows, dtype=np.float64)
    assert iou(pairs[:, None], pairs).tolist() == [[oracles.iou_by_counting(a, b) for b in rows] for a in rows]


ends = st.floats(0, 1e3)


@given(st.tuples(ends, ends).map(sorted), st.tuples(ends, ends).map(sorted))
def test_iou_of_any_spans(a, b):
    assert iou(Span(*a), Span(*b)) == pytest.approx(float(oracles.exact_iou(a, b)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", ["union_iou", "hull_iou", "matched_iou"])
@given(lists, lists)
def test_several_windows(name, a, b):
    ours, exact = globals()[name], getattr(oracles, f"exact_{name}")(a, b)
    assert ours(a, b) == pytest.approx(float(exact), abs=1e-12)
    assert ours([Span(*each) for each in b], np.array(a).reshape(-1, 2)) == pytest.approx(ours(a, b), abs=1e-12)


def test_hull_union_and_pairs_by_hand():
    two, one = [(0, 2), (8, 10)], [(0, 10)]
    assert (hull_iou(two, one), union_iou(two, one), matched_iou(two, one)) == (1.0, 0.4, 0.1)  # 10/10, 4/10, (2/10)/2
    greedy = [(0, 4), (2, 6)], [(1, 5), (5, 9)]  # the nearest pair is not in the best assignment
    assert matched_iou(*greedy) == pytest.approx((3 / 5 + 1 / 7) / 2)


@given(lists, st.lists(whole_spans, min_size=1, max_size=4), st.lists(st.sampled_from((0.1, 0.5, 0.9)), min_size=4))
def test_average_precision(windows, truths, scores):
    scores = scores[: len(windows)]
    exact = [oracles.exact_average_precision(windows, truths, scores, level) for level in oracles.AP_LEVELS]
    found = average_precision(windows, truths, scores=scores, levels=levels)
    assert found.tolist() == pytest.approx([float(value) for value in exact], abs=1e-12)
    in_order = average_precision(windows, truths, levels=levels)
    assert in_order.tolist() == average_precision(windows, truths, scores=[1] * len(windows), levels=levels).tolist()


def test_average_precision_by_hand():
    truths = [(0, 10), (20, 30)]
    assert AP_LEVELS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    right, wrong, near = (0, 10), (40, 50), (20, 28)  # IoU of the last with a truth is 0.8
    assert average_precision([right, near], truths).mean() == pytest.approx((7 * 1 + 3 * 0.5) / 10)
    assert average_precision([right, right], truths, levels=[0.5]) == 0.5  # a truth is found once
    assert average_precision([wrong, right, near], truths, levels=[0.5]) == pytest.approx(
        2 / 3
    )  # interpolated: 1/2, 2/3
    assert average_precision([wrong, right], truths[:1], scores=[0.1, 0.9], levels=[0.5]) == 1.0
    assert average_precision([wrong, right], truths[:1], scores=[0.5, 0.5], levels=[0.5]) == 0.5
    assert average_precision([], truths, levels=[0.5]) == 0.0
    many = [wrong] * 30 + [right] + [wrong] * 9  # more than a sort that is not stable keeps in order
    assert average_precision(many, truths[:1], scores=[0.5, 0.4, *[0.5] * 38], levels=[0.5]) == pytest.approx(1 / 30)
    tied = [(4, 6), (0, 5)], [(0, 5), (5, 10)]  # the first window is as near to either truth and takes the later
    assert average_precision(*tied, levels=[1 / 6]) == 1.0
    assert average_precision(tied[0], tied[1][::-1], levels=[1 / 6]) == 0.5


@given(lists, lists, st.booleans())
def test_detection(windows, truths, strict):
    chosen = (0.3, 0.5, 0.7, 0.9)
    exact = oracles.exact_detection(windows, truths, [oracles.Fraction(str(level)) for level in chosen], strict)
    assert detection(windows, truths, strict=strict) == pytest.approx([float(value) for value in exact], abs=1e-12)


def test_detection_by_hand():
    windows, truths = [(0, 10), (0, 5), (50, 60)], [(0, 10), (20, 30)]
    precision = (2 + 1 + 1 + 1) / 4 / 3  # at 0.5 the second, whose IoU is 0.5, is not above
    assert detection(windows, truths) == pytest.approx((precision, 0.5))
    assert detection(windows, truths, strict=False) == pytest.approx(((2 + 2 + 1 + 1) / 12, 0.5))


def test_hit_at_1():
    annotated = [(4, 0, 0), (3, 3, 3), (0, 4, 4)]  # clips, three annotators
    assert hit_at_1([0.9, 0.1, 0.2], annotated) and hit_at_1([0.1, 0.2, 0.9], annotated)
    assert not hit_at_1([0.1, 0.9, 0.2], annotated) and hit_at_1([0.1, 0.9, 0.2], annotated, level=3)
    assert not hit_at_1([0.1, 0.9, 0.9], annotated)  # of equal ones the first
    assert not hit_at_1([0, 0, 0, 9], annotated)  # a clip that nobody saw


def events(length, duration, count=50_001):
    starts = np.linspace(0, duration - length, count)
    return np.stack([starts, starts + length], 1)


def test_the_ceiling_of_ten_seconds_in_ten_minutes():
    spans = events(10.0, 600.0)
    hundred = codec_ceiling(IndexCodec(TimeGrid(100)), spans, 600.0)
    assert hundred.recall[0.7] == pytest.approx(0.643, abs=0.01) and hundred.recall[0.9] == 0
    thousand = codec_ceiling(IndexCodec(TimeGrid(1000)), spans, 600.0)
    assert thousand.recall[0.7] == thousand.recall[0.9] == 1


def test_the_ceiling_of_half_a_minute_in_an_hour():
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
def test_a_ceiling_is_the_mean_of_what_each_span_reaches(codec, rows):
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


def test_what_has_no_ceiling_is_named():
    with pytest.raises(ArgumentError, match="spans is empty"):
        codec_ceiling(SecondsCodec(), [], 10.0)
    with pytest.raises(ArgumentError, match="durations must be one number or 2 of them"):
        codec_ceiling(SecondsCodec(), [(0, 1), (1, 2)], [10.0, 10.0, 10.0])
    with pytest.raises(TimeRangeError, match="duration must be a positive number"):
        codec_ceiling(IndexCodec(), [(0, 1)], 0.0)
