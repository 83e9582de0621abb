"""The plan: which frames are slow, how many tokens come out, and in which order."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

import oracles
from timetok import SlowFastPooler
from timetok.errors import ArgumentError
from timetok.pooling import PRESETS, Path, PoolingPlan, Token, plan_of


def even(num):
    return Path(name="slow", frames="even", num=num, window=(1, 2, 2))


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [(100, [0, 33, 66, 99]), (10, [0, 3, 6, 9]), (8, [0, 2, 5, 7]), (7, [0, 2, 4, 6])],
)
def test_slow_frames_of_litas_code(num_frames, expected):
    assert even(4).frame_indices(num_frames) == expected


@given(st.integers(1, 3000), st.integers(1, 40))
def test_slow_frames_are_the_exact_rounding(num_frames, num_slow):
    found = even(num_slow).frame_indices(num_frames)
    assert found == oracles.slow_frames(num_frames, num_slow)
    assert all(type(index) is int for index in found)
    if num_slow > 1:
        assert (found[0], found[-1]) == (0, num_frames - 1)


@pytest.mark.parametrize("num_frames", range(1, 300))
def test_slow_frames_are_numpys(num_frames):
    expected = np.round(np.linspace(0, num_frames - 1, 4)).astype(int).tolist()
    assert even(4).frame_indices(num_frames) == expected


def test_ties_go_to_the_even_frame():
    # 5 slow frames of 7: 0, 1.5, 3, 4.5, 6; of 3: 0, .5, 1, 1.5, 2
    assert even(5).frame_indices(7) == [0, 2, 3, 4, 6]
    assert even(5).frame_indices(3) == [0, 0, 1, 2, 2]


def test_fewer_frames_than_slow_frames_repeat():
    assert even(4).frame_indices(1) == [0, 0, 0, 0]
    assert even(4).frame_indices(2) == [0, 0, 1, 1]  # 0, 1/3, 2/3, 1


@pytest.mark.parametrize("num_frames", [1, 2, 100])
def test_one_slow_frame_is_the_first(num_frames):
    assert even(1).frame_indices(num_frames) == [0]


def test_tokens_are_fast_first_then_slow():
    tokens = plan_of(num_slow_frames=2).tokens(3, (2, 4))
    assert [(token.path, token.frames) for token in tokens] == [
        *[("fast", (frame,)) for frame in range(3)],
        *[("slow", (frame,)) for frame in (0, 0, 2, 2)],
    ]
    assert tokens[0] == Token("fast", (0,), (0, 2), (0, 4)) and tokens[-1] == Token("slow", (2,), (0, 2), (2, 4))
    assert tokens[1].seconds([0.0, 1.5, 3.0]) == 1.5


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
    assert plan_of(**options).num_tokens(100, (16, 16)) == expected


@pytest.mark.parametrize("name", PRESETS)
@given(t=st.integers(1, 40), h=st.integers(4, 17), w=st.integers(4, 17))
def test_numbers_are_those_of_the_tokens_and_tokens_lie_in_the_video(name, t, h, w):
    plan = PRESETS[name]
    tokens = plan.tokens(t, (h, w))
    assert len(tokens) == plan.num_tokens(t, (h, w))
    for token in tokens:
        assert token.frames and all(0 <= frame < t for frame in token.frames)
        for interval, size in ((token.rows, h), (token.columns, w)):
            assert token.separator or 0 <= interval[0] < interval[1] <= size


@pytest.mark.parametrize(
    ("name", "num_frames", "grid", "expected"),
    [
        ("lita", 100, (16, 16), 100 + 256),
        ("lita-temporal", 100, (16, 16), 100),
        ("lita-spatial", 100, (16, 16), 256),
        ("lita-temporal-spatial", 100, (16, 16), 100 + 256),
        ("lita-spatial-pool", 100, (16, 16), 4 * 64),
        ("lita-temporal-spatial-pool", 100, (16, 16), 100 + 4 * 64),
        ("lita-1.5", 256, (24, 24), 4 * (1 + 576 + 1) + (1 + 256 + 1)),
        ("slowfast-llava-7b", 50, (24, 24), 3680),
        ("llava-video", 20, (27, 27), 2 * (14 * 15 + 1) + 18 * (7 * 8 + 1)),
        ("tsp", 64, (16, 16), 8 * 256),
        ("tsp", 65, (16, 16), 9 * 256),
    ],
)
def test_published_numbers(name, num_frames, grid, expected):
    assert plan_of(preset=name).num_tokens(num_frames, grid) == expected


def test_slowfast_llavas_frames_and_order():
    plan = PRESETS["slowfast-llava-7b"]
    for num_frames in (3, 10, 50, 77):
        expected = np.linspace(0, num_frames, 11).astype(int)[:-1].tolist()
        assert plan.paths[0].frame_indices(num_frames) == expected
    assert [token.path for token in plan.tokens(50, (24, 24))] == ["slow"] * 2880 + ["fast"] * 800


def test_llava_video_takes_turns_frame_by_frame():
    tokens = PRESETS["llava-video"].tokens(12, (8, 8))
    assert [token.frames[0] for token in tokens] == sorted(token.frames[0] for token in tokens)
    slow, fast = 4 * 5 + 1, 2 * 3 + 1
    assert [token.path for token in tokens] == ["slow"] * slow + ["fast"] * 9 * fast + ["slow"] * slow + ["fast"] * fast
    assert [token.separator for token in tokens[:slow]] == [*[None] * 4, "newline"] * 4 + ["separator"]


def test_lita_15_wraps_images_and_the_video():
    tokens = PRESETS["lita-1.5"].tokens(8, (2, 2))
    names = [token.separator or token.path for token in tokens]
    assert names == ["image_start", *["slow"] * 4, "image_end"] * 4 + ["video_start", *["fast"] * 8, "video_end"]


@pytest.mark.parametrize(
    ("partial", "expected"),
    [
        ("floor", [(0, 3), (3, 6)]),
        ("ceil", [(0, 3), (3, 6), (6, 8)]),
        ("adaptive", [(0, 4), (4, 8)]),
    ],
)
def test_windows_that_do_not_divide(partial, expected):
    path = Path(name="slow", window=(1, 3, 3), partial=partial)
    assert path.intervals((8, 6)) == (expected, [(0, 3), (3, 6)])


@given(st.integers(1, 40), st.integers(1, 12))
def test_cells_are_those_of_adaptive_pooling(size, cells):
    rows, _ = Path(name="fast", cells=(cells, 1)).intervals((size, 1))
    assert rows == [((k * size) // cells, -((-(k + 1) * size) // cells)) for k in range(cells)]


def test_every_and_the_others_share_the_frames():
    every, others = (Path(name="slow", frames=frames, num=3) for frames in ("every", "others"))
    assert every.frame_indices(8) == [0, 3, 6] and others.frame_indices(8) == [1, 2, 4, 5, 7]
    assert Path(name="slow", frames=(5, 1)).frame_indices(6) == [5, 1]
    with pytest.raises(ArgumentError, match=r"frames: expected indices below 5, got \(5, 1\)"):
        Path(name="slow", frames=(5, 1)).frame_indices(5)


def test_groups_of_frames():
    assert Path(name="tsp", window=(4, 1, 1)).groups(6) == [(0, 1, 2, 3), (4, 5)]
    assert Path(name="all", window=(0, 1, 1)).groups(3) == [(0, 1, 2)]


@pytest.mark.parametrize("grid", [(1, 16), (16, 1), (0, 0)])
def test_grid_smaller_than_a_square_is_refused(grid):
    with pytest.raises(ArgumentError, match=r"grid: expected at least 2 x 2 patches, got \(" + str(grid[0])):
        plan_of(fast=False).num_tokens(10, grid)


@pytest.mark.parametrize("options", [{}, {"num_slow_frames": 0}])
@pytest.mark.parametrize("num_frames", [0, -1])
def test_no_frame_is_refused(options, num_frames):
    plan = plan_of(**options)
    with pytest.raises(ArgumentError, match=f"num_frames: expected an integer of at least 1, got {num_frames}"):
        plan.num_tokens(num_frames, (4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_slow_frames": -1}, "num_slow_frames: expected an integer of at least 0, got -1"),
        ({"num_slow_frames": 2.0}, "num_slow_frames: expected an integer of at least 0, got 2.0"),
        ({"slow_pool": 0}, "slow_pool: expected an integer of at least 1, got 0"),
        ({"slow_pool": "2"}, "slow_pool: expected an integer of at least 1, got '2'"),
        ({"fast": False, "num_slow_frames": 0}, "paths: expected at least one, .* got "),
    ],
)
def test_bad_plans_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        plan_of(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": "odd"}, "frames, unless indices: expected one of all, even, floor, every, others, got 'odd'"),
        ({"frames": [1, 2]}, r"frames, unless indices: expected one of all, .* got \[1, 2\]"),
        ({"frames": "even"}, "num: expected an integer of at least 1, got 0"),
        ({"window": (1, -1, 0)}, "window: expected an integer of at least 0, got -1"),
        ({"reduction": "sum"}, "reduction: expected one of mean, max, bilinear, got 'sum'"),
        ({"partial": "pad"}, "partial: expected one of floor, ceil, adaptive, got 'pad'"),
        ({"separators": (("row", "newline"),)}, "separators: expected one of start, end"),
    ],
)
def test_bad_paths_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        Path(name="slow", **options)


def test_a_plan_needs_paths_with_names_of_their_own():
    for paths in ((), (Path(name="a"), Path(name="a"))):
        with pytest.raises(ArgumentError, match="paths: expected at least one"):
            PoolingPlan(paths)


def test_the_plan_is_a_frozen_record():
    assert plan_of() == plan_of(preset="lita") and len({plan_of(), plan_of()}) == 1


def test_settings_of_a_pooler_with_separators_name_its_plan():
    assert plan_of(**SlowFastPooler.preset("llava-video", dim=4).arguments) == PRESETS["llava-video"]
