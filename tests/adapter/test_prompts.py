"""Prompts, placeholders, padding, and batches to train on."""

import pickle

import pytest
import torch

import tiny_lm
from timetok.adapter.prompts import VIDEO_TOKEN, VideoPrompts, video_token_id
from timetok.errors import ArgumentError, PromptError
from timetok.pooling import plan_of

PLAN = plan_of(num_slow_frames=2)


def prompts():
    return VideoPrompts(tiny_lm.time_tokenizer(), PLAN)


def row(index, **changes):
    base = {"prompt": "USER: <video>\nWhen? ASSISTANT:", "answer": " it is <2.0> <4.0>", "duration_seconds": 9.0}
    return base | {"video_features": tiny_lm.video(index)} | changes


def test_each_video_becomes_its_number_of_placeholders():
    processor = prompts()
    short, long = tiny_lm.video(), tiny_lm.video(1, frames=7, side=4)
    batch = processor(["a <video> b <video>", "c"], videos=[short, long])
    tok, v = processor.tt.tokenizer, processor.video_token_id
    expected = [*tok.encode("a "), *[v] * 5, *tok.encode(" b "), *[v] * (7 + 2 * 4)]
    assert batch["input_ids"][0].tolist() == expected
    assert batch["input_ids"][1].tolist() == [0] * (len(expected) - 1) + tok.encode("c")
    assert batch["attention_mask"].tolist() == [[1] * len(expected), [0] * (len(expected) - 1) + [1]]
    assert [video.shape for video in batch["video_features"]] == [short.shape, long.shape]


@pytest.mark.parametrize("as_tensor", [True, False])
def test_videos_of_one_shape_are_stacked(as_tensor):
    videos = [tiny_lm.video(k) for k in range(2)]
    batch = prompts()(["<video>", "<video>"], videos=torch.stack(videos) if as_tensor else videos)
    assert torch.equal(batch["video_features"], torch.stack(videos))


def test_a_grid_of_patches_counts_like_a_square_of_them():
    square = prompts()("<video>", videos=[tiny_lm.video(side=4)])
    grid = prompts()("<video>", videos=[tiny_lm.video(side=4).unflatten(1, (4, 4))])
    assert torch.equal(square["input_ids"], grid["input_ids"])


def test_text_alone_needs_no_video():
    batch = prompts()("When?")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"][0].tolist() == tiny_lm.tokenizer().encode("When?")


def test_seconds_in_a_trusted_prompt_are_moments_of_its_own_video():
    processor = prompts()
    batch = processor(["at <9.0>", "at <9.0>"], durations=[9.0, 18.0])
    marks = processor.tt.time_token_ids
    assert batch["input_ids"][:, -1].tolist() == [marks[9], marks[4]]  # 9 · 9/9, and 9 · 9/18 = 4.5 to even


def test_a_literal_time_token_counts_only_in_trusted_text():
    processor = prompts()
    assert processor("at <t3>")["input_ids"][0, -1] == processor.tt.time_token_ids[3]
    typed = processor("at <t3>", trusted=False)["input_ids"][0]
    assert typed.tolist() == tiny_lm.tokenizer().encode("at <t3>")


@pytest.mark.parametrize("trusted", [True, False])
def test_a_literal_placeholder_in_what_a_user_typed_is_an_error(trusted):
    question = "what does <video> mean?"
    with pytest.raises(PromptError, match=r"text: expected 1 <video>, one a video; by row there are \[2\]"):
        prompts()(f"USER: <video>\n{question}", videos=[tiny_lm.video()], trusted=trusted)
    with pytest.raises(PromptError, match=r"by row there are \[1\]"):
        prompts()(f"USER: {question}", trusted=trusted)


def test_missing_placeholders_are_an_error_by_row():
    with pytest.raises(PromptError, match=r"expected 3 <video>, one a video; by row there are \[1, 0\]"):
        prompts()(["<video>", "a"], videos=[tiny_lm.video()] * 3)


@pytest.mark.parametrize("durations", [[], [1.0], [1.0, 2.0, 3.0]])
def test_durations_go_with_prompts(durations):
    with pytest.raises(
        ArgumentError, match=f"durations: expected one for all or one for each of 2, got {len(durations)}"
    ):
        prompts()(["a", "b"], durations=durations)


def test_a_video_of_another_shape_is_an_error():
    with pytest.raises(ArgumentError, match="features: expected"):
        prompts()("<video>", videos=[torch.zeros(4)])


def test_prompts_are_picklable_and_hold_no_weights():
    processor, videos = prompts(), [tiny_lm.video()]
    data = pickle.dumps(processor)
    assert len(data) < 100_000
    copy = pickle.loads(data)
    assert torch.equal(
        copy("<video> a", videos=videos)["input_ids"], processor("<video> a", videos=videos)["input_ids"]
    )


def test_the_placeholder_is_added_once_as_a_special_token():
    tok = tiny_lm.tokenizer()
    tok.add_special_tokens({"extra_special_tokens": ["<image>"]})
    first = video_token_id(tok)
    assert first == len(tok) - 1
    assert video_token_id(tok) == first and len(tok) == first + 1
    assert tok.extra_special_tokens == ["<image>", VIDEO_TOKEN]
    assert tok.decode([first], skip_special_tokens=True) == ""


def test_a_tokenizer_that_has_the_placeholder_keeps_its_id():
    tok = tiny_lm.tokenizer()
    tok.add_tokens([VIDEO_TOKEN, "more"])
    assert video_token_id(tok) == len(tok) - 2


def test_padding_without_a_padding_token_uses_the_end_token():
    processor = prompts()
    tok = processor.tt.tokenizer
    tok.pad_token = None
    batch = processor(["at <t3><t4>", "at <t3>"])
    assert batch["input_ids"][1].tolist() == [tok.eos_token_id, *tok.encode("at <t3>")]
    assert batch["attention_mask"][:, 0].tolist() == [1, 0]


def test_collated_rows_learn_their_answers_only():
    processor = prompts()
    rows = [row(0), row(1, prompt="USER: <video>\nWhen does the red circle appear? ASSISTANT:")]
    batch = processor.collator()(rows)
    tok, marks, v = processor.tt.tokenizer, processor.tt.time_token_ids, processor.video_token_id
    answer = [*tok.encode(" it is "), marks[2], *tok.encode(" "), marks[4], tok.eos_token_id]
    for k, question in enumerate(("When?", "When does the red circle appear?")):
        prompt = [*tok.encode("USER: "), *[v] * 5, *tok.encode(f"\n{question} ASSISTANT:")]
        length, longest = len(prompt + answer), batch["input_ids"].shape[1]
        padding = longest - length
        assert batch["input_ids"][k].tolist() == prompt + answer + [tok.pad_token_id] * padding
        assert batch["attention_mask"][k].tolist() == [1] * length + [0] * padding
        assert batch["labels"][k].tolist() == [-100] * len(prompt) + answer + [-100] * padding
    assert torch.equal(batch["video_features"], torch.stack([tiny_lm.video(k) for k in (0, 1)]))


def test_a_collated_prompt_has_the_ids_it_is_asked_with():
    processor = prompts()
    asked = processor(row(0)["prompt"], videos=[tiny_lm.video()])["input_ids"][0].tolist()
    for answer in ("it", " it", "", "\n"):
        assert processor.collator()([row(0, answer=answer)])["input_ids"][0].tolist()[: len(asked)] == asked


def test_several_turns_about_one_video_are_one_row():
    processor = prompts()
    turns = [("USER: <video>\nWhen? ASSISTANT:", " it is <2.0>"), ("USER: And then? ASSISTANT:", " <9.0>")]
    batch = processor.collator()([{"turns": turns, "video_features": tiny_lm.video(), "duration_seconds": 9.0}])
    tok, marks = processor.tt.tokenizer, processor.tt.time_token_ids
    first = processor(turns[0][0], videos=[tiny_lm.video()])["input_ids"][0].tolist()
    second = tok.encode(turns[1][0])
    answers = [*tok.encode(" it is "), marks[2], tok.eos_token_id], [*tok.encode(" "), marks[9], tok.eos_token_id]
    assert batch["input_ids"][0].tolist() == [*first, *answers[0], *second, *answers[1]]
    learned = [*[-100] * len(first), *answers[0], *[-100] * len(second), *answers[1]]
    assert batch["labels"][0].tolist() == learned
    with pytest.raises(PromptError, match=r"row 0 hold \[2, 0\] <video>, expected \[1, 0\]"):
        processor.collate([{"turns": [turns[0], turns[0]], "video_features": tiny_lm.video()}])


def test_counts_stand_for_videos_that_are_elsewhere():
    processor, videos = prompts(), [tiny_lm.video()]
    batch = processor("<video> a", counts=[5])
    assert torch.equal(batch["input_ids"], processor("<video> a", videos=videos)["input_ids"])
    assert "video_features" not in batch
    with pytest.raises(PromptError, match=r"expected 2 <video>, one a video; by row there are \[1\]"):
        processor("<video> a", counts=[5, 5])


def test_rows_without_a_video_are_collated_beside_rows_with_one():
    collate = prompts().collator()
    batch = collate([row(0), row(1, prompt="USER: hello ASSISTANT:", video_features=None)])
    assert batch["video_features"].shape == (1, *tiny_lm.video().shape)
    plain = collate([{"prompt": "USER: hello ASSISTANT:", "answer": " hello"}])
    assert set(plain) == {"input_ids", "attention_mask", "labels"}
    lengths = collate([row(0), row(1, video_features=tiny_lm.video(1, frames=4))])["video_features"]
    assert [len(video) for video in lengths] == [3, 4]


def test_labels_of_an_end_token_that_is_also_the_padding_are_kept():
    processor = prompts()
    processor.tt.tokenizer.pad_token = processor.tt.tokenizer.eos_token
    batch = processor.collator()([row(0), row(1, answer="")])
    assert (batch["labels"] == processor.tt.tokenizer.eos_token_id).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({"prompt": "no placeholder"}, r"\[0, 0\] <video>, expected \[1, 0\]"),
        ({"prompt": "<video> <video>"}, r"\[2, 0\] <video>, expected \[1, 0\]"),
        ({"answer": "a <video>"}, r"\[1, 1\] <video>, expected \[1, 0\]"),
        ({"video_features": None}, r"\[1, 0\] <video>, expected \[0, 0\]"),
    ],
)
def test_collated_rows_whose_placeholders_do_not_match_are_named(changes, held):
    with pytest.raises(PromptError, match=f"rows: prompt and answer of row 1 hold {held}"):
        prompts().collator()([row(0), row(1, **changes)])


def test_incomplete_rows_are_named():
    with pytest.raises(ArgumentError, match=r"rows: row 1 lacks \['answer'\], it has \['prompt', 'reply'\]"):
        prompts().collator()([row(0), {"prompt": "a", "reply": "b"}])


def test_a_tokenizer_without_an_end_cannot_train():
    processor = prompts()
    processor.tt.tokenizer.eos_token = None
    with pytest.raises(ArgumentError, match="training needs an eos_token that ends an answer, got None"):
        processor.collator()


def test_collator_is_picklable():
    collate = prompts().collator()
    copy = pickle.loads(pickle.dumps(collate))
    assert torch.equal(copy([row(0), row(1)])["labels"], collate([row(0), row(1)])["labels"])


def test_collated_batches_train():
    adapter = tiny_lm.adapter()
    batch = adapter.processor.collator()([row(0), row(1, answer=" it")])
    outputs = adapter(**batch)
    logits, targets = outputs.logits[:, :-1], batch["labels"][:, 1:]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(outputs.loss, expected)
    outputs.loss.backward()
    assert adapter.projector.weight.grad.abs().sum() > 0
