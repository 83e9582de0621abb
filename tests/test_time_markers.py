"""Time markers on any visual tokens, by hand; beside the adapter's own, and LLaVA-ST's, which come before pooling."""

from functools import partial

import pytest
import torch
from torch import nn

import tiny_lm
from time_markers import marked, markers
from timetok import SlowFastPooler
from timetok.errors import ArgumentError
from token_reducers import Pooled, WeightedTokenSampler, drop_static, merge_similar

DURATION, T = 3.0, tiny_lm.T
TIMES = [0.05, 1.4, 2.9]
REDUCERS = {
    "pooled": Pooled(SlowFastPooler(num_slow_frames=2)),
    "one mean over time": Pooled(SlowFastPooler.preset("lita-spatial")),
    "sampled": WeightedTokenSampler(2),
    "static dropped": partial(drop_static, tau=0.2),
    "merged": partial(merge_similar, num_merged=2),
}


@pytest.mark.parametrize("name", REDUCERS)
def test_a_token_is_its_projection_and_the_row_of_the_nearest_time_token(name):
    adapter = tiny_lm.adapter(tied=False)
    features = torch.stack([tiny_lm.video(0), tiny_lm.video(1)]).requires_grad_()
    reduced = REDUCERS[name](features, TIMES)
    videos = [marked(adapter, tokens, shown, DURATION) for tokens, shown in reduced]
    table, expected_ids = adapter.lm.get_input_embeddings().weight, set()
    for video, (tokens, shown) in zip(videos, reduced, strict=True):
        assert len(video.tokens) == len(tokens)
        for found, token, second in zip(video.tokens, tokens, shown.tolist(), strict=True):
            away = [abs(mark * DURATION / (T - 1) - second) for mark in range(T)]
            expected_ids.add(adapter.time_token_ids[away.index(min(away))])
            row = table[adapter.time_token_ids[away.index(min(away))]]
            torch.testing.assert_close(found, adapter.projector.weight @ token + adapter.projector.bias + row)
    batch = adapter.prepare([tiny_lm.PROMPT] * 2, videos=videos)
    loss = adapter(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    assert all(weight.grad.abs().sum() > 0 for weight in adapter.projector.parameters())
    touched = {int(row) for row in table.grad.abs().sum(1).nonzero()} & {*adapter.time_token_ids}
    assert touched == expected_ids and features.grad.abs().sum() > 0
    ids = adapter.generate(**batch, max_new_tokens=2, do_sample=False)
    assert ids.shape[1] > batch["input_ids"].shape[1]


def test_at_the_marks_it_is_what_the_adapter_adds_to_fast_tokens():
    features, frames = tiny_lm.video(2)[None], 3
    adapter = tiny_lm.adapter(time_markers=True)
    expected = adapter.visual_tokens(features)[0, :frames]
    adapter.time_markers = False
    marks = [frame * DURATION / (frames - 1) for frame in range(frames)]  # by rank: the last at the end
    ((tokens, shown),) = Pooled(adapter.pooler)(features, marks)
    torch.testing.assert_close(marked(adapter, tokens, shown, DURATION).tokens[:frames], expected)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_the_head_may_join_and_before_a_mean_over_patches_is_the_same(tied):
    adapter, features = tiny_lm.adapter(tied=tied), tiny_lm.video(3)
    both = markers(adapter, torch.tensor(TIMES), DURATION, with_head=True)
    ids = [adapter.time_token_ids[k] for k in (0, 4, 9)]  # 0.05, 1.4 and 2.9 of 3 s, in ninths: 0.15, 4.2, 8.7
    table, head = adapter.lm.get_input_embeddings().weight, adapter.lm.get_output_embeddings().weight
    torch.testing.assert_close(both, (table[ids] + head[ids]) / 2)
    before = (adapter.projector(features) + both[:, None]).mean(1)  # LLaVA-ST: on every patch, then fewer
    torch.testing.assert_close(before, adapter.projector(features.mean(1)) + both)


def test_what_the_adapter_would_do_otherwise_is_refused():
    adapter = tiny_lm.adapter(projector=nn.Linear(6, 32), order="project-first")
    with pytest.raises(ArgumentError, match="are for adapters that pool first"):
        marked(adapter, torch.zeros(2, 6), torch.zeros(2), 1.0)
