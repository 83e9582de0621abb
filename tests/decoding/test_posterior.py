"""The span posterior against full forward passes, and its decisions against loops over all spans."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from timetok.decoding import SpanPosterior, span_distribution
from timetok.errors import ArgumentError
from timetok.metrics import iou
from timetok.timegrid import Span, TimeGrid

IDS = range(20, 32)
TT = SimpleNamespace(grid=TimeGrid(12), time_token_ids=IDS)  # what the posterior asks of a TimeTokenizer


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    torch.manual_seed(0)
    if request.param == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=64, n_embd=32, n_layer=2, n_head=2)).eval()
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, initializer_range=0.3, **shape)).eval()


def by_full_passes(model, prompt, lead, between):
    """p(start) p(end | start, end >= start), one uncached pass a start."""

    def time_row(ids):
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0, -1, list(IDS)].double()

    start, joint = time_row([*prompt, *lead]).softmax(0), np.zeros((12, 12))
    for k, token in enumerate(IDS):
        end = time_row([*prompt, *lead, token, *between])
        joint[k, k:] = (start[k] * end[k:].softmax(0)).numpy()
    return joint


@pytest.mark.parametrize(("lead", "between"), [((), ()), ((3,), (3,)), ((3, 4), ())])
def test_it_is_what_full_passes_give(model, lead, between):
    prompts = [[5, 6, 7, 8], [9, 1]]
    ids = torch.tensor([[*prompts[0], *lead], [0, 0, *prompts[1], *lead]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    found = span_distribution(model, inputs, TT, durations=[60.0, 10.0], between_ids=between)
    for posterior, prompt, duration in zip(found, prompts, (60.0, 10.0), strict=True):
        np.testing.assert_allclose(posterior.joint, by_full_passes(model, prompt, lead, between), atol=1e-5)
        assert posterior.covered == pytest.approx(1) and posterior.duration_seconds == duration
        assert posterior.joint.sum() == pytest.approx(1)
        assert not posterior.joint[np.tril_indices(12, -1)].any()


def test_few_starts_keep_the_likeliest(model):
    inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
    whole, few = (span_distribution(model, inputs, TT, durations=[60.0], top_starts=m)[0] for m in (12, 3))
    kept = np.argsort(-whole.joint.sum(1))[:3]
    assert few.covered == pytest.approx(whole.joint.sum(1)[kept].sum()) and few.covered < 1
    expected = np.zeros((12, 12))
    expected[kept] = whole.joint[kept]
    np.testing.assert_allclose(few.joint, expected / expected.sum(), atol=1e-6)


def posterior_of(seed, size=6, sharpness=3.0, duration=30.0):
    scores = np.random.default_rng(seed).normal(size=(size, size)) * sharpness
    joint = np.triu(np.exp(scores))
    return SpanPosterior(joint / joint.sum(), 1.0, TimeGrid(size), duration)


def expected_iou(posterior, span):
    seconds = posterior.grid.sample_times(posterior.duration_seconds)
    pairs = [(i, j) for i in range(len(seconds)) for j in range(i, len(seconds))]
    return sum(posterior.joint[i, j] * iou(span, Span(seconds[i], seconds[j])) for i, j in pairs)


@settings(max_examples=min(settings.default.max_examples, 600))  # slow ones, where thorough asks for 12 000
@given(st.integers(0, 500))
def test_the_best_span_has_the_largest_expected_iou(seed):
    posterior = posterior_of(seed)
    seconds = posterior.grid.sample_times(30.0).tolist()
    scores = {(a, b): expected_iou(posterior, Span(a, b)) for a in seconds for b in seconds if a <= b}
    best = posterior.best()
    assert best.confidence == pytest.approx(max(scores.values()), abs=2e-3)  # negligible truths are left out
    assert scores[best.span.start, best.span.end] == pytest.approx(max(scores.values()), abs=2e-3)


def test_another_utility_gives_another_span():
    joint = np.zeros((11, 11))
    joint[0, 10], joint[4, 6], joint[5, 7], joint[4, 7] = 0.4, 0.2, 0.2, 0.2
    posterior = SpanPosterior(joint, 1.0, TimeGrid(11), 10.0)
    assert posterior.best(lambda a, b: (iou(a, b) == 1).astype(float)).span == Span(0, 10)
    assert posterior.best(lambda a, b: (iou(a, b) >= 0.6).astype(float)).span == Span(4, 7)


def test_ranked_spans_differ_and_their_confidence_falls():
    ranked = posterior_of(3, size=20, sharpness=2.0).ranked(5, max_overlap=0.3)
    confidences = [scored.confidence for scored in ranked]
    assert len(ranked) > 1 and confidences == sorted(confidences, reverse=True)
    pairs = np.array([tuple(scored.span) for scored in ranked])
    assert np.triu(iou(pairs[:, None], pairs), 1).max() <= 0.3


def test_refined_ends_lie_between_the_marks_around_the_mode():
    joint = np.zeros((11, 11))
    joint[2, 8], joint[3, 8], joint[9, 10] = 0.45, 0.15, 0.4
    posterior = SpanPosterior(joint, 1.0, TimeGrid(11), 10.0)
    assert tuple(posterior.refined(Span(2, 8), steps=1)) == pytest.approx((2.25, 8.0))
    assert posterior.refined(Span(6, 6), steps=0) == Span(6.0, 6.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"durations": [1.0, 2.0]}, "expected 1 durations"),
        ({"top_starts": 0}, "top_starts of at least 1"),
    ],
)
def test_bad_arguments_are_named(model, options, message):
    with pytest.raises(ArgumentError, match=message):
        span_distribution(model, {"input_ids": torch.tensor([[1, 2]])}, TT, **{"durations": [1.0], **options})
    with pytest.raises(ArgumentError, match="num: expected an integer of at least 1"):
        posterior_of(0).ranked(0)
