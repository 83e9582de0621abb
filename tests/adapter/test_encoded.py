"""One video, many questions: the same answers as asking afresh, and less work."""

import pytest
import torch

import tiny_lm
from timetok import embeddings
from timetok.errors import PromptError

PREFIX = "USER: <video>"
PROMPTS = [
    f"{PREFIX}\nWhen does it appear? ASSISTANT:",
    f"{PREFIX}\nWhen does the red circle appear? ASSISTANT:",
    f"{PREFIX}\nWhere does it appear? ASSISTANT:",
    "Look: <video> When? ASSISTANT:",  # begins otherwise
]
GREEDY = {"max_new_tokens": 8, "do_sample": False}


def video():
    return torch.randn(3, 4, tiny_lm.VISION_WIDTH, generator=torch.Generator().manual_seed(1))


def fresh(adapter, prompt, **options):
    batch = adapter.prepare([prompt], videos=[video()])
    return adapter.generate(**batch, **options)[:, batch["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("kind", tiny_lm.KINDS)
@pytest.mark.parametrize("prefix", [PREFIX, ""])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_answers_are_those_of_asking_afresh(kind, prefix, options):
    adapter = tiny_lm.adapter(kind)
    encoded = adapter.encode_video(video(), prefix or ())
    batch = adapter.prepare(PROMPTS, videos=[encoded] * len(PROMPTS))
    for _ in range(2):  # the cache stays what it was
        found = adapter.generate(**batch, **GREEDY, **options)
        expected = [answer for prompt in PROMPTS for answer in fresh(adapter, prompt, **GREEDY, **options)]
        assert found[:, batch["input_ids"].shape[1] :].tolist() == expected
        assert torch.equal(found[:: len(found) // len(PROMPTS), : batch["input_ids"].shape[1]], batch["input_ids"])


def test_neither_the_pooler_nor_the_prefix_runs_again(monkeypatch):
    adapter = tiny_lm.adapter()
    encoded = adapter.encode_video(video(), PREFIX)
    monkeypatch.setattr(adapter, "pooler", None)
    lengths = []
    embedding = adapter.lm.get_input_embeddings()
    with embedding.register_forward_hook(lambda module, args, output: lengths.append(output.shape[1])):
        adapter.generate(**adapter.prepare(PROMPTS[:1], videos=[encoded]), **GREEDY)
    asked = adapter.prepare(PROMPTS[:1], videos=[encoded])["input_ids"].shape[1]
    assert lengths[0] == asked - len(encoded.prefix_ids) < asked and set(lengths[1:]) == {1}


def test_an_encoded_video_stands_for_its_features():
    adapter = tiny_lm.adapter()
    encoded = adapter.encode_video(video(), PREFIX)
    torch.testing.assert_close(encoded.tokens, adapter.visual_tokens(video()[None])[0])
    both = [adapter.prepare(PROMPTS[:2], videos=[each] * 2) for each in (encoded, video())]
    first, second = (adapter(**batch, labels=batch["input_ids"]).loss for batch in both)
    torch.testing.assert_close(first, second)
    rows = [{"prompt": PROMPTS[0], "answer": "it", "video_features": each} for each in (encoded, video())]
    first, second = (adapter(**adapter.processor.collate([row])).loss for row in rows)
    torch.testing.assert_close(first, second)


def test_prompts_padded_on_the_right_are_refused():
    adapter = tiny_lm.adapter()
    encoded = adapter.encode_video(video(), PREFIX)
    batch = adapter.prepare(PROMPTS[:2], videos=[encoded] * 2)
    rolled = [-int(pad) for pad in (batch["attention_mask"] == 0).sum(1)]
    assert any(rolled)
    for name in ("input_ids", "attention_mask"):
        batch[name] = torch.stack([row.roll(by) for row, by in zip(batch[name], rolled, strict=True)])
    with pytest.raises(PromptError, match="placeholders by row"):
        adapter.generate(**batch, **GREEDY)


def test_a_repetition_penalty_sees_the_whole_prompt():
    adapter = tiny_lm.adapter()
    embeddings.resize(adapter.lm, [adapter.video_token_id])
    options = GREEDY | {"repetition_penalty": 1.7}
    batch = adapter.prepare(PROMPTS[:1], videos=[adapter.encode_video(video(), PREFIX)])
    found = adapter.generate(**batch, **options)[:, batch["input_ids"].shape[1] :].tolist()
    assert found == fresh(adapter, PROMPTS[0], **options) != fresh(adapter, PROMPTS[0], **GREEDY)


def test_two_videos_in_one_prompt_start_afresh():
    adapter = tiny_lm.adapter()
    first, second = adapter.encode_video(video(), PREFIX), adapter.encode_video(video().flip(0), PREFIX)
    prompt = [f"{PREFIX} and <video>: when? ASSISTANT:"]
    found = adapter.generate(**adapter.prepare(prompt, videos=[first, second]), **GREEDY)
    expected = adapter.generate(**adapter.prepare(prompt, videos=[video(), video().flip(0)]), **GREEDY)
    assert torch.equal(found, expected)


def test_scores_come_with_answers_to_questions_of_any_length():
    adapter = tiny_lm.adapter()
    encoded = adapter.encode_video(video(), PREFIX)
    batch = adapter.prepare(PROMPTS[:3], videos=[encoded] * 3)
    assert not batch["attention_mask"].all()
    told = {"return_dict_in_generate": True, "output_logits": True, **GREEDY}
    found = adapter.generate(**batch, **told)
    expected = adapter.generate(**adapter.prepare(PROMPTS[:3], videos=[video()] * 3), **told)
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", [PREFIX, ""])
def test_scores_of_prompts_that_begin_otherwise_come_from_one_batch(prefix):
    adapter = tiny_lm.adapter()
    videos = [adapter.encode_video(video(), prefix or ())] * len(PROMPTS)
    told = {"return_dict_in_generate": True, "output_logits": True, **GREEDY}
    found = adapter.generate(**adapter.prepare(PROMPTS, videos=videos), **told)
    expected = adapter.generate(**adapter.prepare(PROMPTS, videos=[video()] * len(PROMPTS)), **told)
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), rtol=1e-4, atol=1e-5)
