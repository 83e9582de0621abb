"""The pooler: LITA's formula, checked one sum at a time, and its gradients."""

import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracles
from timetok import SlowFastPooler
from timetok.errors import ArgumentError
from timetok.pooling import SlowFastPlan, as_grid

LAYOUTS = [{}, {"num_slow_frames": 0}, {"fast": False}, {"num_slow_frames": 3, "slow_pool": 3}, {"slow_pool": 1}]


def features(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(t=st.integers(1, 9), h=st.integers(3, 7), w=st.integers(3, 7))
def test_tokens_are_those_of_the_formula(layout, t, h, w):
    video = features(2, t, h, w, 3)
    pooler = SlowFastPooler(**layout)
    plan = {"fast": True, "num_slow_frames": 4, "slow_pool": 2} | layout
    expected = [
        oracles.slowfast(one, fast=plan["fast"], num_slow=plan["num_slow_frames"], side=plan["slow_pool"])
        for one in video.tolist()
    ]
    found = pooler(video)
    assert found.shape == (2, pooler.num_tokens(num_frames=t, grid=(h, w)), 3)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_published_layout():
    pooler = SlowFastPooler()
    assert pooler.num_tokens(num_frames=100, grid=(16, 16)) == 356
    video = features(1, 100, 256, 2)
    tokens = pooler(video)
    assert tokens.shape == (1, 356, 2)
    torch.testing.assert_close(tokens[0, 41], video[0, 41].mean(0))
    # the first token of the third slow frame, frame 66: patches 0, 1 of rows 0, 1
    torch.testing.assert_close(tokens[0, 100 + 2 * 64], video[0, 66][[0, 1, 16, 17]].mean(0))


def test_a_square_of_patches_is_read_row_by_row():
    video = features(2, 5, 4, 4, 3)
    assert torch.equal(SlowFastPooler()(video), SlowFastPooler()(video.flatten(2, 3)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_stays_near_the_formula(layout, dtype):
    exact = features(2, 6, 4, 6, 8)
    pooler = SlowFastPooler(**layout)
    found = pooler(exact.to(dtype))
    assert found.dtype == dtype
    # inputs and outputs are rounded once each; both are below 4 in size
    torch.testing.assert_close(found.double(), pooler(exact), rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(layout):
    video = features(1, 5, 3, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(SlowFastPooler(**layout), video)


def test_gradient_of_a_repeated_slow_frame_is_counted_each_time():
    video = features(1, 1, 2, 2, 1).requires_grad_()
    SlowFastPooler(fast=False)(video).sum().backward()  # four slow tokens, each the mean of the same four patches
    torch.testing.assert_close(video.grad, torch.ones_like(video))


def test_an_empty_batch_gives_an_empty_batch():
    assert SlowFastPooler()(torch.zeros(0, 5, 16, 3)).shape == (0, 5 + 16, 3)


def test_inputs_that_are_not_contiguous():
    video = features(2, 3, 6, 4, 5).transpose(2, 3)
    torch.testing.assert_close(SlowFastPooler()(video), SlowFastPooler()(video.contiguous()))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 16, 3), r"features: expected \[b t p e\] or \[b t h w e\], got \[4, 16, 3\]"),
        ((1, 4, 15, 3), r"features: 15 patches fill no square grid; pass \[b t h w e\], got \[1, 4, 15, 3\]"),
        ((1, 0, 16, 3), r"features: expected at least one frame and one patch, got \[1, 0, 16, 3\]"),
        ((1, 4, 0, 3), "features: expected at least one frame and one patch"),
        ((1, 4, 2, 0, 3), "features: expected at least one frame and one patch"),
        ((1, 4, 1, 3), r"grid: expected at least 2 x 2 patches, got \(1, 1\)"),
    ],
)
def test_bad_shapes_are_refused(shape, message):
    with pytest.raises(ArgumentError, match=message):
        SlowFastPooler()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lita", SlowFastPlan()),
        ("lita-temporal-spatial-pool", SlowFastPlan()),
        ("lita-temporal", SlowFastPlan(num_slow_frames=0)),
        ("lita-spatial-pool", SlowFastPlan(fast=False)),
    ],
)
def test_presets(name, expected):
    assert SlowFastPooler.preset(name).plan == expected


def test_unknown_presets_and_needless_widths_are_refused():
    with pytest.raises(ArgumentError, match=r"name: expected one of lita, .*, got 'litta'"):
        SlowFastPooler.preset("litta")
    with pytest.raises(ArgumentError, match="dim: preset 'lita' has no learned separators, so it takes none; got 8"):
        SlowFastPooler.preset("lita", dim=8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_settings_survive_json_and_pickle(layout):
    pooler = SlowFastPooler(**layout)
    assert SlowFastPooler(**json.loads(json.dumps(pooler.to_dict()))).plan == pooler.plan
    assert pickle.loads(pickle.dumps(pooler)).plan == pooler.plan
    assert pooler.state_dict() == {}


def test_printed_form_names_the_layout():
    assert repr(SlowFastPooler(slow_pool=3)) == "SlowFastPooler(fast=True, num_slow_frames=4, slow_pool=3)"


def test_a_grid_passes_through():
    video = torch.zeros(1, 2, 3, 4, 5)
    assert as_grid(video) is video
    assert as_grid(torch.zeros(1, 2, 9, 5)).shape == (1, 2, 3, 3, 5)
