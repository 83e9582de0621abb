"""The whole flow in one call, and everything that can be wrong with a folder, a video or a question."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file

import timetok
from timetok.decoding import span_distribution
from timetok.errors import ModelFolderError, PromptError, TokenizerError, VideoNotFoundError
from timetok.hub import localize, localize_all, read_ahead
from timetok.lita.answer import TINY_MODEL, Localizer, load_sample
from timetok.metrics import iou
from timetok.timegrid import Span
from timetok.video import read_frames
from tiny_lita import CONTEXT, LLAMA, NUM_TIME_TOKENS, NUM_VIDEO_TOKENS, build, save, saying, write_clip

QUESTION = "When is the red circle visible?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("lita") / "model")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture
def localizer() -> Localizer:
    return Localizer(*build())


def test_a_file_and_a_question_give_an_answer(folder: Path, clip: Path) -> None:
    answer = timetok.localize(clip, QUESTION, model=folder)
    assert isinstance(answer, timetok.Answer)
    assert answer.duration_seconds == pytest.approx(2.0)
    assert len(answer.confidences) == len(answer.spans)
    assert localize(str(clip), QUESTION, model=str(folder)) == answer
    assert localize(read_frames(clip, num_frames=50), QUESTION, model=Localizer.load(folder)) == answer
    assert json.loads(json.dumps(asdict(answer)))["text"] == answer.text


def test_an_answer_is_what_generate_says(localizer: Localizer, clip: Path) -> None:
    """The flow by hand: processor, generate, parsing."""
    processor, model = localizer.processor, localizer.model
    inputs = processor(processor.prompt(QUESTION), [clip], trusted=False, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    length = inputs["input_ids"].shape[1]
    answer = localize(clip, QUESTION, localizer, max_new_tokens=12)
    assert list(answer.spans) == processor.post_process_spans(ids, [2.0], prompt_length=length)[0]
    assert answer.text == processor.tt.decode(ids[0, length:], 2.0).strip()
    with torch.no_grad():
        chances = model(ids, pixel_values_videos=inputs["pixel_values_videos"]).logits[0, length - 1 : -1].softmax(-1)
    new = ids[0, length:]
    marks = [float(p[k]) for p, k in zip(chances, new, strict=True) if int(k) in processor.tt.time_token_ids]
    pairs = [p * q for p, q in zip(marks[::2], marks[1::2], strict=False)]
    assert all(any(c == pytest.approx(p, rel=1e-3) for p in pairs) for c in answer.confidences)


def test_a_malformed_pair_takes_its_confidence_along(localizer: Localizer, monkeypatch: pytest.MonkeyPatch) -> None:
    t = localizer.processor.tt.time_token_ids
    ids = [t[5], t[3], 9, t[2], t[9], t[4], t[4], t[1]]  # backwards, good, a point, alone
    chances = [0.9, 0.8, 0.7, 0.5, 0.25, 0.5, 0.75, 0.6]
    monkeypatch.setattr(localizer.model, "generate", saying([ids], [chances]))
    (answer,) = localizer.ask([torch.zeros(8, 16, 16)], [QUESTION], [19.0])
    assert answer.spans == (Span(2.0, 9.0), Span(4.0, 4.0))
    assert answer.confidences == (pytest.approx(0.125), pytest.approx(0.375))
    assert answer.times_seconds == (5.0, 3.0, 2.0, 9.0, 4.0, 4.0, 1.0)


_PARSER = Localizer(*build())


@given(st.lists(st.integers(-3, NUM_TIME_TOKENS - 1), min_size=1, max_size=12))
def test_confidences_pair_with_spans_one_to_one(marks: list[int]) -> None:
    tt = _PARSER.processor.tt
    ids = [tt.time_token_ids[0] + k if k >= 0 else 9 for k in marks]
    chances = [(k + 1) / (len(ids) + 1) for k in range(len(ids))]
    answer = _PARSER._answer(ids, chances, 19.0, 0)
    assert list(answer.spans) == tt.spans(ids, 19.0)
    assert len(answer.confidences) == len(answer.spans)


def test_no_moments_means_no_spans(localizer: Localizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localizer.model, "generate", saying([[9, 10]]))
    (answer,) = localizer.ask([torch.zeros(8, 16, 16)], [QUESTION], [60.0])
    assert (answer.spans, answer.confidences, answer.times_seconds) == ((), (), ())


def test_seconds_as_text_have_no_confidences(monkeypatch: pytest.MonkeyPatch) -> None:
    localizer = Localizer(*build(codec="seconds"))
    tt = localizer.processor.tt
    ids = tt.encode_time([1.5, 4.0], 10.0)
    monkeypatch.setattr(localizer.model, "generate", saying([ids]))
    (answer,) = localizer.ask([torch.zeros(8, 16, 16)], [QUESTION], [10.0], max_new_tokens=48)
    assert answer.spans == (Span(1.5, 4.0),) and answer.confidences == ()


def test_what_is_believed_is_the_posterior_behind_the_prompt(localizer: Localizer, clip: Path) -> None:
    """Row by row, without padding, the space that the answer would begin with in front of it."""
    localizer.model.double()
    video, tt = localizer.encode(localizer.processor.read(clip)), localizer.tt
    questions = [QUESTION, "When is the small blue square visible for the second time?"]
    for question, answer in zip(questions, localizer.weigh([video] * 2, questions, [2.0, 60.0]), strict=True):
        batch = localizer.processor.prompts([localizer.processor.prompt(question)], videos=[video], trusted=False)
        space = tt.tokenizer.encode(" <t0>", add_special_tokens=False)[:-1]
        between = tt.tokenizer.encode("<t0> <t1>", add_special_tokens=False)[1:-1]
        ids = torch.cat([batch["input_ids"], torch.tensor([space]).long()], 1)
        inputs = {"input_ids": ids, "video_features": [video]}
        duration = answer.duration_seconds
        (found,) = span_distribution(localizer.model, inputs, tt, durations=[duration], between_ids=between)
        span, confidence = found.best()
        assert answer.confidences == pytest.approx((confidence,))
        assert [*answer.spans[0]] == pytest.approx([*found.refined(span)]) and answer.times_seconds == (
            *answer.spans[0],
        )
        assert answer.num_tokens == ids.shape[1] + 2 + len(between) and not answer.unfinished
    with pytest.raises(TokenizerError, match="has no marks"):
        Localizer(*build(codec="seconds")).weigh([torch.zeros(8, 16, 16)], [QUESTION], [10.0])


def test_a_batch_is_answered_as_its_questions(localizer: Localizer, clip: Path) -> None:
    localizer.model.double()
    features = localizer.encode(localizer.processor.read(clip))
    questions = [QUESTION, "When is the small blue square visible for the second time?", "What is <t12>?"]
    together = localizer.ask([features] * 3, questions, [2.0, 5.0, 60.0])
    for question, duration, answer in zip(questions, [2.0, 5.0, 60.0], together, strict=True):
        (alone,) = localizer.ask([features], [question], [duration])
        assert (alone.text, alone.spans) == (answer.text, answer.spans)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_several_questions_are_answered_as_each_alone(batch_size: int, localizer: Localizer, clip: Path) -> None:
    localizer.model.double()
    questions = [QUESTION, "When is the small blue square visible for the second time?", "When?"]
    found = localize_all(clip, questions, localizer, batch_size=batch_size)
    alone = [localize(clip, question, localizer) for question in questions]
    assert [(answer.text, answer.spans) for answer in found] == [(answer.text, answer.spans) for answer in alone]
    for answer, expected in zip(found, alone, strict=True):
        assert answer.confidences == pytest.approx(expected.confidences)


def test_questions_may_share_a_static_cache(localizer: Localizer, clip: Path) -> None:
    questions = ["When is the red circle visible?", "When?", "When is it?"]
    expected = localize_all(clip, questions, localizer, max_new_tokens=6)
    generation = localizer.model.generation_config
    generation.cache_implementation = "static"
    try:
        assert [a.text for a in localize_all(clip, questions, localizer, max_new_tokens=6)] == [
            a.text for a in expected
        ]
    finally:
        generation.cache_implementation = None


@pytest.mark.parametrize("system", ["", "A chat."])
def test_what_all_prompts_begin_with_is_read_once(system: str, localizer: Localizer, clip: Path) -> None:
    localizer.processor.system = system
    lengths: list[int] = []
    embedding = localizer.model.get_input_embeddings()
    with embedding.register_forward_hook(lambda _, args, output: lengths.append(output.shape[0] * output.shape[1])):
        localize_all(clip, [QUESTION] * 4, localizer, max_new_tokens=1)
    begins = NUM_VIDEO_TOKENS + len(localizer.processor.tokenizer(f"{system} USER: ".lstrip())["input_ids"])
    asked = localizer.processor.prompts(localizer.processor.prompt(QUESTION), counts=[NUM_VIDEO_TOKENS])
    assert lengths == [begins, 4 * (asked["input_ids"].shape[1] - begins)]


def test_videos_are_read_while_others_are_in_use(localizer: Localizer, clip: Path, tmp_path: Path) -> None:
    videos = [clip, tmp_path / "missing.mp4", clip]
    first, missing, last = read_ahead(localizer, videos)
    assert torch.equal(first.result().data, last.result().data)
    with pytest.raises(VideoNotFoundError):
        missing.result()
    running = read_ahead(localizer, iter([clip, clip]))
    next(running).result()
    running.close()  # whoever stops early leaves no thread behind
    assert list(read_ahead(localizer, [])) == []


def test_a_bad_question_is_refused_before_the_video_is_opened(localizer: Localizer) -> None:
    for question in ("", "  ", "Is <video> in it?", "So</s>", "red " * CONTEXT):
        with pytest.raises(PromptError, match=r"^question: ") as caught:
            localize("missing.mp4", question, localizer)
        assert isinstance(caught.value, ValueError)
    with pytest.raises(VideoNotFoundError):
        localize("missing.mp4", QUESTION, localizer)


def test_the_context_is_used_to_its_end(localizer: Localizer) -> None:
    processor = localizer.processor
    batch = processor.prompts(processor.prompt(QUESTION), counts=[processor.num_video_tokens])
    length = batch["input_ids"].shape[1]
    assert length > NUM_VIDEO_TOKENS
    localizer.check_question(QUESTION, max_new_tokens=CONTEXT - length)
    with pytest.raises(PromptError, match=rf"{length} tokens with the video"):
        localizer.check_question(QUESTION, max_new_tokens=CONTEXT - length + 1)


def corrupt_config(path: Path) -> None:
    (path / "config.json").write_text("{")


def list_as_config(path: Path) -> None:
    (path / "config.json").write_text("[1]")


def other_model(path: Path) -> None:
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))


def unknown_encoder(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"vision": {"name": "no_such_model"}}))


def no_config(path: Path) -> None:
    (path / "config.json").unlink()


def no_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def pickled_weights(path: Path) -> None:
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def cut_weights(path: Path) -> None:
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(5000)


def empty_weights(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"")


def lacking_weights(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    del weights["model.projector.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})


def misfit_weights(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    weights["model.projector.weight"] = weights["model.projector.weight"][:, 1:].clone()
    save_file(weights, path / "model.safetensors", {"format": "pt"})


def no_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()


def corrupt_processor(path: Path) -> None:
    (path / "processor_config.json").write_text("{")


DAMAGES = [
    corrupt_config,
    list_as_config,
    other_model,
    unknown_encoder,
    no_config,
    no_weights,
    pickled_weights,
    cut_weights,
    empty_weights,
    lacking_weights,
    misfit_weights,
    no_tokenizer,
    corrupt_processor,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_folder_is_refused(damage: Any, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    damage(broken)
    with pytest.raises(ModelFolderError, match=r"^model: .*broken") as caught:
        Localizer.load(broken)
    assert isinstance(caught.value, OSError)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", Path(__file__)):
        with pytest.raises(ModelFolderError, match=r"^model: expected a folder with a config.json"):
            Localizer.load(path)


def test_loading_leaves_a_tied_model_as_it_was(tmp_path: Path) -> None:
    """A tied head that is not tied again after loading answers at random."""
    model, _ = build(LLAMA)
    folder = save(tmp_path / "model", text=LLAMA)
    loaded = Localizer.load(folder).model
    head = loaded.get_output_embeddings().weight
    assert torch.equal(head, model.get_output_embeddings().weight)


@pytest.mark.skipif(not (TINY_MODEL / "config.json").is_file(), reason="the bundled model is not there yet")
def test_the_bundled_model_finds_the_event_of_the_bundled_clip() -> None:
    video, question, truth = load_sample()
    answer = localize(video, question)
    assert iou(answer.spans[0], truth) >= 0.5
    assert sum(file.stat().st_size for file in TINY_MODEL.rglob("*.safetensors")) <= 5e6
