"""The soft time loss against sums written out, and against plain cross entropy where it must be that."""

import math
import pickle

import pytest
import torch
from hypothesis import given, strategies as st
from torch.nn.functional import cross_entropy

import oracles
from timetok.errors import ArgumentError
from timetok.losses import SoftTimeLoss

VOCABULARY, IDS = 12, range(5, 10)
LABELS = [[3, 5, 9, 7, 4, -100, 11], [-100, -100, 6, 6, 0, 8, -100]]


def logits(seed=0, *, dtype=torch.float32):
    return torch.randn(2, 7, VOCABULARY, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 5.0])
@given(seed=st.integers(0, 99), labels=st.lists(st.sampled_from([-100, *range(VOCABULARY)]), min_size=14, max_size=14))
def test_loss_is_the_sum_written_out(sigma, seed, labels):
    rows, scores = [labels[:7], labels[7:]], logits(seed)
    found = SoftTimeLoss(IDS, sigma=sigma)(scores, torch.tensor(rows))
    assert found.item() == pytest.approx(oracles.soft_time_loss(scores.tolist(), rows, list(IDS), sigma), rel=1e-5)


@pytest.mark.parametrize("loss", [SoftTimeLoss(IDS, sigma=0), SoftTimeLoss(()), SoftTimeLoss((), sigma=0)])
def test_without_softness_it_is_cross_entropy(loss):
    labels = torch.tensor(LABELS)
    expected = cross_entropy(logits()[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(loss(logits(), labels), expected)


def test_targets_that_are_not_times_stay_hard():
    labels = torch.tensor(LABELS)
    labels[(labels >= IDS[0]) & (labels <= IDS[-1])] = -100
    torch.testing.assert_close(SoftTimeLoss(IDS)(logits(), labels), SoftTimeLoss(())(logits(), labels))


def test_the_right_mark_costs_least_and_a_near_one_less_than_a_far_one():
    loss, labels = SoftTimeLoss(IDS), torch.tensor([[0, 7]])
    costs = [loss(8.0 * torch.eye(VOCABULARY)[[k, 0]][None], labels).item() for k in IDS]
    assert costs.index(min(costs)) == 2
    assert costs[0] > costs[1] > costs[2] < costs[3] < costs[4]
    assert costs[1] == pytest.approx(costs[3])


def test_minimum_is_the_entropy_of_the_gaussian():
    weights = [math.exp(-((k - 2) ** 2) / 2) for k in range(5)]
    q = [weight / sum(weights) for weight in weights]
    scores = torch.full((1, 2, VOCABULARY), -1e4)
    scores[0, 0, list(IDS)] = torch.tensor(q).log()
    entropy = -sum(p * math.log(p) for p in q)
    assert SoftTimeLoss(IDS)(scores, torch.tensor([[0, 7]])).item() == pytest.approx(entropy)


@pytest.mark.parametrize("count", [4, torch.tensor(4)])
def test_sum_is_divided_by_the_number_of_items_in_the_whole_batch(count):
    found = SoftTimeLoss(IDS)(logits(), torch.tensor(LABELS), count)
    expected = oracles.soft_time_loss(logits().tolist(), LABELS, list(IDS), 1.0, count=4)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_parts_of_a_batch_add_up_to_the_whole():
    loss, labels = SoftTimeLoss(IDS), torch.tensor(LABELS)
    parts = sum(loss(logits()[k : k + 1], labels[k : k + 1], 9) for k in range(2))
    torch.testing.assert_close(parts, loss(logits(), labels, 9))


def test_model_outputs_are_read_by_name():
    labels = torch.tensor(LABELS)
    assert torch.equal(SoftTimeLoss(IDS)({"logits": logits()}, labels), SoftTimeLoss(IDS)(logits(), labels))


@pytest.mark.parametrize("ids", [IDS, ()])
def test_no_target_costs_nothing_and_keeps_the_graph(ids):
    scores = logits().requires_grad_()
    loss = SoftTimeLoss(ids)(scores, torch.full((2, 7), -100))
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any()


def test_gradients():
    labels = torch.tensor(LABELS)
    scores = logits().requires_grad_()
    SoftTimeLoss(IDS)(scores, labels).backward()
    # d loss / d logits = (softmax - q) / count
    probabilities = scores.detach().softmax(-1)
    hard = torch.nn.functional.one_hot(labels[:, 1:].clamp(min=0), VOCABULARY).float()
    q = hard.clone()
    for place in zip(*torch.where((labels[:, 1:] >= 5) & (labels[:, 1:] < 10)), strict=True):
        marks = torch.arange(VOCABULARY) - labels[:, 1:][place]
        weights = torch.exp(-(marks**2) / 2) * torch.tensor([k in IDS for k in range(VOCABULARY)])
        q[place] = weights / weights.sum()
    kept = labels[:, 1:] != -100
    expected = torch.zeros_like(scores)
    expected[:, :-1][kept] = (probabilities[:, :-1] - q)[kept] / kept.sum()
    torch.testing.assert_close(scores.grad, expected)


def test_half_precision_is_summed_in_float32():
    scores = logits(dtype=torch.bfloat16)
    found = SoftTimeLoss(IDS)(scores, torch.tensor(LABELS))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, SoftTimeLoss(IDS)(scores.float(), torch.tensor(LABELS)))


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf])
def test_bad_widths_are_refused(sigma):
    with pytest.raises(ArgumentError, match=f"sigma: expected a finite number of at least 0, got {sigma}"):
        SoftTimeLoss(IDS, sigma=sigma)


@pytest.mark.parametrize("ids", [[5, 7, 8], [6, 5], [5, 5]])
def test_ids_with_gaps_or_out_of_order_are_refused(ids):
    with pytest.raises(ArgumentError, match="time_token_ids: expected contiguous ids in ascending order"):
        SoftTimeLoss(ids)


def test_loss_is_picklable():
    copy, labels = pickle.loads(pickle.dumps(SoftTimeLoss(IDS))), torch.tensor(LABELS)
    assert torch.equal(copy(logits(), labels), SoftTimeLoss(IDS)(logits(), labels))


@given(st.floats(0, 4), st.integers(0, 99))
def test_with_places_a_target_is_two_hot(place, seed):
    scores, labels = logits(seed)[:1, :2], torch.tensor([[0, 7]])
    log_probs = scores[0, 0].log_softmax(0)
    low, share = min(int(place), 3), place - min(int(place), 3)
    expected = -((1 - share) * log_probs[IDS[low]] + share * log_probs[IDS[low + 1]])
    found = SoftTimeLoss(IDS, sigma=0)(scores, (labels, torch.tensor([[math.nan, place]])))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_whole_places_change_nothing(sigma):
    labels, loss = torch.tensor(LABELS), SoftTimeLoss(IDS, sigma=sigma)
    for places in ((labels - IDS[0]).double(), torch.full(labels.shape, math.nan)):
        torch.testing.assert_close(loss(logits(), (labels, places)), loss(logits(), labels))


def test_a_soft_place_between_marks_is_the_gaussian_there():
    scores = torch.zeros(1, 2, VOCABULARY)
    scores[0, 0, 8] = 1.0
    weights = [math.exp(-((2.25 - k) ** 2) / 2) for k in range(5)]
    expected = math.log(VOCABULARY - 1 + math.e) - weights[3] / sum(weights)
    found = SoftTimeLoss(IDS)(scores, (torch.tensor([[0, 7]]), torch.tensor([[0.0, 2.25]])))
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_gradient_of_both_kinds(sigma):
    labels, scores = torch.tensor(LABELS), logits(dtype=torch.float64).requires_grad_()
    places = (labels - IDS[0]).double() + 0.3
    SoftTimeLoss(IDS, sigma=sigma)(scores, (labels, places)).backward()
    assert scores.grad.isfinite().all() and scores.grad[labels.roll(-1, 1) != -100].abs().max() > 0
