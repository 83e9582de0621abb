"""The plan: which frames are slow, how many tokens come out, and in which order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracles
from timetok.errors import ArgumentError
from timetok.pooling import SlowFastPlan


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [(100, [0, 33, 66, 99]), (10, [0, 3, 6, 9]), (8, [0, 2, 5, 7]), (7, [0, 2, 4, 6])],
)
def test_slow_frames_of_litas_code(num_frames, expected):
    assert SlowFastPlan().slow_frame_indices(num_frames) == expected


@given(st.integers(1, 3000), st.integers(1, 40))
def test_slow_frames_are_the_exact_rounding(num_frames, num_slow):
    found = SlowFastPlan(num_slow_frames=num_slow).slow_frame_indices(num_frames)
    assert found == oracles.slow_frames(num_frames, num_slow)
    assert all(type(index) is int for index in found)
    if num_slow > 1:
        assert (found[0], found[-1]) == (0, num_frames - 1)


@pytest.mark.parametrize("num_frames", range(1, 300))
def test_slow_frames_are_numpys(num_frames):
    expected = np.round(np.linspace(0, num_frames - 1, 4)).astype(int).tolist()
    assert SlowFastPlan().slow_frame_indices(num_frames) == expected


def test_ties_go_to_the_even_frame():
    # 5 slow frames of 7: 0, 1.5, 3, 4.5, 6; of 3: 0, .5, 1, 1.5, 2
    assert SlowFastPlan(num_slow_frames=5).slow_frame_indices(7) == [0, 2, 3, 4, 6]
    assert SlowFastPlan(num_slow_frames=5).slow_frame_indices(3) == [0, 0, 1, 2, 2]


def test_fewer_frames_than_slow_frames_repeat():
    assert SlowFastPlan().slow_frame_indices(1) == [0, 0, 0, 0]
    assert SlowFastPlan().slow_frame_indices(2) == [0, 0, 1, 1]  # 0, 1/3, 2/3, 1


@pytest.mark.parametrize("num_frames", [1, 2, 100])
def test_one_slow_frame_is_the_first(num_frames):
    assert SlowFastPlan(num_slow_frames=1).slow_frame_indices(num_frames) == [0]


def test_tokens_are_fast_first_then_slow():
    plan = SlowFastPlan(num_slow_frames=2)
    assert plan.token_frames(3, (2, 4)) == [
        ("fast", 0),
        ("fast", 1),
        ("fast", 2),
        *[("slow", 0)] * 2,
        *[("slow", 2)] * 2,
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 100 + 256),
        ({"num_slow_frames": 0}, 100),
        ({"fast": False}, 256),
        ({"num_slow_frames": 9, "slow_pool": 3}, 325),
    ],
)
def test_number_of_tokens(options, expected):  # 9 frames of (16 // 3)² = 25 cells
    assert len(SlowFastPlan(**options).token_frames(100, (16, 16))) == expected


def test_a_border_that_fills_no_square_is_dropped():
    assert SlowFastPlan().slow_grid((5, 9)) == (2, 4)


@pytest.mark.parametrize("grid", [(1, 16), (16, 1), (0, 0)])
def test_grid_smaller_than_a_square_is_refused(grid):
    with pytest.raises(ArgumentError, match=r"grid: expected at least 2 x 2 patches, got \(" + str(grid[0])):
        SlowFastPlan().token_frames(10, grid)
    assert len(SlowFastPlan(num_slow_frames=0).token_frames(10, grid)) == 10  # no slow path, no grid


@pytest.mark.parametrize("options", [{}, {"num_slow_frames": 0}])
@pytest.mark.parametrize("num_frames", [0, -1])
def test_no_frame_is_refused(options, num_frames):
    plan = SlowFastPlan(**options)
    with pytest.raises(ArgumentError, match=f"num_frames: expected at least 1, got {num_frames}"):
        plan.token_frames(num_frames, (4, 4))
    with pytest.raises(ArgumentError, match=f"num_frames: expected at least 1, got {num_frames}"):
        plan.slow_frame_indices(num_frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_slow_frames": -1}, "num_slow_frames: expected an integer of at least 0, got -1"),
        ({"num_slow_frames": 2.0}, "num_slow_frames: expected an integer of at least 0, got 2.0"),
        ({"slow_pool": 0}, "slow_pool: expected an integer of at least 1, got 0"),
        ({"slow_pool": "2"}, "slow_pool: expected an integer of at least 1, got '2'"),
        ({"fast": False, "num_slow_frames": 0}, "fast, num_slow_frames: a plan with neither"),
    ],
)
def test_bad_plans_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        SlowFastPlan(**options)


def test_the_plan_is_a_frozen_record():
    assert SlowFastPlan() == SlowFastPlan(fast=True, num_slow_frames=4, slow_pool=2)
    assert len({SlowFastPlan(), SlowFastPlan()}) == 1
