"""Videos and prompts into batches; untrusted questions; ids back into spans."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from timetok.errors import ArgumentError, PromptError, VideoError, VideoNotFoundError
from timetok.lita import LitaProcessor
from timetok.timegrid import Span
from timetok.video import Frames, read_frames
from timetok.vision import FrameTransform
from tiny_lita import CLIP_FRAMES, NUM_FRAMES, NUM_TIME_TOKENS, NUM_VIDEO_TOKENS, build, noise, write_clip
from tiny_videos import write

PROMPT = "USER: <video>\nWhen? ASSISTANT:"


@pytest.fixture(scope="module")
def processor() -> LitaProcessor:
    return build()[1]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


def time_tokens(processor: LitaProcessor, row: torch.Tensor) -> list[int]:
    first = processor.tt.time_token_ids[0]
    return [int(k) - first for k in row if int(k) in processor.tt.time_token_ids]


def asked(processor: LitaProcessor, prompt: str, *, trusted: bool = False) -> torch.Tensor:
    """Ids of a prompt about a video that is elsewhere."""
    ids: torch.Tensor = processor.prompts(prompt, counts=[processor.num_video_tokens], trusted=trusted)["input_ids"][0]
    return ids


def test_each_video_gets_one_placeholder_a_visual_token(processor: LitaProcessor) -> None:
    batch = processor([PROMPT, "USER: Hello ASSISTANT:"], [noise()])
    assert (batch["input_ids"] == processor.video_token_id).sum(1).tolist() == [NUM_VIDEO_TOKENS, 0]
    assert batch["pixel_values_videos"].shape == (1, NUM_FRAMES, 3, 64, 64)
    assert batch["attention_mask"][0].all() and not batch["attention_mask"][1, 0]  # padded on the left
    assert processor.num_video_tokens == NUM_VIDEO_TOKENS


def test_arrays_of_both_kinds_are_sampled_like_files(processor: LitaProcessor) -> None:
    video = noise(20)
    picked = [0, 3, 5, 8, 11, 14, 16, 19]  # round(k · 19 / 7) for k = 0 … 7
    expected = processor.frame_transform(video[picked])
    frozen = video.numpy().copy()
    frozen.flags.writeable = False
    for array in (video, video.numpy(), frozen):
        assert torch.equal(processor(PROMPT, [array])["pixel_values_videos"][0], expected)


def test_a_file_its_frames_and_more_frames_than_needed_agree(processor: LitaProcessor, clip: Path) -> None:
    frames = processor.read(clip)
    assert len(frames) == NUM_FRAMES and frames.duration_seconds == pytest.approx(CLIP_FRAMES / 10)
    expected = processor(PROMPT, [str(clip)])["pixel_values_videos"]
    assert torch.equal(processor(PROMPT, [frames])["pixel_values_videos"], expected)
    every = read_frames(clip, num_frames=CLIP_FRAMES)
    fewer = processor.read(every)
    assert torch.equal(processor.frame_transform(fewer.data), expected[0])
    assert torch.equal(fewer.times_seconds, frames.times_seconds)
    single = Frames(every.data[:1], every.times_seconds[:1], 2.0)
    assert len(processor.read(single)) == NUM_FRAMES


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (64, 96)),  # of the 64 x 96 of the file
        ({"image_size": 32}, (32, 48)),
        ({"image_size": 24, "crop_pct": 0.6}, (40, 60)),
        ({"image_size": 32, "crop": "squash"}, (64, 96)),  # which would not look right
    ],
)
def test_frames_of_a_file_are_held_at_the_size_of_the_model(
    processor: LitaProcessor, tmp_path: Path, options: dict[str, Any], shape: tuple[int, int]
) -> None:
    path, told = write(tmp_path / "a.mp4", 30), {"image_size": 64, **options}
    processor = copy.copy(processor)
    processor.frame_transform = FrameTransform(**told)
    held = processor.read(path)
    assert held.data.shape[-2:] == shape
    whole = read_frames(path, NUM_FRAMES)
    assert torch.equal(processor.frame_transform(held.data), processor.frame_transform(whole.data))
    assert torch.equal(held.times_seconds, whole.times_seconds)
    pixels = processor(PROMPT, [path])["pixel_values_videos"][0]
    assert torch.equal(pixels, processor.frame_transform(whole.data))


def test_durations_come_from_files_and_are_told_for_arrays(processor: LitaProcessor, clip: Path) -> None:
    prompt = "USER: <video>\nWhat follows <0.5>? ASSISTANT:"
    mark = 5  # round(19 · 0.5 / 2)
    assert time_tokens(processor, processor(prompt, [clip])["input_ids"][0]) == [mark]
    assert time_tokens(processor, processor(prompt, [noise()], durations=[2.0])["input_ids"][0]) == [mark]
    assert time_tokens(processor, processor(prompt, [noise()])["input_ids"][0]) == []
    assert time_tokens(processor, processor(prompt, [clip], trusted=False)["input_ids"][0]) == []
    mixed = processor(["USER: Hello ASSISTANT:", prompt], [noise()], durations=[2.0])  # one a video, not one a prompt
    assert [time_tokens(processor, row) for row in mixed["input_ids"]] == [[], [mark]]


def test_videos_that_do_not_fit_are_refused(processor: LitaProcessor, tmp_path: Path) -> None:
    for prompts, videos in ((PROMPT, []), ([PROMPT] * 2, [noise()]), ("Hello", [noise()])):
        with pytest.raises(PromptError, match=r"text: expected \d <video>, one a video; by row there are"):
            processor(prompts, videos)
    with pytest.raises(PromptError, match="more than once"):
        processor("<video><video> Which?", [noise(), noise()])
    with pytest.raises(PromptError, match=r"by row there are \[\]"):
        processor([])
    with pytest.raises(ArgumentError, match="durations: expected one for all or one for each of 1, got 2"):
        processor(PROMPT, [noise()], durations=[1.0, 2.0])
    with pytest.raises(ArgumentError, match="return_tensors"):
        processor(PROMPT, [noise()], return_tensors="np")  # type: ignore[arg-type]
    with pytest.raises(VideoNotFoundError, match=r"nothing\.mp4"):
        processor(PROMPT, [tmp_path / "nothing.mp4"])
    with pytest.raises(VideoError):
        processor(PROMPT, [__file__])


@pytest.mark.parametrize(
    "array",
    [noise().float(), noise().movedim(1, -1), noise()[0], noise()[:0], np.zeros((4, 1, 8, 8), np.uint8)],
    ids=["float", "channels last", "one frame", "no frame", "grey"],
)
def test_arrays_that_are_no_video_are_refused(processor: LitaProcessor, array: object) -> None:
    with pytest.raises(ArgumentError, match=r"expected uint8 \[t 3 h w\]"):
        processor(PROMPT, [array])  # type: ignore[list-item]


def test_a_literal_time_token_in_a_question_stays_characters(processor: LitaProcessor) -> None:
    prompt = processor.prompt("What is <t12> and <1.5>?")
    row = asked(processor, prompt)
    assert time_tokens(processor, row) == []
    assert int((row == processor.video_token_id).sum()) == NUM_VIDEO_TOKENS
    assert "What is <t12> and <1.5>?" in processor.tokenizer.decode(row)
    assert time_tokens(processor, asked(processor, prompt, trusted=True)) == [12]


@pytest.mark.parametrize("control", ["<video>", "</s>", "<pad>"])
def test_a_control_token_in_a_question_is_refused(processor: LitaProcessor, control: str) -> None:
    with pytest.raises(PromptError, match=f"^question: holds {control}"):
        processor.prompt(f"When is it{control}visible?")
    for harmless in (control.replace(">", " >"), control.upper(), control[1:]):
        processor.prompt(f"When is {harmless} visible?")


@pytest.mark.parametrize("question", ["", " \n\t", "\udcff when?"])
def test_a_question_without_text_is_refused(processor: LitaProcessor, question: str) -> None:
    with pytest.raises(PromptError, match=r"^question: "):
        processor.prompt(question)


def test_prompts_have_litas_form(processor: LitaProcessor) -> None:
    assert processor.prompt("When?") == "USER: <video>\nWhen? ASSISTANT:"
    turns = processor.conversation([("When?", "<1.0>"), ("And then?", "Later.")], 2.0)
    assert turns == [("USER: <video>\nWhen? ASSISTANT:", " <1.0>"), ("USER: And then? ASSISTANT:", " Later.")]


def test_a_seconds_model_is_told_the_duration() -> None:
    _, processor = build(codec="seconds")
    assert "12.3 seconds" in processor.prompt("When?", duration_seconds=12.34)
    with pytest.raises(PromptError, match="duration_seconds"):
        processor.prompt("When?")
    assert processor.tt.time_token_ids == ()


def test_a_conversation_teaches_answers_only(processor: LitaProcessor) -> None:
    turns = [("When is it red?", "<0.5> <2>"), ("And blue?", "<0> <0.5> It left.")]
    row = {"turns": processor.conversation(turns, 2.0), "video_features": torch.zeros(NUM_FRAMES, 16, 1)}
    batch = processor.prompts.collate([{**row, "duration_seconds": 2.0}])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    assert len(ids) == len(labels)
    taught = [k for k, label in enumerate(labels) if label != -100]
    assert [labels[k] for k in taught] == [ids[k] for k in taught]
    assert time_tokens(processor, torch.tensor([ids[k] for k in taught])) == [5, NUM_TIME_TOKENS - 1, 0, 5]
    assert [ids[k] for k in taught].count(processor.tokenizer.eos_token_id) == len(turns)
    prompt = asked(processor, processor.prompt(turns[0][0])).tolist()
    assert ids[: len(prompt)] == prompt and set(labels[: len(prompt)]) == {-100}  # the ids it will be asked with


def test_spans_of_generated_ids(processor: LitaProcessor) -> None:
    t = processor.tt.time_token_ids
    last = NUM_TIME_TOKENS - 1
    rows = [[t[3], t[4], 9, t[0], t[last]], [t[7], 9, 9, 9, t[2]]]
    expected = [[Span(0.0, 38.0)], []]  # the first two ids are the prompt's; the second row holds one moment
    for ids in (rows, np.array(rows), torch.tensor(rows)):
        assert processor.post_process_spans(ids, [38.0, 19.0], prompt_length=2) == expected
    whole = processor.post_process_spans(rows, [38.0, 19.0])
    assert whole == [[Span(6.0, 8.0), Span(0.0, 38.0)], []]  # k · 38 / 19; <t7> after <t2> runs backwards
    with pytest.raises(ArgumentError, match="durations: expected one for all or one for each of 2, got 1"):
        processor.post_process_spans(rows, [38.0])


def test_a_processor_survives_files_pickles_and_copies(processor: LitaProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    prompt = processor.prompt("When is <t3> the red circle visible?")
    expected = asked(processor, prompt).tolist()
    twins = [LitaProcessor.from_pretrained(tmp_path), pickle.loads(pickle.dumps(processor)), copy.deepcopy(processor)]
    for twin in twins:
        assert asked(twin, prompt).tolist() == expected
        assert twin.to_dict() == processor.to_dict()
        assert twin.num_video_tokens == NUM_VIDEO_TOKENS
