"""Token reducers against loops: which tokens are left, what they are made of, when they are shown."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn.functional import cosine_similarity
from transformers import Qwen3VLProcessor

import tiny_lm
import token_reducers
from timetok import SlowFastPooler
from timetok.errors import ArgumentError
from timetok.vision import FrameEncoder
from token_reducers import (
    Pooled,
    StaticDropper,
    WeightedTokenSampler,
    attention_scores,
    drop_static,
    encode,
    merge,
    merge_similar,
    random_tokens,
    stream,
    time_markers_text,
)

TIMES = [0.1 * 7**0.5 * frame for frame in range(12)]
REDUCERS = {
    "pooled": Pooled(SlowFastPooler(num_slow_frames=2)),
    "sampled": WeightedTokenSampler(3),
    "weighed": WeightedTokenSampler(3, weigh=True),
    "sampled, then pooled": Pooled(SlowFastPooler(num_slow_frames=2, slow_pool=1), WeightedTokenSampler(3)),
    "random": partial(random_tokens, num_kept=3),
    "static dropped": partial(drop_static, tau=0.2),
    "merged": partial(merge_similar, num_merged=2),
}
small = st.integers(1, 4)
seeds = st.integers(0, 10_000)


def features(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def are_those_of(reduced, whole, times):
    """Whether each token that is one patch is the patch it says, at the time of its frame."""
    for video, (tokens, shown) in enumerate(reduced):
        places = zip(reduced.frame_index[video].tolist(), reduced.patch_index[video].tolist(), strict=True)
        for token, second, (frame, patch) in zip(tokens, shown.tolist(), places, strict=True):
            assert frame < 0 or second == times[frame]
            assert min(frame, patch) < 0 or torch.equal(token, whole[video, frame, patch])


# sampling


@given(small, small, st.integers(1, 7), st.integers(1, 7), seeds)
def test_the_highest_scores_are_kept_in_the_order_of_patches(b, t, p, k, seed):
    k = min(k, p)
    whole = features(b, t, p, 2, seed=seed)
    scores = torch.randint(0, 4, (b, t, p), generator=torch.Generator().manual_seed(seed)).double()  # many are equal
    reduced = WeightedTokenSampler(k, scores)(whole, TIMES[:t])
    for video in range(b):
        expected = []
        for frame in range(t):
            ranked = sorted(range(p), key=lambda patch: (-scores[video, frame, patch].item(), patch))
            expected += [(frame, patch) for patch in sorted(ranked[:k])]
        found = zip(reduced.frame_index[video].tolist(), reduced.patch_index[video].tolist(), strict=True)
        assert list(found) == expected
    assert reduced.tokens.shape == (b, t * k, 2) and reduced.times_seconds.dtype == torch.float64
    are_those_of(reduced, whole, TIMES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_patches_kept_is_the_identity(dtype):
    whole = features(2, 3, 5, 4).to(dtype)
    reduced = WeightedTokenSampler(5)(whole, TIMES[:3])
    assert torch.equal(reduced.tokens, whole.flatten(1, 2)) and reduced.tokens.dtype == dtype


def test_scores_are_lengths_or_made_of_features_or_given():
    whole = features(2, 3, 5, 4)
    told = WeightedTokenSampler(2)(whole, TIMES[:3])
    for scores in (whole.norm(dim=-1), lambda seen: seen.square().sum(-1)):
        assert torch.equal(WeightedTokenSampler(2, scores)(whole, TIMES[:3]).tokens, told.tokens)


@given(small, st.integers(1, 5), seeds)
def test_weights_are_scores_over_their_mean(t, k, seed):
    whole, scores = features(1, t, 5, 3, seed=seed), features(1, t, 5, seed=seed + 1).exp()
    plain, weighed = (WeightedTokenSampler(k, scores, weigh=weigh)(whole, TIMES[:t]) for weigh in (False, True))
    for n, (frame, patch) in enumerate(zip(plain.frame_index[0].tolist(), plain.patch_index[0].tolist(), strict=True)):
        kept = [scores[0, frame, other].item() for other in sorted(plain.patch_index[0][frame * k : frame * k + k])]
        weight = scores[0, frame, patch].item() / (sum(kept) / k)
        torch.testing.assert_close(weighed.tokens[0, n], plain.tokens[0, n] * weight)


def test_equal_scores_weigh_nothing():
    whole = features(1, 2, 4, 3)
    assert torch.equal(
        WeightedTokenSampler(4, torch.full((1, 2, 4), 0.3), weigh=True)(whole, TIMES[:2]).tokens, whole.flatten(1, 2)
    )


def test_gradients_reach_what_is_kept_and_what_weighs():
    whole, scores = features(1, 2, 5, 3).requires_grad_(), features(1, 2, 5).exp().requires_grad_()
    reduced = WeightedTokenSampler(2, scores)(whole, TIMES[:2])
    (gradient,) = torch.autograd.grad(reduced.tokens.sum(), whole)
    kept = torch.zeros(2, 5)
    kept[reduced.frame_index[0], reduced.patch_index[0]] = 1
    assert torch.equal(gradient[0, ..., 0].float(), kept)
    assert torch.autograd.gradcheck(
        lambda seen, given: WeightedTokenSampler(2, given, weigh=True)(seen, TIMES[:2]).tokens, (whole, scores)
    )


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (WeightedTokenSampler(6), "num_kept: expected at most 5, a frame's, got 6"),
        (WeightedTokenSampler(0), "num_kept: expected an integer of at least 1, got 0"),
        (WeightedTokenSampler(2, torch.ones(1, 2, 4)), r"scores: expected floats \[1, 2, 5\], got \[1, 2, 4\]"),
        (WeightedTokenSampler(2, torch.ones(1, 2, 5).long()), "scores: expected floats"),
        (WeightedTokenSampler(2, torch.full((1, 2, 5), torch.nan)), "scores: expected floats .* or NaN"),
        (WeightedTokenSampler(2, -torch.ones(1, 2, 5), weigh=True), "scores: those that weigh"),
        (WeightedTokenSampler(2, torch.zeros(1, 2, 5), weigh=True), "scores: those that weigh"),
        (WeightedTokenSampler(2, torch.full((1, 2, 5), torch.inf), weigh=True), "scores: those that weigh"),
    ],
)
def test_what_cannot_be_sampled_is_refused(sampler, message):
    with pytest.raises(ArgumentError, match=message):
        sampler(features(1, 2, 5, 3), TIMES[:2])


def test_random_tokens_are_seeded_and_fair():
    whole = features(1, 200, 4, 2)
    first, again, other = (random_tokens(whole, [0.0] * 200, num_kept=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.patch_index, again.patch_index) and not torch.equal(first.patch_index, other.patch_index)
    pairs = first.patch_index.view(200, 2)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert all(60 < count < 140 for count in pairs.flatten().bincount().tolist())  # 100 each, within 5 deviations


# pooling


@pytest.mark.parametrize("preset", ["lita", "lita-spatial", "lita-temporal", "tsp", "slowfast-llava-7b", "llava-video"])
def test_a_pooler_is_a_reducer(preset):
    pooler = SlowFastPooler.preset(preset, dim=3 if preset == "llava-video" else None)
    whole = features(2, 9, 16, 3, dtype=torch.float32)
    both = torch.tensor([TIMES[:9], TIMES[2:11]])
    reduced = Pooled(pooler)(whole, both)
    tokens = pooler.plan.tokens(9, (4, 4))
    assert torch.equal(reduced.tokens, pooler(whole)) and len(tokens) == reduced.tokens.shape[1]
    for n, token in enumerate(tokens):
        for video in range(2):
            assert reduced.times_seconds[video, n] == pytest.approx(token.seconds(both[video].tolist()))
        frames, area = set(token.frames), [range(*pair) for pair in (token.rows or (0, 0), token.columns or (0, 0))]
        patches = [4 * row + column for row in area[0] for column in area[1]]
        assert reduced.frame_index[0, n] == (min(frames) if len(frames) == 1 else -1)
        assert reduced.patch_index[0, n] == (patches[0] if len(patches) == 1 else -1)


@given(st.integers(1, 6), st.integers(1, 5), seeds)
def test_sampled_then_pooled_is_the_mean_of_what_is_kept_and_a_few_frames_of_it(t, k, seed):
    whole, scores = features(2, t, 5, 3, seed=seed), features(2, t, 5, seed=seed + 1)
    sampler, pooler = WeightedTokenSampler(k, scores), SlowFastPooler(num_slow_frames=2, slow_pool=1)
    reduced, kept = Pooled(pooler, sampler)(whole, TIMES[:t]), sampler(whole, TIMES[:t])
    by_frame = kept.tokens.unflatten(1, (t, k))
    slow = [0, t - 1]
    torch.testing.assert_close(reduced.tokens[:, :t], by_frame.mean(2))
    assert torch.equal(reduced.tokens[:, t:], by_frame[:, slow].flatten(1, 2))
    assert torch.equal(reduced.patch_index[:, t:], kept.patch_index.unflatten(1, (t, k))[:, slow].flatten(1))
    assert reduced.times_seconds[0].tolist() == TIMES[:t] + [TIMES[frame] for frame in slow for _ in range(k)]
    assert k == 1 or (reduced.patch_index[:, :t] == -1).all()
    are_those_of(reduced, whole, TIMES)


# attention

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3}
VITS = {
    "class token": ("vit_tiny_patch16_224", SMALL),
    "CLIP": ("vit_base_patch32_clip_quickgelu_224", SMALL),
    "registers": ("vit_small_patch14_reg4_dinov2", SMALL | {"patch_size": 16}),
    "normed": ("vit_tiny_patch16_224", SMALL | {"qk_norm": True}),
    "no class token": ("vit_base_patch16_siglip_224", SMALL),
}


def vit(kind, **options):
    torch.manual_seed(0)
    name, args = VITS[kind]
    encoder = FrameEncoder(name, image_size=96, model_args=args, **options).eval()
    for parameter in encoder.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)  # attention is not flat
    return encoder


def whole_maps(encoder, pixels, block):
    """softmax(QK^T) of a block from its weights, ``[n heads s s]``, a head at a time."""
    attention, seen = encoder.tower.blocks[block].attn, []
    with torch.no_grad(), attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        encoder.frames(pixels)
    (tokens,), dim = seen, attention.head_dim
    weight, maps = attention.qkv.weight.detach(), []
    bias = attention.qkv.bias.detach() if attention.qkv.bias is not None else torch.zeros(len(weight))
    for head in range(attention.num_heads):
        rows = [
            slice(part * len(weight) // 3 + head * dim, part * len(weight) // 3 + (head + 1) * dim) for part in (0, 1)
        ]
        q, k = (tokens @ weight[row].T + bias[row] for row in rows)
        with torch.no_grad():
            q, k = attention.q_norm(q), attention.k_norm(k)
        maps.append((q @ k.mT / dim**0.5).exp())
        maps[-1] /= maps[-1].sum(-1, keepdim=True)
    return torch.stack(maps, 1)


@pytest.mark.parametrize("heads", ["mean", "max"])
@pytest.mark.parametrize("query", ["cls", "mean"])
@pytest.mark.parametrize("kind", VITS)
def test_scores_are_those_of_whole_attention_maps(kind, query, heads, monkeypatch):
    monkeypatch.setattr(token_reducers, "QUERIES", 4)
    pixels = features(3, 3, 96, 96, dtype=torch.float32)
    for block in (0, -1):
        encoder = vit(kind, layer=-2, chunk_size=2)
        if kind == "no class token" and query == "cls":
            with pytest.raises(ArgumentError, match="encoder, query: there is no class token: query='mean'"):
                attention_scores(encoder, pixels, block, query, heads)
            continue
        found, maps = attention_scores(encoder, pixels, block, query, heads), whole_maps(encoder, pixels, block)
        prefix, n = encoder.tower.num_prefix_tokens, encoder.grid[0] * encoder.grid[1]
        assert maps.shape[-1] == prefix + n and found.shape == (3, n)
        for frame in range(3):
            for patch in range(n):
                asking = [0] if query == "cls" else range(prefix, prefix + n)
                by_head = [maps[frame, head, [*asking], prefix + patch].mean() for head in range(3)]
                expected = sum(by_head) / 3 if heads == "mean" else max(by_head)
                assert found[frame, patch].item() == pytest.approx(expected.item(), rel=1e-4)


def test_timm_has_the_same_attention():
    encoder, pixels, seen = vit("CLIP"), features(2, 3, 96, 96, dtype=torch.float32), []
    attention = encoder.tower.blocks[1].attn
    attention.fused_attn = False  # then its map goes through a module
    with attention.attn_drop.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        found = attention_scores(encoder, pixels, 1)
    torch.testing.assert_close(found, seen[0][:, :, 0, 1:].mean(1))
    assert not attention.qkv._forward_hooks


def test_few_rows_of_attention_exist_at_a_time(monkeypatch):
    monkeypatch.setattr(token_reducers, "QUERIES", 4)
    shapes, softmax = [], torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda map, dim: shapes.append(map.shape) or softmax(map, dim))
    attention_scores(vit("class token"), torch.zeros(2, 3, 96, 96), query="mean")
    assert [shape[2] for shape in shapes] == [4] * 9 and {shape[3] for shape in shapes} == {37}


def test_features_and_scores_come_of_one_pass():
    encoder, pixels = vit("class token", chunk_size=3), features(7, 3, 96, 96, dtype=torch.float32)
    found, scores = encode(encoder, pixels)
    assert torch.equal(found, encoder(pixels[None])[0].detach()) and torch.equal(
        scores, attention_scores(encoder, pixels)
    )
    reduced = WeightedTokenSampler(4, scores[None])(found[None], TIMES[:7])
    assert reduced.patch_index.view(7, 4).tolist() == scores.topk(4).indices.sort().values.tolist()


@pytest.mark.parametrize(
    ("name", "model_args", "options", "message"),
    [
        (*VITS["CLIP"], {"block": 3}, "encoder, block: there is no attention 3"),
        (*VITS["CLIP"], {"query": "all"}, "query, heads: expected .*'cls'.* got 'all', 'mean'"),
        (*VITS["CLIP"], {"heads": "sum"}, "query, heads: expected .*'max'.* got 'cls', 'sum'"),
        ("resnet10t", {}, {}, "encoder, block: there is no attention -1"),
        ("eva02_tiny_patch14_224", SMALL | {"patch_size": 16}, {}, "there is no plain attention of timm's"),
    ],
)
def test_attention_that_is_not_there_is_refused(name, model_args, options, message):
    encoder = FrameEncoder(name, image_size=96, model_args=model_args).eval()
    with pytest.raises(ArgumentError, match=message):
        attention_scores(encoder, torch.zeros(1, 3, 96, 96), **options)


# static patches


@given(small, st.integers(1, 6), small, st.sampled_from([-0.3, 0.37, 0.9, 0.99]), st.booleans(), seeds)
def test_a_patch_like_the_one_before_is_dropped(b, t, p, tau, is_kept, seed):
    whole = torch.randint(-1, 2, (b, t, p, 2), generator=torch.Generator().manual_seed(seed)).double()
    reduced = drop_static(whole, TIMES[:t], tau=tau, against="kept" if is_kept else "previous")
    for video in range(b):
        expected = []
        for frame in range(t):
            for patch in range(p):
                before = [f for f, q in expected if q == patch and f < frame] if is_kept else [frame - 1]
                if frame:
                    pair = whole[video, frame, patch], whole[video, before[-1], patch]
                    fit = cosine_similarity(*pair, dim=0).item()
                if not frame or fit <= tau:
                    expected.append((frame, patch))
        found = zip(reduced.frame_index[video].tolist(), reduced.patch_index[video].tolist(), strict=True)
        assert list(found) == expected
    are_those_of(reduced, whole, TIMES)


def test_a_repeated_scene_is_seen_once_and_a_slow_change_is_seen_too():
    still = features(1, 1, 6, 8).expand(1, 5, 6, 8)
    assert drop_static(still, TIMES[:5], tau=0.999).times_seconds[0].tolist() == [0.0] * 6
    angles = torch.linspace(0, 3, 31)
    turning = torch.stack([angles.cos(), angles.sin()], -1).view(1, 31, 1, 2)
    kept = drop_static(turning, [float(k) for k in range(31)], tau=0.9, against="kept").frame_index[0].tolist()
    assert drop_static(turning, [float(k) for k in range(31)], tau=0.9).frame_index[0].tolist() == [0]
    assert kept == list(range(0, 31, 5))  # the cosine of 0.4 is above, that of 0.5 below


def test_gradients_reach_the_patches_that_are_left():
    whole = features(1, 4, 3, 2).requires_grad_()
    reduced = drop_static(whole, TIMES[:4], tau=0.0)
    (gradient,) = torch.autograd.grad(reduced.tokens[0].sum(), whole)
    assert gradient[..., 0].sum() == len(reduced.tokens[0]) < 12


@pytest.mark.parametrize("wrong", [{"tau": 1.1}, {"tau": float("nan")}, {"tau": 0.5, "against": "next"}])
def test_thresholds_are_cosines(wrong):
    with pytest.raises(ArgumentError, match="tau, against: expected -1 to 1, 'previous' or 'kept', got"):
        drop_static(features(1, 2, 3, 2), TIMES[:2], **wrong)


# merging


def merged_by_loops(tokens, sizes, groups, num):
    """One step on lists: tokens, their sizes and the patches in each."""
    pairs = []
    for a in range(0, len(tokens), 2):
        fits = [cosine_similarity(tokens[a], tokens[b], dim=0).item() for b in range(1, len(tokens), 2)]
        pairs.append((max(fits), a, 2 * fits.index(max(fits)) + 1))
    joined = {a: b for _, a, b in sorted(pairs, reverse=True)[:num]}
    out = []
    for n in range(len(tokens)):
        if n not in joined:
            members = [n, *(a for a, b in joined.items() if b == n)]
            size = sum(sizes[m] for m in members)
            mean = sum(tokens[m] * sizes[m] for m in members) / size
            out.append((mean, size, sorted(patch for m in members for patch in groups[m])))
    return [list(column) for column in zip(*out, strict=True)]


@given(small, st.integers(1, 9), st.integers(0, 8), seeds)
def test_the_most_similar_are_merged_as_by_loops(t, p, num, seed):
    num = min(num, p - 1)
    whole = features(2, t, p, 3, seed=seed)
    reduced = merge_similar(whole, TIMES[:t], num_merged=num)
    assert reduced.tokens.shape == (2, t * (p - num), 3)
    for video in range(2):
        for frame in range(t):
            column, left = [[*whole[video, frame]], [1] * p, [[patch] for patch in range(p)]], num
            while left:
                step = min(left, len(column[0]) // 2)
                column, left = merged_by_loops(*column, step), left - step
            rows = slice(frame * (p - num), (frame + 1) * (p - num))
            torch.testing.assert_close(reduced.tokens[video, rows], torch.stack(column[0]))
            assert reduced.sizes[video, rows].tolist() == column[1]
            assert reduced.patch_index[video, rows].tolist() == [g[0] if len(g) == 1 else -1 for g in column[2]]
            for token, group in zip(reduced.tokens[video, rows], column[2], strict=True):
                torch.testing.assert_close(token, whole[video, frame, group].mean(0))  # of all patches in it alike
            assert reduced.times_seconds[video, rows].tolist() == [TIMES[frame]] * (p - num)
    are_those_of(reduced, whole, TIMES)


def test_merging_says_where_each_went_and_loses_nothing():
    tokens, sizes = features(3, 7, 4), torch.randint(1, 5, (3, 7), generator=torch.Generator().manual_seed(0)).double()
    less, grown, went = merge(tokens, sizes, 3)
    assert less.shape == (3, 4, 4) and grown.sum() == sizes.sum()
    torch.testing.assert_close((less * grown[..., None]).sum(1), (tokens * sizes[..., None]).sum(1))
    for video in range(3):
        for n in range(4):
            members = went[video] == n
            assert grown[video, n] == sizes[video, members].sum()
            expected = (tokens[video, members] * sizes[video, members, None]).sum(0) / grown[video, n]
            torch.testing.assert_close(less[video, n], expected)


def test_gradients_pass_through_merging():
    whole = features(1, 2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda seen: merge_similar(seen, TIMES[:2], num_merged=3).tokens, whole)


def test_one_token_is_left_at_least():
    with pytest.raises(ArgumentError, match="num_merged: expected fewer than 4, the patches of a frame, got 4"):
        merge_similar(features(1, 2, 4, 3), TIMES[:2], num_merged=4)
    with pytest.raises(ArgumentError, match="num_merged: expected an integer of at least 0, got -1"):
        merge_similar(features(1, 2, 4, 3), TIMES[:2], num_merged=-1)


# markers


@given(st.lists(st.integers(0, 900), min_size=1, max_size=9).map(sorted), st.sampled_from([1.0, 2.0, 29.97]), small)
def test_markers_are_those_of_qwen(indices, fps, num):
    expected = [
        f"<{second:.1f} seconds>" for second in Qwen3VLProcessor._calculate_timestamps(None, [*indices], fps, num)
    ]
    assert time_markers_text([index / fps for index in indices], num) == expected


def test_markers_by_hand():
    assert time_markers_text([0.0, 0.5, 61.26]) == ["<0.0 seconds>", "<0.5 seconds>", "<61.3 seconds>"]
    assert time_markers_text([0.0, 1.0, 2.0], 2) == ["<0.5 seconds>", "<2.0 seconds>"] and time_markers_text([]) == []
    with pytest.raises(ArgumentError, match="num_together: expected an integer of at least 1, got 0"):
        time_markers_text([0.0], 0)


# pieces

BY_FRAME = {  # made anew for each video
    "sampled": lambda: WeightedTokenSampler(3),
    "scored": lambda: WeightedTokenSampler(3, lambda seen: seen.square().sum(-1), weigh=True),
    "random": lambda: partial(random_tokens, num_kept=3, seed=torch.Generator().manual_seed(4)),
    "static dropped": lambda: StaticDropper(0.2),
    "against what was kept": lambda: StaticDropper(0.2, "kept"),
    "merged": lambda: partial(merge_similar, num_merged=2),
}


def pieces(whole, lengths):
    start = 0
    while start < whole.shape[1]:
        stop = start + next(lengths)
        yield whole[:, start:stop], TIMES[start : min(stop, whole.shape[1])]
        start = stop


@pytest.mark.parametrize("name", BY_FRAME)
@given(st.integers(1, 12), st.lists(st.integers(1, 5), max_size=4), seeds)
def test_pieces_together_are_the_whole(name, t, lengths, seed):
    whole = features(2, t, 5, 2, seed=seed)
    expected = BY_FRAME[name]()(whole, TIMES[:t])
    found = list(stream(BY_FRAME[name](), pieces(whole, iter([*lengths, *[1] * t]))))
    for field in ("tokens", "times_seconds", "frame_index", "patch_index", "sizes"):
        if getattr(expected, field) is not None:
            for video in range(2):
                joined = torch.cat([getattr(piece, field)[video] for piece in found])
                torch.testing.assert_close(joined, getattr(expected, field)[video])


def test_pieces_are_sampled_then_pooled():
    whole, sampler = features(1, 7, 5, 3), WeightedTokenSampler(4)
    pooler = SlowFastPooler(num_slow_frames=2, slow_pool=1)
    kept = (sampler.sample(chunk)[0][0].unsqueeze(1) for chunk, _ in pieces(whole, iter([3, 1, 9])))
    pooled = torch.cat(list(pooler.stream(kept, num_frames=7)))
    torch.testing.assert_close(pooled, Pooled(pooler, sampler)(whole, TIMES[:7]).tokens[0])


@pytest.mark.parametrize("reduce", [Pooled(SlowFastPooler()), WeightedTokenSampler(1, torch.ones(1, 2, 4))])
def test_what_needs_the_whole_takes_no_pieces(reduce):
    with pytest.raises(ArgumentError, match="reduce: expected no Pooled"):
        next(stream(reduce, [(features(1, 2, 4, 3), TIMES[:2])]))


@pytest.mark.parametrize("reduce", [partial(drop_static, tau=0.9), partial(random_tokens, num_kept=2)])
def test_what_begins_anew_takes_no_pieces(reduce):
    with pytest.raises(ArgumentError, match="reduce: begins anew with each piece"):
        next(stream(reduce, [(features(1, 2, 4, 3), TIMES[:2])]))


def test_pieces_are_of_the_same_videos():
    dropper = StaticDropper(tau=0.9)
    dropper(features(1, 2, 4, 3), TIMES[:2])
    with pytest.raises(ArgumentError, match=r"expected frames \[1, 4, 3\] as before, got \[2, 4, 3\]"):
        dropper(features(2, 2, 4, 3), TIMES[:2])


# all of them


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("shape", [(1, 1, 4, 3), (2, 1, 4, 3), (1, 3, 4, 3), (2, 3, 1, 5, 3), (2, 5, 6, 1, 3)])
def test_odd_shapes_are_taken(name, shape):
    if name == "pooled" and 1 in shape[2:4]:
        return  # its windows are 2 x 2
    whole, times = features(*shape, dtype=torch.bfloat16), torch.tensor(TIMES[: 2 * shape[1]]).view(2, -1)[: shape[0]]
    reduced = REDUCERS[name](whole, times)
    columns = [reduced.tokens, reduced.times_seconds, reduced.frame_index, reduced.patch_index]
    for video, (tokens, shown, frames, patches) in enumerate(zip(*columns, strict=True)):
        assert len(tokens) == len(shown) == len(frames) == len(patches) > 0
        assert tokens.dtype == torch.bfloat16 and tokens.shape[1] == 3 and shown.dtype == torch.float64
        assert shown.tolist() == [times[video, frame].item() for frame in frames.tolist()]
        assert set(frames.tolist()) <= set(range(shape[1])) and patches.max() < shape[2] * (
            shape[3] if len(shape) > 4 else 1
        )


def test_patches_that_fill_no_square_are_taken():
    whole = features(2, 3, 5, 4)
    for name in REDUCERS.keys() - {"pooled", "weighed"}:  # weights change the patches
        are_those_of(REDUCERS[name](whole, TIMES[:3]), whole, TIMES)
    with pytest.raises(ArgumentError, match=r"5 patches fill no square grid; pass \[b t h w e\]"):
        REDUCERS["pooled"](whole, TIMES[:3])


@pytest.mark.parametrize("name", REDUCERS)
def test_bad_features_and_times_are_refused(name):
    for bad in (torch.zeros(2, 4, 3), torch.zeros(1, 2, 4, 3).long(), torch.zeros(1, 0, 4, 3), torch.zeros(1, 2, 0, 3)):
        with pytest.raises(ArgumentError, match="features: expected floats"):
            REDUCERS[name](bad, TIMES[:2])
    for times in (TIMES[:3], 0.0, [TIMES[:2]] * 2):
        with pytest.raises(ArgumentError, match=r"times_seconds: expected \[2\] or \[1, 2\] of them, got"):
            REDUCERS[name](features(1, 2, 4, 3), times)


@settings(max_examples=5)
@given(seeds)
@pytest.mark.parametrize("name", REDUCERS)
def test_what_is_left_goes_into_a_language_model(name, seed):
    adapter = tiny_lm.adapter()
    whole = torch.stack([tiny_lm.video(seed), tiny_lm.video(seed + 1)]).requires_grad_()
    reduced = REDUCERS[name](whole, TIMES[:3])
    batch = adapter.prepare([tiny_lm.PROMPT] * 2, videos=[tokens for tokens, _ in reduced])
    held = (batch["input_ids"] == adapter.video_token_id).sum(1).tolist()
    assert held == [len(shown) for _, shown in reduced]
    loss = adapter(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    assert loss.isfinite() and whole.grad.isfinite().all() and whole.grad.abs().sum() > 0
