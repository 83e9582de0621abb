"""Streaming against the whole tensor, for every published layout and any way of cutting a video up."""

import pytest
import torch
from hypothesis import given, strategies as st

from timetok import SlowFastPooler
from timetok.errors import ArgumentError
from timetok.pooling import PRESETS, reference


def pooler_of(name):
    return SlowFastPooler.preset(name, dim=3 if PRESETS[name].separators else None)


def cut(video, lengths):
    while len(video):
        length = next(lengths)
        yield video[:length]
        video = video[length:]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("known", [True, False])
@given(t=st.integers(1, 24), lengths=st.lists(st.integers(1, 9), max_size=4), h=st.integers(4, 7))
def test_pieces_give_what_the_whole_gives(name, known, t, lengths, h):
    pooler, video = pooler_of(name), torch.randn(t, h, 5, 3, generator=torch.Generator().manual_seed(t))
    lengths = iter([*lengths, *[1] * t])
    pieces = list(pooler.stream(cut(video, lengths), num_frames=t if known else None))
    torch.testing.assert_close(torch.cat(pieces), pooler(video[None])[0])


def test_frames_one_by_one_and_squares_of_patches():
    pooler, video = SlowFastPooler(), torch.randn(9, 16, 3)
    torch.testing.assert_close(torch.cat(list(pooler.stream(video))), pooler(video[None])[0])


def test_fast_tokens_come_at_once():
    seen = []

    def frames():
        for k in range(5):
            seen.append(k)
            yield torch.full((4, 2), float(k))

    tokens = SlowFastPooler(num_slow_frames=0).stream(frames())
    assert next(tokens).tolist() == [0.0, 0.0] or seen == [0]
    assert seen == [0]


def test_a_long_video_of_unknown_length_keeps_few_frames():
    t = 1000
    video = torch.arange(t, dtype=torch.float32)[:, None, None].expand(t, 4, 1)
    tokens = torch.cat(list(SlowFastPooler(fast=False).stream(video))).flatten().tolist()
    exact = SlowFastPooler(fast=False).plan.paths[0].frame_indices(t)
    assert (tokens[0], tokens[-1]) == (0, t - 1)
    assert all(abs(found - wanted) <= t / (64 * 4) for found, wanted in zip(tokens, exact, strict=True))


@pytest.mark.parametrize("t", range(1, 30))
def test_the_first_and_the_last_frame_are_kept_at_any_length(t, monkeypatch):
    monkeypatch.setattr(reference, "_KEPT", 1)  # of which four slow frames keep four
    video = torch.arange(t, dtype=torch.float32)[:, None, None].expand(t, 4, 1)
    tokens = torch.cat(list(SlowFastPooler(fast=False).stream(video))).flatten().tolist()
    assert (tokens[0], tokens[-1]) == (0, t - 1)


@pytest.mark.parametrize("name", PRESETS)
def test_tokens_come_in_the_dtype_of_the_frames(name):
    video = torch.ones(9, 16, 3, dtype=torch.bfloat16)
    assert {tokens.dtype for tokens in pooler_of(name).stream(video.split(4))} == {torch.bfloat16}


def test_low_precision_sums_in_float32():
    video = torch.full((3000, 4, 2), 0.1, dtype=torch.bfloat16)
    (tokens,) = SlowFastPooler.preset("lita-spatial").stream(video.split(7))
    assert torch.equal(tokens, video[0])


@pytest.mark.parametrize(("given", "message"), [(5, "expected 5 frames in all, got 4"), (None, "at least 1 frames")])
def test_a_wrong_number_of_frames_is_named(given, message):
    chunks = [torch.zeros(4, 16, 3)] if given else []
    with pytest.raises(ArgumentError, match=message):
        list(SlowFastPooler().stream(chunks, num_frames=given))
