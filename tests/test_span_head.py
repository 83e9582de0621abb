"""A head of distributions against its formulas in loops."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from span_head import SpanHead
from timetok.errors import ArgumentError, TimeRangeError

cases = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(1, 90)), min_size=1, max_size=4)


def drawn(cases, steps, seed):
    spans = torch.tensor([[min(a, b) * length, max(a, b) * length] for a, b, length in cases], dtype=torch.float32)
    durations = torch.tensor([length for *_, length in cases])
    spans = torch.minimum(spans, durations[:, None])
    return torch.randn(len(cases), 2, steps + 1, generator=torch.Generator().manual_seed(seed)), spans, durations


@given(cases, st.sampled_from([1, 4, 32]), st.integers(0, 999))
def test_seconds_and_loss_are_the_formulas(cases, steps, seed):
    logits, spans, durations = drawn(cases, steps, seed)
    head = SpanHead(8, num_steps=steps)
    focal, losses = [], []
    for m, length in enumerate(durations.tolist()):
        told = []
        for side in range(2):
            weights = [math.exp(logit) for logit in logits[m, side].tolist()]
            shares = [weight / sum(weights) for weight in weights]
            told.append(sum(share * k / steps for k, share in enumerate(shares)) * length)
            mark = min(spans[m, side].item() / length * steps, steps)
            low = min(int(mark), steps - 1)
            focal.append(-(low + 1 - mark) * math.log(shares[low]) - (mark - low) * math.log(shares[low + 1]))
        assert head.seconds(logits, durations)[m].tolist() == pytest.approx(told, rel=1e-4, abs=1e-4)
        (start, end), (begin, stop) = told, spans[m].tolist()
        both = max(min(end, stop) - max(start, begin), 0)
        iou = both / max(end - start + stop - begin - both, 1e-6)
        hull = max(max(end, stop) - min(start, begin), 1e-6)
        losses.append(1 - iou + (((start + end) - (begin + stop)) / 2 / hull) ** 2)
    expected = sum(focal) / len(focal) + sum(losses) / len(losses)
    assert head.loss(logits, spans, durations).item() == pytest.approx(expected, rel=1e-2, abs=1e-2)


def test_a_certain_head_is_exact():
    head, logits = SpanHead(4), torch.full((1, 2, 33), -1e4)
    logits[0, 0, 8] = logits[0, 1, 32] = 0.0  # the last mark is the end of the video
    seconds = head.seconds(logits, torch.tensor([64.0]))
    assert seconds.tolist() == [[16.0, 64.0]]
    assert head.loss(logits, torch.tensor([[16.0, 64.0]]), torch.tensor([64.0])).item() == pytest.approx(0.0)


def test_gradients_pull_spans_that_do_not_meet_together():
    logits = torch.zeros(1, 2, 33, requires_grad=True)
    head, durations = SpanHead(4), torch.tensor([32.0])
    head.loss(logits, torch.tensor([[1.0, 2.0]]), durations).backward()
    moved = head.seconds((logits - logits.grad).detach(), durations) - head.seconds(logits.detach(), durations)
    assert (moved < 0).all()


def test_it_learns_in_halves_and_keeps_its_marks():
    torch.manual_seed(0)
    head = SpanHead(16, num_steps=8).bfloat16()
    hidden, spans, durations = (
        torch.randn(3, 16).bfloat16(),
        torch.tensor([[1.0, 3.0], [0, 9], [4, 4]]),
        torch.ones(3) * 9,
    )
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    before = head.loss(head(hidden), spans, durations)
    for _ in range(60):
        optimizer.zero_grad()
        loss = head.loss(head(hidden), spans, durations)
        loss.backward()
        optimizer.step()
    assert loss < before / 2 and (head.seconds(head(hidden), durations) - spans).abs().max() < 1
    assert "places" not in head.state_dict()


@pytest.mark.parametrize("span", [(2.0, 1.0), (-0.1, 1.0), (1.0, 9.1), (1.0, float("nan"))])
def test_spans_lie_in_their_videos(span):
    head = SpanHead(4)
    with pytest.raises(TimeRangeError, match="spans: expected 0 <= start <= end <= duration"):
        head.loss(torch.zeros(1, 2, 33), torch.tensor([span]), torch.tensor([9.0]))


def test_a_step_is_needed():
    with pytest.raises(ArgumentError, match="num_steps: expected an integer of at least 1, got 0"):
        SpanHead(4, num_steps=0)
