import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oracles import mark_seconds, nearest_mark
from timetok.errors import ArgumentError, TimeRangeError
from timetok.timegrid import Span, TimeGrid

durations = st.floats(1e-3, 1e5)
counts = st.integers(2, 2000)


@st.composite
def moments(draw, lowest=0.0, highest=1.0):
    duration = draw(durations)
    return duration * draw(st.floats(lowest, highest)), duration


def test_lita_rounds_half_to_even():
    assert TimeGrid(100).encode([1, 3, 5, 7, 9], 198).tolist() == [0, 2, 2, 4, 4]


def test_default_is_lita():
    assert TimeGrid() == TimeGrid(100, out_of_range="clamp")


@given(moments(-0.5, 1.5), counts)
def test_encode_is_the_nearest_mark(moment, count):
    seconds, duration = moment
    exact = (count - 1) * seconds / duration
    assume(abs(exact - np.floor(exact) - 0.5) > 1e-9 * count)  # at a tie one rounding of the quotient decides
    assert TimeGrid(count).encode(seconds, duration) == nearest_mark(seconds, duration, count)


@given(st.integers(0, 500), st.integers(1, 9))
def test_ties_are_numpys(half, power):
    count, duration = 2**power + 1, 1.0  # (T - 1) and the quotient are exact, so every .5 is a true tie
    seconds = min((half + 0.5) / 2**power, 1.0)
    assert TimeGrid(count).encode(seconds, duration) == int(np.round((count - 1) * seconds))


@given(moments(), counts)
def test_decode_of_encode_is_within_max_error(moment, count):
    seconds, duration = moment
    grid = TimeGrid(count)
    error = abs(grid.decode(grid.encode(seconds, duration), duration) - seconds)
    assert error <= grid.max_error(duration) + 4 * np.spacing(duration)
    assert grid.max_error(duration) == duration / (2 * (count - 1))


@given(counts, durations)
def test_encode_of_decode_is_the_identity(count, duration):
    grid, index = TimeGrid(count), np.arange(count)
    np.testing.assert_array_equal(grid.encode(grid.decode(index, duration), duration), index)


@given(counts, durations)
def test_decode_is_the_exact_quotient(count, duration):
    seconds = TimeGrid(count).decode([0, 1, count // 2, count - 1], duration)
    expected = [mark_seconds(index, duration, count) for index in (0, 1, count // 2, count - 1)]
    np.testing.assert_array_max_ulp(seconds, np.array(expected), maxulp=2)
    assert (seconds[0], seconds[-1]) == (0.0, duration)


@given(st.lists(st.floats(-10, 110), min_size=2), counts)
def test_monotone(times, count):
    indices = TimeGrid(count).encode(sorted(times), 100.0)
    assert (np.diff(indices) >= 0).all()


@given(moments(), counts, st.integers(-20, 20))
def test_only_the_fraction_counts(moment, count, power):
    seconds, duration = moment
    assume(seconds == 0 or seconds > 1e-200)
    assert TimeGrid(count).encode(seconds * 2.0**power, duration * 2.0**power) == TimeGrid(count).encode(*moment)


@given(st.lists(moments(-0.5, 1.5), min_size=1), counts)
def test_array_equals_scalar(pairs, count):
    grid, (seconds, lengths) = TimeGrid(count), zip(*pairs, strict=True)
    indices = grid.encode(list(seconds), list(lengths))
    assert indices.dtype == np.int64
    assert indices.tolist() == [grid.encode(*pair) for pair in pairs]
    decoded = grid.decode(indices, np.array(lengths))
    assert decoded.dtype == np.float64
    assert decoded.tolist() == [grid.decode(int(i), d) for i, d in zip(indices, lengths, strict=True)]


def test_scalars_in_scalars_out():
    grid = TimeGrid(100)
    assert type(grid.encode(5, 10)) is type(grid.encode(np.float32(5), np.int64(10))) is int
    assert type(grid.decode(5, 10)) is type(grid.decode(np.int64(5), 10)) is type(grid.max_error(10)) is float
    assert grid.encode([], 10).tolist() == [] and grid.encode([], 10).dtype == np.int64
    assert grid.decode([], 10).tolist() == []


def test_half_precision_is_computed_in_float64():
    seconds = np.linspace(0, 60, 241, dtype=np.float16)  # quarters of seconds are exact in float16
    np.testing.assert_array_equal(TimeGrid(1000).encode(seconds, 60), TimeGrid(1000).encode(seconds.tolist(), 60))


def test_durations_broadcast():
    assert TimeGrid(11).encode([[1.0], [2.0]], [10.0, 20.0]).tolist() == [[1, 0], [2, 1]]
    assert TimeGrid(11).encode(2.0, [10.0, 20.0]).tolist() == [2, 1]
    assert TimeGrid(11).decode(1, [10.0, 20.0]).tolist() == [1.0, 2.0]
    assert TimeGrid(11).max_error([10.0, 20.0]).tolist() == [0.5, 1.0]


def test_clamps_both_ends():
    grid = TimeGrid(100)
    assert grid.encode([-1e300, -1e-9, 10 + 1e-9, 1e300], 10).tolist() == [0, 0, 99, 99]
    assert grid.encode(1e308, 1e-300) == 99  # the quotient overflows
    assert grid.decode([-5, 100, 2**62], 10).tolist() == [0.0, 10.0, 10.0]
    assert grid.decode(np.array([2**63], dtype=np.uint64), 10).tolist() == [10.0]


def test_raise_is_exact_at_both_ends():
    grid = TimeGrid(100, out_of_range="raise")
    assert grid.encode([0.0, 10.0], 10).tolist() == [0, 99]
    assert grid.decode([0, 99], 10).tolist() == [0.0, 10.0]
    for seconds in (-np.nextafter(0, 1), np.nextafter(10, 11)):
        with pytest.raises(TimeRangeError, match="seconds must be between 0 and the duration"):
            grid.encode([5.0, seconds], 10)
    for index in (-1, 100):
        with pytest.raises(TimeRangeError, match="index must be between 0 and 99"):
            grid.decode([5, index], 10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, None, "1.0", True, 1j, [[1], [1, 2]], [None], ["1"]])
def test_seconds_must_be_finite_numbers(bad):
    with pytest.raises(TimeRangeError, match=r"^seconds must be"):
        TimeGrid().encode(bad, 10)


@pytest.mark.parametrize("bad", [0, -1.0, np.nan, np.inf, None, "60", True, [10, 0]])
@pytest.mark.parametrize("call", [TimeGrid().encode, TimeGrid().decode, lambda _, d: TimeGrid().max_error(d)])
def test_durations_must_be_positive(call, bad):
    with pytest.raises(TimeRangeError, match=r"^duration must be"):
        call(1, bad)


@pytest.mark.parametrize("bad", [1.0, "1", None, True, [0.5], np.nan])
def test_indices_must_be_integers(bad):
    with pytest.raises(TimeRangeError, match=r"^index must be"):
        TimeGrid().decode(bad, 10)


def test_shapes_must_broadcast():
    with pytest.raises(TimeRangeError, match=r"seconds of shape \(3,\) and duration of shape \(2,\)"):
        TimeGrid().encode([1, 2, 3], [1, 2])
    with pytest.raises(TimeRangeError, match=r"index of shape \(3,\) and duration of shape \(2,\)"):
        TimeGrid().decode([1, 2, 3], [1, 2])


@pytest.mark.parametrize("bad", [1, 0, -5, 2.0, "100", None, True])
def test_there_are_at_least_two_marks(bad):
    with pytest.raises(ArgumentError, match="num_tokens must be an integer of at least 2"):
        TimeGrid(bad)


def test_choices_are_checked():
    with pytest.raises(ArgumentError, match="out_of_range must be 'clamp' or 'raise', got 'wrap'"):
        TimeGrid(out_of_range="wrap")


def test_span():
    span = Span(1, np.float32(2.5))
    start, end = span
    assert (start, end, span.duration_seconds) == (1.0, 2.5, 1.5)
    assert type(span.start) is type(span.end) is float
    assert Span(3, 3).duration_seconds == 0
    assert pickle.loads(pickle.dumps(span)) == span == Span(1.0, 2.5)
    assert sorted([Span(2, 3), Span(1, 9)])[0] == Span(1, 9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        span.start = 0.0


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ((2, 1), "start=2.0, end=1.0"),
        ((np.nan, 1), "start must be finite"),
        ((0, np.inf), "end must be finite"),
        (("0", 1), "start must be a number"),
        ((0, [1]), "end must be one number"),
    ],
)
def test_span_refuses(ends, message):
    with pytest.raises(TimeRangeError, match=message):
        Span(*ends)
