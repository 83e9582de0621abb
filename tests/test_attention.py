"""Temporal positions and masks against slow, obvious versions, and against what the paper says of them."""

import runpy
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

import oracles
from timetok.attention import FrameMask, frame_mask, temporal_position_ids
from timetok.errors import ArgumentError
from timetok.pooling.plan import PRESETS

KINDS = FrameMask.__args__
TOKENS = st.lists(st.tuples(st.integers(-1, 4), st.booleans()), min_size=1, max_size=14)
BATCHES = st.integers(1, 3).flatmap(
    lambda rows: st.integers(1, 12).flatmap(
        lambda size: st.lists(
            st.lists(st.tuples(st.integers(-1, 4), st.booleans()), min_size=size, max_size=size),
            min_size=rows,
            max_size=rows,
        )
    )
)
FACTORS = st.one_of(st.integers(-3, 3), st.floats(-4, 4, width=32))


def tensors(rows):
    """Frames and mask of rows of pairs."""
    return torch.tensor([[f for f, _ in row] for row in rows]), torch.tensor([[int(v) for _, v in row] for row in rows])


@given(BATCHES, FACTORS, FACTORS)
def test_positions_are_those_counted_one_by_one(rows, a, b):
    found = temporal_position_ids(*tensors(rows), a=a, b=b)
    expected = [oracles.dual_positions([f for f, _ in row], [v for _, v in row], a, b) for row in rows]
    assert found.dtype == (torch.int64 if float(a).is_integer() and float(b).is_integer() else torch.float32)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@given(BATCHES, st.sampled_from(KINDS))
def test_masks_are_those_asked_pair_by_pair(rows, kind):
    frames, valid = tensors(rows)
    found = frame_mask(frames, valid, kind)
    size = range(frames.shape[1])
    expected = [
        [[[oracles.sees([f for f, _ in row], [v for _, v in row], kind, i, j) for j in size] for i in size]]
        for row in rows
    ]
    assert found.dtype == torch.bool
    assert found.tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=4), st.integers(1, 3))
def test_a_frame_is_one_moment_and_text_goes_on_after_the_last(stretches, per_frame):
    """Stretches of text and then frames, frame by frame: t is 0, 1, 2, … over text tokens and frames."""
    frames, moments, frame = [], [], 0
    for texts, shown in stretches:
        frames += [-1] * texts
        moments += [1] * texts
        for _ in range(shown):
            frames += [frame] * per_frame
            moments += [per_frame]
            frame += 1
    frames.append(-1)
    moments.append(1)
    expected = [moment for moment, tokens in enumerate(moments) for _ in range(tokens)]
    assert temporal_position_ids(torch.tensor([frames]), a=0, b=1).tolist() == [expected]


def test_slow_tokens_stand_at_the_moments_of_their_frames():
    """LITA: fast tokens of every frame, then four frames in detail; the answer goes on after the last frame."""
    tokens = PRESETS["lita"].tokens(100, (16, 16))
    frames = torch.tensor([[-1, *(token.frames[0] for token in tokens), -1, -1]])
    moments = temporal_position_ids(frames, a=0, b=1)[0].tolist()
    assert moments[:101] == list(range(101))
    assert moments[101:-2] == [1 + frame for frame in (0, 33, 66, 99) for _ in range(64)]
    assert moments[-2:] == [101, 102]


@given(BATCHES)
def test_text_alone_or_no_temporal_part_is_the_usual_position(rows):
    frames, valid = tensors(rows)
    usual = (valid.cumsum(1) - 1).masked_fill(valid == 0, 0)
    assert torch.equal(temporal_position_ids(frames, valid, a=1, b=0), usual)
    assert torch.equal(temporal_position_ids(torch.full_like(frames, -1), valid, a=1, b=1), 2 * usual)
    assert torch.equal(frame_mask(torch.full_like(frames, -1), valid, "full-visual"), frame_mask(frames, valid))


@given(TOKENS)
def test_padding_on_the_left_changes_nothing(row):
    alone, padded = tensors([row]), tensors([[(-1, False)] * 3 + row])
    assert torch.equal(temporal_position_ids(*padded)[:, 3:], temporal_position_ids(*alone))
    for kind in KINDS:
        wide = frame_mask(*padded, kind)
        assert torch.equal(wide[..., 3:, 3:], frame_mask(*alone, kind))
        assert not wide[..., 3:, :3].any()


@given(BATCHES)
def test_masks_lie_within_each_other(rows):
    causal, full, block, proposed = (
        frame_mask(*tensors(rows), kind) for kind in ("causal", "full-visual", "frame-block", "frame-block-causal")
    )
    assert (causal <= proposed).all() and (block <= proposed).all() and (proposed <= full).all()
    assert torch.equal(causal | block, proposed)


@pytest.mark.slow  # a minute of C++ where nothing is cached
@pytest.mark.filterwarnings("ignore")  # the compiler's
def test_the_flex_attention_example_answers_as_sdpa_does_uncached():
    if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("FlexAttention on a CPU needs a C++ compiler")
    names = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "flex_attention.py"))
    lm, embeds, frames = names["lm"], names["embeds"], names["frame_index"]
    torch.testing.assert_close(names["logits"], names["dense"], rtol=1e-4, atol=1e-4)
    rule = create_mask(names["sees"], 1, 1, *[frames.shape[1]] * 2, device="cpu")
    assert torch.equal(rule, frame_mask(frames, kind="frame-block-causal"))
    for token in names["ids"][0]:
        size = embeds.shape[1]
        given = {"attention_mask": frame_mask(frames[:, :size], kind="frame-block-causal")}
        with torch.no_grad():
            logits = lm(inputs_embeds=embeds, position_ids=names["positions"][:, :size], **given).logits
        assert logits[0, -1].argmax() == token
        embeds = torch.cat([embeds, lm.get_input_embeddings()(token)[None, None]], dim=1)


@pytest.mark.filterwarnings("ignore")  # that it is not compiled
def test_flex_attention_has_no_backward_on_a_cpu():
    block_mask = create_block_mask(lambda b, h, query, key: query >= key, 1, None, 128, 128, device="cpu")
    query = torch.randn(1, 1, 128, 16, requires_grad=True)
    with pytest.raises(NotImplementedError, match="backward on CPU"):
        flex_attention(query, query, query, block_mask=block_mask)


def test_two_rotations_are_one_by_the_sum_of_their_angles():
    torch.manual_seed(0)
    pairs, speed = torch.randn(7, 4, dtype=torch.complex128), torch.logspace(0, -3, 4, dtype=torch.float64)
    frames = torch.tensor([[-1, 0, 0, 1, 1, -1, -1]])

    def rotated(vectors, positions):
        return vectors * torch.polar(torch.ones_like(speed), positions[0, :, None].double() * speed)

    n, t = (temporal_position_ids(frames, a=a, b=1 - a) for a in (1, 0))
    both = temporal_position_ids(frames, a=0.5, b=0.25)
    torch.testing.assert_close(rotated(rotated(pairs, 0.5 * n), 0.25 * t), rotated(pairs, both))


def test_values_that_cannot_be_used_are_named():
    with pytest.raises(ArgumentError, match="got nan and 1"):
        temporal_position_ids(torch.zeros(1, 3), a=float("nan"), b=1)
    with pytest.raises(ArgumentError, match="frame-block-causal, got 'block'"):
        frame_mask(torch.zeros(1, 3), kind="block")
