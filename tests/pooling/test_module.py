"""The pooler: LITA's formula, checked one sum at a time, and its gradients."""

import json
import mmap
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import oracles
from timetok import SlowFastPooler
from timetok.errors import ArgumentError
from timetok.pooling import PRESETS, Path, PoolingPlan, as_grid
from timetok.pooling.reference import frames_of, pool

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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [16, 15])
def test_means_of_much_memory_are_as_near_as_torchs(dtype, p):
    """Where there is much, bags and products take the means; behind a CLS token rows are not contiguous."""
    whole = features(2, 20, p + 1, 256, dtype=dtype)
    assert whole[:, :, 1:].numel() > 2**15
    for video in (whole[:, :, 1:], whole[:, :, 1:].contiguous()):
        exact = video.double().mean(2)
        errors = [
            float((means.double() - exact).abs().max())
            for means in (SlowFastPooler(num_slow_frames=0)(video[:, :, None]), video.mean(2))
        ]
        assert errors[0] <= 2 * errors[1] + 1e-12
    whole[0, 3, 5, 7], whole[1, 2, 4, 6] = torch.nan, torch.inf
    found = SlowFastPooler(num_slow_frames=0)(whole[:, :, None, 1:].contiguous())
    assert found.isnan().nonzero().tolist() == [[0, 3, 7]] and found.isinf().nonzero().tolist() == [[1, 2, 6]]


def test_another_default_device_changes_nothing():
    video = features(1, 8, 16, 16, 64, dtype=torch.bfloat16)
    expected = SlowFastPooler()(video)
    try:
        torch.set_default_device("meta")
        assert torch.equal(SlowFastPooler()(video), expected)
    finally:
        torch.set_default_device(None)


def test_memory_is_estimated_without_any():
    with FakeTensorMode():
        video = torch.randn(1, 64, 16, 16, 512, requires_grad=True)
        SlowFastPooler()(video).sum().backward()
    assert video.grad.shape == video.shape


def test_a_large_gradient_is_that_of_the_formula():
    """One that has memory of its own."""
    video = features(1, 64, 8, 8, 1024, dtype=torch.float32).requires_grad_()
    tokens = SlowFastPooler()(video)
    weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((tokens * weights).sum(), video)
    expected = (weights[:, :64, None, None] / 64).repeat(1, 1, 8, 8, 1)
    for k, frame in enumerate((0, 21, 42, 63)):
        cells = weights[:, 64 + 16 * k : 80 + 16 * k].view(1, 4, 1, 4, 1, 1024) / 4
        expected[:, frame] += cells.expand(1, 4, 2, 4, 2, 1024).reshape(1, 8, 8, 1024)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous() and found.add_(1).sum() > 0  # ordinary memory


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
        ((4, 16, 3), r"features: expected floats \[b t p e\] or \[b t h w e\] .*, got torch.float32 \[4, 16, 3\]"),
        ((1, 4, 15, 3), r"features: 15 patches fill no square grid; pass \[b t h w e\], got \[1, 4, 15, 3\]"),
        ((1, 0, 16, 3), r"features: .* with a frame and a patch at least, got torch.float32 \[1, 0, 16, 3\]"),
        ((1, 4, 0, 3), "features: .* with a frame and a patch at least"),
        ((1, 4, 2, 0, 3), "features: .* with a frame and a patch at least"),
        ((1, 4, 1, 3), r"grid: expected at least 2 x 2 patches, got \(1, 1\)"),
    ],
)
def test_bad_shapes_are_refused(shape, message):
    with pytest.raises(ArgumentError, match=message):
        SlowFastPooler()(torch.zeros(shape))


def by_tokens(video, plan, separators):
    """What the plan says of every token, carried out one token at a time."""
    reductions = {path.name: path.reduction for path in plan.paths}
    expected = []
    for token in plan.tokens(video.shape[0], tuple(video.shape[1:3])):
        if token.separator:
            expected.append(separators[token.separator])
            continue
        patches = video[list(token.frames), slice(*token.rows), slice(*token.columns)].flatten(0, 2)
        expected.append(patches.amax(0) if reductions[token.path] == "max" else patches.mean(0))
    return torch.stack(expected)


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"llava-video"}))
@given(t=st.integers(1, 18), h=st.integers(4, 9), w=st.integers(4, 9))
def test_presets_do_what_their_plans_say(name, t, h, w):
    pooler = SlowFastPooler.preset(name, dim=3 if PRESETS[name].separators else None).double()
    video = features(2, t, h, w, 3)
    found = pooler(video)
    assert found.shape[1] == pooler.num_tokens(num_frames=t, grid=(h, w))
    expected = torch.stack([by_tokens(one, pooler.plan, pooler.separators) for one in video])
    torch.testing.assert_close(found, expected)


def test_llava_video_is_its_formula():
    pooler = SlowFastPooler.preset("llava-video", dim=3).double()
    video = features(1, 12, 7, 5, 3)
    expected = []
    for k, frame in enumerate(video[0]):
        size = (4, 3) if k % 10 == 0 else (2, 2)  # ceil(7 / 2), ceil(5 / 2); ceil(7 / 4), ceil(5 / 4)
        cells = torch.nn.functional.interpolate(frame.permute(2, 0, 1)[None], size, mode="bilinear")[0].permute(1, 2, 0)
        for row in cells:
            expected += [*row, pooler.separators["newline"]]
        expected.append(pooler.separators["separator"])
    torch.testing.assert_close(pooler(video)[0], torch.stack(expected))


@pytest.mark.parametrize("partial", ["floor", "ceil", "adaptive"])
@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("cells", [None, (2, 3)])
def test_borders_and_reductions(partial, reduction, cells):
    frames = {"frames": (4, 0, 4), "window": (2, 3, 2)}
    plan = PoolingPlan((Path(name="slow", partial=partial, reduction=reduction, cells=cells, **frames),))
    video = features(1, 5, 8, 5, 2)
    torch.testing.assert_close(pool(video, plan, {})[0], by_tokens(video[0], plan, {}))


@pytest.mark.parametrize("name", ["lita", "lita-temporal-spatial", "lita-spatial"])
@pytest.mark.parametrize("e", [3, 150])
def test_the_gradient_written_once_is_autograds(name, e):
    """With many channels; a small one autograd writes itself."""
    video, plan = features(2, 7, 5, 4, e).requires_grad_(), PRESETS[name]
    assert (video.numel() > 2**15) == (e == 150)
    weights = torch.randn(2, plan.num_tokens(7, (5, 4)), e, dtype=torch.float64)
    (found,) = torch.autograd.grad((SlowFastPooler.preset(name)(video) * weights).sum(), video)
    slowly = torch.stack([by_tokens(one, plan, {}) for one in video])
    (expected,) = torch.autograd.grad((slowly * weights).sum(), video)
    torch.testing.assert_close(found, expected)


def test_a_second_derivative_is_refused():
    video = features(1, 8, 8, 8, 64).requires_grad_()  # as much as is worth a gradient of its own
    (first,) = torch.autograd.grad(SlowFastPooler()(video).pow(2).sum(), video, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_videos_of_several_lengths():
    pooler, videos = SlowFastPooler(), [features(t, 4, 4, 3) for t in (3, 6)]
    alone = [pooler(video[None])[0] for video in videos]
    padded = torch.full((2, 6, 4, 4, 3), torch.nan, dtype=torch.float64)
    for row, video in zip(padded, videos, strict=True):
        row[: len(video)] = video
    for found in (pooler(videos), pooler(padded, num_frames=[3, 6])):
        assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))
    with pytest.raises(ArgumentError, match=r"num_frames: expected 2 numbers from 1 to 6, got \[3, 7\]"):
        pooler(padded, num_frames=[3, 7])


def test_nan_and_infinity_stay_where_they_belong():
    video = features(1, 4, 4, 4, 2)
    video[0, 1, 2, 2, 0], video[0, 2, 0, 0, 1] = torch.nan, torch.inf
    found = SlowFastPooler(num_slow_frames=2)(video)[0]
    assert found.isnan().nonzero().tolist() == [[1, 0]] and found.isinf().nonzero().tolist() == [[2, 1]]


@pytest.mark.parametrize("name", ["lita", "slowfast-llava-7b"])
def test_compiles_once_for_all_numbers_of_frames(name):
    pooler, graphs = SlowFastPooler.preset(name), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(pooler, fullgraph=True, backend=count)
    for t in (19, 12, 31):
        video = features(2, t, 16, 3, dtype=torch.float32)
        torch._dynamo.mark_dynamic(video, 1)
        torch.testing.assert_close(compiled(video), pooler(video))
    assert len(graphs) == 1


@pytest.mark.parametrize("frames", ["even", "floor", "every", "others", "all"])
@given(t=st.integers(1, 200), num=st.integers(1, 12))
def test_frames_are_those_of_the_plan(frames, t, num):
    path = Path(name="slow", frames=frames, num=num)
    frames = frames_of(torch.arange(t).reshape(1, t, 1, 1, 1), path)
    assert torch.cat(frames, 1).flatten().tolist() == path.frame_indices(t)


def test_unknown_presets_and_wrong_widths_are_refused():
    with pytest.raises(ArgumentError, match=r"preset: expected one of lita, .*, got 'litta'"):
        SlowFastPooler.preset("litta")
    with pytest.raises(ArgumentError, match="dim: expected None: none are learned, got 8"):
        SlowFastPooler.preset("lita", dim=8)
    with pytest.raises(ArgumentError, match="dim: expected the width of the language model, for newline, separator"):
        SlowFastPooler.preset("llava-video")


def test_separators_are_trained_and_saved():
    pooler = SlowFastPooler.preset("lita-1.5", dim=4)
    pooler(torch.randn(1, 5, 4, 4)).sum().backward()
    names = [f"separators.{what}_{end}" for what in ("image", "video") for end in ("end", "start")]
    assert sorted(pooler.state_dict()) == names
    assert all(vector.grad.abs().sum() > 0 for vector in pooler.parameters())
    again = SlowFastPooler(**json.loads(json.dumps(pooler.arguments)))
    again.load_state_dict(pooler.state_dict())
    video = torch.randn(1, 5, 4, 4)
    assert torch.equal(again(video), pooler(video))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_settings_survive_json_and_pickle(layout):
    pooler = SlowFastPooler(**layout)
    assert SlowFastPooler(**json.loads(json.dumps(pooler.arguments))).plan == pooler.plan
    assert pickle.loads(pickle.dumps(pooler)).plan == pooler.plan
    assert pooler.state_dict() == {}


def test_a_grid_passes_through():
    video = torch.zeros(1, 2, 3, 4, 5)
    assert as_grid(video) is video
    assert as_grid(torch.zeros(1, 2, 9, 5)).shape == (1, 2, 3, 3, 5)


def test_numbers_of_numpy_are_numbers() -> None:
    pooler = SlowFastPooler(num_slow_frames=np.int64(4), slow_pool=np.int32(2))
    assert pooler.plan == SlowFastPooler().plan
    with pytest.raises(ArgumentError, match="num_slow_frames: expected an integer of at least 0"):
        SlowFastPooler(num_slow_frames=np.array([4, 5]))


def large_gradient(pooler, weights):
    video = torch.zeros(1, 20, 16, 16, 1024).requires_grad_()  # 21 MB: its gradient has memory of its own
    return torch.autograd.grad(pooler(video), video, weights)[0]


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="not Linux")
def test_the_memory_of_a_gradient_is_taken_again_once_nothing_holds_it():
    pooler, weights = SlowFastPooler(), torch.randn(2, 1, 20 + 4 * 64, 1024)
    first = large_gradient(pooler, weights[0])
    copy, second = first.clone(), large_gradient(pooler, weights[1])
    assert second.data_ptr() != first.data_ptr() and torch.equal(first, copy)
    for hold in (lambda whole: whole[0, :1], lambda whole: whole.numpy(), lambda whole: whole.untyped_storage()):
        place, held = second.data_ptr(), hold(second)
        second = None
        second = large_gradient(pooler, weights[1])
        assert second.data_ptr() != place, held
    place = second.data_ptr()
    del second
    again = large_gradient(pooler, weights[0])
    assert again.data_ptr() == place and torch.equal(again, copy)


def test_threads_keep_memory_of_their_own():
    pooler, weights = SlowFastPooler(), torch.randn(2, 1, 20 + 4 * 64, 1024)
    expected = [large_gradient(pooler, each) for each in weights]
    with ThreadPoolExecutor(2) as threads:
        same = lambda k: all(torch.equal(large_gradient(pooler, weights[k]), expected[k]) for _ in range(5))  # noqa: E731
        assert all(threads.map(same, range(2)))
