import dataclasses
import pickle
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given, strategies as st

from oracles import mark_seconds, nearest_mark, rounded_mark
from timetok.errors import ArgumentError, TimeRangeError
from timetok.timegrid import Marks, Rounding, Span, TimeGrid

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
    for rounding in ("half-up", "floor"):
        assert TimeGrid(100, rounding=rounding).encode([1e308, -1e308], 1e-300).tolist() == [99, 0]
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
    with pytest.raises(TimeRangeError, match=r"^seconds, duration: give one.*\(3,\).*\(2,\)"):
        TimeGrid().encode([1, 2, 3], [1, 2])
    with pytest.raises(TimeRangeError, match=r"^index, duration: give one.*\(3,\).*\(2,\)"):
        TimeGrid().decode([1, 2, 3], [1, 2])


@pytest.mark.parametrize("bad", [1, 0, -5, 2.0, "100", None, True, np.array(100.5)])
def test_there_are_at_least_two_marks(bad):
    with pytest.raises(ArgumentError, match="num_tokens: expected an integer of at least 2"):
        TimeGrid(bad)


def test_choices_are_checked():
    with pytest.raises(ArgumentError, match=r"out_of_range must be one of \('clamp', 'raise'\), got 'wrap'"):
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


LAYOUTS = [(marks, rounding) for marks in get_args(Marks) for rounding in get_args(Rounding)]


@pytest.mark.parametrize(("marks", "rounding"), LAYOUTS)
@given(moments(-0.2, 1.2), counts)
def test_every_layout_follows_its_formula(marks, rounding, moment, count):
    seconds, duration = moment
    steps, offset = {"edges": (count - 1, 0.0), "centres": (count, 0.5), "starts": (count, 0.0)}[marks]
    exact = steps * seconds / duration - offset
    assume(abs(2 * exact - np.round(2 * exact)) > 1e-9 * count)  # ties, and what is a rounding error off a mark
    found = TimeGrid(count, marks=marks, rounding=rounding).encode(seconds, duration)
    assert found == rounded_mark(seconds, duration, steps, offset, rounding, count)


@pytest.mark.parametrize(("marks", "rounding"), LAYOUTS)
@given(moments(), counts)
def test_every_layout_is_a_round_trip(marks, rounding, moment, count):
    seconds, duration = moment
    grid = TimeGrid(count, marks=marks, rounding=rounding)
    np.testing.assert_array_equal(grid.encode(grid.sample_times(duration), duration), np.arange(count))
    error = abs(grid.decode(grid.encode(seconds, duration), duration) - seconds)
    assert error <= grid.max_error(duration) + 8 * np.spacing(duration)


@pytest.mark.parametrize(("marks", "rounding"), LAYOUTS)
def test_the_largest_error_is_reached(marks, rounding):
    grid, seconds = TimeGrid(5, marks=marks, rounding=rounding), np.linspace(0, 1, 100_001)
    worst = np.abs(grid.decode(grid.encode(seconds, 1.0), 1.0) - seconds).max()
    assert worst == pytest.approx(grid.max_error(1.0), abs=2e-5)


def test_half_up_takes_the_later_mark_and_only_at_a_tie():
    grid = TimeGrid(5, rounding="half-up")
    assert grid.encode([0.5, 1.5, 2.5, 0.49999999999999994], 4.0).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize(
    ("name", "seconds", "index", "decoded"),
    [  # min(round(100 t / d), 99) and k d / 100; int(300 t / d) and k d / 300; round((T - 1) t / d)
        ("vtimellm", 59.9, 99, 59.4),
        ("grounded-videollm", 59.9, 299, 59.8),
        ("grounded-videollm", 60.0, 300, 60.0),
        ("momentor", 30.0, 150, 60 * 150 / 299),
        ("llava-st", 59.9, 99, 60.0),
        ("vila", 20.0, 33, 20.0),
        ("lita", 20.0, 33, 20.0),
    ],
)
def test_presets_follow_their_systems(name, seconds, index, decoded):
    grid = TimeGrid.preset(name)
    assert grid.encode(seconds, 60.0) == index
    assert grid.decode(index, 60.0) == pytest.approx(decoded)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ArgumentError, match="name must be one of lita, vila"):
        TimeGrid.preset("gpt")


@given(st.lists(st.floats(-10, 110), min_size=1, max_size=20), counts)
def test_tensors_equal_arrays(times, count):
    grid, tensor = TimeGrid(count), torch.tensor(times, dtype=torch.float64)
    found = grid.encode(tensor, 100.0)
    assert isinstance(found, torch.Tensor) and found.dtype == torch.int64
    assert found.tolist() == grid.encode(times, 100.0).tolist()
    decoded = grid.decode(found, torch.tensor(100.0))
    assert decoded.dtype == torch.float64
    assert decoded.tolist() == grid.decode(found.tolist(), 100.0).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_half_precision_tensor_keeps_the_index_of_its_value(dtype):
    seconds = torch.linspace(0, 59, 500).to(dtype)
    expected = TimeGrid(1000).encode(seconds.double().tolist(), 61.0)
    assert TimeGrid(1000).encode(seconds, 61.0).tolist() == expected.tolist()


def test_a_tensor_of_one_number_gives_a_tensor():
    assert TimeGrid().encode(torch.tensor(30.0), 60.0).shape == ()
    assert TimeGrid().decode(50, torch.tensor([60.0, 99.0])).tolist() == [60.0 * 50 / 99, 50.0]


def test_sample_times_broadcast_over_durations():
    assert TimeGrid(3).sample_times([2.0, 4.0]).tolist() == [[0.0, 1.0, 2.0], [0.0, 2.0, 4.0]]
